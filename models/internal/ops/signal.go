package ops

import (
	"fmt"
	"math"

	"idunno/models/onnx"
)

// signalTable lists window functions and the determinant.
func signalTable() map[string]spec {
	return map[string]spec{
		"HannWindow":     {since: 17, in: 1, max: 1, outs: 1, build: buildCosines(0.5, 0.5, 0)},
		"HammingWindow":  {since: 17, in: 1, max: 1, outs: 1, build: buildCosines(25./46, 21./46, 0)},
		"BlackmanWindow": {since: 17, in: 1, max: 1, outs: 1, build: buildCosines(0.42, 0.5, 0.08)},
		"Det":            {since: 11, in: 1, max: 1, outs: 1, build: plain(&det{})},
	}
}

// cosines is a window a - b cos(2 pi i/n) + c cos(4 pi i/n).
type cosines struct {
	a, b, c  float64
	periodic bool
	to       onnx.DType
}

func buildCosines(x, y, z float64) func(*Node, *attrs) (Op, error) {
	return func(n *Node, a *attrs) (Op, error) {
		c := &cosines{x, y, z, a.int("periodic", 1) != 0, onnx.DType(a.int("output_datatype", 1))}
		if !c.to.IsFloat() {
			return nil, fmt.Errorf("%w: %s of %s", ErrUnsupported, n.Op, c.to)
		}
		return c, nil
	}
}

func (c *cosines) Shape(in []*Tensor, out []Spec) error {
	size, err := axesSource{input: 0}.of(in)
	if err != nil {
		return err
	}
	s, err := dims(size)
	if err != nil || len(s) != 1 {
		return fmt.Errorf("a window of size %v", size)
	}
	out[0].set(c.to, s...)
	return nil
}

func (c *cosines) Run(_ *Scratch, _, out []*Tensor) {
	n := len(out[0].F)
	if !c.periodic {
		n--
	}
	for i := range out[0].F {
		t := 2 * math.Pi * float64(i) / float64(max(n, 1))
		out[0].F[i] = float32(c.a - c.b*math.Cos(t) + c.c*math.Cos(2*t))
	}
}

// det gives the determinants of square matrices, by elimination with partial pivoting.
type det struct{}

func (det) Shape(in []*Tensor, out []Spec) error {
	n := len(in[0].Shape)
	if n < 2 || in[0].Shape[n-1] != in[0].Shape[n-2] {
		return fmt.Errorf("input of shape %v is no square matrix", in[0].Shape)
	}
	out[0].set(in[0].DType, in[0].Shape[:n-2]...)
	return needFloat(in, 0)
}

func (det) Cost(in []*Tensor, _ []Spec) (int64, int64) {
	n := int64(in[0].Shape[len(in[0].Shape)-1])
	return satMul(int64(in[0].Len()), n), n * n
}

func (det) Run(s *Scratch, in, out []*Tensor) {
	n := in[0].Shape[len(in[0].Shape)-1]
	m := s.floats(0, n*n)
	for k := range out[0].F {
		copy(m, in[0].F[k*n*n:][:n*n])
		result := 1.0
		for c := range n {
			pivot := c
			for r := c; r < n; r++ {
				if math.Abs(float64(m[r*n+c])) > math.Abs(float64(m[pivot*n+c])) {
					pivot = r
				}
			}
			top := m[c*n:][:n]
			if pivot != c {
				result = -result
				for j, v := range top {
					top[j], m[pivot*n+j] = m[pivot*n+j], v
				}
			}
			result *= float64(top[c])
			if top[c] == 0 {
				break
			}
			for r := c + 1; r < n; r++ {
				f := m[r*n+c] / top[c]
				for j := c; j < n; j++ {
					m[r*n+j] -= f * top[j]
				}
			}
		}
		out[0].F[k] = float32(result)
	}
}
