package ops

import (
	"fmt"

	"idunno/models/internal/kernel"
)

// linearTable lists the matrix products.
func linearTable() map[string]spec {
	return map[string]spec{
		"Gemm":   {since: 1, in: 2, max: 3, outs: 1, build: buildGemm},
		"MatMul": {since: 1, in: 2, max: 2, outs: 1, build: buildMatMul},
		"Einsum": {since: 12, in: 1, max: 64, outs: 1, build: buildEinsum},
	}
}

// gemm is Y = alpha*op(A)*op(B) + beta*C. Constant weights are packed with alpha in them; a constant vector C becomes the bias.
type gemm struct {
	alpha, beta    float32
	transA, transB bool
	packed         *kernel.PackedB // nil: B comes with the inputs
	end            kernel.Epilogue
	biased         bool // end.Bias stands for input C
}

func buildGemm(n *Node, a *attrs) (Op, error) {
	g := &gemm{
		alpha: a.float("alpha", 1), beta: a.float("beta", 1),
		transA: a.int("transA", 0) != 0, transB: a.int("transB", 0) != 0,
	}
	if n.Opset < 7 {
		a.ignore("broadcast") // C was told to broadcast; now it always does
	}
	b := n.constant(1)
	if b == nil || g.transA {
		return g, nil
	}
	if err := needFloat(n.Consts, 1, 2); err != nil {
		return nil, err
	}
	if len(b.Shape) != 2 {
		return nil, fmt.Errorf("weights have %d dimensions, not 2", len(b.Shape))
	}
	k, cols := b.Shape[0], b.Shape[1]
	if g.transB {
		k, cols = cols, k
	}
	c := n.constant(2)
	if n.present(2) && (c == nil || !isVector(c, cols)) {
		return g, nil
	}
	g.packed = kernel.PackB(g.transB, k, cols, scaled(b.F, g.alpha), b.Shape[1])
	if n.present(2) {
		g.biased = true
		g.end.Bias = make([]float32, cols)
		for i := range g.end.Bias {
			g.end.Bias[i] = g.beta * c.F[i%len(c.F)]
		}
	}
	return g, nil
}

// isVector says whether t, broadcast to [rows, n], adds the same row to each row.
func isVector(t *Tensor, n int) bool {
	if t.Len() == 0 || t.Len() != 1 && t.Len() != n {
		return false
	}
	return len(t.Shape) <= 1 || len(t.Shape) == 2 && t.Shape[0] == 1
}

func scaled(x []float32, alpha float32) []float32 {
	if alpha == 1 {
		return x
	}
	out := make([]float32, len(x))
	for i, v := range x {
		out[i] = alpha * v
	}
	return out
}

func (g *gemm) dims(in []*Tensor) (m, n, k, kb int) {
	m, k = in[0].Shape[0], in[0].Shape[1]
	if g.transA {
		m, k = k, m
	}
	kb, n = in[1].Shape[0], in[1].Shape[1]
	if g.transB {
		kb, n = n, kb
	}
	return m, n, k, kb
}

func (g *gemm) Shape(in []*Tensor, out []Spec) error {
	if err := needFloat(in, 0, 1, 2); err != nil {
		return err
	}
	if len(in[0].Shape) != 2 || len(in[1].Shape) != 2 {
		return fmt.Errorf("operands of shape %v and %v are not matrices", in[0].Shape, in[1].Shape)
	}
	m, n, k, kb := g.dims(in)
	if k != kb {
		return fmt.Errorf("matrices of shape %v and %v do not fit", in[0].Shape, in[1].Shape)
	}
	out[0].set(in[0].DType, m, n)
	if !g.biased && len(in) > 2 && in[2] != nil {
		s, err := broadcast(nil, out[0].Shape, in[2].Shape)
		if err != nil || len(s) != 2 || s[0] != m || s[1] != n {
			return fmt.Errorf("a bias of shape %v does not broadcast to %v", in[2].Shape, out[0].Shape)
		}
	}
	return nil
}

func (g *gemm) Cost(in []*Tensor, _ []Spec) (int64, int64) {
	m, n, k, _ := g.dims(in)
	return 2 * int64(m) * int64(n) * int64(k), 0
}

func (g *gemm) Run(s *Scratch, in, out []*Tensor) { g.blocks(s, in, out, nil) }

func (g *gemm) blocks(s *Scratch, in, out []*Tensor, t *Tailed) {
	m, n, k, _ := g.dims(in)
	y := out[0].F
	if g.packed != nil {
		packedRows(s, in, m, k, g.packed, y, g.end, t)
		return
	}
	beta := float32(0)
	if len(in) > 2 && in[2] != nil {
		beta = g.beta
		spread := binary{float: func(_, c float32) float32 { return c }}
		spread.Run(s, []*Tensor{out[0], in[2]}, out)
	}
	s.Gemm.Gemm(g.transA, g.transB, m, n, k, g.alpha, in[0].F, in[0].Shape[1], in[1].F, in[1].Shape[1], beta, y, n)
	limit(y, &g.end)
	if t != nil {
		t.finish(s, in[0].DType, y, 0)
	}
}

// Packs says that the weights and the vector are in the Op.
func (g *gemm) Packs(i int) bool { return g.packed != nil && i > 0 }

// packedRows multiplies m rows of k elements with packed weights, all at once, or in blocks of rows when something follows.
func packedRows(s *Scratch, in []*Tensor, m, k int, b *kernel.PackedB, y []float32, end kernel.Epilogue, t *Tailed) {
	_, n := b.Dims()
	step := max(m, 1)
	if t != nil {
		step = max(1, tailBlock/max(n, 1)/rowsStep) * rowsStep
	}
	for i := 0; i < m && !s.stopped(); i += step {
		rows := min(step, m-i)
		part := y[i*n:][:rows*n]
		s.Gemm.MulB(rows, in[0].F[i*k:], k, b, part, n, end)
		if t != nil {
			t.finish(s, in[0].DType, part, i*n)
		}
	}
}

// rowsStep is a multiple of the tiles of most levels.
const rowsStep = 24

// limit applies ReLU and the limits of an epilogue to a product that was computed without.
func limit(y []float32, e *kernel.Epilogue) {
	if e.Relu {
		for i, v := range y {
			y[i] = max(v, 0)
		}
	}
	if e.Clip {
		for i, v := range y {
			y[i] = min(max(v, e.Lo), e.Hi)
		}
	}
}

// fuseRelu adds ReLU to what is done while results are stored.
func fuseRelu(e *kernel.Epilogue) {
	if e.Clip { // ReLU comes before the limits; behind them it is one of them
		e.Lo, e.Hi = max(e.Lo, 0), max(e.Hi, 0)
		return
	}
	e.Relu = true
}

// fuseClip adds limits, once.
func fuseClip(e *kernel.Epilogue, lo, hi float32) bool {
	if e.Clip {
		return false
	}
	e.Clip, e.Lo, e.Hi = true, lo, hi
	return true
}

// FuseRelu applies ReLU while storing.
func (g *gemm) FuseRelu() { fuseRelu(&g.end) }

// FuseClip limits while storing.
func (g *gemm) FuseClip(lo, hi float32) bool { return fuseClip(&g.end, lo, hi) }

// FuseBias never applies: Gemm has its own bias.
func (g *gemm) FuseBias(*Tensor) bool { return false }

// matMul is the product of NumPy's matmul: vectors are completed to matrices, leading dimensions broadcast.
type matMul struct {
	packed *kernel.PackedB // B when it is a constant matrix
	end    kernel.Epilogue
}

func buildMatMul(n *Node, _ *attrs) (Op, error) {
	m := &matMul{}
	if b := n.constant(1); b != nil && len(b.Shape) == 2 && b.DType.IsFloat() {
		m.packed = kernel.PackB(false, b.Shape[0], b.Shape[1], b.F, b.Shape[1])
	}
	return m, nil
}

// matrices returns the shapes completed to matrices.
func matrices(in []*Tensor) (a, b []int) {
	a, b = in[0].Shape, in[1].Shape
	if len(a) == 1 {
		a = []int{1, a[0]}
	}
	if len(b) == 1 {
		b = []int{b[0], 1}
	}
	return a, b
}

func (m *matMul) Shape(in []*Tensor, out []Spec) error {
	if err := needFloat(in, 0, 1); err != nil {
		return err
	}
	if len(in[0].Shape) == 0 || len(in[1].Shape) == 0 {
		return fmt.Errorf("operands of shape %v and %v are not matrices", in[0].Shape, in[1].Shape)
	}
	a, b := matrices(in)
	ra, rb := len(a), len(b)
	if a[ra-1] != b[rb-2] {
		return fmt.Errorf("matrices of shape %v and %v do not fit", in[0].Shape, in[1].Shape)
	}
	s, err := broadcast(out[0].Shape, a[:ra-2], b[:rb-2])
	if err != nil {
		return err
	}
	if len(in[0].Shape) > 1 {
		s = append(s, a[ra-2])
	}
	if len(in[1].Shape) > 1 {
		s = append(s, b[rb-1])
	}
	out[0].DType, out[0].Shape = in[0].DType, s
	return nil
}

func (m *matMul) Cost(in []*Tensor, out []Spec) (int64, int64) {
	return 2 * int64(volume(out[0].Shape)) * int64(in[0].Shape[len(in[0].Shape)-1]), 0
}

func (m *matMul) Run(s *Scratch, in, out []*Tensor) { m.blocks(s, in, out, nil) }

func (m *matMul) blocks(s *Scratch, in, out []*Tensor, t *Tailed) {
	a, b := matrices(in)
	rows0, k, n := a[len(a)-2], a[len(a)-1], b[len(b)-1]
	y := out[0].F
	if m.packed != nil {
		packedRows(s, in, out[0].Len()/max(n, 1), k, m.packed, y, m.end, t)
		return
	}
	batch, _ := broadcast(nil, a[:len(a)-2], b[:len(b)-2])
	d := len(batch)
	sa, sb, index := make([]int, d), make([]int, d), make([]int, d)
	strides(sa, a[:len(a)-2], batch)
	strides(sb, b[:len(b)-2], batch)
	for at := range volume(batch) {
		pa, pb := 0, 0
		for i, x := range index {
			pa += x * sa[i]
			pb += x * sb[i]
		}
		if s.stopped() {
			return
		}
		part := y[at*rows0*n:][:rows0*n]
		s.Gemm.Gemm(false, false, rows0, n, k, 1, in[0].F[pa*rows0*k:], k, in[1].F[pb*k*n:], n, 0, part, n)
		limit(part, &m.end)
		if t != nil {
			t.finish(s, in[0].DType, part, at*rows0*n)
		}
		advance(index, batch)
	}
}

// Packs says that the matrix is in the Op.
func (m *matMul) Packs(i int) bool { return m.packed != nil && i == 1 }

// FuseRelu applies ReLU while storing.
func (m *matMul) FuseRelu() { fuseRelu(&m.end) }

// FuseClip limits while storing.
func (m *matMul) FuseClip(lo, hi float32) bool { return fuseClip(&m.end, lo, hi) }

// FuseBias adds a vector to each row while storing.
func (m *matMul) FuseBias(bias *Tensor) bool {
	if m.packed == nil || m.end.Relu || m.end.Clip || m.end.Bias != nil || len(bias.Shape) != 1 || !bias.DType.IsFloat() {
		return false
	}
	if _, n := m.packed.Dims(); bias.Len() != n {
		return false
	}
	m.end.Bias = bias.F
	return true
}
