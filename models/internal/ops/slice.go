package ops

import (
	"fmt"
	"math"
)

// slice takes every step-th element of ranges of some axes; the ranges are attributes before opset 10, inputs since.
type slice struct{ starts, ends, axes, steps axesSource }

func buildSlice(n *Node, a *attrs) (Op, error) {
	none := axesSource{input: -1}
	if n.Opset < 10 {
		return &slice{axesSource{a.ints("starts"), -1}, axesSource{a.ints("ends"), -1}, axesSource{a.ints("axes"), -1}, none}, nil
	}
	from := func(i int) axesSource {
		if n.present(i) {
			return axesSource{input: i}
		}
		return none
	}
	if !n.present(1) || !n.present(2) {
		return nil, fmt.Errorf("starts or ends are missing")
	}
	return &slice{from(1), from(2), from(3), from(4)}, nil
}

// cut is the part of one axis: n elements from first with a step.
type cut struct{ first, step, n int }

// cuts are the parts of all axes.
func (s *slice) cuts(in []*Tensor) (out [maxRank]cut, err error) {
	rank := len(in[0].Shape)
	if rank > maxRank {
		return out, fmt.Errorf("%d dimensions are too many", rank)
	}
	var lists [4][]int64
	for i, src := range []axesSource{s.starts, s.ends, s.axes, s.steps} {
		l, err := src.of(in)
		if err != nil {
			return out, err
		}
		if l != nil && len(l) != len(lists[0]) && i > 0 {
			return out, fmt.Errorf("starts, ends, axes and steps have different lengths")
		}
		lists[i] = l
	}
	starts, ends, axes, steps := lists[0], lists[1], lists[2], lists[3]
	if len(starts) != len(ends) || len(starts) > rank {
		return out, fmt.Errorf("%d starts and %d ends for a tensor with %d dimensions", len(starts), len(ends), len(in[0].Shape))
	}
	for i, d := range in[0].Shape {
		out[i] = cut{0, 1, d}
	}
	for i := range starts {
		axis, step := i, int64(1)
		if axes != nil {
			a, err := axisOf(axes[i], rank)
			if err != nil {
				return out, err
			}
			axis = a
		}
		if steps != nil {
			step = steps[i]
		}
		if step == 0 || step == math.MinInt64 {
			return out, fmt.Errorf("step %d", step)
		}
		out[axis] = cutAxis(starts[i], ends[i], step, int64(in[0].Shape[axis]))
	}
	return out, nil
}

// cutAxis applies Python's rules for slices: negative positions count from the end, positions outside are clamped.
func cutAxis(start, end, step, dim int64) cut {
	lo, hi := int64(0), dim // where start and end are clamped to
	if step < 0 {
		lo, hi = -1, dim-1
	}
	norm := func(v int64) int64 {
		if v < 0 {
			v += dim
		}
		return min(max(v, lo), hi)
	}
	from, to := norm(start), norm(end)
	n := int64(0)
	if step > 0 && to > from {
		n = (to-from-1)/step + 1
	}
	if step < 0 && from > to {
		n = (from-to-1)/(-step) + 1
	}
	if n <= 1 {
		step = 1 // a step beyond the axis must not overflow an offset
	}
	return cut{int(max(from, 0)), int(step), int(n)}
}

func (s *slice) Shape(in []*Tensor, out []Spec) error {
	cuts, err := s.cuts(in)
	if err != nil {
		return err
	}
	out[0].set(in[0].DType)
	for _, c := range cuts[:len(in[0].Shape)] {
		out[0].Shape = append(out[0].Shape, c.n)
	}
	return nil
}

func (s *slice) Run(sc *Scratch, in, out []*Tensor) {
	cuts, _ := s.cuts(in)
	n := len(in[0].Shape)
	work := sc.ints(2 * n)
	step, index := work[:n], work[n:]
	base, size := 0, 1
	for i := n - 1; i >= 0; i-- {
		step[i] = cuts[i].step * size
		base += cuts[i].first * size
		size *= in[0].Shape[i]
	}
	if out[0].Len() > 0 {
		pick(out[0], in[0], out[0].Shape, step, index, base)
	}
}

// splitOp cuts a tensor into parts along an axis.
type splitOp struct {
	axis  int64
	sizes axesSource
	parts int64 // num_outputs of opset 18; 0 when sizes or the number of outputs count
}

func buildSplit(n *Node, a *attrs) (Op, error) {
	s := &splitOp{axis: a.int("axis", 0), sizes: axesSource{input: -1}}
	switch {
	case n.Opset < 13:
		s.sizes.list = a.ints("split")
	case n.present(1):
		s.sizes.input = 1
	}
	if n.Opset >= 18 {
		s.parts = a.int("num_outputs", 0)
	}
	return s, nil
}

func (s *splitOp) Shape(in []*Tensor, out []Spec) error {
	axis, err := axisOf(s.axis, len(in[0].Shape))
	if err != nil {
		return err
	}
	sizes, err := s.sizes.of(in)
	if err != nil {
		return err
	}
	dim := int64(in[0].Shape[axis])
	if sizes == nil {
		if s.parts == 0 && dim%int64(len(out)) != 0 || s.parts != 0 && s.parts != int64(len(out)) {
			return fmt.Errorf("%d elements in %d parts", dim, len(out))
		}
		part := (dim + int64(len(out)) - 1) / int64(len(out))
		for left := dim; len(sizes) < len(out); left -= part {
			sizes = append(sizes, max(min(part, left), 0))
		}
	}
	total := int64(0)
	for i := range out {
		if len(sizes) != len(out) || sizes[i] < 0 || sizes[i] > dim {
			return fmt.Errorf("parts of %v of an axis of %d, %d outputs", sizes, dim, len(out))
		}
		total += sizes[i]
		out[i].set(in[0].DType, in[0].Shape...)
		out[i].Shape[axis] = int(sizes[i])
	}
	if total != dim {
		return fmt.Errorf("parts of %v of an axis of %d", sizes, dim)
	}
	return nil
}

func (s *splitOp) Run(_ *Scratch, in, out []*Tensor) {
	axis, _ := axisOf(s.axis, len(in[0].Shape))
	outer, _, _ := split(in[0].Shape, axis)
	at := 0
	for o := range outer {
		for _, t := range out {
			n := volume(t.Shape[axis:])
			if t.F != nil {
				copy(t.F[o*n:][:n], in[0].F[at:])
			} else {
				copy(t.I[o*n:][:n], in[0].I[at:])
			}
			at += n
		}
	}
}

// expand broadcasts to a shape.
type expand struct{}

func (expand) Shape(in []*Tensor, out []Spec) error {
	want, err := axesSource{input: 1}.of(in)
	if err != nil {
		return err
	}
	to, err := dims(want)
	if err != nil {
		return err
	}
	s, err := broadcast(nil, in[0].Shape, to)
	out[0].DType, out[0].Shape = in[0].DType, s
	return err
}

func (expand) Run(s *Scratch, in, out []*Tensor) {
	n := len(out[0].Shape)
	work := s.ints(2 * n)
	strides(work[:n], in[0].Shape, out[0].Shape)
	if out[0].Len() > 0 {
		pick(out[0], in[0], out[0].Shape, work[:n], work[n:], 0)
	}
}

// dims converts dimensions that come as elements of a tensor.
func dims(v []int64) ([]int, error) {
	if len(v) > maxRank {
		return nil, fmt.Errorf("%d dimensions are too many", len(v))
	}
	out := make([]int, len(v))
	for i, d := range v {
		if d < 0 || d > math.MaxInt32 {
			return nil, fmt.Errorf("dimension %d", d)
		}
		out[i] = int(d)
	}
	return out, nil
}
