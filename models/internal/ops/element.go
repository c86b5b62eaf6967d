package ops

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"idunno/models/internal/kernel"
	"idunno/models/onnx"
)

// elementTable lists the operators that work element by element.
func elementTable() map[string]spec {
	t := map[string]spec{
		"Clip":       {since: 1, in: 1, max: 3, outs: 1, build: buildClip},
		"Where":      {since: 9, in: 3, max: 3, outs: 1, build: plain(&where{})},
		"Cast":       {since: 6, in: 1, max: 1, outs: 1, build: buildCast},
		"CastLike":   {since: 15, in: 2, max: 2, outs: 1, build: buildCastLike},
		"IsNaN":      {since: 9, in: 1, max: 1, outs: 1, build: plain(&test{func(x float32) bool { return x != x }})},
		"IsInf":      {since: 10, in: 1, max: 1, outs: 1, build: buildIsInf},
		"Mod":        {since: 10, in: 2, max: 2, outs: 1, build: buildMod},
		"BitShift":   {since: 11, in: 2, max: 2, outs: 1, build: buildBitShift},
		"BitwiseAnd": arithmetic(nil, func(x, y int64) int64 { return x & y }),
		"BitwiseOr":  arithmetic(nil, func(x, y int64) int64 { return x | y }),
		"BitwiseXor": arithmetic(nil, func(x, y int64) int64 { return x ^ y }),
		"Sum":        variadic(kernel.Add, add[float32], add[int64], false),
		"Mean":       variadic(kernel.Add, add[float32], nil, true),
		"Max":        variadic(kernel.Max, func(x, y float32) float32 { return max(x, y) }, func(x, y int64) int64 { return max(x, y) }, false),
		"Min":        variadic(kernel.Min, func(x, y float32) float32 { return min(x, y) }, func(x, y int64) int64 { return min(x, y) }, false),
		"Not":        {since: 1, in: 1, max: 1, outs: 1, build: plain(&not{})},
		"And":        logic(func(x, y int64) int64 { return x & y }),
		"Or":         logic(func(x, y int64) int64 { return x | y }),
		"Xor":        logic(func(x, y int64) int64 { return x ^ y }),
		"PRelu":      {since: 1, in: 2, max: 2, outs: 1, build: buildPRelu},
		"Add":        vectorized(kernel.Add, add[float32], add[int64]),
		"Sub":        vectorized(kernel.Sub, func(x, y float32) float32 { return x - y }, func(x, y int64) int64 { return x - y }),
		"Mul":        vectorized(kernel.Mul, func(x, y float32) float32 { return x * y }, func(x, y int64) int64 { return x * y }),
		"Div":        vectorized(kernel.Div, func(x, y float32) float32 { return x / y }, divide),
		"Pow":        {since: 1, in: 2, max: 2, outs: 1, build: buildPow},
		"Equal":      comparison(func(x, y float32) bool { return x == y }, func(x, y int64) bool { return x == y }),
		"Less":       comparison(func(x, y float32) bool { return x < y }, func(x, y int64) bool { return x < y }),
		"Greater":    comparison(func(x, y float32) bool { return x > y }, func(x, y int64) bool { return x > y }),

		"LessOrEqual":    comparison(func(x, y float32) bool { return x <= y }, func(x, y int64) bool { return x <= y }),
		"GreaterOrEqual": comparison(func(x, y float32) bool { return x >= y }, func(x, y int64) bool { return x >= y }),
	}
	functions := unaries()
	maps.Copy(functions, activations())
	for name, f := range functions {
		t[name] = spec{since: 1, in: 1, max: 1, outs: 1, build: func(_ *Node, a *attrs) (Op, error) {
			a.ignore("consumed_inputs")
			return &unary{f: f(a), whole: wholes(name), act: activationOf(name, a)}, nil
		}}
	}
	return t
}

func plain(op Op) func(*Node, *attrs) (Op, error) {
	return func(*Node, *attrs) (Op, error) { return op, nil }
}

func prelu(x, slope float32) float32 {
	if x < 0 {
		return slope * x
	}
	return x
}

func pow(x, y float32) float32 { return float32(math.Pow(float64(x), float64(y))) }

// divide rounds towards zero; a division by zero gives 0, where ONNX leaves the result open.
func divide(x, y int64) int64 {
	if y == 0 {
		return 0
	}
	return x / y
}

// binary applies a function to pairs of elements, with broadcasting.
type binary struct {
	float   func(x, y float32) float32
	int     func(x, y int64) int64
	mixed   bool // the second operand may have another type; integers are computed as floats
	compare bool // the result is a truth value
	old     bool // the one-sided broadcasting of opset 6
	axis    int64
	vector  bool            // the function of floats is op
	op      kernel.BinaryOp // only with vector
	slope   bool            // the second operand is the slope of negative numbers
}

// vectorized is arithmetic whose function of floats package kernel has.
func vectorized(op kernel.BinaryOp, f func(x, y float32) float32, i func(x, y int64) int64) spec {
	return spec{since: 1, in: 2, max: 2, outs: 1, build: func(n *Node, a *attrs) (Op, error) {
		return withOldBroadcast(&binary{float: f, int: i, vector: true, op: op}, n, a), nil
	}}
}

func arithmetic(f func(x, y float32) float32, i func(x, y int64) int64) spec {
	return spec{since: 1, in: 2, max: 2, outs: 1, build: func(n *Node, a *attrs) (Op, error) {
		return withOldBroadcast(&binary{float: f, int: i}, n, a), nil
	}}
}

// withOldBroadcast reads the attributes that asked for broadcasting before opset 7.
func withOldBroadcast(b *binary, n *Node, a *attrs) *binary {
	b.axis = -1
	if n.Opset < 7 {
		b.old = a.int("broadcast", 0) != 0
		b.axis = a.int("axis", -1)
		a.ignore("consumed_inputs")
	}
	return b
}

func buildPow(n *Node, a *attrs) (Op, error) {
	return withOldBroadcast(&binary{float: pow, mixed: true}, n, a), nil
}

// buildPRelu: before opset 7 the slopes belong to the channels, dimension 1.
func buildPRelu(n *Node, a *attrs) (Op, error) {
	b := withOldBroadcast(&binary{float: prelu, slope: true}, n, a)
	if n.Opset < 7 {
		b.old, b.axis = true, 1
	}
	return b, nil
}

func logic(f func(x, y int64) int64) spec {
	return spec{since: 1, in: 2, max: 2, outs: 1, build: func(n *Node, a *attrs) (Op, error) {
		return withOldBroadcast(&binary{int: f}, n, a), nil
	}}
}

func add[T float32 | int64](x, y T) T { return x + y }

func comparison(f func(x, y float32) bool, i func(x, y int64) bool) spec {
	truth := func(b bool) int64 {
		if b {
			return 1
		}
		return 0
	}
	return spec{since: 7, in: 2, max: 2, outs: 1, build: plain(&binary{
		float:   func(x, y float32) float32 { return float32(truth(f(x, y))) },
		int:     func(x, y int64) int64 { return truth(i(x, y)) },
		compare: true,
	})}
}

// buildMod: the remainder of integers has the sign of the divisor, with fmod and for floating-point numbers that of the dividend.
func buildMod(_ *Node, a *attrs) (Op, error) {
	fmod := a.int("fmod", 0) != 0
	return &binary{
		axis:  -1,
		float: func(x, y float32) float32 { return float32(math.Mod(float64(x), float64(y))) },
		int: func(x, y int64) int64 {
			if y == 0 {
				return 0
			}
			r := x % y
			if !fmod && r != 0 && (r < 0) != (y < 0) {
				r += y
			}
			return r
		},
	}, nil
}

func buildBitShift(_ *Node, a *attrs) (Op, error) {
	b := &binary{axis: -1}
	switch d := a.string("direction", ""); d {
	case "LEFT":
		b.int = func(x, y int64) int64 { return int64(uint64(x) << uint64(y)) }
	case "RIGHT":
		b.int = func(x, y int64) int64 { return int64(uint64(x) >> uint64(y)) }
	default:
		return nil, fmt.Errorf("direction is %q", d)
	}
	return b, nil
}

// second is the shape of the second operand; opset 6 aligns it at an axis.
func (b *binary) second(in []*Tensor) []int {
	s := in[1].Shape
	if !b.old || b.axis < 0 || len(in[1].Shape) == 1 && in[1].Shape[0] == 1 {
		return s
	}
	for n := len(in[0].Shape) - int(b.axis); len(s) < n; {
		s = append(s[:len(s):len(s)], 1)
	}
	return s
}

func (b *binary) Shape(in []*Tensor, out []Spec) error {
	x, y := in[0], in[1]
	if b.mixed {
		if !x.DType.IsFloat() && !x.DType.IsInt() {
			return fmt.Errorf("type %s is not supported here", x.DType)
		}
	} else if x.DType != y.DType {
		return fmt.Errorf("the operands are %s and %s", x.DType, y.DType)
	} else if !(x.DType.IsInt() && b.int != nil || x.DType.IsFloat() && b.float != nil) {
		return fmt.Errorf("type %s is not supported here", x.DType)
	}
	if b.axis > int64(len(x.Shape)) {
		return fmt.Errorf("axis %d of a tensor with %d dimensions", b.axis, len(x.Shape))
	}
	s, err := broadcast(out[0].Shape, x.Shape, b.second(in))
	if err != nil {
		return err
	}
	out[0].Shape, out[0].DType = s, x.DType
	if b.compare {
		out[0].DType = onnx.Bool
	}
	return nil
}

func (b *binary) Cost(_ []*Tensor, out []Spec) (int64, int64) { return int64(volume(out[0].Shape)), 0 }

func (b *binary) Run(s *Scratch, in, out []*Tensor) {
	x, y, z := in[0], in[1], out[0]
	n := len(z.Shape)
	work := s.ints(4 * n)
	shape, sx, sy, index := work[:n], work[n:2*n], work[2*n:3*n], work[3*n:]
	copy(shape, z.Shape)
	strides(sx, x.Shape, z.Shape)
	strides(sy, b.second(in), z.Shape)
	shape, sx, sy = merge(shape, sx, sy)
	if n = len(shape); n == 0 {
		b.row(s, x, y, z, 0, 0, 0, 0, 0, 1)
		return
	}
	width := shape[n-1]
	rows(shape, sx, sy, index[:n], func(row, ax, ay int) {
		b.row(s, x, y, z, row*width, ax, ay, sx[n-1], sy[n-1], width)
	})
}

func (b *binary) row(s *Scratch, x, y, z *Tensor, at, ax, ay, sx, sy, width int) {
	if (b.vector || b.slope || b.mixed) && x.F != nil && y.F != nil && b.vectorRow(s, x.F[ax:], y.F[ay:], z.F[at:][:width], sx, sy) {
		return
	}
	switch {
	case b.mixed:
		for i := range width {
			v := b.float(number(x, ax+i*sx), number(y, ay+i*sy))
			if z.F != nil {
				z.F[at+i] = v
			} else {
				z.I[at+i] = truncated(v, z.DType)
			}
		}
	case x.DType.IsInt():
		for i := range width {
			z.I[at+i] = z.DType.Wrap(b.int(x.I[ax+i*sx], y.I[ay+i*sy]))
		}
	case b.compare:
		for i := range width {
			z.I[at+i] = int64(b.float(x.F[ax+i*sx], y.F[ay+i*sy]))
		}
	default:
		dst := z.F[at:][:width]
		for i := range dst {
			dst[i] = b.float(x.F[ax+i*sx], y.F[ay+i*sy])
		}
	}
}

func number(t *Tensor, i int) float32 {
	if t.F != nil {
		return t.F[i]
	}
	return widened(t.I[i], t.DType)
}

// fold applies a binary function over any number of operands; mean divides by their number.
type fold struct {
	binary
	mean bool
}

func variadic(op kernel.BinaryOp, f func(x, y float32) float32, i func(x, y int64) int64, mean bool) spec {
	return spec{since: 6, in: 1, max: many, outs: 1, build: plain(&fold{binary{float: f, int: i, vector: true, op: op}, mean})}
}

func (v *fold) Shape(in []*Tensor, out []Spec) error {
	out[0].set(in[0].DType)
	for i, t := range in {
		if t == nil || t.DType != in[0].DType || t.DType.IsInt() && v.int == nil {
			return fmt.Errorf("input %d is left out or of an unsupported type", i)
		}
		s, err := broadcast(nil, out[0].Shape, t.Shape)
		if err != nil {
			return err
		}
		out[0].Shape = s
	}
	return nil
}

func (v *fold) Run(s *Scratch, in, out []*Tensor) {
	z := out[0]
	if slices.Equal(in[0].Shape, z.Shape) {
		copy(z.F, in[0].F)
		copy(z.I, in[0].I)
	} else {
		first := binary{float: func(_, y float32) float32 { return y }, int: func(_, y int64) int64 { return y }}
		first.Run(s, []*Tensor{z, in[0]}, out)
	}
	for _, t := range in[1:] {
		v.binary.Run(s, []*Tensor{z, t}, out)
	}
	if v.mean {
		s.Gemm.ZipScalar(kernel.Div, z.F, z.F, float32(len(in)))
	}
}
