package ops

import (
	"fmt"
	"slices"
)

// pad surrounds a tensor with a constant or with its own elements; negative pads cut off.
type pad struct {
	mode  string
	pads  axesSource
	axes  axesSource
	value float32
	input bool // value and pads are inputs 2 and 1
}

func buildPad(n *Node, a *attrs) (Op, error) {
	p := &pad{mode: a.string("mode", "constant"), axes: axesSource{input: -1}}
	if !slices.Contains([]string{"constant", "edge", "reflect", "wrap"}, p.mode) {
		return nil, fmt.Errorf("%w: Pad with mode %q", ErrUnsupported, p.mode)
	}
	if n.present(3) {
		p.axes.input = 3
	}
	if n.Opset < 11 {
		p.pads, p.value = axesSource{a.ints("pads"), -1}, a.float("value", 0)
		return p, nil
	}
	if !n.present(1) {
		return nil, fmt.Errorf("the pads are missing")
	}
	p.pads, p.input = axesSource{input: 1}, true
	return p, nil
}

// around returns the pads before and after each dimension, in space of the session.
func (p *pad) around(in []*Tensor, dst []int) error {
	pads, err := p.pads.of(in)
	if err != nil {
		return err
	}
	axes, err := p.axes.of(in)
	if err != nil {
		return err
	}
	n := len(in[0].Shape)
	k := n
	if p.axes.input >= 0 {
		k = len(axes)
	}
	if len(pads) != 2*k {
		return fmt.Errorf("%d pads for %d dimensions", len(pads), k)
	}
	for i := range k {
		d := i
		if p.axes.input >= 0 {
			if d, err = axisOf(axes[i], n); err != nil {
				return err
			}
		}
		for side := range 2 {
			v := pads[side*k+i]
			if v < -maxWindow || v > maxWindow {
				return fmt.Errorf("%w: pads %v", ErrUnsupported, pads)
			}
			dst[side*n+d] = int(v)
		}
	}
	return nil
}

func (p *pad) Shape(in []*Tensor, out []Spec) error {
	n := len(in[0].Shape)
	if n > maxRank {
		return fmt.Errorf("%d dimensions are too many", n)
	}
	var space [2 * maxRank]int
	pads := space[:2*n]
	if err := p.around(in, pads); err != nil {
		return err
	}
	if p.input && len(in) > 2 && in[2] != nil && (in[2].Len() != 1 || in[2].DType != in[0].DType) {
		return fmt.Errorf("the value to pad with is %s%v", in[2].DType, in[2].Shape)
	}
	out[0].set(in[0].DType)
	for i, d := range in[0].Shape {
		size := d + pads[i] + pads[n+i]
		if size < 0 || p.mode == "reflect" && max(pads[i], pads[n+i]) >= max(d, 1) || p.mode != "constant" && d == 0 && size > 0 {
			return fmt.Errorf("pads of %d and %d around %d elements, mode %s", pads[i], pads[n+i], d, p.mode)
		}
		out[0].Shape = append(out[0].Shape, size)
	}
	return nil
}

// source is the position that position i of an axis of n elements stands for; -1 is outside.
func (p *pad) source(i, n int) int {
	if i >= 0 && i < n {
		return i
	}
	switch p.mode {
	case "edge":
		return min(max(i, 0), n-1)
	case "reflect":
		if i < 0 {
			return -i
		}
		return 2*(n-1) - i
	case "wrap":
		return ((i % n) + n) % n
	}
	return -1
}

func (p *pad) Run(s *Scratch, in, out []*Tensor) {
	x, y := in[0], out[0]
	n := len(x.Shape)
	work := s.ints(3 * n)
	pads, index := work[:2*n], work[2*n:]
	_ = p.around(in, pads) // Shape has checked it
	v, w := p.value, int64(0)
	if p.input && len(in) > 2 && in[2] != nil {
		if x.DType.IsFloat() {
			v = in[2].F[0]
		} else {
			w = in[2].I[0]
		}
	}
	for at := range y.Len() {
		from := 0
		for d, i := range index {
			c := p.source(i-pads[d], x.Shape[d])
			if c < 0 {
				from = -1
				break
			}
			from = from*x.Shape[d] + c
		}
		switch {
		case from >= 0:
			transfer(y, at, x, from, 1)
		case x.DType.IsFloat():
			y.F[at] = v
		default:
			y.I[at] = w
		}
		advance(index, y.Shape)
	}
}
