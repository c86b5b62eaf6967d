package export

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
)

// jsonWriter writes objects, as lines or as the list of one document.
type jsonWriter struct {
	out   *bufio.Writer
	table Table
	job   uint64 // of a document
	line  []byte
	begun bool
	// labels and classes are the names as they are written.
	labels, classes []string
}

// docSchema is the version of the document.
const docSchema = 1

// NewJSON returns a writer of JSON: a line a row, or with a job's number one document
// of its rows.
func NewJSON(out io.Writer, t Table, job uint64) Writer {
	return &jsonWriter{out: bufio.NewWriterSize(out, 1<<16), table: t, job: job, labels: quoted(t.Labels), classes: quoted(t.Classes)}
}

// quoted are names as JSON strings.
func quoted(names []string) []string {
	list := make([]string, len(names))
	for i, name := range names {
		p, _ := json.Marshal(name) // texts always marshal
		list[i] = string(p)
	}
	return list
}

// begin writes what is in front of the first row.
func (w *jsonWriter) begin() {
	if w.job > 0 && !w.begun {
		// Flush reports the first error.
		_, _ = fmt.Fprintf(w.out, "{\"schema_version\":%d,\"job\":%d,\"results\":[\n", docSchema, w.job)
	}
}

func (w *jsonWriter) Row(r *Row) error {
	p := w.line[:0]
	if w.job > 0 && w.begun {
		p = append(p, ",\n"...)
	}
	w.begin()
	w.begun = true
	p = append(p, '{')
	if w.table.Rounds {
		p = append(p, `"round":`...)
		p = append(strconv.AppendInt(p, int64(r.Round), 10), ',')
	}
	p = append(p, `"index":`...)
	p = strconv.AppendInt(p, r.Index, 10)
	p = append(p, `,"batch":`...)
	p = strconv.AppendInt(p, int64(r.Batch), 10)
	p = append(p, `,"label":`...)
	p = appendInt(p, r.Label, r.Labeled)
	if w.table.named() {
		p = append(p, `,"label_name":`...)
		p = append(p, cmp.Or(nameOf(w.labels, r.Label, r.Labeled), "null")...)
	}
	p = append(p, `,"prediction":`...)
	p = appendInt(p, r.Class, r.Scored)
	if w.table.named() {
		p = append(p, `,"prediction_name":`...)
		p = append(p, cmp.Or(nameOf(w.classes, r.Class, r.Scored), "null")...)
	}
	p = append(p, `,"probability":`...)
	if r.HasProb {
		p = appendFloat(p, r.Prob)
	} else {
		p = append(p, "null"...)
	}
	if w.table.Values != Plain {
		p = append(p, `,"`...)
		p = append(p, w.table.Values.name()...)
		p = append(p, `":`...)
		p, _ = appendNested(p, r.Values, r.Shape)
	}
	p = append(p, '}')
	if w.job == 0 {
		p = append(p, '\n')
	}
	w.line = p
	_, err := w.out.Write(p)
	return err
}

func (w *jsonWriter) Flush() error { return w.out.Flush() }

func (w *jsonWriter) Close() error {
	if w.job > 0 {
		w.begin()
		if w.begun {
			_ = w.out.WriteByte('\n') // Flush reports the first error
		}
		_, _ = w.out.WriteString("]}\n")
	}
	return w.out.Flush()
}

func appendInt(p []byte, v int32, known bool) []byte {
	if !known {
		return append(p, "null"...)
	}
	return strconv.AppendInt(p, int64(v), 10)
}

// appendFloat writes the shortest decimal that reads back as the same bits; JSON
// has no word for what is not finite.
func appendFloat(p []byte, f float32) []byte {
	if math.IsNaN(float64(f)) || math.IsInf(float64(f), 0) {
		return append(p, "null"...)
	}
	return strconv.AppendFloat(p, float64(f), 'g', -1, 32)
}

// appendNested writes values as lists of lists, by their shape, and returns those
// that are left. Without values it writes null.
func appendNested(p []byte, values []float32, shape []int) ([]byte, []float32) {
	if len(values) == 0 {
		return append(p, "null"...), nil
	}
	if len(shape) == 0 {
		return appendFloat(p, values[0]), values[1:]
	}
	p = append(p, '[')
	for i := range shape[0] {
		if i > 0 {
			p = append(p, ',')
		}
		p, values = appendNested(p, values, shape[1:])
	}
	return append(p, ']'), values
}
