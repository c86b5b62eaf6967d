package export

import (
	"encoding/csv"
	"io"
	"math"
	"strconv"
)

// csvWriter writes a table with a line of names in front. What is not known is an
// empty field. Values have a column each, numbered from 0 in the order of memory.
type csvWriter struct {
	out     *csv.Writer
	columns Columns
	fixed   fixed
	begun   bool
	fields  []string
}

func newCSV(out io.Writer, c Columns) *csvWriter {
	return &csvWriter{out: csv.NewWriter(out), columns: c}
}

// begin writes the names, of so many values too.
func (w *csvWriter) begin(values int) error {
	if w.begun {
		return nil
	}
	w.begun = true
	names := []string{"index", "batch", "label", "prediction", "probability"}
	prefix := map[Columns]string{Probabilities: "probability_", Output: "output_"}[w.columns]
	for i := range values {
		names = append(names, prefix+strconv.Itoa(i))
	}
	return w.out.Write(names)
}

func (w *csvWriter) Row(r *Row) error {
	values := r.Values
	if w.columns == Plain {
		values = nil
	} else if err := w.fixed.check(r); err != nil {
		return err
	}
	if err := w.begin(len(values)); err != nil {
		return err
	}
	f := append(w.fields[:0], strconv.FormatInt(r.Index, 10), strconv.Itoa(r.Batch), "", "", "")
	if r.Labeled {
		f[2] = strconv.Itoa(int(r.Label))
	}
	if r.Scored {
		f[3] = strconv.Itoa(int(r.Class))
	}
	if r.HasProb {
		f[4] = number(r.Prob)
	}
	for _, v := range values {
		f = append(f, number(v))
	}
	w.fields = f
	return w.out.Write(f)
}

// number is the shortest decimal that reads back as the same bits.
func number(f float32) string {
	if math.IsNaN(float64(f)) {
		return "NaN"
	}
	return strconv.FormatFloat(float64(f), 'g', -1, 32)
}

func (w *csvWriter) Flush() error {
	w.out.Flush()
	return w.out.Error()
}

func (w *csvWriter) Close() error {
	if err := w.begin(0); err != nil {
		return err
	}
	return w.Flush()
}
