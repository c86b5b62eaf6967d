package engine

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// small writes graphs of one input "x" shortly: n(op, in, out, attrs...) is a node, in and out are names apart by spaces.
type small struct {
	tm
	r *rand.Rand
}

func newSmall(dims ...any) *small {
	return &small{tm: tm{Opset: 17, In: []tv{{Name: "x", Dims: dims}}, Out: []tv{{Name: "y"}}}, r: rand.New(rand.NewPCG(11, 12))}
}

func (s *small) n(op, in, out string, attrs ...any) *small {
	node := tn{Op: op, In: strings.Fields(in), Out: strings.Fields(out), Attrs: map[string]any{}}
	for i := 0; i < len(attrs); i += 2 {
		node.Attrs[attrs[i].(string)] = attrs[i+1]
	}
	s.Nodes = append(s.Nodes, node)
	return s
}

// w adds random weights.
func (s *small) w(name string, dims ...int64) *small {
	s.Init = append(s.Init, named(name, noise(s.r, dims...)))
	return s
}

// positive adds random positive numbers, as variances are.
func (s *small) positive(name string, n int64) *small {
	t := named(name, noise(s.r, n))
	for i, v := range t.Floats {
		t.Floats[i] = v*v + 0.1
	}
	s.Init = append(s.Init, t)
	return s
}

// k adds a number.
func (s *small) k(name string, v float32) *small {
	s.Init = append(s.Init, tt{Name: name, Floats: []float32{v}})
	return s
}

// norm adds a BatchNormalization of n channels.
func (s *small) norm(in, out string, n int64) *small {
	s.w("scale"+out, n).w("shift"+out, n).w("mean"+out, n).positive("var"+out, n)
	return s.n("BatchNormalization", fmt.Sprintf("%s scale%s shift%s mean%s var%s", in, out, out, out, out), out)
}

func stepNames(p *Program) string {
	var list []string
	for _, st := range p.steps {
		list = append(list, st.name)
	}
	return strings.Join(list, " ")
}

// sameUnfused compares a model with what it is without any fusion, for several batches, and its steps with those expected.
func sameUnfused(t *testing.T, m tm, want string, shape ...int64) {
	t.Helper()
	p := mustCompile(t, m)
	if got := stepNames(p); got != want {
		t.Errorf("steps are %q, expected %q", got, want)
	}
	plain, err := compile(t, m, Limits{NoFusion: true})
	if err != nil {
		t.Fatal(err)
	}
	a, b := p.NewSession(), plain.NewSession()
	r := rand.New(rand.NewPCG(5, 6))
	for _, n := range []int64{2, 1, 5, 2} {
		x := input(noise(r, append([]int64{n}, shape...)...))
		got, err := a.Run(t.Context(), []*Tensor{x})
		if err != nil {
			t.Fatal(err)
		}
		ref, err := b.Run(t.Context(), []*Tensor{x})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got[0].Shape, ref[0].Shape) {
			t.Fatalf("shape is %v, expected %v", got[0].Shape, ref[0].Shape)
		}
		top := 0.0
		for _, v := range ref[0].F {
			top = max(top, math.Abs(float64(v)))
		}
		for i, v := range ref[0].F {
			if d := math.Abs(float64(got[0].F[i] - v)); !(d <= 2e-5*(top+1e-3)) {
				t.Fatalf("batch of %d: element %d is %v, expected %v", n, i, got[0].F[i], v)
			}
		}
	}
}

func TestActivationsAreRecognized(t *testing.T) {
	half := func(s *small) *small { return s.k("half", 0.5).k("one", 1).k("three", 3).k("six", 6).k("zero", 0) }
	for name, c := range map[string]struct {
		build func(s *small)
		want  string
	}{
		"silu": {func(s *small) { s.n("Sigmoid", "x", "a").n("Mul", "a x", "y") }, "Silu"},
		"mish": {func(s *small) { s.n("Softplus", "x", "a").n("Tanh", "a", "b").n("Mul", "x b", "y") }, "Mish"},
		"hard swish": {func(s *small) {
			s.n("HardSigmoid", "x", "a", "alpha", float32(1)/6, "beta", float32(0.5)).n("Mul", "x a", "y")
		}, "HardSwish"},
		"another hard sigmoid": {func(s *small) { s.n("HardSigmoid", "x", "a").n("Mul", "x a", "y") }, "HardSigmoid Mul"},
		"hard swish of parts": {func(s *small) {
			s.n("Add", "x three", "a").n("Clip", "a zero six", "b").n("Mul", "x b", "c").n("Div", "c six", "y")
		}, "HardSwish"},
		"hard swish of other parts": {func(s *small) {
			s.n("Add", "three x", "a").n("Clip", "a zero six", "b").n("Div", "b six", "c").n("Mul", "c x", "y")
		}, "HardSwish"},
		"hard sigmoid of parts": {func(s *small) {
			s.k("sixth", 1.0/6).n("Add", "x three", "a").n("Clip", "a zero six", "b").n("Mul", "b sixth", "y")
		}, "HardSigmoid"},
		"gelu": {func(s *small) {
			s.k("root", math.Sqrt2).n("Div", "x root", "a").n("Erf", "a", "b").n("Add", "b one", "c").n("Mul", "x c", "d").n("Mul", "d half", "y")
		}, "Gelu"},
		"gelu, half first": {func(s *small) {
			s.k("root", math.Sqrt2/2).n("Mul", "x root", "a").n("Erf", "a", "b").n("Add", "one b", "c").n("Mul", "half x", "d").n("Mul", "d c", "y")
		}, "Gelu"},
		"gelu by tanh": {func(s *small) {
			s.k("k", 0.044715).k("root", 0.7978845608).n("Pow", "x three", "a").n("Mul", "k a", "b").n("Add", "x b", "c").n("Mul", "c root", "d").
				n("Tanh", "d", "e").n("Add", "e one", "f").n("Mul", "x half", "g").n("Mul", "g f", "y")
		}, "Gelu"},
		"fast gelu": {func(s *small) {
			s.k("k", 0.044715).k("root", 0.7978845608).n("Mul", "x root", "a").n("Mul", "x k", "b").n("Mul", "b x", "c").n("Add", "one c", "d").n("Mul", "a d", "e").
				n("Tanh", "e", "f").n("Add", "f one", "g").n("Mul", "x half", "h").n("Mul", "h g", "y")
		}, "Gelu"},
		"not quite": {func(s *small) { // what is inside is read from outside
			s.n("Sigmoid", "x", "a").n("Mul", "a x", "b").n("Add", "a b", "y")
		}, "Sigmoid Mul Add"},
	} {
		t.Run(name, func(t *testing.T) {
			s := half(newSmall("N", 7))
			c.build(s)
			sameUnfused(t, s.tm, c.want, 7)
		})
	}
}

func TestLayerNormalizationIsRecognized(t *testing.T) {
	build := func(square string, axis int, twice bool) *small {
		s := newSmall("N", 5, 12).w("g", 12).w("b", 12).k("two", 2).k("e", 1e-5)
		s.Opset = 13
		s.n("ReduceMean", "x", "m", "axes", []int{axis}).n("Sub", "x m", "d")
		d := "d"
		if twice {
			d = "d2"
			s.n("Sub", "x m", d)
		}
		if square == "Pow" {
			s.n("Pow", "d two", "q")
		} else {
			s.n("Mul", "d d", "q")
		}
		return s.n("ReduceMean", "q", "v", "axes", []int{axis}).n("Add", "v e", "ve").n("Sqrt", "ve", "r").n("Div", d+" r", "n").n("Mul", "n g", "ng").n("Add", "ng b", "y")
	}
	sameUnfused(t, build("Pow", -1, false).tm, "LayerNormalization", 5, 12)
	sameUnfused(t, build("Mul", 2, false).tm, "LayerNormalization", 5, 12)
	sameUnfused(t, build("Pow", -1, true).tm, "LayerNormalization", 5, 12)
	sameUnfused(t, build("Pow", 1, false).tm, "ReduceMean Sub Pow ReduceMean Add Sqrt Div Mul Add", 5, 12)
}

func TestNormalizationGoesIntoWeights(t *testing.T) {
	pads := []any{"pads", []int{1, 1, 1, 1}}
	for name, c := range map[string]struct {
		m     *small
		want  string
		shape []int64
	}{
		"conv":         {newSmall("N", 3, 8, 8).w("w", 6, 3, 3, 3).n("Conv", "x w", "a", pads...).norm("a", "b", 6).n("Relu", "b", "y"), "Conv+Relu", []int64{3, 8, 8}},
		"conv, bias":   {newSmall("N", 3, 8, 8).w("w", 6, 3, 3, 3).w("k", 6).n("Conv", "x w k", "a").norm("a", "y", 6), "Conv", []int64{3, 8, 8}},
		"conv, groups": {newSmall("N", 4, 8, 8).w("w", 8, 1, 3, 3).n("Conv", "x w", "a", "group", 4).norm("a", "y", 8), "Conv", []int64{4, 8, 8}},
		"conv, scale and shift": {newSmall("N", 3, 8, 8).w("w", 6, 3, 1, 1).w("s", 6, 1, 1).w("t", 1, 6, 1, 1).
			n("Conv", "x w", "a").n("Mul", "s a", "b").n("Sub", "b t", "y"), "Conv", []int64{3, 8, 8}},
		"conv, along a row": {newSmall("N", 3, 8, 8).w("w", 6, 3, 1, 1).w("s", 8).n("Conv", "x w", "a").n("Mul", "s a", "y"), "Conv Mul", []int64{3, 8, 8}},
		"conv, one number": {newSmall("N", 3, 8, 8).w("w", 6, 3, 1, 1).k("s", 2).k("t", 3).n("Conv", "x w", "a").n("Div", "a s", "b").n("Sub", "t b", "y"),
			"Conv", []int64{3, 8, 8}},
		"transposed conv": {newSmall("N", 4, 5, 5).w("w", 4, 3, 2, 2).w("k", 6).n("ConvTranspose", "x w k", "a", "group", 2, "strides", []int{2, 2}).norm("a", "y", 6),
			"ConvTranspose", []int64{4, 5, 5}},
		"gemm": {newSmall("N", 9).w("w", 5, 9).w("k", 5).n("Gemm", "x w k", "a", "transB", 1, "alpha", float32(0.5), "beta", float32(3)).norm("a", "b", 5).n("Relu", "b", "y"),
			"Gemm+Relu", []int64{9}},
		"gemm without bias": {newSmall("N", 9).w("w", 9, 5).w("k", 1, 5).n("Gemm", "x w", "a").n("Add", "k a", "y"), "Gemm", []int64{9}},
		"matmul":            {newSmall("N", 9).w("w", 9, 5).n("MatMul", "x w", "a").norm("a", "y", 5), "MatMul+Add", []int64{9}},
		"matmul, scale":     {newSmall("N", 4, 9).w("w", 9, 5).w("s", 5).w("t", 5).n("MatMul", "x w", "a").n("Mul", "a s", "b").n("Add", "b t", "y"), "MatMul+Add", []int64{4, 9}},
		"matmul of rank 3":  {newSmall("N", 5, 9).w("w", 9, 5).n("MatMul", "x w", "a").norm("a", "y", 5), "MatMul BatchNormalization", []int64{5, 9}},
		"read twice":        {newSmall("N", 3, 8, 8).w("w", 3, 3, 1, 1).n("Conv", "x w", "a").norm("a", "b", 3).n("Mul", "a b", "y"), "Conv BatchNormalization Mul", []int64{3, 8, 8}},
	} {
		t.Run(name, func(t *testing.T) { sameUnfused(t, c.m.tm, c.want, c.shape...) })
	}
}

func TestResultsAreFinishedInBlocks(t *testing.T) {
	act := func(op string, attrs ...any) func(s *small) *small {
		return func(s *small) *small { return s.n(op, "a", "y", attrs...) }
	}
	for name, f := range map[string]func(s *small) *small{
		"Sigmoid": act("Sigmoid"), "Tanh": act("Tanh"), "LeakyRelu": act("LeakyRelu", "alpha", float32(0.2)), "HardSigmoid": act("HardSigmoid"),
		"Clip": func(s *small) *small { return s.k("lo", 0).k("hi", 6).n("Clip", "a lo hi", "y") },
		"Silu": func(s *small) *small { return s.n("Sigmoid", "a", "b").n("Mul", "a b", "y") },
	} {
		t.Run(name, func(t *testing.T) {
			// More results than a block has, in rows and images that do not divide it.
			sameUnfused(t, f(newSmall("N", 3, 41, 41).w("w", 20, 3, 3, 3).w("k", 20).n("Conv", "x w k", "a")).tm, "Conv+"+name, 3, 41, 41)
			sameUnfused(t, f(newSmall("N", 3, 41, 41).w("w", 20, 3, 1, 1).n("Conv", "x w", "a")).tm, "Conv+"+name, 3, 41, 41)
			sameUnfused(t, f(newSmall("N", 70, 8).w("w", 8, 700).w("k", 700).n("MatMul", "x w", "m").n("Add", "m k", "a")).tm, "MatMul+Add+"+name, 70, 8)
			sameUnfused(t, f(newSmall("N", 8).w("w", 8, 12).w("k", 12).n("Gemm", "x w k", "a")).tm, "Gemm+"+name, 8)
		})
	}
}

func TestResidualsAreAddedInBlocks(t *testing.T) {
	block := func() *small { return newSmall("N", 16, 30, 30).w("w", 16, 16, 3, 3).w("v", 16, 16, 1, 1).w("k", 16) }
	pads := []any{"pads", []int{1, 1, 1, 1}}
	sameUnfused(t, block().n("Conv", "x w k", "a", pads...).n("Add", "a x", "b").n("Relu", "b", "y").tm, "Conv+Add+Relu", 16, 30, 30)
	// The other value is made after the convolution.
	sameUnfused(t, block().n("Conv", "x w k", "a", pads...).n("Softsign", "x", "c").n("Add", "c a", "y").tm, "Softsign Conv+Add", 16, 30, 30)
	// Two convolutions: the later takes the sum.
	sameUnfused(t, block().n("Conv", "x w", "a", pads...).norm("a", "an", 16).n("Conv", "x v", "c").norm("c", "cn", 16).n("Add", "an cn", "b").n("Sigmoid", "b", "y").tm,
		"Conv Conv+Add+Sigmoid", 16, 30, 30)
	// The operand has another shape, smaller or larger than the product.
	sameUnfused(t, block().n("Conv", "x v", "a").n("GlobalAveragePool", "x", "g").n("Add", "g a", "b").n("Relu", "b", "y").tm,
		"GlobalAveragePool Conv+Add+Relu", 16, 30, 30)
	sameUnfused(t, block().n("GlobalAveragePool", "x", "g").n("Conv", "g v", "a").n("Tanh", "a", "c").n("Add", "x c", "b").n("Relu", "b", "y").tm,
		"GlobalAveragePool Conv+Tanh+Add+Relu", 16, 30, 30)
	sameUnfused(t, newSmall("N", 7, 24).w("w", 24, 24).w("k", 24).n("MatMul", "x w", "a").n("Add", "k a", "b").n("Add", "x b", "y").tm, "MatMul+Add+Add", 7, 24)
}

// Self-attention as PyTorch exports it: four transpositions and a division disappear.
func TestConvolutionsWriteWhereTheyAreJoined(t *testing.T) {
	s := newSmall("n", 5, 9, 7).w("a", 8, 5, 1, 1).w("ab", 8).w("b", 6, 5, 3, 3).w("c", 5, 1, 3, 3).w("d", 20, 8, 1, 1)
	s.n("Conv", "x a ab", "p").n("Relu", "p", "q").n("Conv", "x b", "r", "pads", []int{1, 1, 1, 1}).
		n("Conv", "x c", "s", "pads", []int{1, 1, 1, 1}, "group", 5).n("Relu", "s", "t").n("Concat", "q r t", "y", "axis", 1)
	sameUnfused(t, s.tm, "Conv+Relu+Conv+Conv+Relu+Concat", 5, 9, 7)
	// A result that is read elsewhere stays a value of its own.
	s = newSmall("n", 5, 9, 7).w("a", 8, 5, 1, 1).w("d", 8, 8, 1, 1)
	s.n("Conv", "x a", "p").n("Conv", "p d", "q").n("Concat", "p q", "y", "axis", 1)
	sameUnfused(t, s.tm, "Conv Conv Concat", 5, 9, 7)
}

func TestTransposedOperands(t *testing.T) {
	s := newSmall("N", 6, 12).w("wq", 12, 12).w("wk", 12, 12).w("wv", 12, 12).k("root", 2)
	s.Init = append(s.Init, tt{Name: "heads", Dims: []int64{4}, Ints: []int64{0, 6, 3, 4}}, tt{Name: "joined", Dims: []int64{3}, Ints: []int64{0, 6, 12}})
	for _, x := range []string{"q", "k", "v"} {
		s.n("MatMul", "x w"+x, x).n("Reshape", x+" heads", x+"h")
	}
	s.n("Transpose", "qh", "qt", "perm", []int{0, 2, 1, 3}).n("Transpose", "kh", "kt", "perm", []int{0, 2, 3, 1}).n("Transpose", "vh", "vt", "perm", []int{0, 2, 1, 3})
	s.n("MatMul", "qt kt", "s").n("Div", "s root", "sd").n("Softmax", "sd", "p", "axis", -1).n("MatMul", "p vt", "c").n("Transpose", "c", "ct", "perm", []int{0, 2, 1, 3})
	s.n("Reshape", "ct joined", "y")
	sameUnfused(t, s.tm, "MatMul MatMul MatMul Reshape Reshape Reshape ViewsMatMul Softmax ViewsMatMul Reshape", 6, 12)

	// Operands that are scaled, and heads whose shape is computed, as torch.nn.MultiheadAttention has them.
	s = newSmall("N", 6, 12).k("root", 0.7)
	s.Init = append(s.Init, tt{Name: "i0", Ints: []int64{0}}, tt{Name: "i1", Ints: []int64{1}}, tt{Name: "at", Dims: []int64{1}, Ints: []int64{0}}, tt{Name: "hd", Dims: []int64{2}, Ints: []int64{3, 4}})
	s.n("Shape", "x", "sh").n("Gather", "sh i0", "n0").n("Gather", "sh i1", "n1").n("Unsqueeze", "n0 at", "u0").n("Unsqueeze", "n1 at", "u1").n("Concat", "u0 u1 hd", "to", "axis", 0)
	s.n("Reshape", "x to", "q").n("Transpose", "q", "qt", "perm", []int{0, 2, 1, 3}).n("Transpose", "q", "kt", "perm", []int{0, 2, 3, 1})
	s.n("Mul", "qt root", "qs").n("Mul", "kt root", "ks").n("MatMul", "qs ks", "y")
	p := mustCompile(t, s.tm)
	sameUnfused(t, s.tm, stepNames(p), 6, 12)
	if got := stepNames(p); !strings.HasSuffix(got, "Reshape ViewsMatMul") || strings.Contains(got, "Mul ") {
		t.Errorf("steps are %q", got)
	}

	s = newSmall("N", 5, 7).n("Transpose", "x", "t", "perm", []int{0, 2, 1}).n("MatMul", "t x", "y")
	sameUnfused(t, s.tm, "ViewsMatMul", 5, 7)
	s = newSmall("N", 1, 7).n("Transpose", "x", "t", "perm", []int{0, 2, 1}).n("MatMul", "t x", "a").n("Transpose", "a", "y", "perm", []int{1, 0, 2})
	sameUnfused(t, s.tm, "ViewsMatMul", 1, 7)
	s = newSmall("N", 5, 7).n("Transpose", "x", "t", "perm", []int{2, 1, 0}).n("MatMul", "x t", "y") // columns of t are far apart
	p = mustCompile(t, s.tm)
	if got := stepNames(p); got != "Transpose MatMul" {
		t.Errorf("steps are %q", got)
	}
}

func TestIdentitiesDisappear(t *testing.T) {
	s := newSmall("N", 3, 8, 8).w("w", 6, 3, 3, 3).n("Conv", "x w", "a").n("Identity", "a", "b").norm("b", "c", 6).n("Dropout", "c", "d").n("Relu", "d", "y")
	sameUnfused(t, s.tm, "Conv+Relu", 3, 8, 8)
}

// Numbers that weights can't hold stay outside.
func TestNoInfinityInWeights(t *testing.T) {
	s := newSmall("N", 3).w("w", 3, 4).k("zero", 0).n("Gemm", "x w", "a").n("Div", "a zero", "y")
	if got := stepNames(mustCompile(t, s.tm)); got != "Gemm Div" {
		t.Errorf("steps are %q", got)
	}
	s = newSmall("N", 3).w("w", 3, 4).k("tiny", 1e-45).n("Gemm", "x w", "a").n("Div", "a tiny", "y")
	if got := stepNames(mustCompile(t, s.tm)); got != "Gemm Div" {
		t.Errorf("steps are %q", got)
	}
}
