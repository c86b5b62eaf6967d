package export_test

import (
	"bytes"
	"encoding/binary"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"codeberg.org/sbinet/npyio"
	"github.com/parquet-go/parquet-go"

	"idunno/coordinator/cli/export"
)

// rows are n images; some have no label, some no probability.
func rows(n int, shape ...int) []export.Row {
	each := 1
	for _, d := range shape {
		each *= d
	}
	list := make([]export.Row, n)
	for i := range list {
		r := &list[i]
		*r = export.Row{Round: 1 + i/4, Index: int64(100 + i), Batch: 2 + i/10, Labeled: i%3 != 1, Scored: i%5 != 4, HasProb: i%4 == 0, Shape: shape}
		if r.Labeled {
			r.Label = int32(i % 10)
		}
		if r.Scored {
			r.Class = int32(i % 7)
		}
		if r.HasProb {
			r.Prob = 1 / float32(i+1)
		}
		for j := range each {
			r.Values = append(r.Values, float32(i)+float32(j)/8)
		}
	}
	return list
}

func write(t *testing.T, format string, table export.Table, list []export.Row) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := export.New(format, &out, table)
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		if err := w.Row(&list[i]); err != nil {
			t.Fatal(err)
		}
		if i%100 == 99 {
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// named is a table of several rounds whose classes have names.
var named = export.Table{Rounds: true, Labels: []string{"T-shirt, or top", "boot"}, Classes: []string{"shirt", `<"boot">`}}

func TestJSON(t *testing.T) {
	list := rows(3, 2, 2)
	for values, want := range map[export.Values]string{
		export.Plain: `{"index":100,"batch":2,"label":0,"prediction":0,"probability":1}
{"index":101,"batch":2,"label":null,"prediction":1,"probability":null}
{"index":102,"batch":2,"label":2,"prediction":2,"probability":null}
`,
		export.Output: `{"index":100,"batch":2,"label":0,"prediction":0,"probability":1,"output":[[0,0.125],[0.25,0.375]]}
{"index":101,"batch":2,"label":null,"prediction":1,"probability":null,"output":[[1,1.125],[1.25,1.375]]}
{"index":102,"batch":2,"label":2,"prediction":2,"probability":null,"output":[[2,2.125],[2.25,2.375]]}
`} {
		if got := string(write(t, export.JSONL, export.Table{Values: values}, list)); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	}
	if got, want := string(write(t, export.JSONL, named, list)), `{"round":1,"index":100,"batch":2,"label":0,"label_name":"T-shirt, or top","prediction":0,"prediction_name":"shirt","probability":1}
{"round":1,"index":101,"batch":2,"label":null,"label_name":null,"prediction":1,"prediction_name":"\u003c\"boot\"\u003e","probability":null}
{"round":1,"index":102,"batch":2,"label":2,"label_name":null,"prediction":2,"prediction_name":null,"probability":null}
`; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	single := rows(1)
	single[0].Values[0] = float32(math.Inf(-1))
	if got := string(write(t, export.JSONL, export.Table{Values: export.Output}, single)); !strings.HasSuffix(got, `"output":null}`+"\n") {
		t.Errorf("got %s", got)
	}
	for _, list := range [][]export.Row{nil, rows(3)} {
		var out bytes.Buffer
		w := export.NewJSON(&out, export.Table{}, 12)
		for i := range list {
			if err := w.Row(&list[i]); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Job     int              `json:"job"`
			Results []map[string]any `json:"results"`
		}
		if err := json.Unmarshal(out.Bytes(), &doc); err != nil || doc.Job != 12 || len(doc.Results) != len(list) {
			t.Errorf("%d rows: %v\n%s", len(list), err, out.String())
		}
	}
}

func TestCSV(t *testing.T) {
	list := rows(20, 3)
	list[7].Values[1] = float32(math.NaN())
	table, err := csv.NewReader(bytes.NewReader(write(t, export.CSV, export.Table{Values: export.Probabilities}, list))).ReadAll()
	if err != nil || len(table) != 21 {
		t.Fatalf("%d lines, %v", len(table), err)
	}
	for i, want := range map[int]string{
		0: "index,batch,label,prediction,probability,probability_0,probability_1,probability_2",
		1: "100,2,0,0,1,0,0.125,0.25",
		2: "101,2,,1,,1,1.125,1.25",
		5: "104,2,,,0.2,4,4.125,4.25",
		8: "107,2,,0,,7,NaN,7.25",
	} {
		if got := strings.Join(table[i], ","); got != want {
			t.Errorf("line %d is %q, want %q", i+1, got, want)
		}
	}
	want := "round,index,batch,label,label_name,prediction,prediction_name,probability\n1,100,2,0,\"T-shirt, or top\",0,shirt,1\n" +
		"1,101,2,,,1,\"<\"\"boot\"\">\",\n1,102,2,2,,2,,\n1,103,2,3,,3,,\n2,104,2,,,,,0.2\n"
	if got := string(write(t, export.CSV, named, rows(5))); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := string(write(t, export.CSV, export.Table{}, nil)); got != "index,batch,label,prediction,probability\n" {
		t.Errorf("no rows: %q", got)
	}
}

// read is what the library reads from a file.
func read[T any](t *testing.T, p []byte) []T {
	t.Helper()
	name := filepath.Join(t.TempDir(), "f.parquet")
	if err := os.WriteFile(name, p, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := parquet.ReadFile[T](name)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestParquet(t *testing.T) {
	type plain struct {
		Index       int64    `parquet:"index"`
		Batch       int32    `parquet:"batch"`
		Label       *int32   `parquet:"label,optional"`
		Prediction  *int32   `parquet:"prediction,optional"`
		Probability *float32 `parquet:"probability,optional"`
	}
	type probs struct {
		Index         int64     `parquet:"index"`
		Probabilities []float32 `parquet:"probabilities,list"`
	}
	type output struct {
		Index  int64     `parquet:"index"`
		Output []float32 `parquet:"output,list"`
		Shape  []int32   `parquet:"shape,list"`
	}
	list := rows(1000, 2, 3)
	got := read[plain](t, write(t, export.Parquet, export.Table{}, list))
	if len(got) != len(list) {
		t.Fatalf("%d rows", len(got))
	}
	for i, r := range got {
		want := &list[i]
		if r.Index != want.Index || int(r.Batch) != want.Batch || (r.Label != nil) != want.Labeled || (r.Prediction != nil) != want.Scored || (r.Probability != nil) != want.HasProb ||
			want.Labeled && *r.Label != want.Label || want.Scored && *r.Prediction != want.Class || want.HasProb && *r.Probability != want.Prob {
			t.Fatalf("row %d is %+v, want %+v", i, r, want)
		}
	}
	for i, r := range read[probs](t, write(t, export.Parquet, export.Table{Values: export.Probabilities}, list)) {
		if r.Index != list[i].Index || !slices.Equal(r.Probabilities, list[i].Values) {
			t.Fatalf("row %d is %+v", i, r)
		}
	}
	for i, r := range read[output](t, write(t, export.Parquet, export.Table{Values: export.Output}, list)) {
		if r.Index != list[i].Index || !slices.Equal(r.Output, list[i].Values) || !slices.Equal(r.Shape, []int32{2, 3}) {
			t.Fatalf("row %d is %+v", i, r)
		}
	}
	type text struct {
		Round          int32   `parquet:"round"`
		Index          int64   `parquet:"index"`
		Label          *int32  `parquet:"label,optional"`
		LabelName      *string `parquet:"label_name,optional"`
		PredictionName *string `parquet:"prediction_name,optional"`
	}
	for i, r := range read[text](t, write(t, export.Parquet, named, list)) {
		want := &list[i]
		label, predicted := want.Labeled && want.Label < 2, want.Scored && want.Class < 2
		if int(r.Round) != want.Round || r.Index != want.Index || (r.LabelName != nil) != label || (r.PredictionName != nil) != predicted ||
			label && *r.LabelName != named.Labels[want.Label] || predicted && *r.PredictionName != named.Classes[want.Class] {
			t.Fatalf("row %d is %+v", i, r)
		}
	}
	if got := read[plain](t, write(t, export.Parquet, export.Table{}, nil)); len(got) != 0 {
		t.Errorf("%d rows of none", len(got))
	}
}

// Groups of rows end by their size, so memory stays bounded, and flushing in between
// changes no byte.
func TestParquetGroups(t *testing.T) {
	list := rows(600, 20_000)
	p := write(t, export.Parquet, export.Table{Values: export.Output}, list)
	f, err := parquet.OpenFile(bytes.NewReader(p), int64(len(p)))
	if err != nil || len(f.RowGroups()) < 2 {
		t.Fatalf("%d groups, %v", len(f.RowGroups()), err)
	}
	var out bytes.Buffer
	w, err := export.New(export.Parquet, &out, export.Table{Values: export.Output})
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		if err := errors.Join(w.Row(&list[i]), w.Flush()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil || !bytes.Equal(out.Bytes(), p) {
		t.Errorf("%d bytes with flushes, %d without, %v", out.Len(), len(p), err)
	}
}

func TestNPY(t *testing.T) {
	list := rows(37, 2, 3)
	r, err := npyio.NewReader(bytes.NewReader(write(t, export.NPY, export.Table{Values: export.Output}, list)))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(r.Header.Descr.Shape, []int{37, 2, 3}) || r.Header.Descr.Type != "'<f4'" || r.Header.Descr.Fortran {
		t.Errorf("header %v", r.Header)
	}
	var values []float32
	if err := r.Read(&values); err != nil {
		t.Fatal(err)
	}
	for i := range list {
		if !slices.Equal(values[6*i:][:6], list[i].Values) {
			t.Fatalf("row %d is %v", i, values[6*i:][:6])
		}
	}
	// One number an image, and none at all.
	if r, err = npyio.NewReader(bytes.NewReader(write(t, export.NPY, export.Table{Values: export.Output}, rows(3)))); err != nil || !reflect.DeepEqual(r.Header.Descr.Shape, []int{3}) {
		t.Errorf("%v, %v", r, err)
	}
	if r, err = npyio.NewReader(bytes.NewReader(write(t, export.NPY, export.Table{Values: export.Output}, nil))); err != nil || !reflect.DeepEqual(r.Header.Descr.Shape, []int{0}) {
		t.Errorf("%v, %v", r, err)
	}
}

// The library reads no arrays of records, so these are taken apart here.
func TestNPYRecords(t *testing.T) {
	list := rows(5)
	p := write(t, export.NPY, export.Table{}, list)
	if string(p[:8]) != "\x93NUMPY\x01\x00" {
		t.Fatalf("begins with %q", p[:8])
	}
	n := int(binary.LittleEndian.Uint16(p[8:]))
	head, body := string(p[10:10+n]), p[10+n:]
	if (10+n)%64 != 0 || !strings.HasSuffix(head, " \n") || !strings.HasPrefix(head, "{'descr': [('index', '<i8'), ('batch', '<i4'), ('label', '<i4'), "+
		"('prediction', '<i4'), ('probability', '<f4')], 'fortran_order': False, 'shape': (5,), }") {
		t.Errorf("header %q", head)
	}
	rounds := write(t, export.NPY, named, list)
	if !bytes.Contains(rounds, []byte("{'descr': [('round', '<i4'), ('index', '<i8'), ")) || !bytes.Contains(rounds, []byte("'shape': (5,), }")) {
		t.Errorf("several rounds begin with %q", rounds[:200])
	}
	if last := rounds[len(rounds)-28:]; last[0] != 2 || last[4] != 104 {
		t.Errorf("the last record is %v", last)
	}
	type record struct {
		Index                    int64
		Batch, Label, Prediction int32
		Probability              float32
	}
	got := make([]record, 5)
	in := bytes.NewReader(body)
	if err := binary.Read(in, binary.LittleEndian, got); err != nil || in.Len() != 0 {
		t.Fatalf("%v, %d bytes left", err, in.Len())
	}
	if got[0] != (record{100, 2, 0, 0, 1}) || got[1].Label != -1 || got[1].Prediction != 1 || !math.IsNaN(float64(got[1].Probability)) || got[4].Prediction != -1 {
		t.Errorf("got %+v", got)
	}
}

// Tables take no outputs of another shape than the first, JSON does.
func TestShapesThatChange(t *testing.T) {
	list := []export.Row{rows(1, 2, 3)[0], rows(1, 3, 2)[0]}
	for _, format := range []string{export.CSV, export.NPY} {
		w, err := export.New(format, io.Discard, export.Table{Values: export.Output})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Row(&list[0]); err != nil {
			t.Fatal(err)
		}
		if err := w.Row(&list[1]); !errors.Is(err, export.ErrShape) {
			t.Errorf("%s: %v", format, err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
	write(t, export.JSONL, export.Table{Values: export.Output}, list)
	write(t, export.Parquet, export.Table{Values: export.Output}, list)
}
