package engine

import (
	"context"
	"fmt"

	"idunno/models/internal/ops"
)

// Session runs a program. It owns its buffers and must not be used by two goroutines at once.
type Session struct {
	p       *Program
	vals    []Tensor // by slot
	block   []int    // by slot: the block its elements are in, -1 for none
	blocks  []block
	held    int64 // bytes in blocks
	args    [][]*Tensor
	outs    [][]*Tensor
	specs   []ops.Spec
	scratch ops.Scratch
	results []*Tensor

	dry              bool
	flops            int64
	spent            int64 // arithmetic done in a dry run
	live, peak, temp int64 // bytes: alive now, most alive at once, largest scratch space
}

// block is memory for the elements of one value or of several views of it.
type block struct {
	f    []float32
	i    []int64
	refs int
}

// NewSession returns a session; the program may have any number of them.
func (p *Program) NewSession() *Session {
	s := &Session{p: p, vals: make([]Tensor, p.slots), block: make([]int, p.slots)}
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
	return s
}

// Run computes the outputs. Inputs are read where they are; outputs stay valid until the next Run. Between nodes it looks at ctx and returns
// its error. It returns ErrTooLarge before more memory is taken than allowed, and turns a panic in an operator into an error.
func (s *Session) Run(ctx context.Context, in []*Tensor) ([]*Tensor, error) {
	if err := s.start(in); err != nil {
		return nil, err
	}
	for i := range s.p.steps {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := s.step(i); err != nil {
			return nil, fmt.Errorf("%s: %w", s.p.steps[i].title, err)
		}
	}
	return s.results, nil
}

// Plan is what a run with given shapes would need and give.
type Plan struct {
	Outputs []Tensor // types and shapes, without elements
	FLOPs   int64    // additions and multiplications
	Peak    int64    // bytes of all values alive at once plus scratch space, without weights
}

// Plan works out the shapes of a run without running it: inputs need no elements. It returns ErrShapeUnknown when a shape depends on
// computed values.
func (p *Program) Plan(in []*Tensor) (*Plan, error) {
	s := p.NewSession()
	s.dry = true
	if err := s.start(in); err != nil {
		return nil, err
	}
	for i := range p.steps {
		err := s.step(i)
		if ops.NeedsValues(err) {
			return nil, fmt.Errorf("%s: %w", p.steps[i].title, ErrShapeUnknown)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.steps[i].title, err)
		}
	}
	plan := &Plan{FLOPs: s.flops, Peak: s.peak + s.temp}
	for _, t := range s.results {
		plan.Outputs = append(plan.Outputs, Tensor{DType: t.DType, Shape: t.Shape})
	}
	return plan, nil
}

// start checks the inputs and frees what the last run left.
func (s *Session) start(in []*Tensor) error {
	if len(in) != len(s.p.inputs) {
		return fmt.Errorf("the model takes %d inputs, not %d", len(s.p.inputs), len(in))
	}
	for i := range s.blocks {
		s.blocks[i].refs = 0
	}
	for i := range s.block {
		s.block[i] = -1
	}
	for i, t := range in {
		v := s.p.inputs[i]
		if t.DType != v.DType {
			return fmt.Errorf("input %q is %s, not %s", v.Name, v.DType, t.DType)
		}
		if !s.dry && !t.Known() {
			return fmt.Errorf("input %q has %d elements, its shape is %v", v.Name, len(t.F)+len(t.I), t.Shape)
		}
		if v.Shape && len(v.Dims) != len(t.Shape) {
			return fmt.Errorf("input %s can't have the shape %v", v, t.Shape)
		}
		for j, d := range v.Dims {
			if d.Size >= 0 && d.Size != t.Shape[j] {
				return fmt.Errorf("input %s can't have the shape %v", v, t.Shape)
			}
		}
		s.vals[s.p.inSlot[i]] = *t
	}
	return nil
}

// step runs one operator, or in a dry run only works out its shapes.
func (s *Session) step(i int) (err error) {
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
	run := !s.dry || s.worthKnowing(st, args, specs, size)
	for k, slot := range st.out {
		v := &s.vals[slot]
		v.DType, v.F, v.I = specs[k].DType, nil, nil
		v.Shape = append(v.Shape[:0], specs[k].Shape...)
		if st.alias {
			v.F, v.I = args[0].F, args[0].I
			if b := s.block[st.in[0]]; b >= 0 {
				s.block[slot] = b
				s.blocks[b].refs++
			}
		} else if run {
			s.acquire(slot)
		}
	}
	if run && !st.alias && size > 0 { // an empty tensor may have dimensions that it would take long to walk through
		st.op.Run(&s.scratch, args, outs)
	}
	for _, slot := range st.free {
		if b := s.block[slot]; b >= 0 {
			s.blocks[b].refs--
			s.block[slot] = -1
		}
		s.live -= s.bytes(slot)
	}
	return nil
}

// check enforces the memory limit for the outputs of a step and counts its cost. It returns the bytes of the outputs.
func (s *Session) check(st *step, args []*Tensor, specs []ops.Spec) (int64, error) {
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
		flops, scratch := c.Cost(args, specs)
		s.flops += flops
		temp = 4 * scratch
	}
	if temp > limit || total > limit {
		return 0, fmt.Errorf("%w: %d MiB for one node, at most %d MiB are allowed", ErrTooLarge, (temp+total)>>20, limit>>20)
	}
	if s.dry {
		s.temp = max(s.temp, temp)
		s.live += total
		s.peak = max(s.peak, s.live)
		if s.peak+s.temp > limit {
			return 0, fmt.Errorf("%w: %d MiB for this run, at most %d MiB are allowed", ErrTooLarge, (s.peak+s.temp)>>20, limit>>20)
		}
		return total, nil
	}
	if s.demand(st, specs)+temp > limit {
		return 0, fmt.Errorf("%w: at most %d MiB are allowed; use a smaller batch", ErrTooLarge, limit>>20)
	}
	return total, nil
}

// bytes is the size of a value in a dry run.
func (s *Session) bytes(slot int) int64 {
	if !s.dry {
		return 0
	}
	v := &s.vals[slot]
	n, _ := sizeOf(ops.Spec{DType: v.DType, Shape: v.Shape}, 1<<62)
	return n
}

// worthKnowing decides in a dry run whether to compute a step: only small tensors that come from nothing but shapes and constants.
func (s *Session) worthKnowing(st *step, args []*Tensor, specs []ops.Spec, size int64) bool {
	if st.alias {
		return false
	}
	work := size
	if _, ok := st.op.(ops.Sizer); !ok {
		for _, a := range args {
			if a != nil && !a.Known() {
				return false
			}
			if a != nil {
				work += int64(a.Len())
			}
		}
		if c, ok := st.op.(ops.Coster); ok {
			flops, _ := c.Cost(args, specs)
			work += flops
		}
	}
	if work > 1<<20 || s.spent+work > maxFold {
		return false
	}
	s.spent += work
	return true
}

// demand is the memory the session would hold after the outputs of a step are allocated.
func (s *Session) demand(st *step, specs []ops.Spec) int64 {
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
func (s *Session) fitting(float bool, n int) int {
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
func (s *Session) acquire(slot int) {
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
