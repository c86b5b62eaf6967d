package ops

import (
	"slices"

	"idunno/models/onnx"
)

// Fuser is a product that can take over what follows it. The engine calls it while compiling, before the Op is used.
type Fuser interface {
	Op
	// FuseRelu makes the Op apply ReLU while it stores.
	FuseRelu()
	// FuseClip makes the Op limit its output to lo and hi while it stores, and reports whether it could.
	FuseClip(lo, hi float32) bool
	// FuseBias makes the Op add a vector along its last dimension while it stores, and reports whether it could.
	FuseBias(bias *Tensor) bool
	// blocks is Run in parts: every part of the results, elements from to from+n of the output, is handed to t while it is in the cache.
	blocks(s *Scratch, in, out []*Tensor, t *Tailed)
}

// Packer is an Op that has its own copy of a constant input: the elements of that input are not read any more.
type Packer interface {
	Packs(input int) bool
}

// tailBlock is how many results a product computes before the operators that follow are applied to them: 128 KiB, so that they and what
// they are computed from stay in the second-level cache.
const tailBlock = 32 << 10

// Tailed is a product with element-wise operators behind it, which are applied to each block of results while it is in the cache.
type Tailed struct {
	head   Fuser
	inputs int // of the head; further inputs are the operands of stages
	stages []stage
}

// stage is one operator behind a product: of one operand with constants, or of two.
type stage struct {
	op       Op
	consts   []*Tensor // inputs after the first
	operand  int       // input of the Tailed with the other operand, or -1
	reversed bool      // the results are the second operand
}

// NewTailed returns an Op that does the work of op, which reads the given number of inputs, and can take stages; nil when op is no product.
func NewTailed(op Op, inputs int) *Tailed {
	if t, ok := op.(*Tailed); ok {
		return t
	}
	if f, ok := op.(Fuser); ok {
		return &Tailed{head: f, inputs: inputs}
	}
	return nil
}

// Append adds an operator of one operand; consts are its further inputs, all constant. It reports whether it could.
func (t *Tailed) Append(op Op, consts []*Tensor) bool {
	if _, ok := op.(Elementwise); !ok || slices.ContainsFunc(consts, func(c *Tensor) bool { return c != nil && c.Len() != 1 }) {
		return false
	}
	t.stages = append(t.stages, stage{op: op, consts: consts, operand: -1})
	return true
}

// AppendOperand adds an operator of two operands, one of which is the input of the given number. There can be one such. It reports whether
// it could.
func (t *Tailed) AppendOperand(op Op, input int, reversed bool) bool {
	b, ok := op.(*binary)
	if !ok || b.float == nil || b.mixed || b.compare || b.old || t.Operand() >= 0 {
		return false
	}
	t.stages = append(t.stages, stage{op: op, operand: input, reversed: reversed})
	return true
}

// Operand is the input that a stage reads, or -1.
func (t *Tailed) Operand() int {
	for _, st := range t.stages {
		if st.operand >= 0 {
			return st.operand
		}
	}
	return -1
}

// Packs is that of the head.
func (t *Tailed) Packs(i int) bool {
	p, ok := t.head.(Packer)
	return ok && i < t.inputs && p.Packs(i)
}

func (t *Tailed) Shape(in []*Tensor, out []Spec) error {
	if err := t.head.Shape(in[:t.inputs], out); err != nil {
		return err
	}
	i := t.Operand()
	if i < 0 || t.aligned(in, out) {
		return nil
	}
	if err := needFloat(in, i); err != nil {
		return err
	}
	s, err := broadcast(nil, out[0].Shape, in[i].Shape)
	out[0].Shape = s
	return err
}

// aligned says whether the other operand has the shape of the results, so that blocks of both correspond.
func (t *Tailed) aligned(in []*Tensor, out []Spec) bool {
	i := t.Operand()
	return i < 0 || in[i].DType == out[0].DType && slices.Equal(in[i].Shape, out[0].Shape)
}

func (t *Tailed) Cost(in []*Tensor, out []Spec) (flops, scratch int64) {
	own := []Spec{{}}
	if t.head.Shape(in[:t.inputs], own) != nil {
		return 0, 0
	}
	if c, ok := t.head.(Coster); ok {
		flops, scratch = c.Cost(in[:t.inputs], own)
	}
	if !t.aligned(in, own) {
		scratch += int64(volume(own[0].Shape))
	}
	return flops + int64(len(t.stages))*int64(volume(out[0].Shape)), scratch
}

func (t *Tailed) Run(s *Scratch, in, out []*Tensor) {
	own := s.spec[:]
	_ = t.head.Shape(in[:t.inputs], own) // has been checked
	if t.aligned(in, own) {
		if i := t.Operand(); i >= 0 {
			s.tail.operand = in[i].F
		}
		t.head.blocks(s, in[:t.inputs], out, t)
		return
	}
	// The operand has another shape. What is before it works on the results, what is after it on the output.
	n := volume(own[0].Shape)
	part := &Tensor{DType: own[0].DType, Shape: own[0].Shape, F: s.floats(2, n)}
	t.head.Run(s, in[:t.inputs], []*Tensor{part})
	for _, st := range t.stages {
		if st.operand < 0 {
			st.op.Run(s, append([]*Tensor{part}, st.consts...), []*Tensor{part})
			continue
		}
		pair := []*Tensor{part, in[st.operand]}
		if st.reversed {
			slices.Reverse(pair)
		}
		st.op.Run(s, pair, out)
		part = out[0]
	}
}

// tailSpace holds the arguments of the stages, so that none is allocated for each block.
type tailSpace struct {
	y, other Tensor
	operand  []float32 // all of it
	dims     [1]int
	args     [4]*Tensor
	out      [1]*Tensor
}

// finish applies the stages to y, elements from, from+1, ... of the results.
func (t *Tailed) finish(s *Scratch, d onnx.DType, y []float32, from int) {
	w := &s.tail
	w.dims[0] = len(y)
	w.y = Tensor{DType: d, Shape: w.dims[:], F: y}
	w.out[0] = &w.y
	for i := range t.stages {
		st := &t.stages[i]
		if st.operand < 0 {
			st.op.Run(s, append(append(w.args[:0], &w.y), st.consts...), w.out[:])
			continue
		}
		w.other = Tensor{DType: d, Shape: w.dims[:], F: w.operand[from:][:len(y)]}
		w.args[0], w.args[1] = &w.y, &w.other
		if st.reversed {
			w.args[0], w.args[1] = &w.other, &w.y
		}
		st.op.Run(s, w.args[:2], w.out[:])
	}
}

// Elementwise is an Op whose output has the type and shape of its first input and depends, element by element, on nothing else; further
// inputs are single numbers. It may write over its input.
type Elementwise interface {
	Op
	elementwise()
}

func (*unary) elementwise() {}
func (*clip) elementwise()  {}
func (*silu) elementwise()  {}

// InPlacer is an Op that may write over one of its inputs.
type InPlacer interface {
	// InPlace says whether the output may take the space of input i, given that both have one type and shape.
	InPlace(i int) bool
}

// InPlace: each element is read before it is written.
func (*unary) InPlace(i int) bool     { return i == 0 }
func (*clip) InPlace(i int) bool      { return i == 0 }
func (*silu) InPlace(i int) bool      { return i == 0 }
func (*batchNorm) InPlace(i int) bool { return i == 0 }
func (*binary) InPlace(i int) bool    { return i < 2 }
func (*fold) InPlace(int) bool        { return false } // an input may come several times
func (*softmax) InPlace(i int) bool   { return i == 0 }
func (*groupNorm) InPlace(i int) bool { return i == 0 }
func (*where) InPlace(i int) bool     { return i == 1 || i == 2 }

// Viewer is an Op whose outputs may be parts of its first input, without a copy.
type Viewer interface {
	// View returns where output k begins in the elements of input 0 and whether it is a contiguous part of it, for these inputs.
	View(in []*Tensor, k int) (offset int, ok bool)
}

// View: what is cut is the outermost dimension that is not 1.
func (s *slice) View(in []*Tensor, _ int) (int, bool) {
	cuts, err := s.cuts(in)
	if err != nil {
		return 0, false
	}
	inner := in[0].Len()
	for i, c := range cuts[:len(in[0].Shape)] {
		d := in[0].Shape[i]
		inner /= max(d, 1)
		if c.n == d && c.step == 1 {
			if d != 1 {
				return 0, whole(cuts[i+1:], in[0].Shape[i+1:])
			}
			continue
		}
		return c.first * inner, c.step == 1 && whole(cuts[i+1:], in[0].Shape[i+1:])
	}
	return 0, true
}

// whole says that nothing is cut.
func whole(cuts []cut, shape []int) bool {
	for i, d := range shape {
		if c := cuts[i]; c.n != d || c.step != 1 {
			return false
		}
	}
	return true
}

// View: the parts follow each other when there is one row of them.
func (s *splitOp) View(in []*Tensor, k int) (int, bool) {
	axis, err := axisOf(s.axis, len(in[0].Shape))
	if err != nil || volume(in[0].Shape[:axis]) != 1 {
		return 0, false
	}
	sizes, err := s.sizes.of(in)
	if err != nil || sizes == nil {
		return 0, false
	}
	at := int64(0)
	for _, n := range sizes[:k] {
		at += n
	}
	return int(at) * volume(in[0].Shape[axis+1:]), true
}

// flatBlock is how many elements an element-wise operator computes before it looks whether it should stop.
const flatBlock = 1 << 18

// RunFlat is Run of an element-wise operator, in parts, so that it can be stopped.
func RunFlat(s *Scratch, op Elementwise, in, out []*Tensor) {
	x, y := in[0].F, out[0].F
	if len(x) <= flatBlock || len(in) > len(s.tail.args) {
		op.Run(s, in, out)
		return
	}
	w := &s.tail
	w.y, w.other = Tensor{DType: in[0].DType, Shape: w.dims[:]}, Tensor{DType: out[0].DType, Shape: w.dims[:]}
	w.args[0], w.out[0] = &w.y, &w.other
	args := append(w.args[:1], in[1:]...)
	for len(x) > 0 && !s.stopped() {
		n := min(len(x), flatBlock)
		w.dims[0], w.y.F, w.other.F = n, x[:n], y[:n]
		op.Run(s, args, w.out[:])
		x, y = x[n:], y[n:]
	}
}
