package export

import (
	"io"

	"github.com/parquet-go/parquet-go"
)

const (
	// groupBytes is about what a group of rows holds in memory until it is written,
	// groupRows the most rows of one.
	groupBytes = 16 << 20
	groupRows  = 64 << 10
	rowBytes   = 40
	// rowsAtOnce is how many rows are handed over at a time, valuesAtOnce how many
	// values of theirs about.
	rowsAtOnce   = 256
	valuesAtOnce = 1 << 20
)

// record is a row of a plain table. Fields that are not known are null.
type record struct {
	Index       int64    `parquet:"index"`
	Batch       int32    `parquet:"batch"`
	Label       *int32   `parquet:"label,optional"`
	Prediction  *int32   `parquet:"prediction,optional"`
	Probability *float32 `parquet:"probability,optional"`
}

// probsRecord is one with all probabilities.
type probsRecord struct {
	Index         int64     `parquet:"index"`
	Batch         int32     `parquet:"batch"`
	Label         *int32    `parquet:"label,optional"`
	Prediction    *int32    `parquet:"prediction,optional"`
	Probability   *float32  `parquet:"probability,optional"`
	Probabilities []float32 `parquet:"probabilities,list"`
}

// outputRecord is one with outputs, row-major, and their shape.
type outputRecord struct {
	Index       int64     `parquet:"index"`
	Batch       int32     `parquet:"batch"`
	Label       *int32    `parquet:"label,optional"`
	Prediction  *int32    `parquet:"prediction,optional"`
	Probability *float32  `parquet:"probability,optional"`
	Output      []float32 `parquet:"output,list"`
	Shape       []int32   `parquet:"shape,list"`
}

// newParquet returns a writer of Parquet, compressed with Snappy.
func newParquet(out io.Writer, c Columns) Writer {
	switch c {
	case Probabilities:
		return &parquetWriter[probsRecord]{out: out, make: func(r *record, row *Row) probsRecord {
			return probsRecord{r.Index, r.Batch, r.Label, r.Prediction, r.Probability, row.Values}
		}}
	case Output:
		return &parquetWriter[outputRecord]{out: out, make: func(r *record, row *Row) outputRecord {
			shape := make([]int32, len(row.Shape))
			for i, d := range row.Shape {
				shape[i] = int32(d)
			}
			return outputRecord{r.Index, r.Batch, r.Label, r.Prediction, r.Probability, row.Values, shape}
		}}
	}
	return &parquetWriter[record]{out: out, make: func(r *record, _ *Row) record { return *r }}
}

// parquetWriter writes rows of a type. Groups end after so many rows, whatever the
// time, so that the bytes depend on the rows alone.
type parquetWriter[T any] struct {
	out  io.Writer
	make func(*record, *Row) T
	w    *parquet.GenericWriter[T]
	rows []T
	// group is the rows of a group, open those of the one being made; some are handed
	// over at a time.
	group, open, some int
}

// begin opens the file; each is the number of values of a row.
func (w *parquetWriter[T]) begin(each int) {
	if w.w == nil {
		w.w = parquet.NewGenericWriter[T](w.out, parquet.Compression(&parquet.Snappy), parquet.CreatedBy("idunno", "1", "0"))
		w.group = min(max(groupBytes/(rowBytes+4*each), 1), groupRows)
		w.some = min(max(valuesAtOnce/max(each, 1), 1), rowsAtOnce)
	}
}

func (w *parquetWriter[T]) Row(row *Row) error {
	w.begin(len(row.Values))
	r := record{Index: row.Index, Batch: int32(row.Batch)}
	if row.Labeled {
		r.Label = ptr(row.Label)
	}
	if row.Scored {
		r.Prediction = ptr(row.Class)
	}
	if row.HasProb {
		r.Probability = ptr(row.Prob)
	}
	w.rows = append(w.rows, w.make(&r, row))
	w.open++
	switch {
	case w.open >= w.group:
		w.open = 0
		if err := w.write(); err != nil {
			return err
		}
		return w.w.Flush()
	case len(w.rows) >= w.some:
		return w.write()
	}
	return nil
}

func ptr[V any](v V) *V { return &v }

// write hands the rows over.
func (w *parquetWriter[T]) write() error {
	_, err := w.w.Write(w.rows)
	clear(w.rows)
	w.rows = w.rows[:0]
	return err
}

// Flush does nothing: where pages end depends on when rows are handed over, and may
// not depend on time.
func (w *parquetWriter[T]) Flush() error { return nil }

func (w *parquetWriter[T]) Close() error {
	w.begin(0)
	if err := w.write(); err != nil {
		return err
	}
	return w.w.Close()
}
