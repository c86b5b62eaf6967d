package onnx

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"idunno/models/onnx/encode"
)

type (
	tv = encode.Value
	tn = encode.Node
	tt = encode.Tensor
	tm = encode.Model
)

// linear is y = x*w + b with a symbolic batch.
func linear() tm {
	return tm{
		In:    []tv{{Name: "x", Dims: []any{"N", 2}}},
		Out:   []tv{{Name: "y", Dims: []any{"N", 3}}},
		Init:  []tt{{Name: "w", Dims: []int64{2, 3}, Floats: []float32{1, 2, 3, 4, 5, 6}}, {Name: "b", Dims: []int64{3}, Floats: []float32{1, 0, -1}}},
		Nodes: []tn{{Name: "fc", Op: "Gemm", In: []string{"x", "w", "b"}, Out: []string{"y"}, Attrs: map[string]any{"alpha": float32(1)}}},
	}
}

func TestDecode(t *testing.T) {
	m := linear()
	m.Nodes = append(m.Nodes, tn{Op: "Constant", Out: []string{"unused"}, Attrs: map[string]any{"value": tt{Dims: []int64{2}, Ints: []int64{3, -4}}}})
	g, err := Decode(m.Bytes(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(g.Inputs, g.Outputs, g.Opsets); got != "[x float[N,2]] [y float[N,3]] map[:13]" {
		t.Errorf("got %s", got)
	}
	if w := g.Initializers["w"]; !slices.Equal(w.Dims, []int{2, 3}) || !slices.Equal(w.Floats, []float32{1, 2, 3, 4, 5, 6}) {
		t.Errorf("w is %+v", w)
	}
	n := g.Nodes[0]
	if n.Op == "Constant" {
		n = g.Nodes[1]
	}
	if n.Name != "fc" || !slices.Equal(n.Inputs, []string{"x", "w", "b"}) || n.Attrs["alpha"].Kind != AttrFloat || n.Attrs["alpha"].F != 1 {
		t.Errorf("node is %+v", n)
	}
	for _, n := range g.Nodes {
		if v := n.Attrs["value"].T; n.Op == "Constant" && (v == nil || v.DType != Int64 || !slices.Equal(v.Ints, []int64{3, -4})) {
			t.Errorf("constant is %+v", v)
		}
	}
}

// The pitfalls of onnx-go: one value as both inputs, a left-out input in the middle, a node without inputs, nodes out of order, initializers
// listed as inputs, several outputs.
func TestDecodeKeepsTheGraph(t *testing.T) {
	m := tm{
		In:  []tv{{Name: "x", Dims: []any{4}}, {Name: "w", Dims: []any{1}}},
		Out: []tv{{Name: "z"}},
		Nodes: []tn{
			{Op: "Clip", In: []string{"sq", "", "hi"}, Out: []string{"z"}},
			{Op: "Mul", In: []string{"x", "x"}, Out: []string{"sq"}},
			{Op: "Constant", Out: []string{"hi"}, Attrs: map[string]any{"value_float": float32(2)}},
			{Op: "Split", In: []string{"x"}, Out: []string{"p", "", "q"}, Attrs: map[string]any{"axis": 0}},
		},
		Init: []tt{{Name: "w", Dims: []int64{1}, Floats: []float32{1}}},
	}
	g, err := Decode(m.Bytes(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Inputs) != 1 || g.Inputs[0].Name != "x" {
		t.Errorf("inputs are %v", g.Inputs)
	}
	at := map[string]int{}
	for i, n := range g.Nodes {
		at[n.Op] = i
		want := map[string]string{"Clip": `["sq" "" "hi"]["z"]`, "Mul": `["x" "x"]["sq"]`, "Constant": `[]["hi"]`, "Split": `["x"]["p" "" "q"]`}
		if got := fmt.Sprintf("%q%q", n.Inputs, n.Outputs); got != want[n.Op] {
			t.Errorf("%s is %s, want %s", n.Op, got, want[n.Op])
		}
	}
	if at["Clip"] < at["Mul"] || at["Clip"] < at["Constant"] {
		t.Errorf("order is %v", at)
	}
}

func TestDecodeRefuses(t *testing.T) {
	field := func(num protowire.Number, p []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), p)
	}
	edit := func(f func(*tm)) []byte {
		m := linear()
		f(&m)
		return m.Bytes()
	}
	node := func(in, out string) tn { return tn{Op: "Relu", In: []string{in}, Out: []string{out}} }
	for name, c := range map[string]struct {
		bytes []byte
		want  error
		text  string
	}{
		"nothing":            {nil, ErrMalformed, "no graph"},
		"garbage":            {[]byte("this is not a model"), ErrMalformed, ""},
		"zip":                {[]byte("PK\x03\x04"), ErrMalformed, ""},
		"two graphs":         {append(linear().Bytes(), linear().Bytes()...), ErrMalformed, "two graphs"},
		"no nodes":           {edit(func(m *tm) { m.Nodes = nil }), ErrMalformed, "no graph with nodes"},
		"no outputs":         {edit(func(m *tm) { m.Out = nil }), ErrMalformed, "outputs"},
		"unknown input":      {edit(func(m *tm) { m.Nodes[0].In[0] = "nobody" }), ErrMalformed, `reads "nobody"`},
		"unknown output":     {edit(func(m *tm) { m.Out[0].Name = "nobody" }), ErrMalformed, `output "nobody"`},
		"given twice":        {edit(func(m *tm) { m.Nodes = append(m.Nodes, node("x", "y")) }), ErrMalformed, `"y"`},
		"node gives input":   {edit(func(m *tm) { m.Nodes = append(m.Nodes, node("y", "x")) }), ErrMalformed, `"x"`},
		"cycle":              {edit(func(m *tm) { m.Nodes = append(m.Nodes, node("p", "q"), node("q", "p")) }), ErrMalformed, "cycle"},
		"own output":         {edit(func(m *tm) { m.Nodes = append(m.Nodes, node("p", "p")) }), ErrMalformed, "cycle"},
		"input twice":        {edit(func(m *tm) { m.In = append(m.In, m.In[0]) }), ErrMalformed, `"x"`},
		"initializer twice":  {edit(func(m *tm) { m.Init = append(m.Init, m.Init[0]) }), ErrMalformed, `"w"`},
		"node without op":    {edit(func(m *tm) { m.Nodes[0].Op = "" }), ErrMalformed, "no operator"},
		"too few elements":   {edit(func(m *tm) { m.Init[0].Dims[0] = 3 }), ErrMalformed, "need 9 elements, there are 6"},
		"too many elements":  {edit(func(m *tm) { m.Init[0].Dims[0] = 1 }), ErrMalformed, "need 3 elements, there are 6"},
		"negative dimension": {edit(func(m *tm) { m.Init[0].Dims[0] = -2 }), ErrMalformed, "dimension -2"},
		"overflow":           {edit(func(m *tm) { m.Init[0].Dims = []int64{1 << 31, 1 << 31, 1 << 31} }), ErrTooLarge, "dimensions"},
		"huge":               {edit(func(m *tm) { m.Init[0].Dims = []int64{1 << 35} }), ErrTooLarge, "more memory"},
		"external data":      {edit(func(m *tm) { m.Init[0].Extra = []byte{14 << 3, 1} }), ErrUnsupported, "another file"},
		"segment":            {edit(func(m *tm) { m.Init[0].Extra = field(3, nil) }), ErrUnsupported, "segmented"},
		"sparse":             {edit(func(m *tm) { m.GExtra = field(15, nil) }), ErrUnsupported, "sparse"},
		"connections": {edit(func(m *tm) {
			n := tn{Op: "Split", In: slices.Repeat([]string{"x"}, 1000)}
			for i := range 1000 {
				n.Out = append(n.Out, fmt.Sprint("o", i))
			}
			m.Nodes = append(m.Nodes, n)
		}), ErrTooLarge, "connections"},
		"pieces":    {edit(func(m *tm) { m.Init[0].Extra = bytes.Repeat([]byte{4<<3 | 5, 0, 0, 0, 0}, 1<<18) }), ErrTooLarge, "pieces"},
		"long name": {edit(func(m *tm) { m.Nodes[0].Name = strings.Repeat("x", 5000) }), ErrTooLarge, "name of 5000"},
		"not UTF-8": {edit(func(m *tm) { m.Nodes[0].Name = "\xff" }), ErrMalformed, "UTF-8"},
		"group":     {append(linear().Bytes(), 99<<3&0x7f|3, 6), ErrMalformed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decode(c.bytes, Limits{})
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error is %v, want %v with %q", err, c.want, c.text)
			}
		})
	}
	if _, err := Decode(linear().Bytes(), Limits{Bytes: 10}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a model over the size limit gives %v", err)
	}
	if _, err := Decode(linear().Bytes(), Limits{Memory: 20}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a model over the memory limit gives %v", err)
	}
}

// Nesting must not cost stack: a type of thousands of levels is skipped or refused at once.
func TestDecodeSurvivesDeepNesting(t *testing.T) {
	var deep []byte
	for range 2000 {
		deep = protowire.AppendBytes(protowire.AppendTag(nil, 4, protowire.BytesType), deep) // sequence_type of sequence_type ...
	}
	value := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "v")
	value = protowire.AppendBytes(protowire.AppendTag(value, 2, protowire.BytesType), deep)
	m := linear()
	m.GExtra = protowire.AppendBytes(protowire.AppendTag(nil, 13, protowire.BytesType), value)
	if _, err := Decode(m.Bytes(), Limits{}); err != nil {
		t.Error(err)
	}
}

// Every truncation of a model and every single byte set to some values must give a result or an error, never a panic.
func TestDecodeSurvivesMutations(t *testing.T) {
	whole := linear().Bytes()
	for n := range whole {
		if g, err := Decode(whole[:n], Limits{Memory: 1 << 20}); err == nil && len(g.Nodes) == 0 {
			t.Fatalf("%d bytes give an empty graph", n)
		}
	}
	for i := range whole {
		for _, v := range []byte{0, 1, 0x7f, 0x80, 0xff, whole[i] ^ 1, whole[i] ^ 0x80} {
			p := bytes.Clone(whole)
			p[i] = v
			if g, err := Decode(p, Limits{Memory: 1 << 20}); err == nil && len(g.Nodes) == 0 {
				t.Fatalf("byte %d set to %d gives an empty graph", i, v)
			}
		}
	}
}

func TestReadTensor(t *testing.T) {
	f32 := func(num protowire.Number, raw ...byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), raw)
	}
	tensor := func(dtype byte, dims byte, data []byte) []byte {
		return append([]byte{1 << 3, dims, 2 << 3, dtype}, data...)
	}
	for name, c := range map[string]struct {
		bytes []byte
		want  string
	}{
		"float16 raw":     {tensor(10, 3, f32(9, 0, 0x3c, 0, 0xc0, 1, 0)), "[1 -2 5.9604645e-08] []"},
		"float16 special": {tensor(10, 2, f32(9, 0, 0x7c, 0, 0xfc)), "[+Inf -Inf] []"},
		"float16 listed":  {tensor(10, 1, f32(5, 0x80, 0x78)), "[1] []"},
		"bfloat16 raw":    {tensor(16, 1, f32(9, 0x80, 0x3f)), "[1] []"},
		"double raw":      {tensor(11, 1, f32(9, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f)), "[1.5] []"},
		"double listed":   {tensor(11, 1, f32(10, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f)), "[1.5] []"},
		"float listed":    {tensor(1, 1, f32(4, 0, 0, 0xc0, 0x3f)), "[1.5] []"},
		"uint8 raw":       {tensor(2, 2, f32(9, 1, 255)), "[] [1 255]"},
		"int8 raw":        {tensor(3, 2, f32(9, 1, 255)), "[] [1 -1]"},
		"int16 raw":       {tensor(5, 1, f32(9, 0xfe, 0xff)), "[] [-2]"},
		"bool raw":        {tensor(9, 3, f32(9, 0, 1, 7)), "[] [0 1 1]"},
		"int64 listed":    {tensor(7, 2, f32(7, 5, 6)), "[] [5 6]"},
		"uint64 listed":   {tensor(13, 1, f32(11, 9)), "[] [9]"},
	} {
		t.Run(name, func(t *testing.T) {
			x, err := ReadTensor(c.bytes, 0)
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(x.Floats, x.Ints); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
	for name, p := range map[string][]byte{
		"strings":     tensor(8, 1, f32(6, 'x')),
		"odd raw":     tensor(1, 1, f32(9, 1, 2, 3)),
		"complex":     tensor(14, 1, f32(9, 1)),
		"more listed": tensor(7, 1, f32(7, 5, 6)),
		"less listed": tensor(7, 3, f32(7, 5, 6)),
	} {
		if _, err := ReadTensor(p, 0); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(linear().Bytes())
	z, err := zip.OpenReader("../testdata/onnx-backend.zip")
	if err != nil {
		f.Fatal(err)
	}
	defer z.Close()
	for i, file := range z.File {
		if file.FileInfo().Size() > 2000 || i%40 != 0 {
			continue
		}
		r, err := file.Open()
		if err != nil {
			f.Fatal(err)
		}
		p, err := io.ReadAll(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		g, err := Decode(p, Limits{Memory: 16 << 20})
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrUnsupported) {
				t.Errorf("error of no kind: %v", err)
			}
			return
		}
		if len(g.Nodes) == 0 || len(g.Outputs) == 0 {
			t.Errorf("an empty graph from %q", p)
		}
	})
}
