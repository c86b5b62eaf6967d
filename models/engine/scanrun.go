package engine

import (
	"context"
	"fmt"
)

func (s *dynamic) runScan(ctx context.Context, i int, c *control, r *graphRun) error {
	p, args := &c.scan, s.args[i]
	trips, err := p.trips(args)
	if err != nil {
		return err
	}
	if err := s.begin(r, args[:p.states], len(p.outAxes)); err != nil {
		return err
	}
	if len(r.slices) != len(p.inAxes) {
		r.slices = make([]Tensor, len(p.inAxes))
	}
	for n := 0; n < trips; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		r.args = r.args[:0]
		for k := range r.cur {
			r.args = append(r.args, &r.cur[k])
		}
		for k := range r.slices {
			at := n
			if p.inBack[k] {
				at = trips - 1 - n
			}
			if err := s.slice(r, &r.slices[k], args[p.states+k], int(p.inAxes[k]), at); err != nil {
				return err
			}
			r.args = append(r.args, &r.slices[k])
		}
		flops := s.flops
		out, err := s.call(ctx, i, c, r, 0)
		if err != nil {
			return fmt.Errorf("run %d: %w", n, err)
		}
		if err := s.advance(r, n, out[:p.states], out[p.states:]); err != nil {
			return err
		}
		if s.dry { // the other runs have the same shapes
			s.repeat(flops, int64(trips))
			break
		}
	}
	return s.finish(i, c, r, trips, p.states)
}

// trips is the number of runs: the size of every scanned input along its axis.
func (p *scanPlan) trips(args []*Tensor) (int, error) {
	trips := -1
	for k, axis := range p.inAxes {
		t := args[p.states+k]
		if axis < 0 {
			axis += int64(len(t.Shape))
		}
		if axis < 0 || axis >= int64(len(t.Shape)) {
			return 0, fmt.Errorf("scan axis %d of a tensor with %d dimensions", p.inAxes[k], len(t.Shape))
		}
		if d := t.Shape[axis]; trips >= 0 && d != trips {
			return 0, fmt.Errorf("scanned inputs have %d and %d elements", trips, d)
		}
		trips = t.Shape[axis]
	}
	return trips, nil
}

// slice copies element at along an axis of t into a buffer of the run.
func (s *dynamic) slice(r *graphRun, to, t *Tensor, axis, at int) error {
	if axis < 0 {
		axis += len(t.Shape)
	}
	to.DType = t.DType
	to.Shape = append(append(to.Shape[:0], t.Shape[:axis]...), t.Shape[axis+1:]...)
	to.F, to.I = to.F[:0], to.I[:0]
	if s.dry {
		return nil
	}
	inner := elements(t.Shape[axis+1:])
	for o := range elements(t.Shape[:axis]) {
		from := (o*t.Shape[axis] + at) * inner
		var err error
		if t.DType.IsFloat() {
			err = s.extend(r, to, t.F[from:from+inner], nil)
		} else {
			err = s.extend(r, to, nil, t.I[from:from+inner])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unstack gives the k-th stack as an output, along its own axis and in its own direction.
func (s *dynamic) unstack(i int, c *control, r *graphRun, k, trips int) error {
	p, t := &c.scan, &r.stacked[k]
	axis := p.outAxes[k]
	if axis < 0 {
		axis += int64(len(t.Shape)) + 1
	}
	if axis < 0 || axis > int64(len(t.Shape)) {
		return fmt.Errorf("scan axis %d of an output with %d dimensions", p.outAxes[k], len(t.Shape)+1)
	}
	r.shape = append(append(append(r.shape[:0], t.Shape[:axis]...), trips), t.Shape[axis:]...)
	if err := s.give(i, p.states+k, t.DType, r.shape, nil); err != nil || s.dry {
		return err
	}
	v := &s.vals[s.p.steps[i].out[p.states+k]]
	inner, outer := elements(t.Shape[axis:]), elements(t.Shape[:axis])
	for n := range trips {
		to := n
		if p.outBack[k] {
			to = trips - 1 - n
		}
		for o := range outer {
			put(v, (o*trips+to)*inner, t, (n*outer+o)*inner, inner)
		}
	}
	return nil
}

func put(to *Tensor, at int, from *Tensor, start, n int) {
	if to.DType.IsFloat() {
		copy(to.F[at:at+n], from.F[start:])
	} else {
		copy(to.I[at:at+n], from.I[start:])
	}
}
