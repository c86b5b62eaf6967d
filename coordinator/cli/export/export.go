// Package export writes what jobs have predicted in the formats that other programs
// read: JSON Lines, CSV, Parquet and npy. Rows come one after the other and are
// written as they come, in bounded memory. The same rows give the same bytes. It
// knows no job and no cluster.
package export

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

// The formats.
const (
	JSONL   = "jsonl"
	CSV     = "csv"
	Parquet = "parquet"
	NPY     = "npy"
)

// Formats lists the formats.
func Formats() []string { return []string{JSONL, CSV, Parquet, NPY} }

// Binary reports whether a format is nothing for a terminal.
func Binary(format string) bool { return format == Parquet || format == NPY }

// ErrShape is returned by formats whose columns are fixed for outputs that change
// their shape from one image to another.
var ErrShape = errors.New("outputs of different shapes don't fit into one table: use --format jsonl")

// Row is what is known of an image.
type Row struct {
	// Round counts from 1.
	Round int
	Index int64
	Batch int
	// Label is the true class if Labeled, Class the predicted one if Scored, Prob its
	// probability if HasProb.
	Label, Class             int32
	Prob                     float32
	Labeled, Scored, HasProb bool
	// Values are outputs of the model, of the given shape.
	Values []float32
	Shape  []int
}

// Table says which columns a table has beside index, batch, label, prediction and
// probability. The zero value is one of those alone.
type Table struct {
	// Rounds adds the round of each row, in front.
	Rounds bool
	// Labels and Classes name the true and the predicted classes, class i the i-th: a
	// column of names each, behind that of numbers. Nil adds none. npy has no texts.
	Labels, Classes []string
	// Values are what the rows' values are.
	Values Values
}

// named reports whether the table has columns of names.
func (t *Table) named() bool { return t.Labels != nil || t.Classes != nil }

// label and prediction are a row's names, "" for none.
func (t *Table) label(r *Row) string      { return nameOf(t.Labels, r.Label, r.Labeled) }
func (t *Table) prediction(r *Row) string { return nameOf(t.Classes, r.Class, r.Scored) }

func nameOf(names []string, class int32, known bool) string {
	if !known || class < 0 || int(class) >= len(names) {
		return ""
	}
	return names[class]
}

// Values says what the values of a table's rows are.
type Values int

// The kinds of values.
const (
	Plain Values = iota // there are none
	Probabilities
	Output
)

// name is that of the column of values.
func (v Values) name() string { return [...]string{"", "probabilities", "output"}[v] }

// Writer writes rows.
type Writer interface {
	Row(r *Row) error
	// Flush hands on what is complete, Close ends the table. What it was written to
	// stays open.
	Flush() error
	Close() error
}

// New returns a writer of a format.
func New(format string, out io.Writer, t Table) (Writer, error) {
	switch format {
	case JSONL:
		return NewJSON(out, t, 0), nil
	case CSV:
		return newCSV(out, t), nil
	case Parquet:
		return newParquet(out, t), nil
	case NPY:
		return newNPY(out, t)
	}
	return nil, fmt.Errorf("no format %q", format)
}

// fixed remembers the shape of the outputs of a table.
type fixed struct {
	known bool
	shape []int
}

// check returns [ErrShape] for a row whose outputs have another shape than those
// before.
func (f *fixed) check(r *Row) error {
	if !f.known {
		f.known, f.shape = true, slices.Clone(r.Shape)
	}
	if !slices.Equal(f.shape, r.Shape) {
		return fmt.Errorf("image %d: %v after %v: %w", r.Index, r.Shape, f.shape, ErrShape)
	}
	return nil
}
