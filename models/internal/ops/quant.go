package ops

import (
	"fmt"
	"math"

	"idunno/models/onnx"
)

// quantTable lists the operators on 8-bit numbers that stand for real ones: real = (number - zero point) * scale.
func quantTable() map[string]spec {
	return map[string]spec{
		"QuantizeLinear":        {since: 10, in: 2, max: 3, outs: 1, build: buildQuantize(false)},
		"DequantizeLinear":      {since: 10, in: 2, max: 3, outs: 1, build: buildQuantize(true)},
		"DynamicQuantizeLinear": {since: 11, in: 1, max: 1, outs: 3, build: plain(&dynamicQuantize{})},
		"MatMulInteger":         {since: 10, in: 2, max: 4, outs: 1, build: plain(&matMulInteger{})},
		"QLinearMatMul":         {since: 10, in: 8, max: 8, outs: 1, build: plain(&matMulInteger{quantized: true})},
	}
}

// bounds are the least and largest number of a quantized type.
func bounds(d onnx.DType) (lo, hi int64, err error) {
	switch d {
	case onnx.Uint8:
		return 0, math.MaxUint8, nil
	case onnx.Int8:
		return math.MinInt8, math.MaxInt8, nil
	case onnx.Uint16:
		return 0, math.MaxUint16, nil
	case onnx.Int16:
		return math.MinInt16, math.MaxInt16, nil
	case onnx.Int32:
		return math.MinInt32, math.MaxInt32, nil
	}
	return 0, 0, fmt.Errorf("%w: quantization to %s", ErrUnsupported, d)
}

// saturate rounds x to the nearest even number, adds the zero point and keeps it in the type.
func saturate(x float64, zero int64, d onnx.DType) int64 {
	lo, hi, _ := bounds(d)
	v := math.RoundToEven(x) + float64(zero)
	if v != v {
		return zero
	}
	return int64(min(max(v, float64(lo)), float64(hi)))
}

// quantize is QuantizeLinear or DequantizeLinear with one scale, or one for each position along an axis.
type quantize struct {
	back bool
	axis int64
}

func buildQuantize(back bool) func(*Node, *attrs) (Op, error) {
	return func(n *Node, a *attrs) (Op, error) {
		q := &quantize{back: back, axis: 1}
		if n.Opset >= 13 {
			q.axis = a.int("axis", 1)
		}
		if n.Opset >= 19 {
			a.ignore("saturate")
		}
		if n.Opset >= 21 && (a.int("block_size", 0) != 0 || a.int("output_dtype", 0) != 0) {
			return nil, fmt.Errorf("%w: %s with block_size or output_dtype", ErrUnsupported, n.Op)
		}
		return q, nil
	}
}

func (q *quantize) Shape(in []*Tensor, out []Spec) error {
	x, zero := in[0], input(in, 2)
	d := onnx.Uint8
	if zero != nil {
		d = zero.DType
		if zero.Len() != in[1].Len() {
			return fmt.Errorf("%d scales and %d zero points", in[1].Len(), zero.Len())
		}
	}
	if q.back {
		d = x.DType
		if zero != nil && zero.DType != d {
			return fmt.Errorf("a zero point of %s for %s", zero.DType, d)
		}
	} else if err := needFloat(in, 0); err != nil {
		return err
	}
	if _, _, err := bounds(d); err != nil {
		return err
	}
	if in[1].Len() != 1 || len(in[1].Shape) > 1 {
		axis, err := axisOf(q.axis, len(x.Shape))
		if err != nil {
			return err
		}
		if len(in[1].Shape) != 1 || in[1].Shape[0] != x.Shape[axis] {
			return fmt.Errorf("scales of shape %v for dimension %d of %v", in[1].Shape, axis, x.Shape)
		}
	}
	out[0].set(d, x.Shape...)
	if q.back {
		out[0].DType = in[1].DType
	}
	return needFloat(in, 1)
}

func (q *quantize) Cost(in []*Tensor, _ []Spec) (int64, int64) { return 2 * int64(in[0].Len()), 0 }

func (q *quantize) Run(_ *Scratch, in, out []*Tensor) {
	inner := in[0].Len()
	if in[1].Len() != 1 {
		axis, _ := axisOf(q.axis, len(in[0].Shape))
		inner = volume(in[0].Shape[axis+1:])
	}
	zero := input(in, 2)
	for i := range in[0].Len() {
		c := i / inner % in[1].Len()
		z := int64(0)
		if zero != nil {
			z = zero.I[c]
		}
		scale := in[1].F[c]
		if q.back {
			out[0].F[i] = float32(in[0].I[i]-z) * scale
		} else {
			out[0].I[i] = saturate(float64(in[0].F[i]/scale), z, out[0].DType)
		}
	}
}

// dynamicQuantize chooses scale and zero point by the range of its input, which it widens to hold zero.
type dynamicQuantize struct{}

func (dynamicQuantize) Shape(in []*Tensor, out []Spec) error {
	out[0].set(onnx.Uint8, in[0].Shape...)
	if len(out) > 1 {
		out[1].set(onnx.Float)
	}
	if len(out) > 2 {
		out[2].set(onnx.Uint8)
	}
	return needFloat(in, 0)
}

func (dynamicQuantize) Run(_ *Scratch, in, out []*Tensor) {
	lo, hi := float32(0), float32(0)
	for _, v := range in[0].F {
		lo, hi = min(lo, v), max(hi, v)
	}
	scale := (hi - lo) / 255
	if scale == 0 {
		scale = 1
	}
	zero := saturate(float64(-lo/scale), 0, onnx.Uint8)
	for i, v := range in[0].F {
		out[0].I[i] = saturate(float64(v/scale), zero, onnx.Uint8)
	}
	if len(out) > 1 {
		out[1].F[0] = scale
	}
	if len(out) > 2 {
		out[2].I[0] = zero
	}
}

// matMulInteger multiplies 8-bit matrices exactly. With quantized, the inputs are a, its scale and zero point, the same for b and for the
// result; else a, b and their zero points, and the result is int32.
type matMulInteger struct{ quantized bool }

// operands returns the factors and their zero points.
func (m *matMulInteger) operands(in []*Tensor) (x, y, xz, yz *Tensor) {
	if m.quantized {
		return in[0], in[3], in[2], in[5]
	}
	return in[0], in[1], input(in, 2), input(in, 3)
}

func (m *matMulInteger) Shape(in []*Tensor, out []Spec) error {
	x, y, xz, yz := m.operands(in)
	for _, t := range []*Tensor{x, y} {
		if len(t.Shape) < 2 || t.DType != onnx.Int8 && t.DType != onnx.Uint8 {
			return fmt.Errorf("operand %s%v is no matrix of bytes", t.DType, t.Shape)
		}
	}
	a, b := x.Shape, y.Shape
	if a[len(a)-1] != b[len(b)-2] {
		return fmt.Errorf("matrices of shape %v and %v do not fit", a, b)
	}
	for i, z := range []*Tensor{xz, yz} {
		if z == nil || z.Len() == 1 && z.DType.IsInt() {
			continue
		}
		n := b[len(b)-1]
		if i == 0 {
			n = a[len(a)-2]
		}
		if m.quantized || !z.DType.IsInt() || len(z.Shape) != 1 || z.Len() != n {
			return fmt.Errorf("%w: zero points of shape %v", ErrUnsupported, z.Shape)
		}
	}
	s, err := broadcast(out[0].Shape, a[:len(a)-2], b[:len(b)-2])
	if err != nil {
		return err
	}
	out[0].DType, out[0].Shape = onnx.Int32, append(s, a[len(a)-2], b[len(b)-1])
	if !m.quantized {
		return nil
	}
	for _, i := range []int{1, 4, 6, 7} {
		if in[i].Len() != 1 {
			return fmt.Errorf("%w: scales or zero points of shape %v", ErrUnsupported, in[i].Shape)
		}
	}
	out[0].DType = in[7].DType
	if _, _, err := bounds(in[7].DType); err != nil {
		return err
	}
	return needFloat(in, 1, 4, 6)
}

func (m *matMulInteger) Cost(in []*Tensor, out []Spec) (int64, int64) {
	return 2 * int64(volume(out[0].Shape)) * int64(in[0].Shape[len(in[0].Shape)-1]), 0
}

func (m *matMulInteger) Run(s *Scratch, in, out []*Tensor) {
	x, y, xz, yz := m.operands(in)
	n := len(out[0].Shape)
	h, w, k := out[0].Shape[n-2], out[0].Shape[n-1], x.Shape[len(x.Shape)-1]
	batch := out[0].Shape[:n-2]
	work := s.ints(3 * (n - 2))
	sx, sy, index := work[:n-2], work[n-2:2*(n-2)], work[2*(n-2):]
	strides(sx, x.Shape[:len(x.Shape)-2], batch)
	strides(sy, y.Shape[:len(y.Shape)-2], batch)
	for at := range volume(batch) {
		px, py := 0, 0
		for d, i := range index {
			px += i * sx[d]
			py += i * sy[d]
		}
		for i := range h {
			for j := range w {
				zx, zy := zeroAt(xz, i), zeroAt(yz, j)
				sum := int64(0)
				for l := range k {
					sum += (x.I[(px*h+i)*k+l] - zx) * (y.I[(py*k+l)*w+j] - zy)
				}
				if m.quantized {
					real := float64(sum) * float64(in[1].F[0]) * float64(in[4].F[0]) / float64(in[6].F[0])
					sum = saturate(real, in[7].I[0], out[0].DType)
				}
				out[0].I[(at*h+i)*w+j] = out[0].DType.Wrap(sum)
			}
		}
		advance(index, batch)
	}
}

// zeroAt is the zero point of row or column i.
func zeroAt(t *Tensor, i int) int64 {
	if t == nil {
		return 0
	}
	return t.I[i%len(t.I)]
}
