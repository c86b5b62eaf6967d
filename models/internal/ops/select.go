package ops

import (
	"fmt"
	"math"

	"idunno/models/internal/kernel"
	"idunno/models/onnx"
)

// clip limits elements to a range that comes as attributes (before opset 11) or as inputs.
type clip struct {
	lo, hi float32
	inputs bool
}

func buildClip(n *Node, a *attrs) (Op, error) {
	c := &clip{lo: -math.MaxFloat32, hi: math.MaxFloat32, inputs: n.Opset >= 11}
	if !c.inputs {
		c.lo, c.hi = a.float("min", c.lo), a.float("max", c.hi)
		a.ignore("consumed_inputs")
	}
	return c, nil
}

func (c *clip) Shape(in []*Tensor, out []Spec) error {
	out[0].set(in[0].DType, in[0].Shape...)
	if !in[0].DType.IsFloat() && !in[0].DType.IsInt() {
		return fmt.Errorf("type %s is not supported here", in[0].DType)
	}
	for i, t := range in[1:] {
		if t != nil && (t.Len() != 1 || t.DType != in[0].DType) {
			return fmt.Errorf("input %d must be one %s", i+1, in[0].DType)
		}
	}
	return nil
}

func (c *clip) Cost(in []*Tensor, _ []Spec) (int64, int64) { return int64(in[0].Len()), 0 }

func (c *clip) Run(s *Scratch, in, out []*Tensor) {
	bound := func(i int) *Tensor {
		if c.inputs && i < len(in) {
			return in[i]
		}
		return nil
	}
	least, most := bound(1), bound(2)
	if in[0].DType.IsInt() {
		for i, v := range in[0].I {
			if least != nil {
				v = max(v, least.I[0])
			}
			if most != nil {
				v = min(v, most.I[0])
			}
			out[0].I[i] = v
		}
		return
	}
	lo, hi := c.lo, c.hi
	if least != nil {
		lo = least.F[0]
	}
	if most != nil {
		hi = most.F[0]
	}
	s.Gemm.Apply(kernel.Activation{Func: kernel.Clip, Alpha: lo, Beta: hi}, out[0].F, in[0].F)
}

type not struct{}

func (not) Shape(in []*Tensor, out []Spec) error {
	out[0].set(onnx.Bool, in[0].Shape...)
	if in[0].DType != onnx.Bool {
		return fmt.Errorf("input is %s, not bool", in[0].DType)
	}
	return nil
}

func (not) Run(_ *Scratch, in, out []*Tensor) {
	for i, v := range in[0].I {
		out[0].I[i] = 1 - v
	}
}

// where takes elements from its second or third input by the truth of the first.
type where struct{}

func (where) Shape(in []*Tensor, out []Spec) error {
	if in[0].DType != onnx.Bool || in[1].DType != in[2].DType {
		return fmt.Errorf("inputs are %s, %s and %s; the first must be bool and the others alike", in[0].DType, in[1].DType, in[2].DType)
	}
	s, err := broadcast(nil, in[1].Shape, in[2].Shape)
	if err == nil {
		s, err = broadcast(nil, in[0].Shape, s)
	}
	out[0].DType, out[0].Shape = in[1].DType, s
	return err
}

func (where) Run(s *Scratch, in, out []*Tensor) {
	z := out[0]
	n := len(z.Shape)
	work := s.ints(4 * (n + 1))
	sc, sx, sy, index := work[:n], work[n:2*n], work[2*n:3*n], work[3*n:4*n]
	strides(sc, in[0].Shape, z.Shape)
	strides(sx, in[1].Shape, z.Shape)
	strides(sy, in[2].Shape, z.Shape)
	for at := range z.Len() {
		c, from, src := 0, 0, in[1]
		for d, i := range index {
			c += i * sc[d]
		}
		step := sx
		if in[0].I[c] == 0 {
			src, step = in[2], sy
		}
		for d, i := range index {
			from += i * step[d]
		}
		if z.F != nil {
			z.F[at] = src.F[from]
		} else {
			z.I[at] = src.I[from]
		}
		advance(index, z.Shape)
	}
}

// advance moves a multi-index to the next element in row-major order.
func advance(index, shape []int) {
	for d := len(shape) - 1; d >= 0; d-- {
		if index[d]++; index[d] < shape[d] {
			return
		}
		index[d] = 0
	}
}
