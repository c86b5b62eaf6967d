package models

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"idunno/models/dataset"
	"idunno/models/onnx/encode"
)

type (
	tv = encode.Value
	tn = encode.Node
	tt = encode.Tensor
	tm = encode.Model
)

// classifier is y = last(x*w) with four inputs and three classes; w picks inputs 0, 1 and 2.
func classifier(last string, attrs map[string]any) tm {
	return tm{
		In:   []tv{{Name: "x", Dims: []any{"N", 4}}},
		Out:  []tv{{Name: "y", Dims: []any{"N", 3}}},
		Init: []tt{{Name: "w", Dims: []int64{4, 3}, Floats: []float32{1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0}}},
		Nodes: []tn{
			{Op: "MatMul", In: []string{"x", "w"}, Out: []string{"h"}},
			{Op: last, In: []string{"h"}, Out: []string{"y"}, Attrs: attrs},
		},
	}
}

func load(t *testing.T, m tm) *Model {
	t.Helper()
	out, err := Load(m.Bytes(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func floats(labels []int32, shape []int, v ...float32) *dataset.Batch {
	b := &dataset.Batch{DType: dataset.F32, Shape: shape, Y: labels}
	for _, f := range v {
		b.X = binary.LittleEndian.AppendUint32(b.X, math.Float32bits(f))
	}
	return b
}

func close32(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Abs(float64(x-y)) < 1e-6 })
}

func TestPredictByKindOfOutput(t *testing.T) {
	softmax := func(v ...float64) []float64 {
		sum := 0.0
		for i := range v {
			v[i] = math.Exp(v[i])
			sum += v[i]
		}
		for i := range v {
			v[i] /= sum
		}
		return v
	}
	p0, p1 := softmax(2, 1, 0), softmax(-1, 0, 3)
	batch := floats([]int32{0, 1}, []int{2, 4}, 2, 1, 0, 9, -1, 0, 3, 9)
	for last, want := range map[string]Kind{"Identity": Logits, "Softmax": Probabilities, "LogSoftmax": LogProbabilities} {
		m := load(t, classifier(last, nil))
		if m.Info().Output != want {
			t.Errorf("%s: output is %q", last, m.Info().Output)
		}
		p, err := m.NewSession().Predict(t.Context(), batch)
		if err != nil {
			t.Fatal(err)
		}
		l0, l1 := -math.Log(p0[0]), -math.Log(p1[1])
		if !slices.Equal(p.Class, []int32{0, 2}) || p.Correct != 1 || !close32(p.Prob, []float32{float32(p0[0]), float32(p1[2])}) ||
			!close32(p.Loss, []float32{float32(l0), float32(l1)}) || math.Abs(p.LossSum-l0-l1) > 1e-6 {
			t.Errorf("%s: %+v", last, p)
		}
	}
}

func TestPredictRaw(t *testing.T) {
	batch := floats([]int32{0, 1}, []int{2, 4}, 2, 1, 0, 9, -1, 0, 3, 9)
	arg := classifier("ArgMax", map[string]any{"axis": 1, "keepdims": 0})
	arg.Out = []tv{{Name: "y", DType: 7, Dims: []any{"N"}}}
	for name, m := range map[string]tm{"Sigmoid": classifier("Sigmoid", nil), "ArgMax": arg} {
		model := load(t, m)
		p, err := model.NewSession().Predict(t.Context(), batch)
		if err != nil {
			t.Fatal(name, err)
		}
		if model.Info().Output != Raw || !slices.Equal(p.Class, []int32{0, 2}) || p.Correct != 1 || p.Prob != nil || p.Loss != nil {
			t.Errorf("%s: %q %+v", name, model.Info().Output, p)
		}
	}
}

func TestPredictWithoutLabels(t *testing.T) {
	p, err := load(t, classifier("Identity", nil)).NewSession().Predict(t.Context(), floats(nil, []int{1, 4}, 0, 5, 0, 0))
	if err != nil || p.Loss != nil || p.Correct != 0 || p.LossSum != 0 || p.Class[0] != 1 || len(p.Prob) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestBytesAreScaledAndReshaped(t *testing.T) {
	s := load(t, classifier("Identity", nil)).NewSession()
	p, err := s.Predict(t.Context(), &dataset.Batch{X: []byte{255, 0, 51, 7}, DType: dataset.U8, Shape: []int{1, 1, 2, 2}, Y: []int32{2}})
	if err != nil {
		t.Fatal(err)
	}
	sum := math.E + 1 + math.Exp(0.2)
	if p.Class[0] != 0 || !close32(p.Prob, []float32{float32(math.E / sum)}) || !close32(p.Loss, []float32{float32(math.Log(sum) - 0.2)}) {
		t.Errorf("%+v", p)
	}
}

func TestIntegerModelsTakeBytesAsTheyAre(t *testing.T) {
	m := classifier("Identity", nil)
	m.In[0].DType = 2
	m.Nodes = slices.Insert(m.Nodes, 0, tn{Op: "Cast", In: []string{"x"}, Out: []string{"f"}, Attrs: map[string]any{"to": 1}})
	m.Nodes[1].In[0] = "f"
	model := load(t, m)
	p, err := model.NewSession().Predict(t.Context(), &dataset.Batch{X: []byte{1, 3, 2, 0}, DType: dataset.U8, Shape: []int{1, 4}, Y: []int32{1}})
	if err != nil || p.Class[0] != 1 || !close32(p.Prob, []float32{float32(1 / (1 + math.Exp(-1) + math.Exp(-2)))}) {
		t.Errorf("%+v, %v", p, err)
	}
	if err := model.Check([]int{4}, dataset.F32); !errors.Is(err, ErrInput) {
		t.Errorf("floats for a model of bytes give %v", err)
	}
}

// A model built for batches of a fixed size answers batches of any size.
func TestFixedBatchSize(t *testing.T) {
	m := classifier("Softmax", nil)
	m.In[0].Dims[0], m.Out[0].Dims[0] = 4, 4
	fixed, free := load(t, m).NewSession(), load(t, classifier("Softmax", nil)).NewSession()
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 4, 6, 9} {
		b := &dataset.Batch{X: make([]byte, 4*n), DType: dataset.U8, Shape: []int{n, 4}, Y: make([]int32, n)}
		for i := range b.X {
			b.X[i] = byte(r.Uint32())
		}
		p, err := fixed.Predict(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		q, err := free.Predict(t.Context(), b)
		if err != nil || !reflect.DeepEqual(p, q) || len(p.Class) != n {
			t.Errorf("%d images: %+v, %+v, %v", n, p, q, err)
		}
	}
}

func TestCheck(t *testing.T) {
	m := load(t, classifier("Identity", nil))
	for _, shape := range [][]int{{4}, {1, 4}, {1, 2, 2}} {
		if err := m.Check(shape, dataset.U8); err != nil {
			t.Errorf("%v: %v", shape, err)
		}
	}
	for _, c := range []struct {
		shape []int
		dtype string
	}{{[]int{1, 28, 28}, dataset.U8}, {[]int{4}, "F64"}, {[]int{4}, ""}, {nil, dataset.U8}, {[]int{-2, -2}, dataset.U8}, {[]int{1 << 40, 1 << 40}, dataset.F32}} {
		if err := m.Check(c.shape, c.dtype); !errors.Is(err, ErrInput) {
			t.Errorf("%v %q: %v", c.shape, c.dtype, err)
		}
	}
	err := m.Check([]int{1, 28, 28}, dataset.U8)
	if want := "images do not fit the model: the model takes x float[N,4], the first dimension being the batch; given are images U8[1,28,28]"; err.Error() != want {
		t.Errorf("error is %q, want %q", err, want)
	}
}

func TestPredictRefuses(t *testing.T) {
	m := load(t, classifier("Identity", nil))
	nan := float32(math.NaN())
	for name, c := range map[string]struct {
		batch *dataset.Batch
		want  error
	}{
		"label outside":   {floats([]int32{3}, []int{1, 4}, 0, 0, 0, 0), ErrInput},
		"wrong shape":     {floats(nil, []int{1, 5}, 0, 0, 0, 0, 0), ErrInput},
		"short data":      {floats(nil, []int{2, 4}, 0, 0, 0, 0), ErrInput},
		"missing labels":  {floats([]int32{1}, []int{2, 4}, 0, 0, 0, 0, 0, 0, 0, 0), ErrInput},
		"not a number":    {floats(nil, []int{1, 4}, nan, 0, 0, 0), ErrResult},
		"infinite":        {floats(nil, []int{1, 4}, 3e38, 0, 0, float32(math.Inf(1))), ErrResult},
		"nothing at all":  {&dataset.Batch{}, ErrInput},
		"no batch at all": {nil, ErrInput},
	} {
		t.Run(name, func(t *testing.T) {
			if p, err := m.NewSession().Predict(t.Context(), c.batch); !errors.Is(err, c.want) {
				t.Errorf("%+v, %v", p, err)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.NewSession().Predict(ctx, floats(nil, []int{1, 4}, 0, 0, 0, 0)); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context gives %v", err)
	}
}

func TestLoadRefuses(t *testing.T) {
	edit := func(f func(*tm)) []byte {
		m := classifier("Identity", nil)
		f(&m)
		return m.Bytes()
	}
	for name, c := range map[string]struct {
		bytes []byte
		want  error
		text  string
	}{
		"garbage":      {[]byte("hello"), ErrMalformed, ""},
		"operator":     {classifier("Fancy", nil).Bytes(), ErrUnsupported, `no "Fancy" of domain "ai.onnx"`},
		"two inputs":   {edit(func(m *tm) { m.In = append(m.In, tv{Name: "z", Dims: []any{1}}) }), ErrNotClassifier, "2 inputs"},
		"no batch":     {edit(func(m *tm) { m.In[0].Dims = []any{4} }), ErrNotClassifier, "no batch dimension"},
		"shapes":       {edit(func(m *tm) { m.In[0].Dims = []any{"N", 5} }), ErrMalformed, "do not fit"},
		"one score":    {edit(func(m *tm) { m.Init[0].Dims[1], m.Init[0].Floats = 1, make([]float32, 4) }), ErrNotClassifier, "[1 1]"},
		"sum of batch": {edit(func(m *tm) { m.Nodes[1].Op = "ReduceSum" }), ErrNotClassifier, "[1 1]"},
		"huge batch":   {edit(func(m *tm) { m.In[0].Dims[0] = math.MaxInt32 }), ErrTooLarge, "MiB"},
		"type":         {edit(func(m *tm) { m.In[0].DType = 8 }), ErrUnsupported, "strings are left out"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Load(c.bytes, Options{}); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error is %v, want %v with %q", err, c.want, c.text)
			}
		})
	}
	if _, err := Load(edit(func(*tm) {}), Options{MaxModelBytes: 16}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a model over the limit gives %v", err)
	}
}

func TestInfo(t *testing.T) {
	got := load(t, classifier("Softmax", nil)).Info()
	want := Info{
		Inputs: []IO{{"x", "float", []int{-1, 4}}}, Outputs: []IO{{"y", "float", []int{-1, 3}}},
		Ops: []string{"MatMul", "Softmax"}, Opset: 13, Parameters: 12, Classes: 3, FLOPsPerImage: 2*4*3 + 4*3, PeakBytes: 3 * 4, Output: Probabilities,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// Open dimensions of the image take the batch's own.
func TestOpenImageDimensions(t *testing.T) {
	m := load(t, tm{
		In: []tv{{Name: "x", Dims: []any{"N", 2, "H", "W"}}}, Out: []tv{{Name: "y", Dims: []any{"N", 2}}},
		Nodes: []tn{
			{Op: "GlobalAveragePool", In: []string{"x"}, Out: []string{"p"}},
			{Op: "Flatten", In: []string{"p"}, Out: []string{"y"}},
		},
	})
	if err := m.Check([]int{3, 5, 5}, dataset.U8); !errors.Is(err, ErrInput) {
		t.Errorf("three channels give %v", err)
	}
	p, err := m.NewSession().Predict(t.Context(), floats(nil, []int{2, 2, 1, 2}, 1, 3, 2, 1, 0, 0, 5, 6))
	if err != nil || !slices.Equal(p.Class, []int32{0, 1}) {
		t.Errorf("%+v, %v", p, err)
	}
	if i := m.Info(); i.FLOPsPerImage != 0 || i.Classes != 0 {
		t.Errorf("%+v", i)
	}
}
