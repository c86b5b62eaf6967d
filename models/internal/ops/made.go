package ops

import (
	"fmt"

	"idunno/models/internal/kernel"
)

// madeTable lists the operators that the engine makes of several; no file can name them.
func madeTable() map[string]spec {
	return map[string]spec{
		"Silu":        {since: 1, in: 1, max: 1, outs: 1, build: plain(&silu{})},
		"ViewsMatMul": {since: 1, in: 2, max: 2, outs: 1, build: buildViewsMatMul},
	}
}

// IsMade says whether an operator is one of those.
func IsMade(op string) bool {
	_, ok := madeTable()[op]
	return ok
}

// silu is x*sigmoid(x), also called swish (Ramachandran, Zoph, Le 2017).
type silu struct{}

func (silu) Shape(in []*Tensor, out []Spec) error {
	out[0].set(in[0].DType, in[0].Shape...)
	return needFloat(in, 0)
}

func (silu) Cost(in []*Tensor, _ []Spec) (int64, int64) { return 2 * int64(in[0].Len()), 0 }

func (silu) Run(s *Scratch, in, out []*Tensor) {
	s.Gemm.Apply(kernel.Activation{Func: kernel.Silu}, out[0].F, in[0].F)
}

// viewsMatMul is MatMul of operands, and with a result, whose dimensions are permuted: the matrices are read and written where they are, a
// row or a column after the other. alpha multiplies the result.
type viewsMatMul struct {
	perms [3][]int64 // of A, B and the result; nil for none. The result of the product is permuted to give the output.
	alpha float32
}

func buildViewsMatMul(_ *Node, a *attrs) (Op, error) {
	return &viewsMatMul{[3][]int64{a.ints("a"), a.ints("b"), a.ints("y")}, a.float("alpha", 1)}, nil
}

// view is a tensor whose dimensions are permuted.
type view struct {
	rank  int
	shape [maxRank]int
	step  [maxRank]int
}

// of fills in the view of a tensor of the shape: its dimension i is dimension perm[i] of the tensor.
func (v *view) of(shape []int, perm []int64) error {
	if len(shape) > maxRank || len(shape) < 2 || perm != nil && len(perm) != len(shape) {
		return fmt.Errorf("operand of shape %v in the order %v", shape, perm)
	}
	var step [maxRank]int
	for i, p := len(shape)-1, 1; i >= 0; i-- {
		step[i] = p
		p *= shape[i]
	}
	v.rank = len(shape)
	for i := range shape {
		d := i
		if perm != nil {
			d = int(perm[i])
		}
		v.shape[i], v.step[i] = shape[d], step[d]
	}
	return nil
}

// lastTwo returns rows, columns and how the matrix lies in memory.
func (v *view) lastTwo() (rows, cols, ld int, trans bool) {
	r, c := v.rank-2, v.rank-1
	if v.step[c] == 1 {
		return v.shape[r], v.shape[c], max(v.step[r], v.shape[c]), false
	}
	return v.shape[r], v.shape[c], max(v.step[c], v.shape[r]), true
}

// Viewable says whether a matrix product can read (or, for the result, write) a tensor in this order: a row or a column must be contiguous.
func Viewable(perm []int64, result bool) bool {
	n := len(perm)
	if n < 2 || n > maxRank {
		return false
	}
	seen := [maxRank]bool{}
	for _, p := range perm {
		if p < 0 || p >= int64(n) || seen[p] {
			return false
		}
		seen[p] = true
	}
	last := int64(n - 1)
	return perm[n-1] == last || !result && perm[n-2] == last
}

func (m *viewsMatMul) Shape(in []*Tensor, out []Spec) error {
	if err := needFloat(in, 0, 1); err != nil {
		return err
	}
	var a, b view
	if err := a.of(in[0].Shape, m.perms[0]); err != nil {
		return err
	}
	if err := b.of(in[1].Shape, m.perms[1]); err != nil {
		return err
	}
	if a.shape[a.rank-1] != b.shape[b.rank-2] {
		return fmt.Errorf("matrices of shape %v and %v do not fit", a.shape[:a.rank], b.shape[:b.rank])
	}
	s, err := broadcast(nil, a.shape[:a.rank-2], b.shape[:b.rank-2])
	if err != nil {
		return err
	}
	s = append(s, a.shape[a.rank-2], b.shape[b.rank-1])
	out[0].set(in[0].DType)
	if m.perms[2] == nil {
		out[0].Shape = append(out[0].Shape, s...)
		return nil
	}
	if len(m.perms[2]) != len(s) {
		return fmt.Errorf("product of shape %v in the order %v", s, m.perms[2])
	}
	for _, p := range m.perms[2] {
		out[0].Shape = append(out[0].Shape, s[p])
	}
	return nil
}

func (m *viewsMatMul) Cost(in []*Tensor, out []Spec) (int64, int64) {
	var a view
	_ = a.of(in[0].Shape, m.perms[0])
	return 2 * int64(volume(out[0].Shape)) * int64(a.shape[a.rank-1]), 0
}

func (m *viewsMatMul) Run(s *Scratch, in, out []*Tensor) {
	var a, b, y view
	_ = a.of(in[0].Shape, m.perms[0])
	_ = b.of(in[1].Shape, m.perms[1])
	var inverse [maxRank]int64
	perm := m.perms[2]
	for i, p := range perm {
		inverse[p] = int64(i)
	}
	if perm != nil {
		perm = inverse[:len(perm)]
	}
	_ = y.of(out[0].Shape, perm)
	rows, k, lda, transA := a.lastTwo()
	_, n, ldb, transB := b.lastTwo()
	_, _, ldy, _ := y.lastTwo()
	batch := y.shape[:y.rank-2]
	index := s.ints(len(batch))
	for range volume(batch) {
		if s.stopped() {
			return
		}
		pa, pb, py := 0, 0, 0
		for i, x := range index {
			pa += x * a.stepOf(i-len(batch), 2)
			pb += x * b.stepOf(i-len(batch), 2)
			py += x * y.step[i]
		}
		s.Gemm.Gemm(transA, transB, rows, n, k, m.alpha, in[0].F[pa:], lda, in[1].F[pb:], ldb, 0, out[0].F[py:], ldy)
		advance(index, batch)
	}
}

// stepOf is the step of a leading dimension counted from the back, i < 0, in front of the last ones; 0 where it is broadcast.
func (v *view) stepOf(i, last int) int {
	d := v.rank - last + i
	if d < 0 || v.shape[d] == 1 {
		return 0
	}
	return v.step[d]
}
