package models

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"idunno/models/internal/onnxtest"
	"idunno/models/onnx/encode"
)

// culprit is a classifier with a node named so in it.
func culprit(n tn, more ...func(*tm)) []byte {
	m := classifier("Identity", nil)
	n.Name = "culprit"
	if n.In == nil {
		n.In = []string{"h"}
	}
	if n.Out == nil {
		n.Out = []string{"y"}
	}
	m.Nodes[1] = n
	for _, f := range more {
		f(&m)
	}
	return m.Bytes()
}

// What depends on the model alone is refused by Load, with operator, domain, operator set and node, and never at the first batch.
func TestLoadNamesWhatItRefuses(t *testing.T) {
	type attrs = map[string]any
	open := func(m *tm) {
		m.In[0].Dims = []any{"N", 1, "H", "W"}
		m.Nodes = append([]tn{{Op: "GlobalAveragePool", In: []string{"x"}, Out: []string{"p"}}, {Op: "Expand", In: []string{"p", "to"}, Out: []string{"e"}}, {Op: "Flatten", In: []string{"e"}, Out: []string{"f"}}}, m.Nodes...)
		m.Nodes[3].In[0] = "f"
		m.Init = append(m.Init, tt{Name: "to", Dims: []int64{4}, Ints: []int64{1, 1, 2, 2}})
	}
	inner := encode.Graph{Out: []tv{{Name: "o"}}, Nodes: []tn{{Name: "culprit", Op: "StringConcat", In: []string{"h", "h"}, Out: []string{"o"}}}}
	with := func(t tt) func(*tm) { return func(m *tm) { m.Init = append(m.Init, t) } }
	for name, c := range map[string]struct {
		bytes []byte
		want  error
		texts []string
	}{
		"operator":   {culprit(tn{Op: "Fancy"}), ErrUnsupported, []string{`Fancy node "culprit" (opset 13)`, `"Fancy" of domain "ai.onnx"`}},
		"domain":     {culprit(tn{Op: "Relu", Domain: "com.example"}, func(m *tm) { m.Domains = map[string]int64{"com.example": 3} }), ErrUnsupported, []string{`com.example.Relu node "culprit" (opset 3)`, `domain "com.example"`}},
		"new opset":  {culprit(tn{Op: "Relu"}, func(m *tm) { m.Opset = 99 }), ErrUnsupported, []string{"Relu", "opset 99", "convert"}},
		"old opset":  {culprit(tn{Op: "LayerNormalization", In: []string{"h", "h"}}), ErrUnsupported, []string{`"culprit" (opset 13)`, "17 to"}},
		"attribute":  {culprit(tn{Op: "Relu", Attrs: attrs{"fancy": 1}}), ErrUnsupported, []string{"culprit", `attribute "fancy" of Relu`}},
		"kind":       {culprit(tn{Op: "Softmax", Attrs: attrs{"axis": "last"}}), ErrMalformed, []string{"culprit", `attribute "axis" has the wrong type`}},
		"value":      {culprit(tn{Op: "Gelu", Attrs: attrs{"approximate": "fancy"}}, func(m *tm) { m.Opset = 20 }), ErrMalformed, []string{"culprit", `approximate is "fancy"`}},
		"inputs":     {culprit(tn{Op: "Relu", In: []string{"h", "h"}}), ErrMalformed, []string{"culprit", "takes 1 to 1 inputs, not 2"}},
		"left out":   {culprit(tn{Op: "Add", In: []string{"h", ""}}), ErrMalformed, []string{"culprit", "input 1 is left out"}},
		"output":     {culprit(tn{Op: "Relu", Out: []string{"y", "y2"}}, func(m *tm) { m.Out = append(m.Out, tv{Name: "y2"}) }), ErrUnsupported, []string{"culprit", "output 1 of Relu"}},
		"type":       {culprit(tn{Op: "And", In: []string{"h", "h"}}), ErrMalformed, []string{"culprit", "type float is not supported"}},
		"two types":  {culprit(tn{Op: "Add", In: []string{"h", "k"}}, with(tt{Name: "k", Dims: []int64{1}, Ints: []int64{1}})), ErrMalformed, []string{"culprit", "float and int64"}},
		"cast":       {culprit(tn{Op: "Cast", Attrs: attrs{"to": 8}}), ErrUnsupported, []string{"culprit", "Cast to string", "strings are left out"}},
		"rank":       {culprit(tn{Op: "Conv", In: []string{"h", "w"}}), ErrMalformed, []string{"culprit"}},
		"axis":       {culprit(tn{Op: "Softmax", Attrs: attrs{"axis": 7}}), ErrMalformed, []string{"culprit", "axis 7"}},
		"shapes":     {culprit(tn{Op: "MatMul", In: []string{"h", "h"}}), ErrMalformed, []string{"culprit", "do not fit"}},
		"open sizes": {culprit(tn{Op: "And", In: []string{"h", "h"}}, open), ErrMalformed, []string{"whatever size", "culprit", "type float is not supported"}},
		"training":   {culprit(tn{Op: "Dropout", In: []string{"h", "", "yes"}}, with(tt{Name: "yes", Dims: []int64{}, DType: 9, Raw: []byte{1}})), ErrUnsupported, []string{"culprit", "training mode"}},
		"in a branch": {culprit(tn{Op: "If", In: []string{"c"}, Attrs: attrs{"then_branch": inner, "else_branch": inner}},
			func(m *tm) {
				m.Nodes = append([]tn{{Op: "ReduceMax", In: []string{"x"}, Out: []string{"top"}, Attrs: attrs{"keepdims": 0}}, {Op: "Cast", In: []string{"top"}, Out: []string{"c"}, Attrs: attrs{"to": 9}}}, m.Nodes...)
			}),
			ErrUnsupported, []string{`If node "culprit"`, "then_branch", `StringConcat node "culprit"`, "strings are left out"}},
		"in a function": {culprit(tn{Op: "F", Domain: "f"}, func(m *tm) {
			m.Domains = map[string]int64{"f": 1}
			m.Functions = []encode.Function{{Name: "F", Domain: "f", In: []string{"a"}, Out: []string{"b"}, Nodes: []tn{{Name: "culprit", Op: "Fancy", In: []string{"a"}, Out: []string{"b"}}}}}
		}), ErrUnsupported, []string{`Fancy node "culprit" (opset 13)`}},
		"strings":  {culprit(tn{Op: "Relu"}, with(tt{Name: "s", Dims: []int64{1}, DType: 8})), ErrUnsupported, []string{`tensor "s"`, "strings"}},
		"elements": {culprit(tn{Op: "Relu"}, with(tt{Name: "s", Dims: []int64{1}, DType: 14, Raw: make([]byte, 8)})), ErrUnsupported, []string{`tensor "s"`, "type 14"}},
		"external": {culprit(tn{Op: "Relu"}, with(tt{Name: "s", Dims: []int64{1}, External: [][2]string{{"location", "w"}}})), ErrUnsupported, []string{`tensor "s"`, "another file"}},
		"zipmap":   {culprit(tn{Op: "ZipMap", Domain: "ai.onnx.ml"}, func(m *tm) { m.Domains = map[string]int64{"ai.onnx.ml": 1} }), ErrUnsupported, []string{"ZipMap", "zipmap=False"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(c.bytes, Options{})
			if !errors.Is(err, c.want) {
				t.Fatalf("error is %v, want %v", err, c.want)
			}
			for _, text := range c.texts {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("error is %v, it doesn't say %q", err, text)
				}
			}
		})
	}
}

// A classifier as skl2onnx writes it with zipmap=False: a label, and probabilities behind a normalizer.
func TestScikitLearnClassifier(t *testing.T) {
	m := tm{
		In: []tv{{Name: "X", Dims: []any{"N", 2}}}, Out: []tv{{Name: "label", DType: 7}, {Name: "probabilities"}}, Domains: map[string]int64{"ai.onnx.ml": 1},
		Nodes: []tn{
			{Op: "Scaler", Domain: "ai.onnx.ml", In: []string{"X"}, Out: []string{"s"}, Attrs: map[string]any{"offset": []float32{1, 0}, "scale": []float32{1, 2}}},
			{Op: "LinearClassifier", Domain: "ai.onnx.ml", In: []string{"s"}, Out: []string{"label", "raw"}, Attrs: map[string]any{
				"coefficients": []float32{-1, 0, 1, 0}, "intercepts": []float32{0, 0}, "classlabels_ints": []int{0, 1}, "post_transform": "LOGISTIC"}},
			{Op: "Normalizer", Domain: "ai.onnx.ml", In: []string{"raw"}, Out: []string{"probabilities"}, Attrs: map[string]any{"norm": "L1"}},
		},
	}
	model, err := Load(m.Bytes(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if i := model.Info(); i.Output != Probabilities || i.Classes != 2 {
		t.Errorf("info is %+v", i)
	}
	b := floats([]int32{0, 0}, []int{2, 2}, 0, 5, 3, 5)
	p, err := model.NewSession().Predict(t.Context(), b)
	if err != nil || p.Class[0] != 0 || p.Class[1] != 1 || p.Correct != 1 {
		t.Errorf("prediction is %+v, %v", p, err)
	}
}

// FuzzMutatedLoad changes classifiers and small models of the backend suite in parts that stay a well-formed message.
func FuzzMutatedLoad(f *testing.F) {
	all := seeds(f)
	for i := range all {
		f.Add(uint16(i), uint64(i), uint8(i%5))
	}
	words := []string{"", "Relu", "Softmax", "ArgMax", "Reshape", "Flatten", "Expand", "Loop", "If", "MatMul", "Conv", "x", "y", "h"}
	f.Fuzz(func(t *testing.T, which uint16, seed uint64, n uint8) {
		r := rand.New(rand.NewPCG(seed, uint64(which)))
		tryLoad(t, onnxtest.Mutate(r, all[int(which)%len(all)], 1+int(n%6), words, all[r.IntN(len(all))]))
	})
}
