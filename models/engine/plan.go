package engine

import (
	"fmt"
	"slices"

	"idunno/models/internal/ops"
)

// Plan is what a run with given shapes would need and give.
type Plan struct {
	Outputs []Tensor // types and shapes, without elements
	FLOPs   int64    // additions and multiplications
	Peak    int64    // bytes of the arena that holds all values, plus scratch space; without inputs and weights
	Steps   []Step   // what is computed, in order; views and what follows from shapes alone are left out
}

// Step is one step of a plan.
type Step struct {
	Operator string // with those it took over, as "Conv+Relu"
	Title    string // names the node in the model
	Output   Tensor // type and shape of the first output
	FLOPs    int64
}

// Plan works out the shapes of a run and its memory without running it: inputs need no elements. It returns ErrShapeUnknown when a shape
// depends on computed values.
func (p *Program) Plan(in []*Tensor) (*Plan, error) {
	if err := p.checkInputs(in, false); err != nil {
		return nil, err
	}
	pl, err := p.newPlan(in)
	if err != nil {
		return nil, err
	}
	if pl.dynamic {
		return newDynamic(p, &ops.Scratch{}).plan(in)
	}
	out := &Plan{Peak: 4*int64(pl.floats) + 8*int64(pl.ints) + pl.temp}
	for _, t := range pl.results {
		out.Outputs = append(out.Outputs, Tensor{DType: t.DType, Shape: t.Shape})
	}
	for i, st := range p.steps {
		out.FLOPs += pl.flops[i]
		if !slices.Contains(pl.run, i) {
			continue
		}
		v := pl.outs[i][0]
		out.Steps = append(out.Steps, Step{st.name, st.title, Tensor{DType: v.DType, Shape: v.Shape}, pl.flops[i]})
	}
	return out, nil
}

// plan is where everything lies in a run with inputs of certain shapes. The arenas belong to the session; all of its plans share them.
type plan struct {
	shapes  [][]int // of the inputs
	dynamic bool    // a shape depends on computed values, or there are too many: nothing else holds

	vals       []Tensor // by slot
	args, outs [][]*Tensor
	results    []*Tensor
	run        []int // steps to run
	flops      []int64
	temp       int64 // bytes of the largest scratch space

	place       []place // by slot
	buffers     []buffer
	external    []alias
	floats      int // elements of the arenas
	ints        int
	arena       int // of the session that vals point into
	known       []bool
	spent, live int64
}

// place is where a value is: offset elements into a buffer; buffer -1 is outside, as inputs, constants and what is known are.
type place struct{ buffer, offset int }

// buffer is a part of an arena that one value and its views use from step first to step last.
type buffer struct {
	float       bool
	size        int // elements
	first, last int
	at          int // in the arena
}

// alias is a view of an input.
type alias struct{ slot, from, offset int }

func (pl *plan) fits(in []*Tensor) bool {
	for i, t := range in {
		if !slices.Equal(pl.shapes[i], t.Shape) {
			return false
		}
	}
	return true
}

// maxBuffers bounds the work of placing buffers, which grows with the square of their number; models with more values run without a plan.
const maxBuffers = 8192

func (p *Program) newPlan(in []*Tensor) (*plan, error) {
	pl := &plan{
		vals: make([]Tensor, p.slots), place: make([]place, p.slots), known: make([]bool, p.slots), flops: make([]int64, len(p.steps)),
	}
	for i := range pl.place {
		pl.place[i].buffer = -1
		if p.isConst[i] {
			pl.vals[i], pl.known[i] = p.consts[i], true
		}
	}
	for i, t := range in {
		shape := slices.Clone(t.Shape)
		pl.shapes = append(pl.shapes, shape)
		pl.vals[p.inSlot[i]] = Tensor{DType: t.DType, Shape: shape}
	}
	arg := func(slots []int) []*Tensor {
		list := make([]*Tensor, len(slots))
		for i, x := range slots {
			if x >= 0 {
				list[i] = &pl.vals[x]
			}
		}
		return list
	}
	pl.results = arg(p.outSlot)
	for i := range p.steps {
		st := &p.steps[i]
		pl.args, pl.outs = append(pl.args, arg(st.in)), append(pl.outs, arg(st.out))
		err := pl.step(p, i)
		if ops.NeedsValues(err) || err == nil && len(pl.buffers) > maxBuffers {
			return &plan{shapes: pl.shapes, dynamic: true}, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", st.title, err)
		}
	}
	pl.floats, pl.ints = arrange(pl.buffers, true), arrange(pl.buffers, false)
	if peak := 4*int64(pl.floats) + 8*int64(pl.ints) + pl.temp; peak > p.limits.Memory {
		return nil, tooLarge(peak, p.limits.Memory)
	}
	return pl, nil
}

func tooLarge(need, limit int64) error {
	return fmt.Errorf("%w: %s for this run, at most %s are allowed", ErrTooLarge, size(need), size(limit))
}

// step works out the shapes of a step and finds places for its outputs.
func (pl *plan) step(p *Program, i int) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("failed: %v", r)
		}
	}()
	st, args, outs := &p.steps[i], pl.args[i], pl.outs[i]
	specs := make([]ops.Spec, len(outs))
	if err := st.op.Shape(args, specs); err != nil {
		return err
	}
	total, limit := int64(0), p.limits.Memory
	for k, sp := range specs {
		n, err := sizeOf(sp, limit)
		if err != nil {
			return err
		}
		total += n
		outs[k].DType, outs[k].Shape = sp.DType, sp.Shape
	}
	temp := int64(0)
	if c, ok := st.op.(ops.Coster); ok {
		flops, scratch := c.Cost(args, specs)
		pl.flops[i], temp = flops, 4*scratch
	}
	pl.temp = max(pl.temp, temp)
	if temp > limit || total+temp > limit {
		return tooLarge(total+temp, limit)
	}
	if pl.knownFromShapes(p, st, args, total, pl.flops[i]) {
		for k, slot := range st.out {
			*outs[k] = newTensor(specs[k])
			pl.known[slot] = true
		}
		if total > 0 {
			st.op.Run(&ops.Scratch{}, args, outs)
		}
		return nil
	}
	for k, slot := range st.out {
		if !pl.view(p, i, k, slot) && !pl.inPlace(p, i, slot) {
			pl.place[slot] = place{buffer: len(pl.buffers)}
			pl.buffers = append(pl.buffers, buffer{float: specs[k].DType.IsFloat(), size: elements(specs[k].Shape), first: i, last: p.last[slot]})
		}
	}
	if total > 0 && !pl.isView(st) { // an empty tensor may have dimensions that it would take long to walk through
		pl.run = append(pl.run, i)
	}
	return nil
}

// knownFromShapes decides whether to compute a step now: only small tensors that come from nothing but shapes and constants.
func (pl *plan) knownFromShapes(p *Program, st *step, args []*Tensor, size, flops int64) bool {
	work := size + flops
	if _, ok := st.op.(ops.Sizer); !ok {
		for k, a := range args {
			if a != nil && !(pl.known[st.in[k]] && a.Known()) {
				return false
			}
			if a != nil {
				work += int64(a.Len())
			}
		}
	}
	if st.alias || work > 1<<20 || pl.spent+work > maxKnown {
		return false
	}
	pl.spent += work
	return true
}

// maxKnown bounds the work, and with it the memory, of all steps that a plan computes.
const maxKnown = 1 << 24

func (pl *plan) isView(st *step) bool {
	if st.alias {
		return true
	}
	v, ok := st.op.(ops.Viewer)
	if !ok {
		return false
	}
	_, ok = v.View(pl.argsOf(st), 0)
	return ok
}

func (pl *plan) argsOf(st *step) []*Tensor {
	list := make([]*Tensor, len(st.in))
	for i, x := range st.in {
		if x >= 0 {
			list[i] = &pl.vals[x]
		}
	}
	return list
}

// view makes output k of a step a part of the first input, where the operator allows it.
func (pl *plan) view(p *Program, i, k, slot int) bool {
	st := &p.steps[i]
	offset := 0
	if !st.alias {
		v, ok := st.op.(ops.Viewer)
		if !ok {
			return false
		}
		if offset, ok = v.View(pl.args[i], k); !ok {
			return false
		}
	}
	from := st.in[0]
	src, dst := &pl.vals[from], &pl.vals[slot]
	if b := pl.place[from]; b.buffer >= 0 {
		pl.place[slot] = place{b.buffer, b.offset + offset}
		pl.extend(b.buffer, p.last[slot])
		return true
	}
	if pl.known[from] && src.Known() {
		n := dst.Len()
		if pl.known[slot] = true; dst.DType.IsFloat() {
			dst.F = src.F[offset:][:n]
		} else {
			dst.I = src.I[offset:][:n]
		}
		return true
	}
	pl.external = append(pl.external, alias{slot, from, offset})
	return true
}

func (pl *plan) extend(b, last int) { pl.buffers[b].last = max(pl.buffers[b].last, last) }

// inPlace lets the output of a step take the space of an input that nobody needs any more.
func (pl *plan) inPlace(p *Program, i, slot int) bool {
	st := &p.steps[i]
	op, ok := st.op.(ops.InPlacer)
	if !ok || p.limits.NoFusion {
		return false
	}
	out := &pl.vals[slot]
	for k, from := range st.in {
		if from < 0 || !op.InPlace(k) {
			continue
		}
		b, v := pl.place[from], &pl.vals[from]
		if b.buffer < 0 || pl.buffers[b.buffer].last > i || v.DType.IsFloat() != out.DType.IsFloat() || !slices.Equal(v.Shape, out.Shape) {
			continue
		}
		shared := false
		for _, other := range st.in { // read in another order, or at another offset, while this one is overwritten
			shared = shared || other >= 0 && other != from && pl.place[other].buffer == b.buffer
		}
		if shared {
			continue
		}
		pl.place[slot] = b
		pl.extend(b.buffer, p.last[slot])
		return true
	}
	return false
}

// alignment of buffers in elements: those of floats begin at a cache line.
const alignment = 16

// arrange finds offsets for the buffers of one kind so that those alive at once don't overlap: the largest first, each in the smallest gap
// that takes it. It returns the elements of the arena.
func arrange(all []buffer, float bool) int {
	var order []*buffer
	for i := range all {
		if all[i].float == float && all[i].size > 0 {
			order = append(order, &all[i])
		}
	}
	slices.SortStableFunc(order, func(a, b *buffer) int { return b.size - a.size })
	total := 0
	var placed []*buffer // by offset
	for _, b := range order {
		best, room, free := -1, 0, 0
		for _, o := range placed {
			if o.first > b.last || b.first > o.last {
				continue
			}
			if gap := o.at - free; gap >= b.size && (best < 0 || gap < room) {
				best, room = free, gap
			}
			free = max(free, (o.at+o.size+alignment-1)/alignment*alignment)
		}
		if best < 0 {
			best = free
		}
		b.at = best
		total = max(total, best+b.size)
		at, _ := slices.BinarySearchFunc(placed, b, func(x, y *buffer) int { return x.at - y.at })
		placed = slices.Insert(placed, at, b)
	}
	return total
}
