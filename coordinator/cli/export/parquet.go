package export

import (
	"io"
	"reflect"

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
	valuesAtOnce = 1 << 18
)

// column is one of a table: its name and how it is stored, as the library's struct tags
// say it, its type there, and what it appends to a row.
type column struct {
	tag  string
	kind reflect.Type
	add  func(row parquet.Row, at int, r *Row) parquet.Row
}

// parquetColumns are a table's columns. What is not known is null; outputs are
// row-major, with their shape beside them.
func parquetColumns(t Table) []column {
	number, text := reflect.TypeFor[*int32](), reflect.TypeFor[string]()
	all := []column{
		{"index", reflect.TypeFor[int64](), func(row parquet.Row, at int, r *Row) parquet.Row {
			return append(row, parquet.Int64Value(r.Index).Level(0, 0, at))
		}},
		{"batch", reflect.TypeFor[int32](), func(row parquet.Row, at int, r *Row) parquet.Row {
			return append(row, parquet.Int32Value(int32(r.Batch)).Level(0, 0, at))
		}},
		{"label,optional", number, func(row parquet.Row, at int, r *Row) parquet.Row {
			return optional(row, at, parquet.Int32Value(r.Label), r.Labeled)
		}},
		{"label_name,optional,dict", text, func(row parquet.Row, at int, r *Row) parquet.Row {
			name := t.label(r)
			return optional(row, at, parquet.ByteArrayValue([]byte(name)), name != "")
		}},
		{"prediction,optional", number, func(row parquet.Row, at int, r *Row) parquet.Row {
			return optional(row, at, parquet.Int32Value(r.Class), r.Scored)
		}},
		{"prediction_name,optional,dict", text, func(row parquet.Row, at int, r *Row) parquet.Row {
			name := t.prediction(r)
			return optional(row, at, parquet.ByteArrayValue([]byte(name)), name != "")
		}},
		{"probability,optional", reflect.TypeFor[*float32](), func(row parquet.Row, at int, r *Row) parquet.Row {
			return optional(row, at, parquet.FloatValue(r.Prob), r.HasProb)
		}},
	}
	var columns []column
	if t.Rounds {
		columns = append(columns, column{"round", reflect.TypeFor[int32](), func(row parquet.Row, at int, r *Row) parquet.Row {
			return append(row, parquet.Int32Value(int32(r.Round)).Level(0, 0, at))
		}})
	}
	for _, c := range all {
		if c.kind != text || t.named() {
			columns = append(columns, c)
		}
	}
	if t.Values == Plain {
		return columns
	}
	columns = append(columns, column{t.Values.name() + ",list", reflect.TypeFor[[]float32](), func(row parquet.Row, at int, r *Row) parquet.Row {
		return list(row, at, r.Values, parquet.FloatValue)
	}})
	if t.Values == Output {
		columns = append(columns, column{"shape,list", reflect.TypeFor[[]int32](), func(row parquet.Row, at int, r *Row) parquet.Row {
			return list(row, at, r.Shape, func(d int) parquet.Value { return parquet.Int32Value(int32(d)) })
		}})
	}
	return columns
}

// optional appends a value that may be null.
func optional(row parquet.Row, at int, v parquet.Value, known bool) parquet.Row {
	if !known {
		return append(row, parquet.NullValue().Level(0, 0, at))
	}
	return append(row, v.Level(0, 1, at))
}

// list appends the values of a list.
func list[V any](row parquet.Row, at int, values []V, value func(V) parquet.Value) parquet.Row {
	if len(values) == 0 {
		return append(row, parquet.NullValue().Level(0, 0, at))
	}
	for i, v := range values {
		row = append(row, value(v).Level(min(i, 1), 1, at))
	}
	return row
}

// parquetWriter writes Parquet, compressed with Snappy. Groups end after so many rows,
// whatever the time, so that the bytes depend on the rows alone.
type parquetWriter struct {
	out     io.Writer
	columns []column
	schema  *parquet.Schema
	w       *parquet.GenericWriter[any]
	rows    []parquet.Row
	// group is the rows of a group, open those of the one being made; some are handed
	// over at a time, of which there are held now.
	group, open, some, held int
}

// newParquet returns a writer of Parquet.
func newParquet(out io.Writer, t Table) Writer {
	w := &parquetWriter{out: out, columns: parquetColumns(t)}
	fields := make([]reflect.StructField, len(w.columns))
	for i, c := range w.columns {
		// The library takes a schema from a type; the names of its fields are nobody's.
		fields[i] = reflect.StructField{Name: string(rune('A' + i)), Type: c.kind, Tag: reflect.StructTag(`parquet:"` + c.tag + `"`)}
	}
	w.schema = parquet.NewSchema("record", parquet.SchemaOf(reflect.New(reflect.StructOf(fields)).Interface()))
	return w
}

// begin opens the file; each is the number of values of a row.
func (w *parquetWriter) begin(each int) {
	if w.w == nil {
		w.w = parquet.NewGenericWriter[any](w.out, w.schema, parquet.Compression(&parquet.Snappy), parquet.CreatedBy("idunno", "1", "0"))
		w.group = min(max(groupBytes/(rowBytes+4*each), 1), groupRows)
		w.some = min(max(valuesAtOnce/max(each, 1), 1), rowsAtOnce)
		w.rows = make([]parquet.Row, w.some)
	}
}

func (w *parquetWriter) Row(r *Row) error {
	w.begin(len(r.Values))
	row := w.rows[w.held][:0]
	for at, c := range w.columns {
		row = c.add(row, at, r)
	}
	w.rows[w.held] = row
	w.held++
	w.open++
	switch {
	case w.open >= w.group:
		w.open = 0
		if err := w.write(); err != nil {
			return err
		}
		return w.w.Flush()
	case w.held >= w.some:
		return w.write()
	}
	return nil
}

// write hands the rows over.
func (w *parquetWriter) write() error {
	_, err := w.w.WriteRows(w.rows[:w.held])
	w.held = 0
	return err
}

// Flush does nothing: where pages end depends on when rows are handed over, and may
// not depend on time.
func (w *parquetWriter) Flush() error { return nil }

func (w *parquetWriter) Close() error {
	w.begin(0)
	if err := w.write(); err != nil {
		return err
	}
	return w.w.Close()
}
