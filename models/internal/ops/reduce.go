package ops

import (
	"fmt"
	"math"

	"idunno/models/internal/kernel"
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
				reducer: r, name: name, axes: a.axes(since, 1), keep: a.int("keepdims", 1) != 0,
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

func (s *softmax) Cost(in []*Tensor, _ []Spec) (int64, int64) {
	scratch := int64(0)
	if _, _, inner := s.split(in[0].Shape); inner > 1 {
		scratch = 3 * int64(inner)
	}
	return 4 * int64(in[0].Len()), scratch
}

// split is where the shape is cut.
func (s *softmax) split(shape []int) (outer, n, inner int) {
	axis := int(s.axis)
	if axis < 0 {
		axis += len(shape)
	}
	if s.old {
		return volume(shape[:axis]), volume(shape[axis:]), 1
	}
	return split(shape, axis)
}

func (s *softmax) Run(sc *Scratch, in, out []*Tensor) {
	outer, n, inner := s.split(in[0].Shape)
	for o := range outer {
		x, y := in[0].F[o*n*inner:][:n*inner], out[0].F[o*n*inner:][:n*inner]
		switch {
		case inner > 1:
			s.columns(sc, x, y, inner)
		case s.log:
			sc.Gemm.LogSoftmax(y, x)
		default:
			sc.Gemm.Softmax(y, x)
		}
	}
}

// columns normalizes columns of x, whose rows have inner elements, from the largest down so that nothing overflows.
func (s *softmax) columns(sc *Scratch, x, y []float32, inner int) {
	if len(x) == 0 {
		return
	}
	w := &sc.Gemm
	space := sc.floats(0, 3*inner)
	top, sum, e := space[:inner], space[inner:2*inner], space[2*inner:]
	copy(top, x)
	for at := inner; at < len(x); at += inner {
		w.Zip(kernel.Max, top, top, x[at:][:inner])
	}
	clear(sum)
	for at := 0; at < len(x); at += inner {
		row := y[at:][:inner]
		w.Zip(kernel.Sub, row, x[at:][:inner], top)
		if !s.log {
			w.Apply(kernel.Activation{Func: kernel.Exp}, row, row)
			w.Zip(kernel.Add, sum, sum, row)
			continue
		}
		w.Apply(kernel.Activation{Func: kernel.Exp}, e, row)
		w.Zip(kernel.Add, sum, sum, e)
	}
	op := kernel.Div
	if s.log {
		op = kernel.Sub
		for i, v := range sum {
			sum[i] = float32(math.Log(float64(v)))
		}
	}
	for at := 0; at < len(x); at += inner {
		row := y[at:][:inner]
		w.Zip(op, row, row, sum)
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
