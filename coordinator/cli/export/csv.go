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
	out    *csv.Writer
	table  Table
	fixed  fixed
	begun  bool
	fields []string
}

func newCSV(out io.Writer, t Table) *csvWriter {
	return &csvWriter{out: csv.NewWriter(out), table: t}
}

// begin writes the names, of so many values too.
func (w *csvWriter) begin(values int) error {
	if w.begun {
		return nil
	}
	w.begun = true
	var names []string
	if w.table.Rounds {
		names = append(names, "round")
	}
	if w.table.named() {
		names = append(names, "index", "batch", "label", "label_name", "prediction", "prediction_name", "probability")
	} else {
		names = append(names, "index", "batch", "label", "prediction", "probability")
	}
	prefix := map[Values]string{Probabilities: "probability_", Output: "output_"}[w.table.Values]
	for i := range values {
		names = append(names, prefix+strconv.Itoa(i))
	}
	return w.out.Write(names)
}

func (w *csvWriter) Row(r *Row) error {
	values := r.Values
	if w.table.Values == Plain {
		values = nil
	} else if err := w.fixed.check(r); err != nil {
		return err
	}
	if err := w.begin(len(values)); err != nil {
		return err
	}
	f := w.fields[:0]
	if w.table.Rounds {
		f = append(f, strconv.Itoa(r.Round))
	}
	f = append(f, strconv.FormatInt(r.Index, 10), strconv.Itoa(r.Batch), integer(r.Label, r.Labeled))
	if w.table.named() {
		f = append(f, w.table.label(r))
	}
	f = append(f, integer(r.Class, r.Scored))
	if w.table.named() {
		f = append(f, w.table.prediction(r))
	}
	prob := ""
	if r.HasProb {
		prob = number(r.Prob)
	}
	f = append(f, prob)
	for _, v := range values {
		f = append(f, number(v))
	}
	w.fields = f
	return w.out.Write(f)
}

func integer(v int32, known bool) string {
	if !known {
		return ""
	}
	return strconv.Itoa(int(v))
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
