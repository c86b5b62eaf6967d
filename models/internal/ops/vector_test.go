package ops

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"idunno/models/onnx"
)

// build makes an operator of opset 17 with attributes.
func build(t *testing.T, name string, inputs int, attrs map[string]onnx.Attr) Op {
	t.Helper()
	n := &onnx.Node{Op: name, Outputs: []string{"y"}, Attrs: attrs}
	for range inputs {
		n.Inputs = append(n.Inputs, "x")
	}
	op, err := NewTable().New(&Node{Node: n, Opset: 17})
	if err != nil {
		t.Fatal(err)
	}
	return op
}

// run runs an operator on floats. When over is not negative, the output takes the place of that input.
func run(t *testing.T, op Op, over int, in ...*Tensor) *Tensor {
	t.Helper()
	specs := make([]Spec, 1)
	if err := op.Shape(in, specs); err != nil {
		t.Fatal(err)
	}
	out := newOutput(specs[0])
	if over >= 0 {
		out.F = in[over].F
	}
	op.Run(&Scratch{}, in, []*Tensor{out})
	return out
}

func newOutput(s Spec) *Tensor {
	t := &Tensor{DType: s.DType, Shape: slices.Clone(s.Shape)}
	if t.F = make([]float32, t.Len()); !s.DType.IsFloat() {
		t.F, t.I = nil, make([]int64, t.Len())
	}
	return t
}

func floats(r *rand.Rand, shape ...int) *Tensor {
	t := &Tensor{DType: onnx.Float, Shape: shape, F: make([]float32, volume(shape))}
	for i := range t.F {
		t.F[i] = float32(r.NormFloat64())
	}
	return t
}

func clone(t *Tensor) *Tensor {
	return &Tensor{DType: t.DType, Shape: t.Shape, F: slices.Clone(t.F), I: slices.Clone(t.I)}
}

func randomShape(r *rand.Rand) []int {
	shape := make([]int, r.IntN(5))
	for i := range shape {
		shape[i] = 1 + r.IntN(6)
	}
	return shape
}

// elementAt is the element of x at an index of a broadcast shape.
func elementAt(x *Tensor, index []int) float32 {
	i := 0
	for d, n := range x.Shape {
		j := index[len(index)-len(x.Shape)+d]
		if n == 1 {
			j = 0
		}
		i = i*n + j
	}
	return x.F[i]
}

func TestBinaryBroadcasts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	ops := map[string]func(x, y float32) float32{
		"Add": func(x, y float32) float32 { return x + y }, "Sub": func(x, y float32) float32 { return x - y },
		"Mul": func(x, y float32) float32 { return x * y }, "Div": func(x, y float32) float32 { return x / y },
		"Max": func(x, y float32) float32 { return max(x, y) }, "Min": func(x, y float32) float32 { return min(x, y) },
		"PRelu": prelu, "Sum": func(x, y float32) float32 { return x + y },
	}
	for name, f := range ops {
		op := build(t, name, 2, nil)
		for range 300 {
			shape := randomShape(r)
			part := func() *Tensor {
				s := slices.Clone(shape)
				for i := range s {
					if r.IntN(3) == 0 {
						s[i] = 1
					}
				}
				return floats(r, s[r.IntN(len(s)+1)/2:]...)
			}
			x, y := part(), part()
			if r.IntN(2) == 0 {
				x = floats(r, shape...)
			}
			got := run(t, op, -1, x, y)
			index := make([]int, len(got.Shape))
			for i, v := range got.F {
				if want := f(elementAt(x, index), elementAt(y, index)); v != want {
					t.Fatalf("%s of %v and %v: element %d is %v, want %v", name, x.Shape, y.Shape, i, v, want)
				}
				advance(index, got.Shape)
			}
			for over, in := range []*Tensor{x, y} {
				p, ok := op.(InPlacer)
				if !ok || !p.InPlace(over) || !slices.Equal(in.Shape, got.Shape) {
					continue
				}
				if again := run(t, op, over, clone(x), clone(y)); !slices.Equal(again.F, got.F) {
					t.Fatalf("%s of %v and %v over input %d: %v, want %v", name, x.Shape, y.Shape, over, again.F, got.F)
				}
			}
		}
	}
}

func TestTransposeOfAnyOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		shape := randomShape(r)
		if r.IntN(4) == 0 {
			shape = []int{1 + r.IntN(3), 1 + r.IntN(40), 1 + r.IntN(40)}
		}
		var perm []int64
		for _, p := range r.Perm(len(shape)) {
			perm = append(perm, int64(p))
		}
		op := build(t, "Transpose", 1, map[string]onnx.Attr{"perm": {Kind: onnx.AttrInts, Ints: perm}})
		x := floats(r, shape...)
		whole := &Tensor{DType: onnx.Int64, Shape: shape, I: make([]int64, len(x.F))}
		for i, v := range x.F {
			whole.I[i] = int64(1000 * v)
		}
		got, ints := run(t, op, -1, x), run(t, op, -1, whole)
		index := make([]int, len(got.Shape))
		from := make([]int, len(shape))
		for i, v := range got.F {
			for d, p := range perm {
				from[p] = index[d]
			}
			if want := elementAt(x, from); v != want || ints.I[i] != int64(1000*want) {
				t.Fatalf("%v by %v: element %d is %v and %v, want %v", shape, perm, i, v, ints.I[i], want)
			}
			advance(index, got.Shape)
		}
	}
}

// lines calls f with every line of x along the axis.
func lines(x *Tensor, axis int, f func(index []int, line []float64)) {
	outer, n, inner := split(x.Shape, axis)
	for i := range outer * inner {
		line := make([]float64, n)
		at := i/inner*n*inner + i%inner
		index := make([]int, n)
		for j := range line {
			index[j] = at + j*inner
			line[j] = float64(x.F[index[j]])
		}
		f(index, line)
	}
}

func TestSoftmaxAlongAnyAxis(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for trial := range 300 {
		shape := append(randomShape(r), 1+r.IntN(40))
		axis, name := r.IntN(len(shape)), []string{"Softmax", "LogSoftmax"}[trial%2]
		op := build(t, name, 1, map[string]onnx.Attr{"axis": {Kind: onnx.AttrInt, I: int64(axis)}})
		x := floats(r, shape...)
		got := run(t, op, -1, x)
		lines(x, axis, func(index []int, line []float64) {
			sum := 0.0
			for _, v := range line {
				sum += math.Exp(v)
			}
			for j, v := range line {
				want := v - math.Log(sum)
				if name == "Softmax" {
					want = math.Exp(v) / sum
				}
				if d := float64(got.F[index[j]]) - want; math.Abs(d) > 2e-6 {
					t.Fatalf("%s of %v, axis %d: off by %g", name, shape, axis, d)
				}
			}
		})
		if again := run(t, op, 0, clone(x)); !slices.Equal(again.F, got.F) {
			t.Fatalf("%s of %v, axis %d, in place: %v, want %v", name, shape, axis, again.F, got.F)
		}
	}
}

func TestReductionsOverAnyAxes(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for name, red := range reducers() {
		for range 200 {
			shape := append(randomShape(r), 1+r.IntN(20))
			var axes []int64
			for d := range shape {
				if r.IntN(2) == 0 {
					axes = append(axes, int64(d))
				}
			}
			op := build(t, name, 1, map[string]onnx.Attr{})
			op.(*reduce).axes = axesSource{input: -1, list: axes}
			x := floats(r, shape...)
			if name == "ReduceLogSum" {
				for i, v := range x.F {
					x.F[i] = v * v
				}
			}
			got := run(t, op, -1, x)
			sums := make([]float64, len(got.F))
			for i := range sums {
				sums[i] = red.start
			}
			index := make([]int, len(shape))
			for _, v := range x.F {
				to := 0
				for d, n := range got.Shape {
					if n > 1 {
						to = to*n + index[d]
					}
				}
				sums[to] = red.step(sums[to], float64(v))
				advance(index, shape)
			}
			for i, s := range sums {
				want := red.end(s, float64(len(x.F))/float64(len(sums)))
				if d := float64(got.F[i]) - want; math.Abs(d) > 1e-5*(1+math.Abs(want)) {
					t.Fatalf("%s of %v over %v: %v, want %v", name, shape, axes, got.F[i], want)
				}
			}
		}
	}
}
