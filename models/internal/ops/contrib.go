package ops

import (
	"fmt"
	"math"

	"idunno/models/internal/kernel"
	"idunno/models/onnx"
)

// contribTable lists the operators of domain com.microsoft that optimised exports of Hugging Face models contain: each is a pair or triple
// of operators of ONNX in one.
func contribTable() map[string]spec {
	return map[string]spec{
		"Gelu":                             {since: 1, in: 1, max: 1, outs: 1, build: buildBiasGelu("none")},
		"BiasGelu":                         {since: 1, in: 2, max: 2, outs: 1, build: buildBiasGelu("none")},
		"FastGelu":                         {since: 1, in: 1, max: 2, outs: 1, build: buildBiasGelu("tanh")},
		"QuickGelu":                        {since: 1, in: 1, max: 1, outs: 1, build: buildQuickGelu},
		"FusedMatMul":                      {since: 1, in: 2, max: 2, outs: 1, build: buildFusedMatMul},
		"SkipLayerNormalization":           {since: 1, in: 3, max: 5, outs: 4, build: buildSkipNorm(false)},
		"SkipSimplifiedLayerNormalization": {since: 1, in: 3, max: 4, outs: 4, build: buildSkipNorm(true)},
	}
}

// rmsTable lists the normalizations by the root of the mean square. SimplifiedLayerNormalization is what ONNX Runtime calls it, in ONNX's own
// domain though ONNX doesn't know it.
func rmsTable() map[string]spec {
	return map[string]spec{
		"RMSNormalization":             {since: 23, in: 2, max: 2, outs: 1, build: buildRMSNorm},
		"SimplifiedLayerNormalization": {since: 1, in: 2, max: 2, outs: 1, build: buildRMSNorm},
	}
}

// biasGelu is the Gaussian error linear unit after a sum with a vector.
type biasGelu struct {
	gelu Op
}

func buildBiasGelu(form string) func(*Node, *attrs) (Op, error) {
	return func(n *Node, a *attrs) (Op, error) {
		inner := *n
		inner.Node = &onnx.Node{Op: "Gelu", Attrs: map[string]onnx.Attr{"approximate": {Kind: onnx.AttrString, S: form}}}
		op, err := elementTable()["Gelu"].build(&inner, newAttrs(&inner))
		if err != nil || len(n.Inputs) < 2 || n.Inputs[1] == "" {
			return op, err
		}
		return &biasGelu{op}, nil
	}
}

func (g *biasGelu) Shape(in []*Tensor, out []Spec) error {
	x, b := in[0].Shape, in[1].Shape
	if len(x) == 0 || len(b) != 1 || b[0] != x[len(x)-1] {
		return fmt.Errorf("a bias of shape %v for %v", b, x)
	}
	out[0].set(in[0].DType, x...)
	return needFloat(in, 0, 1)
}

func (g *biasGelu) Cost(in []*Tensor, _ []Spec) (int64, int64) { return 2 * int64(in[0].Len()), 0 }

func (g *biasGelu) Run(s *Scratch, in, out []*Tensor) {
	bias := in[1].F
	for at := 0; at < len(in[0].F); at += len(bias) {
		s.Gemm.Zip(kernel.Add, out[0].F[at:][:len(bias)], in[0].F[at:][:len(bias)], bias)
	}
	g.gelu.Run(s, out[:1], out[:1])
}

// buildQuickGelu is x * sigmoid(alpha*x).
func buildQuickGelu(_ *Node, a *attrs) (Op, error) {
	alpha := float64(a.float("alpha", 1.702))
	return &columns{same: true, f: func(x float32, _ int) float32 { return float32(float64(x) * sigmoid(alpha*float64(x))) }}, nil
}

// fusedMatMul is alpha * op(A) * op(B), where op may swap the last two dimensions.
type fusedMatMul struct {
	transA, transB bool
	alpha          float32
}

func buildFusedMatMul(_ *Node, a *attrs) (Op, error) {
	if a.int("transBatchA", 0) != 0 || a.int("transBatchB", 0) != 0 {
		return nil, fmt.Errorf("%w: FusedMatMul with transBatchA or transBatchB", ErrUnsupported)
	}
	return &fusedMatMul{a.int("transA", 0) != 0, a.int("transB", 0) != 0, a.float("alpha", 1)}, nil
}

func (f *fusedMatMul) dims(in []*Tensor) (m, k, kb, n int) {
	a, b := in[0].Shape, in[1].Shape
	m, k = a[len(a)-2], a[len(a)-1]
	if f.transA {
		m, k = k, m
	}
	kb, n = b[len(b)-2], b[len(b)-1]
	if f.transB {
		kb, n = n, kb
	}
	return m, k, kb, n
}

func (f *fusedMatMul) Shape(in []*Tensor, out []Spec) error {
	a, b := in[0].Shape, in[1].Shape
	if len(a) < 2 || len(b) < 2 {
		return fmt.Errorf("operands of shape %v and %v are not matrices", a, b)
	}
	m, k, kb, n := f.dims(in)
	if k != kb {
		return fmt.Errorf("matrices of shape %v and %v do not fit", a, b)
	}
	s, err := broadcast(out[0].Shape, a[:len(a)-2], b[:len(b)-2])
	if err != nil {
		return err
	}
	out[0].DType, out[0].Shape = in[0].DType, append(s, m, n)
	return needFloat(in, 0, 1)
}

func (f *fusedMatMul) Cost(in []*Tensor, out []Spec) (int64, int64) {
	_, k, _, _ := f.dims(in)
	return 2 * int64(volume(out[0].Shape)) * int64(k), 0
}

func (f *fusedMatMul) Run(s *Scratch, in, out []*Tensor) {
	a, b, y := in[0], in[1], out[0]
	m, k, _, n := f.dims(in)
	d := len(y.Shape) - 2
	batch := y.Shape[:d]
	work := s.ints(3 * d)
	sa, sb, index := work[:d], work[d:2*d], work[2*d:]
	strides(sa, a.Shape[:len(a.Shape)-2], batch)
	strides(sb, b.Shape[:len(b.Shape)-2], batch)
	lda, ldb := a.Shape[len(a.Shape)-1], b.Shape[len(b.Shape)-1]
	for at := range volume(batch) {
		pa, pb := 0, 0
		for i, x := range index {
			pa += x * sa[i]
			pb += x * sb[i]
		}
		s.Gemm.Gemm(f.transA, f.transB, m, n, k, f.alpha, a.F[pa*m*k:], lda, b.F[pb*k*n:], ldb, 0, y.F[at*m*n:], n)
		advance(index, batch)
	}
}

// skipNorm normalizes the sum of two inputs and a bias along the last dimension: by mean and variance, or by the mean square.
type skipNorm struct {
	epsilon float32
	rms     bool
	bias    int // input of the bias
}

func buildSkipNorm(rms bool) func(*Node, *attrs) (Op, error) {
	return func(n *Node, a *attrs) (Op, error) {
		for i := 1; i < min(3, len(n.Outputs)); i++ {
			if n.Outputs[i] != "" {
				return nil, fmt.Errorf("%w: output %d of %s", ErrUnsupported, i, n.Op)
			}
		}
		s := &skipNorm{epsilon: a.float("epsilon", 1e-12), rms: rms, bias: 4}
		if rms {
			s.epsilon, s.bias = a.float("epsilon", 1e-5), 3
		}
		return s, nil
	}
}

func (l *skipNorm) input(in []*Tensor, i int) []float32 {
	if i < len(in) && in[i] != nil {
		return in[i].F
	}
	return nil
}

func (l *skipNorm) Shape(in []*Tensor, out []Spec) error {
	x, skip := in[0].Shape, in[1].Shape
	if len(x) == 0 || len(x) < len(skip) || volume(skip) > 0 && volume(x)%volume(skip) != 0 || volume(skip) == 0 && volume(x) > 0 {
		return fmt.Errorf("inputs of shape %v and %v", x, skip)
	}
	n := x[len(x)-1]
	for i, d := range skip {
		if at := len(x) - len(skip) + i; d != x[at] && (at != 0 || d != 1) {
			return fmt.Errorf("inputs of shape %v and %v", x, skip)
		}
	}
	for i := 2; i < len(in); i++ {
		if in[i] != nil && (len(in[i].Shape) != 1 || in[i].Shape[0] != n) {
			return fmt.Errorf("input %d has shape %v, normalized are %d numbers", i, in[i].Shape, n)
		}
	}
	for i := range out {
		out[i].set(in[0].DType, x...)
	}
	return needFloat(in, 0, 1, 2, 3, 4)
}

func (l *skipNorm) Cost(in []*Tensor, _ []Spec) (int64, int64) { return 8 * int64(in[0].Len()), 0 }

func (l *skipNorm) Run(s *Scratch, in, out []*Tensor) {
	x, skip, scale := in[0].F, in[1].F, in[2].F
	bias := l.input(in, l.bias)
	var beta []float32
	if !l.rms {
		beta = l.input(in, 3)
	}
	n := len(scale)
	for o := 0; o < len(x); o += n {
		y := out[0].F[o:][:n]
		for i := range y {
			y[i] = x[o+i] + skip[(o+i)%len(skip)]
			if bias != nil {
				y[i] += bias[i]
			}
		}
		if len(out) > 3 {
			copy(out[3].F[o:], y)
		}
		mean, inverse := float32(0), float32(0)
		if l.rms {
			inverse = rms(s, y, l.epsilon)
		} else {
			mean, inverse = s.Gemm.Moments(y, l.epsilon)
		}
		s.Gemm.Normalize(y, y, mean, inverse, scale, beta)
	}
}

// rms is 1/sqrt(mean square + epsilon).
func rms(s *Scratch, x []float32, epsilon float32) float32 {
	return float32(1 / math.Sqrt(s.Gemm.Squares(x, 0)/float64(max(len(x), 1))+float64(epsilon)))
}

// rmsNorm divides by the root of the mean square over all dimensions from an axis on (Zhang, Sennrich 2019).
type rmsNorm struct{ layerNorm }

func buildRMSNorm(_ *Node, a *attrs) (Op, error) {
	a.ignore("stash_type")
	return &rmsNorm{layerNorm{axis: a.int("axis", -1), epsilon: a.float("epsilon", 1e-5)}}, nil
}

func (r *rmsNorm) Run(s *Scratch, in, out []*Tensor) {
	axis, _ := axisOf(r.axis, len(in[0].Shape))
	n := volume(in[0].Shape[axis:])
	scale := in[1].F
	for o := range volume(in[0].Shape[:axis]) {
		x, y := in[0].F[o*n:][:n], out[0].F[o*n:][:n]
		s.Gemm.Normalize(y, x, 0, rms(s, x, r.epsilon), scale, nil)
	}
}
