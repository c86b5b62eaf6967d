package engine

import (
	"context"
	"fmt"

	"idunno/models/internal/ops"
)

// dynamic runs a program without a plan, where shapes depend on computed values: memory is found for each output when its step comes, among
// blocks that are kept from run to run. In a dry run it only works out shapes and costs.
type dynamic struct {
	p       *Program
	vals    []Tensor // by slot
	block   []int    // by slot: the block its elements are in, -1 for none
	blocks  []block
	held    int64 // bytes in blocks
	args    [][]*Tensor
	outs    [][]*Tensor
	specs   []ops.Spec
	scratch *ops.Scratch
	results []*Tensor
	free    [][]int           // by step: values that nobody needs after it
	limit   int64             // bytes that the blocks may take
	graphs  map[int]*graphRun // by step: the state of nodes that run graphs

	dry              bool
	flops            int64
	shown            []Step
	spent            int64 // arithmetic done in a dry run
	live, peak, temp int64 // bytes: alive now, most alive at once, largest scratch space
}

// block is memory for the elements of one value or of several views of it.
type block struct {
	f    []float32
	i    []int64
	refs int
}

// newDynamic uses the scratch space of a session.
func newDynamic(p *Program, scratch *ops.Scratch) *dynamic {
	s := &dynamic{p: p, scratch: scratch, limit: p.limits.Memory, free: make([][]int, len(p.steps)), vals: make([]Tensor, p.slots), block: make([]int, p.slots)}
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
func (s *dynamic) run(ctx context.Context, in []*Tensor) ([]*Tensor, error) {
	s.start(in)
	if err := s.steps(ctx); err != nil {
		return nil, err
	}
	return s.results, ctx.Err()
}

// plan is [Program.Plan] by a dry run.
func (s *dynamic) plan(in []*Tensor) (*Plan, error) {
	s.dry = true
	s.start(in)
	err := s.steps(context.Background())
	if ops.NeedsValues(err) {
		return nil, fmt.Errorf("%w: %w", ErrShapeUnknown, err)
	}
	if err != nil {
		return nil, err
	}
	plan := &Plan{FLOPs: s.flops, Peak: s.peak + s.temp, Steps: s.shown}
	for _, t := range s.results {
		plan.Outputs = append(plan.Outputs, Tensor{DType: t.DType, Shape: t.Shape})
	}
	return plan, nil
}

func (s *dynamic) steps(ctx context.Context) error {
	for i := range s.p.steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		flops := s.flops
		if err := s.step(ctx, i); err != nil {
			return fmt.Errorf("%s: %w", s.p.steps[i].title, err)
		}
		if st := &s.p.steps[i]; s.dry && !st.alias {
			v := &s.vals[st.out[0]]
			s.shown = append(s.shown, Step{st.name, st.title, Tensor{DType: v.DType, Shape: v.Shape}, s.flops - flops})
		}
	}
	return nil
}

// start takes the inputs and frees what the last run left.
func (s *dynamic) start(in []*Tensor) {
	for i := range s.blocks {
		s.blocks[i].refs = 0
	}
	for i := range s.block {
		s.block[i] = -1
	}
	for i, t := range in {
		s.vals[s.p.inSlot[i]] = *t
	}
}

// step runs one operator, or in a dry run only works out its shapes.
func (s *dynamic) step(ctx context.Context, i int) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("failed: %v", r)
		}
	}()
	st := &s.p.steps[i]
	args, outs, specs := s.args[i], s.outs[i], s.specs[:len(st.out)]
	if c, ok := st.op.(*control); ok {
		return s.control(ctx, i, c)
	}
	if err := st.op.Shape(args, specs); err != nil {
		return err
	}
	total, err := s.check(st, args, specs)
	if err != nil {
		return err
	}
	run := !s.dry || s.worthKnowing(st, args, specs, total)
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
	if run && !st.alias && total > 0 { // an empty tensor may have dimensions that it would take long to walk through
		st.op.Run(s.scratch, args, outs)
	}
	s.release(i)
	return nil
}

// release gives back the blocks of the values that nobody needs after a step.
func (s *dynamic) release(i int) {
	for _, slot := range s.free[i] {
		if b := s.block[slot]; b >= 0 {
			s.blocks[b].refs--
			s.block[slot] = -1
		}
		s.live -= s.bytes(slot)
	}
}

// check enforces the memory limit for the outputs of a step and counts its cost. It returns the bytes of the outputs.
func (s *dynamic) check(st *step, args []*Tensor, specs []ops.Spec) (int64, error) {
	limit := s.limit
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
		return 0, tooLarge(temp+total, limit)
	}
	if s.dry {
		s.temp = max(s.temp, temp)
		s.live += total
		s.peak = max(s.peak, s.live)
		if s.peak+s.temp > limit {
			return 0, tooLarge(s.peak+s.temp, limit)
		}
		return total, nil
	}
	if s.demand(st, specs)+temp > limit {
		return 0, fmt.Errorf("%w: at most %s are allowed; use a smaller batch", ErrTooLarge, size(limit))
	}
	return total, nil
}

// bytes is the size of a value in a dry run.
func (s *dynamic) bytes(slot int) int64 {
	if !s.dry {
		return 0
	}
	v := &s.vals[slot]
	n, _ := sizeOf(ops.Spec{DType: v.DType, Shape: v.Shape}, 1<<62)
	return n
}

// worthKnowing decides in a dry run whether to compute a step: only small tensors that come from nothing but shapes and constants.
func (s *dynamic) worthKnowing(st *step, args []*Tensor, specs []ops.Spec, size int64) bool {
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
