package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"idunno/models/onnx"
	"idunno/models/onnx/encode"
)

type (
	tv = encode.Value
	tn = encode.Node
	tt = encode.Tensor
	tm = encode.Model
)

func compile(t *testing.T, m tm, l Limits) (*Program, error) {
	t.Helper()
	g, err := onnx.Decode(m.Bytes(), onnx.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return Compile(g, l)
}

func mustCompile(t *testing.T, m tm) *Program {
	t.Helper()
	p, err := compile(t, m, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func noise(r *rand.Rand, dims ...int64) tt {
	n := int64(1)
	for _, d := range dims {
		n *= d
	}
	x := tt{Dims: dims, Floats: make([]float32, n)}
	for i := range x.Floats {
		x.Floats[i] = float32(r.NormFloat64())
	}
	return x
}

func named(name string, t tt) tt { t.Name = name; return t }

func input(t tt) *Tensor {
	x := &Tensor{DType: onnx.Float, F: t.Floats}
	for _, d := range t.Dims {
		x.Shape = append(x.Shape, int(d))
	}
	return x
}

func run(t *testing.T, s *Session, in ...*Tensor) []float32 {
	t.Helper()
	out, err := s.Run(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clone(out[0].F)
}

// convNet has what fusion, folding, views and buffer reuse can get wrong. With plain, nothing can be fused or packed: the weights are inputs
// and every value in between is an output too.
func convNet(r *rand.Rand, plain bool) (tm, []*Tensor) {
	m := tm{
		In:  []tv{{Name: "x", Dims: []any{"N", 2, 9, 9}}},
		Out: []tv{{Name: "y"}},
		Init: []tt{
			named("w1", noise(r, 4, 2, 3, 3)), named("b1", noise(r, 4)), named("w2", noise(r, 4, 1, 3, 3)), named("b2", noise(r, 4)),
			named("w3", noise(r, 16, 6)), named("b3", noise(r, 6)), named("w4", noise(r, 5, 6)), named("b4", noise(r, 1, 5)),
			{Name: "shape", Dims: []int64{2}, Ints: []int64{0, -1}},
		},
		Nodes: []tn{
			{Op: "Conv", In: []string{"x", "w1", "b1"}, Out: []string{"c1"}, Attrs: map[string]any{"pads": []int{1, 1, 1, 1}}},
			{Op: "Relu", In: []string{"c1"}, Out: []string{"r1"}},
			{Op: "MaxPool", In: []string{"r1"}, Out: []string{"p1"}, Attrs: map[string]any{"kernel_shape": []int{2, 2}, "strides": []int{2, 2}}},
			{Op: "Conv", In: []string{"p1", "w2", "b2"}, Out: []string{"c2"}, Attrs: map[string]any{"group": 4}},
			{Op: "Add", In: []string{"c2", "c2"}, Out: []string{"a2"}},
			{Op: "Reshape", In: []string{"a2", "shape"}, Out: []string{"f"}},
			{Op: "MatMul", In: []string{"f", "w3"}, Out: []string{"m3"}},
			{Op: "Add", In: []string{"m3", "b3"}, Out: []string{"a3"}},
			{Op: "Relu", In: []string{"a3"}, Out: []string{"r3"}},
			{Op: "Gemm", In: []string{"r3", "w4", "b4"}, Out: []string{"g"}, Attrs: map[string]any{"transB": 1, "alpha": float32(0.5), "beta": float32(2)}},
			{Op: "Relu", In: []string{"g"}, Out: []string{"y"}},
		},
	}
	var extra []*Tensor
	if plain {
		for _, t := range m.Init[:8] {
			v := tv{Name: t.Name}
			for _, d := range t.Dims {
				v.Dims = append(v.Dims, int(d))
			}
			m.In = append(m.In, v)
			extra = append(extra, input(t))
		}
		m.Init = m.Init[8:]
		for _, n := range m.Nodes[:10] {
			m.Out = append(m.Out, tv{Name: n.Out[0]})
		}
	}
	return m, extra
}

func TestFusionChangesNothing(t *testing.T) {
	fused, _ := convNet(rand.New(rand.NewPCG(1, 1)), false)
	plain, weights := convNet(rand.New(rand.NewPCG(1, 1)), true)
	p, q := mustCompile(t, fused), mustCompile(t, plain)
	if len(p.steps) != 6 || len(q.steps) != 11 {
		t.Errorf("%d and %d steps, expected 6 and 11", len(p.steps), len(q.steps))
	}
	r := rand.New(rand.NewPCG(2, 2))
	a, b := p.NewSession(), q.NewSession()
	for _, n := range []int64{1, 7, 3, 7} {
		x := input(noise(r, n, 2, 9, 9))
		got, want := run(t, a, x), run(t, b, append([]*Tensor{x}, weights...)...)
		if len(got) != int(n)*5 {
			t.Fatalf("%d numbers", len(got))
		}
		for i := range want {
			if math.Abs(float64(got[i]-want[i])) > 1e-4*(1+math.Abs(float64(want[i]))) {
				t.Fatalf("batch of %d: element %d is %v, want %v", n, i, got[i], want[i])
			}
		}
	}
}

func TestRowsDoNotDependOnTheBatch(t *testing.T) {
	m, _ := convNet(rand.New(rand.NewPCG(3, 3)), false)
	p := mustCompile(t, m)
	x := input(noise(rand.New(rand.NewPCG(4, 4)), 100, 2, 9, 9))
	whole := run(t, p.NewSession(), x)
	s := p.NewSession()
	for i := range 100 {
		one := &Tensor{DType: onnx.Float, Shape: []int{1, 2, 9, 9}, F: x.F[i*162:][:162]}
		if got := run(t, s, one); !slices.Equal(got, whole[i*5:][:5]) {
			t.Fatalf("image %d: %v alone, %v in a batch", i, got, whole[i*5:][:5])
		}
	}
}

func TestSessionsRunAtOnce(t *testing.T) {
	m, _ := convNet(rand.New(rand.NewPCG(5, 5)), false)
	p := mustCompile(t, m)
	x := input(noise(rand.New(rand.NewPCG(6, 6)), 10, 2, 9, 9))
	want := run(t, p.NewSession(), x)
	var wg sync.WaitGroup
	for range 4 {
		s := p.NewSession()
		wg.Go(func() {
			for range 10 {
				out, err := s.Run(context.Background(), []*Tensor{x})
				if err != nil || !slices.Equal(out[0].F, want) {
					t.Errorf("a session gives another result, error %v", err)
				}
			}
		})
	}
	wg.Wait()
}

func TestSteadyStateKeepsItsBuffers(t *testing.T) {
	m, _ := convNet(rand.New(rand.NewPCG(7, 7)), false)
	s := mustCompile(t, m).NewSession()
	x := input(noise(rand.New(rand.NewPCG(8, 8)), 50, 2, 9, 9))
	run(t, s, x)
	run(t, s, x)
	held, arena := len(s.floats), s.arena
	small := input(noise(rand.New(rand.NewPCG(9, 9)), 3, 2, 9, 9))
	for range 5 {
		run(t, s, small)
		run(t, s, x)
	}
	if len(s.floats) != held || s.arena != arena {
		t.Errorf("%d elements of arena %d became %d of %d", held, arena, len(s.floats), s.arena)
	}
	in := []*Tensor{x}
	allocs := testing.AllocsPerRun(5, func() {
		if _, err := s.Run(context.Background(), in); err != nil {
			t.Error(err)
		}
	})
	if allocs > 0 {
		t.Errorf("%v allocations for a run", allocs)
	}
}

func TestPlan(t *testing.T) {
	p := mustCompile(t, tm{
		In:    []tv{{Name: "x", Dims: []any{"N", 8}}},
		Out:   []tv{{Name: "y"}},
		Init:  []tt{{Name: "w", Dims: []int64{8, 4}, Floats: make([]float32, 32)}},
		Nodes: []tn{{Op: "MatMul", In: []string{"x", "w"}, Out: []string{"y"}}},
	})
	plan, err := p.Plan([]*Tensor{{DType: onnx.Float, Shape: []int{3, 8}}})
	if err != nil {
		t.Fatal(err)
	}
	if plan.FLOPs != 2*3*8*4 || plan.Peak != 3*4*4 || !slices.Equal(plan.Outputs[0].Shape, []int{3, 4}) || p.Parameters() != 32 {
		t.Errorf("plan is %+v, parameters %d", plan, p.Parameters())
	}
}

// Shapes that a model computes from the shape of its input are known without running it, and right when it runs.
func TestComputedShapes(t *testing.T) {
	ints := func(name string, v ...int64) tt { return tt{Name: name, Dims: []int64{int64(len(v))}, Ints: v} }
	p := mustCompile(t, tm{
		In: []tv{{Name: "x", Dims: []any{"N", 2, 3}}}, Out: []tv{{Name: "y"}},
		Init: []tt{ints("zero", 0), ints("minus", -1)},
		Nodes: []tn{
			{Op: "Shape", In: []string{"x"}, Out: []string{"s"}},
			{Op: "Gather", In: []string{"s", "zero"}, Out: []string{"n"}},
			{Op: "Concat", In: []string{"n", "minus"}, Out: []string{"to"}, Attrs: map[string]any{"axis": 0}},
			{Op: "Reshape", In: []string{"x", "to"}, Out: []string{"y"}},
		},
	})
	plan, err := p.Plan([]*Tensor{{DType: onnx.Float, Shape: []int{5, 2, 3}}})
	if err != nil || !slices.Equal(plan.Outputs[0].Shape, []int{5, 6}) {
		t.Fatalf("plan is %+v, error %v", plan, err)
	}
	out, err := p.NewSession().Run(t.Context(), []*Tensor{input(noise(rand.New(rand.NewPCG(1, 2)), 4, 2, 3))})
	if err != nil || !slices.Equal(out[0].Shape, []int{4, 6}) {
		t.Fatalf("output is %v, error %v", out, err)
	}
}

func TestShapeFromValuesNeedsARun(t *testing.T) {
	p := mustCompile(t, tm{
		In: []tv{{Name: "x", Dims: []any{6}}, {Name: "to", DType: 7, Dims: []any{2}}}, Out: []tv{{Name: "y"}},
		Nodes: []tn{{Op: "Reshape", In: []string{"x", "to"}, Out: []string{"y"}}},
	})
	x, to := &Tensor{DType: onnx.Float, Shape: []int{6}}, &Tensor{DType: onnx.Int64, Shape: []int{2}}
	if _, err := p.Plan([]*Tensor{x, to}); !errors.Is(err, ErrShapeUnknown) {
		t.Errorf("plan gives %v", err)
	}
	x.F, to.I = make([]float32, 6), []int64{2, 3}
	if out, err := p.NewSession().Run(t.Context(), []*Tensor{x, to}); err != nil || !slices.Equal(out[0].Shape, []int{2, 3}) {
		t.Errorf("run gives %v, %v", out, err)
	}
	to.I = []int64{4, 2}
	if _, err := p.NewSession().Run(t.Context(), []*Tensor{x, to}); err == nil || !strings.Contains(err.Error(), "[6] can't be given the shape [4 2]") {
		t.Errorf("a wrong shape gives %v", err)
	}
}

func TestCompileNamesEverythingUnsupported(t *testing.T) {
	_, err := compile(t, tm{
		Opset: 17, In: []tv{{Name: "x", Dims: []any{1}}}, Out: []tv{{Name: "y"}},
		Nodes: []tn{
			{Name: "first", Op: "STFT", In: []string{"x"}, Out: []string{"a"}},
			{Name: "second", Op: "Fancy", Domain: "com.example", In: []string{"a"}, Out: []string{"b"}},
			{Name: "third", Op: "Relu", In: []string{"b"}, Out: []string{"y"}, Attrs: map[string]any{"slope": float32(1)}},
			{Name: "dead", Op: "Unused", In: []string{"x"}, Out: []string{"z"}},
		},
	}, Limits{})
	if !errors.Is(err, ErrUnsupported) {
		t.Fatalf("error is %v", err)
	}
	for _, want := range []string{`STFT node "first" (opset 17)`, `com.example.Fancy node "second"`, `"Fancy" of domain "com.example"`, `attribute "slope" of Relu`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not say %q: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "Unused") {
		t.Errorf("error names a node that no output needs: %v", err)
	}
}

func TestOpsetTooNew(t *testing.T) {
	_, err := compile(t, tm{Opset: 99, In: []tv{{Name: "x", Dims: []any{1}}}, Out: []tv{{Name: "y"}},
		Nodes: []tn{{Op: "Relu", In: []string{"x"}, Out: []string{"y"}}}}, Limits{})
	if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "the model uses 99") {
		t.Errorf("error is %v", err)
	}
}

// A small file must not make a session take more memory than allowed: neither in one node nor in many.
func TestMemoryLimit(t *testing.T) {
	expand := tm{
		In: []tv{{Name: "x", Dims: []any{1}}}, Out: []tv{{Name: "y"}},
		Init:  []tt{{Name: "to", Dims: []int64{3}, Ints: []int64{1 << 20, 1 << 20, 1 << 20}}},
		Nodes: []tn{{Op: "Expand", In: []string{"x", "to"}, Out: []string{"y"}}},
	}
	x := &Tensor{DType: onnx.Float, Shape: []int{1}, F: []float32{1}}
	if _, err := mustCompile(t, expand).NewSession().Run(t.Context(), []*Tensor{x}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one huge node gives %v", err)
	}
	doubling := tm{In: []tv{{Name: "v0", Dims: []any{1}}}, Out: []tv{{Name: "v40"}}}
	for i := range 40 {
		v := fmt.Sprint("v", i)
		doubling.Nodes = append(doubling.Nodes, tn{Op: "Concat", In: []string{v, v}, Out: []string{fmt.Sprint("v", i+1)}, Attrs: map[string]any{"axis": 0}})
	}
	p, err := compile(t, doubling, Limits{Memory: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s := p.NewSession()
	if _, err := s.Run(t.Context(), []*Tensor{x}); !errors.Is(err, ErrTooLarge) || 4*len(s.floats) > 1<<20 {
		t.Errorf("doubling gives %v with %d elements held", err, len(s.floats))
	}
	if _, err := p.Plan([]*Tensor{x}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("the plan gives %v", err)
	}
	constant := expand
	constant.In, constant.Init = nil, append(expand.Init, tt{Name: "x", Dims: []int64{1}, Floats: []float32{1}})
	if _, err := compile(t, constant, Limits{}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a huge constant gives %v", err)
	}
}

func TestRunStopsWithItsContext(t *testing.T) {
	m, _ := convNet(rand.New(rand.NewPCG(1, 1)), false)
	s := mustCompile(t, m).NewSession()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	x := input(noise(rand.New(rand.NewPCG(1, 2)), 1, 2, 9, 9))
	if _, err := s.Run(ctx, []*Tensor{x}); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	run(t, s, x) // the session is still good
}

func TestRunChecksItsInputs(t *testing.T) {
	m, _ := convNet(rand.New(rand.NewPCG(1, 1)), false)
	s := mustCompile(t, m).NewSession()
	for name, in := range map[string][]*Tensor{
		"none":      {},
		"type":      {{DType: onnx.Int64, Shape: []int{1, 2, 9, 9}, I: make([]int64, 162)}},
		"rank":      {{DType: onnx.Float, Shape: []int{162}, F: make([]float32, 162)}},
		"dimension": {{DType: onnx.Float, Shape: []int{1, 2, 9, 8}, F: make([]float32, 144)}},
		"elements":  {{DType: onnx.Float, Shape: []int{1, 2, 9, 9}, F: make([]float32, 161)}},
	} {
		if _, err := s.Run(t.Context(), in); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestIndexOutsideBecomesAnError(t *testing.T) {
	p := mustCompile(t, tm{
		In: []tv{{Name: "i", DType: 7, Dims: []any{1}}}, Out: []tv{{Name: "y"}},
		Init:  []tt{{Name: "x", Dims: []int64{3}, Floats: []float32{1, 2, 3}}},
		Nodes: []tn{{Name: "pick", Op: "Gather", In: []string{"x", "i"}, Out: []string{"y"}}},
	})
	s := p.NewSession()
	_, err := s.Run(t.Context(), []*Tensor{{DType: onnx.Int64, Shape: []int{1}, I: []int64{3}}})
	if err == nil || !strings.Contains(err.Error(), `Gather node "pick": failed: index 3 outside an axis of 3`) {
		t.Errorf("error is %v", err)
	}
	if got := run(t, s, &Tensor{DType: onnx.Int64, Shape: []int{1}, I: []int64{-1}}); got[0] != 3 {
		t.Errorf("got %v", got)
	}
}

// Compile computes constants only within a budget; a small file can't keep it busy.
func TestFoldingIsBounded(t *testing.T) {
	m := tm{In: []tv{{Name: "x", Dims: []any{256, 256}}}, Out: []tv{{Name: "y"}}, Init: []tt{named("v0", noise(rand.New(rand.NewPCG(1, 1)), 256, 256))}}
	const n = 300 // of 34 million operations each
	for i := range n {
		m.Nodes = append(m.Nodes, tn{Op: "MatMul", In: []string{fmt.Sprint("v", i), fmt.Sprint("v", i)}, Out: []string{fmt.Sprint("v", i+1)}})
	}
	m.Nodes = append(m.Nodes, tn{Op: "Add", In: []string{"x", fmt.Sprint("v", n)}, Out: []string{"y"}})
	p := mustCompile(t, m)
	if left := len(p.steps); left < n-4 || left > n {
		t.Errorf("%d of %d products are left to the run", left-1, n)
	}
	if _, err := p.Plan([]*Tensor{{DType: onnx.Float, Shape: []int{256, 256}}}); err != nil {
		t.Error(err)
	}
}
