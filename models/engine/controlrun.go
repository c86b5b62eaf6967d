package engine

import (
	"context"
	"fmt"
	"math"
	"slices"

	"idunno/models/internal/ops"
	"idunno/models/onnx"
)

// graphRun is what a run without a plan keeps for one node that runs graphs: sessions of the graphs, and buffers for what goes from one run to the
// next. They are reused from call to call.
type graphRun struct {
	bodies    []*dynamic
	args      []*Tensor // of a run of the body
	step      Tensor    // number of the run
	going     Tensor    // whether there is a next one
	cur, next []Tensor  // states
	slices    []Tensor  // elements of scanned inputs
	shape     []int     // working space
	stacked   []Tensor  // outputs of all runs, along a new first axis
}

// control runs step i. In a dry run it works out the shapes from one run of each graph.
func (s *dynamic) control(ctx context.Context, i int, c *control) error {
	r := s.graphs[i]
	if r == nil {
		r = &graphRun{}
		for _, b := range c.bodies {
			r.bodies = append(r.bodies, newDynamic(b.program, s.scratch))
		}
		if s.graphs == nil {
			s.graphs = map[int]*graphRun{}
		}
		s.graphs[i] = r
	}
	var err error
	switch c.kind {
	case "If":
		err = s.runIf(ctx, i, c, r)
	case "Loop":
		err = s.runLoop(ctx, i, c, r)
	case "Scan":
		err = s.runScan(ctx, i, c, r)
	}
	if err != nil {
		return err
	}
	s.release(i)
	return nil
}

// call runs body b with r.args as its own inputs.
func (s *dynamic) call(ctx context.Context, i int, c *control, r *graphRun, b int) ([]*Tensor, error) {
	sub, inner := &c.bodies[b], r.bodies[b]
	r.args = r.args[:sub.inputs]
	for _, k := range sub.captures {
		r.args = append(r.args, s.args[i][k])
	}
	inner.dry, inner.limit = s.dry, s.limit-s.held-s.live+inner.held
	held := inner.held
	inner.flops, inner.live, inner.peak, inner.temp = 0, 0, 0, 0
	inner.shown = inner.shown[:0]
	inner.start(r.args)
	err := inner.steps(ctx)
	s.held += inner.held - held
	if err != nil {
		return nil, err
	}
	if s.dry {
		s.temp = max(s.temp, inner.peak+inner.temp)
	}
	s.flops += inner.flops
	return inner.results, nil
}

// give makes the elements of t, which may be nil, the k-th output of step i.
func (s *dynamic) give(i, k int, d onnx.DType, shape []int, t *Tensor) error {
	slot := s.p.steps[i].out[k]
	v := &s.vals[slot]
	v.DType, v.F, v.I = d, nil, nil
	v.Shape = append(v.Shape[:0], shape...)
	need, err := sizeOf(ops.Spec{DType: d, Shape: v.Shape}, s.limit)
	if err != nil {
		return err
	}
	if s.dry {
		s.live += need
		if s.peak = max(s.peak, s.live); s.peak+s.temp > s.limit {
			return tooLarge(s.peak+s.temp, s.limit)
		}
		return nil
	}
	n := v.Len()
	if b := s.fitting(d.IsFloat(), n); b >= 0 && s.blocks[b].capacity(d.IsFloat()) >= n {
		need = 0
	}
	if s.held+need > s.limit {
		return fmt.Errorf("%w: at most %s are allowed; use a smaller batch", ErrTooLarge, size(s.limit))
	}
	s.acquire(slot)
	if t != nil {
		copy(v.F, t.F)
		copy(v.I, t.I)
	}
	return nil
}

// scalar reads an input that must be one integer or truth value.
func scalar(t *Tensor, d onnx.DType, what string) (int64, error) {
	if t.DType != d || t.Len() != 1 {
		return 0, fmt.Errorf("%s is %s%v, expected is one %s", what, t.DType, t.Shape, d)
	}
	if !t.Known() {
		return 0, ops.ErrNeedsValues
	}
	return t.I[0], nil
}

// repeat multiplies the arithmetic that was counted since it was flops.
func (s *dynamic) repeat(flops, times int64) {
	if once := s.flops - flops; once > 0 && times > (math.MaxInt64/2-flops)/once {
		s.flops = math.MaxInt64 / 2
	} else {
		s.flops = flops + once*times
	}
}

func (s *dynamic) runIf(ctx context.Context, i int, c *control, r *graphRun) error {
	which, err := scalar(s.args[i][0], onnx.Bool, "the condition")
	if ops.NeedsValues(err) {
		return s.eitherBranch(ctx, i, c, r)
	}
	if err != nil {
		return err
	}
	b := 0
	if which == 0 {
		b = 1
	}
	out, err := s.call(ctx, i, c, r, b)
	if err != nil {
		return err
	}
	for k := range s.p.steps[i].out {
		if err := s.give(i, k, out[k].DType, out[k].Shape, out[k]); err != nil {
			return err
		}
	}
	return nil
}

// eitherBranch works out the shapes of an If whose condition is not known: both branches must give the same.
func (s *dynamic) eitherBranch(ctx context.Context, i int, c *control, r *graphRun) error {
	first, err := s.call(ctx, i, c, r, 0)
	if err != nil {
		return err
	}
	flops := s.flops
	second, err := s.call(ctx, i, c, r, 1)
	if err != nil {
		return err
	}
	s.flops = max(flops, s.flops-flops)
	for k := range s.p.steps[i].out {
		if first[k].DType != second[k].DType || !slices.Equal(first[k].Shape, second[k].Shape) {
			return ops.ErrNeedsValues
		}
		if err := s.give(i, k, first[k].DType, first[k].Shape, nil); err != nil {
			return err
		}
	}
	return nil
}

// keep copies t into a buffer of the run.
func (s *dynamic) keep(r *graphRun, to, t *Tensor) error {
	to.DType = t.DType
	to.Shape = append(to.Shape[:0], t.Shape...)
	to.F, to.I = to.F[:0], to.I[:0]
	if s.dry { // what holds in one run need not hold in the next
		return nil
	}
	return s.extend(r, to, t.F, t.I)
}

// extend appends elements to a buffer of the run.
func (s *dynamic) extend(r *graphRun, to *Tensor, f []float32, i []int64) error {
	old := 4*cap(to.F) + 8*cap(to.I)
	if grown := int64(4*(len(to.F)+len(f)) + 8*(len(to.I)+len(i))); s.held+grown-int64(old) > s.limit {
		return fmt.Errorf("%w: at most %s are allowed", ErrTooLarge, size(s.limit))
	}
	to.F, to.I = append(to.F, f...), append(to.I, i...)
	s.held += int64(4*cap(to.F) + 8*cap(to.I) - old)
	return nil
}

// begin makes the states the first ones and forgets what was stacked.
func (s *dynamic) begin(r *graphRun, states []*Tensor, stacks int) error {
	if len(r.cur) != len(states) {
		r.cur, r.next = make([]Tensor, len(states)), make([]Tensor, len(states))
	}
	if len(r.stacked) != stacks {
		r.stacked = make([]Tensor, stacks)
	}
	for k := range r.stacked {
		t := &r.stacked[k]
		t.F, t.I, t.Shape = t.F[:0], t.I[:0], t.Shape[:0]
	}
	for k, t := range states {
		if err := s.keep(r, &r.cur[k], t); err != nil {
			return err
		}
	}
	return nil
}

// advance takes over the states and the elements for the stacks after run n.
func (s *dynamic) advance(r *graphRun, n int, states, elements []*Tensor) error {
	for k, t := range states {
		if s.dry && (t.DType != r.cur[k].DType || !slices.Equal(t.Shape, r.cur[k].Shape)) {
			return ops.ErrNeedsValues // the shapes change from run to run
		}
		if err := s.keep(r, &r.next[k], t); err != nil {
			return err
		}
	}
	r.cur, r.next = r.next, r.cur
	for k, t := range elements {
		to := &r.stacked[k]
		if n == 0 {
			to.DType = t.DType
			to.Shape = append(to.Shape[:0], t.Shape...)
		} else if t.DType != to.DType || !slices.Equal(t.Shape, to.Shape) {
			return fmt.Errorf("output %d of the body is %s%v in run %d and was %s%v before", len(states)+k, t.DType, t.Shape, n, to.DType, to.Shape)
		}
		if s.dry {
			continue
		}
		if err := s.extend(r, to, t.F, t.I); err != nil {
			return err
		}
	}
	return nil
}

// finish gives the last states and the stacks. Without any run the shape of a stack is what the body declares.
func (s *dynamic) finish(i int, c *control, r *graphRun, n, firstStack int) error {
	for k := range s.p.steps[i].out {
		if k < len(r.cur) {
			t := &r.cur[k]
			if err := s.give(i, k, t.DType, t.Shape, t); err != nil {
				return err
			}
			continue
		}
		t := &r.stacked[k-len(r.cur)]
		if n == 0 {
			v := c.bodies[0].program.outputs[firstStack+k-len(r.cur)]
			if t.DType = v.DType; !t.DType.IsFloat() && !t.DType.IsInt() {
				return fmt.Errorf("the body never ran and doesn't declare the type of its output %q", v.Name)
			}
			for _, d := range v.Dims {
				t.Shape = append(t.Shape, max(d.Size, 0))
			}
		}
		var err error
		if c.kind == "Scan" {
			err = s.unstack(i, c, r, k-len(r.cur), n)
		} else {
			r.shape = append(append(r.shape[:0], n), t.Shape...)
			err = s.give(i, k, t.DType, r.shape, t)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// loopInputs reads how often a Loop runs at most, -1 without limit, and whether it begins at all.
func loopInputs(args []*Tensor) (trips, going int64, err error) {
	trips, going = -1, 1
	if args[0] != nil {
		if trips, err = scalar(args[0], onnx.Int64, "the number of runs"); err != nil {
			return 0, 0, err
		}
		trips = max(trips, 0)
	}
	if args[1] != nil {
		going, err = scalar(args[1], onnx.Bool, "the condition")
	}
	return trips, going, err
}

func (s *dynamic) runLoop(ctx context.Context, i int, c *control, r *graphRun) error {
	args := s.args[i]
	trips, going, err := loopInputs(args)
	if ops.NeedsValues(err) {
		trips, going = -1, 1
	} else if err != nil {
		return err
	}
	outs := len(c.bodies[0].program.outputs)
	states := c.own - 2
	if err := s.begin(r, args[2:c.own], outs-1-states); err != nil {
		return err
	}
	n := 0
	for ; going != 0 && (trips < 0 || int64(n) < trips); n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		r.step = Tensor{DType: onnx.Int64, I: append(r.step.I[:0], int64(n))}
		r.going = Tensor{DType: onnx.Bool, I: append(r.going.I[:0], 1)}
		if s.dry {
			r.step.I, r.going.I = r.step.I[:0], r.going.I[:0]
		}
		r.args = append(r.args[:0], &r.step, &r.going)
		for k := range r.cur {
			r.args = append(r.args, &r.cur[k])
		}
		flops := s.flops
		out, err := s.call(ctx, i, c, r, 0)
		if err != nil {
			return fmt.Errorf("run %d: %w", n, err)
		}
		if going, err = scalar(out[0], onnx.Bool, "the body's condition"); err != nil && !(s.dry && ops.NeedsValues(err)) {
			return err
		}
		if err := s.advance(r, n, out[1:1+states], out[1+states:]); err != nil {
			return err
		}
		if s.dry {
			// The other runs have the same shapes. How many there will be is known only when the body never ends the loop by itself.
			if trips < 0 || !c.endless() {
				if outs-1 > states {
					return ops.ErrNeedsValues
				}
				break
			}
			s.repeat(flops, trips)
			n = int(min(trips, 1<<40))
			break
		}
	}
	return s.finish(i, c, r, n, 1+states)
}

// endless says that the body's condition for going on is constantly true or the one that it got.
func (c *control) endless() bool {
	p := c.bodies[0].program
	s := p.outSlot[0]
	for again := true; again; { // through nodes that only pass it on
		again = false
		for k := range p.steps {
			if st := &p.steps[k]; st.alias && len(st.out) == 1 && st.out[0] == s {
				s, again = st.in[0], true
			}
		}
	}
	return s == p.inSlot[1] || p.isConst[s] && p.consts[s].Len() == 1 && p.consts[s].I[0] != 0
}
