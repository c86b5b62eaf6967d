package engine

import (
	"context"
	"fmt"
	"slices"

	"idunno/models/internal/ops"
)

// Session runs a program. It owns its buffers and must not be used by two goroutines at once.
type Session struct {
	p       *Program
	plans   []*plan // the one used last in front
	floats  []float32
	ints    []int64
	arena   int // counts the times that floats or ints were made anew
	scratch ops.Scratch
	at      int      // step that is running
	dynamic *dynamic // for shapes that only a run can tell; nil until they are needed
}

// maxPlans is how many shapes of inputs a session keeps the plans of. Batches have one size, and the last of a set another.
const maxPlans = 8

// NewSession returns a session; the program may have any number of them.
func (p *Program) NewSession() *Session { return &Session{p: p} }

// Run computes the outputs. Inputs are read where they are; outputs stay valid until the next Run. It looks at ctx between nodes and within
// long ones, and returns its error. The first run with inputs of some shape plans where every value lies; later ones with that shape only
// compute. Run returns ErrTooLarge before more memory is taken than allowed, and turns a panic in an operator into an error.
func (s *Session) Run(ctx context.Context, in []*Tensor) ([]*Tensor, error) {
	if err := s.p.checkInputs(in, true); err != nil {
		return nil, err
	}
	pl, err := s.planFor(in)
	if err != nil {
		return nil, err
	}
	s.scratch.StopWhen(ctx.Done())
	if pl.dynamic {
		if s.dynamic == nil {
			s.dynamic = newDynamic(s.p, &s.scratch)
		}
		return s.dynamic.run(ctx, in)
	}
	s.bind(pl, in)
	if err := s.compute(ctx, pl); err != nil {
		return nil, err
	}
	return pl.results, nil
}

// planFor returns the plan for inputs of these shapes.
func (s *Session) planFor(in []*Tensor) (*plan, error) {
	at := slices.IndexFunc(s.plans, func(pl *plan) bool { return pl.fits(in) })
	if at < 0 {
		pl, err := s.p.newPlan(in)
		if err != nil {
			return nil, err
		}
		if at = len(s.plans); at == maxPlans {
			at--
		} else {
			s.plans = append(s.plans, nil)
		}
		s.plans[at] = pl
	}
	pl := s.plans[at]
	copy(s.plans[1:at+1], s.plans[:at])
	s.plans[0] = pl
	return pl, nil
}

// bind gives the values of a plan their places in the arena, unless they have them, and the inputs theirs.
func (s *Session) bind(pl *plan, in []*Tensor) {
	if len(s.floats) < pl.floats || len(s.ints) < pl.ints {
		if len(s.floats) < pl.floats {
			s.floats = nil // so that the old one can go before the new one comes
			s.floats = make([]float32, pl.floats)
		}
		if len(s.ints) < pl.ints {
			s.ints = make([]int64, pl.ints)
		}
		s.arena++
	}
	if pl.arena != s.arena {
		pl.arena = s.arena
		for slot, b := range pl.place {
			if b.buffer < 0 {
				continue
			}
			v, from := &pl.vals[slot], pl.buffers[b.buffer].at+b.offset
			if n := v.Len(); v.DType.IsFloat() {
				v.F = s.floats[from : from+n : from+n]
			} else {
				v.I = s.ints[from : from+n : from+n]
			}
		}
	}
	for i, t := range in {
		v := &pl.vals[s.p.inSlot[i]]
		v.F, v.I = t.F, t.I
	}
	for _, e := range pl.external {
		v, src := &pl.vals[e.slot], &pl.vals[e.from]
		if n := v.Len(); v.DType.IsFloat() {
			v.F = src.F[e.offset:][:n]
		} else {
			v.I = src.I[e.offset:][:n]
		}
	}
}

// compute runs the steps of a plan.
func (s *Session) compute(ctx context.Context, pl *plan) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: failed: %v", s.p.steps[s.at].title, r)
		}
	}()
	for _, i := range pl.run {
		if err := ctx.Err(); err != nil {
			return err
		}
		s.at = i
		st := &s.p.steps[i]
		if st.flat != nil {
			ops.RunFlat(&s.scratch, st.flat, pl.args[i], pl.outs[i])
			continue
		}
		st.op.Run(&s.scratch, pl.args[i], pl.outs[i])
	}
	return ctx.Err() // the last step may have been interrupted
}

// checkInputs compares inputs with what the model declares; with elements they must have them.
func (p *Program) checkInputs(in []*Tensor, elements bool) error {
	if len(in) != len(p.inputs) {
		return fmt.Errorf("the model takes %d inputs, not %d", len(p.inputs), len(in))
	}
	for i, t := range in {
		v := p.inputs[i]
		if t.DType != v.DType {
			return fmt.Errorf("input %q is %s, not %s", v.Name, v.DType, t.DType)
		}
		if elements && !t.Known() {
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
	}
	return nil
}
