package engine

import (
	"context"
	"fmt"

	"idunno/models/internal/ops"
)

// dynamic runs a program whose shapes depend on computed values: memory is found for each output when its step comes, among blocks that
// are kept from run to run.
type dynamic struct {
	p       *Program
	vals    []Tensor // by slot
	block   []int    // by slot: the block its elements are in, -1 for none
	blocks  []block
	held    int64   // bytes in blocks
	free    [][]int // by step: values that nobody needs after it
	args    [][]*Tensor
	outs    [][]*Tensor
	specs   []ops.Spec
	results []*Tensor
}

// block is memory for the elements of one value or of several views of it.
type block struct {
	f    []float32
	i    []int64
	refs int
}

func newDynamic(p *Program) *dynamic {
	s := &dynamic{p: p, vals: make([]Tensor, p.slots), block: make([]int, p.slots), free: make([][]int, len(p.steps))}
	arg := func(slots []int) []*Tensor {
		list := make([]*Tensor, len(slots))
		for i, x := range slots {
			if x >= 0 {
				list[i] = &s.vals[x]
			}
		}
		return list
	}
	widest := 0
	for _, st := range p.steps {
		s.args = append(s.args, arg(st.in))
		s.outs = append(s.outs, arg(st.out))
		widest = max(widest, len(st.out))
	}
	s.specs = make([]ops.Spec, widest)
	s.results = arg(p.outSlot)
	for i, c := range p.isConst {
		if c {
			s.vals[i] = p.consts[i]
		}
	}
	for slot, i := range p.last {
		if i >= 0 && i < len(p.steps) {
			s.free[i] = append(s.free[i], slot)
		}
	}
	return s
}

// run is [Session.Run] for inputs that have been checked.
func (s *dynamic) run(ctx context.Context, in []*Tensor, scratch *ops.Scratch) ([]*Tensor, error) {
	for i := range s.blocks {
		s.blocks[i].refs = 0
	}
	for i := range s.block {
		s.block[i] = -1
	}
	for i, t := range in {
		s.vals[s.p.inSlot[i]] = *t
	}
	for i := range s.p.steps {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := s.step(i, scratch); err != nil {
			return nil, fmt.Errorf("%s: %w", s.p.steps[i].title, err)
		}
	}
	return s.results, ctx.Err()
}

// step runs one operator.
func (s *dynamic) step(i int, scratch *ops.Scratch) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("failed: %v", r)
		}
	}()
	st := &s.p.steps[i]
	args, outs, specs := s.args[i], s.outs[i], s.specs[:len(st.out)]
	if err := st.op.Shape(args, specs); err != nil {
		return err
	}
	size, err := s.check(st, args, specs)
	if err != nil {
		return err
	}
	for k, slot := range st.out {
		v := &s.vals[slot]
		v.DType, v.F, v.I = specs[k].DType, nil, nil
		v.Shape = append(v.Shape[:0], specs[k].Shape...)
		if !st.alias {
			s.acquire(slot)
			continue
		}
		v.F, v.I = args[0].F, args[0].I
		if b := s.block[st.in[0]]; b >= 0 {
			s.block[slot] = b
			s.blocks[b].refs++
		}
	}
	if !st.alias && size > 0 { // an empty tensor may have dimensions that it would take long to walk through
		st.op.Run(scratch, args, outs)
	}
	for _, slot := range s.free[i] {
		if b := s.block[slot]; b >= 0 {
			s.blocks[b].refs--
			s.block[slot] = -1
		}
	}
	return nil
}

// check enforces the memory limit for the outputs of a step. It returns their bytes.
func (s *dynamic) check(st *step, args []*Tensor, specs []ops.Spec) (int64, error) {
	limit := s.p.limits.Memory
	total := int64(0)
	for _, sp := range specs {
		n, err := sizeOf(sp, limit)
		if err != nil {
			return 0, err
		}
		total += n
	}
	temp := int64(0)
	if c, ok := st.op.(ops.Coster); ok {
		_, scratch := c.Cost(args, specs)
		temp = 4 * scratch
	}
	if temp > limit || total > limit || s.demand(st, specs)+temp > limit {
		return 0, fmt.Errorf("%w: at most %d MiB are allowed; use a smaller batch", ErrTooLarge, limit>>20)
	}
	return total, nil
}

// demand is the memory the session would hold after the outputs of a step are allocated.
func (s *dynamic) demand(st *step, specs []ops.Spec) int64 {
	if st.alias {
		return s.held
	}
	need := s.held
	for k := range st.out {
		n := elements(specs[k].Shape)
		if b := s.fitting(specs[k].DType.IsFloat(), n); b < 0 || s.blocks[b].capacity(specs[k].DType.IsFloat()) < n {
			size, _ := sizeOf(specs[k], 1<<62)
			need += size
		}
	}
	return need
}

func elements(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

func (b *block) capacity(float bool) int {
	if float {
		return cap(b.f)
	}
	return cap(b.i)
}

// fitting returns the smallest free block that holds n elements, or else the largest free one, or -1.
func (s *dynamic) fitting(float bool, n int) int {
	best := -1
	for i := range s.blocks {
		b := &s.blocks[i]
		if b.refs > 0 || (b.f != nil) != float {
			continue
		}
		c := b.capacity(float)
		if best < 0 {
			best = i
			continue
		}
		bc := s.blocks[best].capacity(float)
		if bc < n && c > bc || c >= n && c < bc {
			best = i
		}
	}
	return best
}

// acquire gives a value a block of its own.
func (s *dynamic) acquire(slot int) {
	v := &s.vals[slot]
	float := v.DType.IsFloat()
	n := v.Len()
	b := s.fitting(float, n)
	if b < 0 {
		b = len(s.blocks)
		s.blocks = append(s.blocks, block{})
	}
	k := &s.blocks[b]
	if float {
		if k.f == nil || cap(k.f) < n {
			s.held += 4 * int64(n-cap(k.f))
			k.f = make([]float32, n)
		}
		v.F = k.f[:n]
	} else {
		if k.i == nil || cap(k.i) < n {
			s.held += 8 * int64(n-cap(k.i))
			k.i = make([]int64, n)
		}
		v.I = k.i[:n]
	}
	k.refs = 1
	s.block[slot] = b
}
