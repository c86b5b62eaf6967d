package ops

import (
	"fmt"
	"math"

	"idunno/models/onnx"
)

// reduceTable lists the operators along axes.
func reduceTable() map[string]spec {
	t := map[string]spec{
		"Softmax":    {since: 1, in: 1, max: 1, outs: 1, build: buildSoftmax(false)},
		"LogSoftmax": {since: 1, in: 1, max: 1, outs: 1, build: buildSoftmax(true)},
		"ArgMax":     {since: 1, in: 1, max: 1, outs: 1, build: buildArg(func(x, best float32) bool { return x > best })},
		"ArgMin":     {since: 1, in: 1, max: 1, outs: 1, build: buildArg(func(x, best float32) bool { return x < best })},
	}
	for name, r := range reducers() {
		since := int64(18)
		if name == "ReduceSum" {
			since = 13
		}
		t[name] = spec{since: 1, in: 1, max: 2, outs: 1, build: func(n *Node, a *attrs) (Op, error) {
			return &reduce{
				reducer: r, axes: a.axes(since, 1), keep: a.int("keepdims", 1) != 0,
				noop: n.Opset >= since && a.int("noop_with_empty_axes", 0) != 0,
			}, nil
		}}
	}
	return t
}

// split cuts a shape at an axis: outer blocks of n steps, each step inner elements.
func split(shape []int, axis int) (outer, n, inner int) {
	return volume(shape[:axis]), shape[axis], volume(shape[axis+1:])
}

// softmax normalizes along one axis, since opset 13, or along all axes from one on, before it.
type softmax struct {
	axis int64
	old  bool
	log  bool
}

func buildSoftmax(log bool) func(*Node, *attrs) (Op, error) {
	return func(n *Node, a *attrs) (Op, error) {
		s := &softmax{log: log, old: n.Opset < 13}
		s.axis = a.int("axis", map[bool]int64{true: 1, false: -1}[s.old])
		return s, nil
	}
}

func (s *softmax) Shape(in []*Tensor, out []Spec) error {
	out[0].set(in[0].DType, in[0].Shape...)
	if s.old && s.axis == int64(len(in[0].Shape)) {
		return needFloat(in, 0)
	}
	if _, err := axisOf(s.axis, len(in[0].Shape)); err != nil {
		return err
	}
	return needFloat(in, 0)
}

func (s *softmax) Cost(in []*Tensor, _ []Spec) (int64, int64) { return 4 * int64(in[0].Len()), 0 }

func (s *softmax) Run(_ *Scratch, in, out []*Tensor) {
	shape := in[0].Shape
	axis := int(s.axis)
	if axis < 0 {
		axis += len(shape)
	}
	outer, n, inner := volume(shape[:axis]), 1, 1
	if s.old {
		n = volume(shape[axis:])
	} else {
		_, n, inner = split(shape, axis)
	}
	for o := range outer {
		for i := range inner {
			at := o*n*inner + i
			s.line(in[0].F[at:], out[0].F[at:], n, inner)
		}
	}
}

// line normalizes n elements with a step, from the largest down so that nothing overflows.
func (s *softmax) line(x, y []float32, n, step int) {
	top := float32(math.Inf(-1))
	for i := range n {
		top = max(top, x[i*step])
	}
	var sum float64
	for i := range n {
		e := math.Exp(float64(x[i*step] - top))
		sum += e
		y[i*step] = float32(e)
	}
	if s.log {
		base := math.Log(sum)
		for i := range n {
			y[i*step] = float32(float64(x[i*step]-top) - base)
		}
		return
	}
	scale := float32(1 / sum)
	for i := range n {
		y[i*step] *= scale
	}
}

// arg finds the position of the largest or smallest element along an axis.
type arg struct {
	better     func(x, best float32) bool
	axis       int64
	keep, last bool
}

func buildArg(better func(x, best float32) bool) func(*Node, *attrs) (Op, error) {
	return func(_ *Node, a *attrs) (Op, error) {
		return &arg{better: better, axis: a.int("axis", 0), keep: a.int("keepdims", 1) != 0, last: a.int("select_last_index", 0) != 0}, nil
	}
}

func (r *arg) Shape(in []*Tensor, out []Spec) error {
	axis, err := axisOf(r.axis, len(in[0].Shape))
	if err != nil {
		return err
	}
	if in[0].Shape[axis] == 0 {
		return fmt.Errorf("axis %d is empty", axis)
	}
	out[0].set(onnx.Int64, in[0].Shape[:axis]...)
	if r.keep {
		out[0].Shape = append(out[0].Shape, 1)
	}
	out[0].Shape = append(out[0].Shape, in[0].Shape[axis+1:]...)
	return needFloat(in, 0)
}

func (r *arg) Cost(in []*Tensor, _ []Spec) (int64, int64) { return int64(in[0].Len()), 0 }

func (r *arg) Run(_ *Scratch, in, out []*Tensor) {
	axis, _ := axisOf(r.axis, len(in[0].Shape))
	outer, n, inner := split(in[0].Shape, axis)
	for o := range outer {
		for i := range inner {
			x := in[0].F[o*n*inner+i:]
			best := 0
			for j := 1; j < n; j++ {
				if v, b := x[j*inner], x[best*inner]; r.better(v, b) || r.last && v == b {
					best = j
				}
			}
			out[0].I[o*inner+i] = int64(best)
		}
	}
}
