package ops

import (
	"fmt"
	"math"

	"idunno/models/onnx"
)

// cast converts between element types.
type cast struct {
	to   onnx.DType
	like bool // the type is that of the second input
}

func buildCast(_ *Node, a *attrs) (Op, error) {
	to := onnx.DType(a.int("to", 0))
	a.ignore("saturate")
	if !to.IsFloat() && !to.IsInt() {
		err := fmt.Errorf("%w: Cast to %s", ErrUnsupported, to)
		if to == onnx.String {
			err = fmt.Errorf("%w; %w", err, noStrings)
		}
		return nil, err
	}
	return &cast{to: to}, nil
}

func buildCastLike(_ *Node, a *attrs) (Op, error) {
	a.ignore("saturate")
	return &cast{like: true}, nil
}

func (c *cast) Shape(in []*Tensor, out []Spec) error {
	out[0].set(c.to, in[0].Shape...)
	if c.like {
		out[0].DType = in[1].DType
	}
	for _, d := range []onnx.DType{in[0].DType, out[0].DType} {
		if !d.IsFloat() && !d.IsInt() {
			return fmt.Errorf("a cast from %s to %s is not supported", in[0].DType, out[0].DType)
		}
	}
	return nil
}

func (c *cast) Cost(in []*Tensor, _ []Spec) (int64, int64) { return int64(in[0].Len()), 0 }

func (c *cast) Run(_ *Scratch, in, out []*Tensor) {
	x, z := in[0], out[0]
	switch {
	case x.DType.IsFloat() && z.DType.IsFloat():
		copy(z.F, x.F)
	case x.DType.IsFloat():
		for i, v := range x.F {
			if z.DType == onnx.Bool {
				z.I[i] = 0
				if v != 0 {
					z.I[i] = 1
				}
				continue
			}
			z.I[i] = truncated(v, z.DType)
		}
	case z.DType.IsFloat():
		for i, v := range x.I {
			z.F[i] = widened(v, x.DType)
		}
	default:
		for i, v := range x.I {
			z.I[i] = z.DType.Wrap(v)
		}
	}
	switch z.DType {
	case onnx.Float16:
		each32(z.F, roundHalf)
	case onnx.BFloat16:
		each32(z.F, roundBrain)
	}
}

// truncated rounds towards zero and reduces to the width of the type. What no 64-bit integer is, as NaN, becomes the least one first: Go
// leaves that to the processor, but equal batches must give equal results on all.
func truncated(v float32, d onnx.DType) int64 {
	switch {
	case v >= -(1<<63) && v < 1<<63:
		return d.Wrap(int64(v))
	case d == onnx.Uint64 && v >= 1<<63 && v < 1<<64:
		return int64(uint64(v))
	}
	return d.Wrap(math.MinInt64)
}

// widened is an integer as a floating-point number; those of uint64 are held by their bits.
func widened(v int64, d onnx.DType) float32 {
	if d == onnx.Uint64 {
		return float32(uint64(v))
	}
	return float32(v)
}

func each32(x []float32, f func(float32) float32) {
	for i, v := range x {
		x[i] = f(v)
	}
}

// roundHalf rounds to the nearest number of half precision (10 bits of fraction, exponents from -14 to 15), ties to even.
func roundHalf(x float32) float32 {
	v := float64(x)
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return x
	}
	_, exp := math.Frexp(v)
	unit := math.Ldexp(1, max(exp-11, -24))
	if v = math.RoundToEven(v/unit) * unit; math.Abs(v) > 65504 {
		v = math.Inf(int(math.Copysign(1, v)))
	}
	return float32(v)
}

// roundBrain rounds to the nearest bfloat16, the upper half of a single-precision number, ties to even.
func roundBrain(x float32) float32 {
	if x != x {
		return x
	}
	b := math.Float32bits(x)
	b += 0x7fff + b>>16&1
	return math.Float32frombits(b &^ 0xffff)
}

// test asks something about each number.
type test struct{ f func(float32) bool }

func buildIsInf(_ *Node, a *attrs) (Op, error) {
	negative, positive := a.int("detect_negative", 1) != 0, a.int("detect_positive", 1) != 0
	return &test{func(x float32) bool {
		return negative && math.IsInf(float64(x), -1) || positive && math.IsInf(float64(x), 1)
	}}, nil
}

func (t *test) Shape(in []*Tensor, out []Spec) error {
	out[0].set(onnx.Bool, in[0].Shape...)
	return needFloat(in, 0)
}

func (t *test) Run(_ *Scratch, in, out []*Tensor) {
	for i, v := range in[0].F {
		out[0].I[i] = 0
		if t.f(v) {
			out[0].I[i] = 1
		}
	}
}
