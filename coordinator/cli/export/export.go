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

// Columns says what a table has beside index, batch, label, prediction and
// probability.
type Columns int

// The kinds of tables.
const (
	Plain Columns = iota
	Probabilities
	Output
)

// name is that of the column of values.
func (c Columns) name() string { return [...]string{"", "probabilities", "output"}[c] }

// Writer writes rows.
type Writer interface {
	Row(r *Row) error
	// Flush hands on what is complete, Close ends the table. What it was written to
	// stays open.
	Flush() error
	Close() error
}

// New returns a writer of a format.
func New(format string, out io.Writer, c Columns) (Writer, error) {
	switch format {
	case JSONL:
		return NewJSON(out, c, 0), nil
	case CSV:
		return newCSV(out, c), nil
	case Parquet:
		return newParquet(out, c), nil
	case NPY:
		return newNPY(out, c)
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
