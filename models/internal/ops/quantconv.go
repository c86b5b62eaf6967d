package ops

import (
	"fmt"
	"slices"

	"idunno/models/onnx"
)

// convInteger convolves 8-bit images exactly. With quantized, the inputs are x, its scale and zero point, the same for the weights and for
// the result, and a bias; else x, weights and their zero points, and the result is int32. The weights may have a scale and a zero point a
// channel.
type convInteger struct {
	window
	groups    int
	quantized bool
}

func quantConvTable() map[string]spec {
	return map[string]spec{
		"ConvInteger": {since: 10, in: 2, max: 4, outs: 1, build: buildConvInteger(false)},
		"QLinearConv": {since: 10, in: 8, max: 9, outs: 1, build: buildConvInteger(true)},
	}
}

func buildConvInteger(quantized bool) func(*Node, *attrs) (Op, error) {
	return func(_ *Node, a *attrs) (Op, error) {
		w, err := readWindow(a)
		if err != nil {
			return nil, err
		}
		g := a.int("group", 1)
		if g < 1 || g > maxWindow {
			return nil, fmt.Errorf("group is %d", g)
		}
		return &convInteger{w, int(g), quantized}, nil
	}
}

// operands returns the factors and their zero points.
func (c *convInteger) operands(in []*Tensor) (x, w, xz, wz *Tensor) {
	return (&matMulInteger{c.quantized}).operands(in)
}

func (c *convInteger) Shape(in []*Tensor, out []Spec) error {
	xt, wt, xz, wz := c.operands(in)
	x, w := xt.Shape, wt.Shape
	for _, t := range []*Tensor{xt, wt} {
		if t.DType != onnx.Int8 && t.DType != onnx.Uint8 {
			return fmt.Errorf("operands are %s and %s, not bytes", xt.DType, wt.DType)
		}
	}
	if len(x) < 3 || len(w) != len(x) || w[0]%c.groups != 0 || x[1]%c.groups != 0 || w[1] != x[1]/c.groups || volume(w) == 0 {
		return fmt.Errorf("weights of shape %v do not fit %v in %d groups", w, x, c.groups)
	}
	if len(c.kernel) > 0 && !slices.Equal(c.kernel, w[2:]) {
		return fmt.Errorf("kernel_shape %v and weights of shape %v", c.kernel, w)
	}
	perChannel := []*Tensor{wz}
	one := []*Tensor{xz}
	out[0].DType = onnx.Int32
	if c.quantized {
		perChannel, one = append(perChannel, in[4]), append(one, in[1], in[6], in[7])
		out[0].DType = in[7].DType
		if _, _, err := bounds(out[0].DType); err != nil {
			return err
		}
		if b := input(in, 8); b != nil && (b.DType != onnx.Int32 || b.Len() != w[0]) {
			return fmt.Errorf("bias %s%v for %d channels", b.DType, b.Shape, w[0])
		}
		if err := needFloat(in, 1, 4, 6); err != nil {
			return err
		}
	}
	for _, t := range perChannel {
		if t != nil && t.Len() != 1 && t.Len() != w[0] {
			return fmt.Errorf("%w: a scale or zero point of shape %v", ErrUnsupported, t.Shape)
		}
	}
	for _, t := range one {
		if t != nil && t.Len() != 1 {
			return fmt.Errorf("%w: a scale or zero point of shape %v", ErrUnsupported, t.Shape)
		}
	}
	for _, t := range []*Tensor{xz, wz} {
		if t != nil && !t.DType.IsInt() {
			return fmt.Errorf("a zero point is %s", t.DType)
		}
	}
	g, err := c.place(x[2:], w[2:])
	if err != nil {
		return err
	}
	out[0].set(out[0].DType, x[0], w[0])
	out[0].Shape = append(out[0].Shape, g.out[5-len(x):]...)
	return nil
}

func (c *convInteger) Cost(in []*Tensor, out []Spec) (int64, int64) {
	_, w, _, _ := c.operands(in)
	return satMul(2*int64(volume(out[0].Shape)), int64(volume(w.Shape[1:]))), 0
}

func (c *convInteger) Run(_ *Scratch, in, out []*Tensor) {
	x, w, xz, wz := c.operands(in)
	y := out[0]
	g, _ := c.place(x.Shape[2:], w.Shape[2:])
	channels, made := w.Shape[1], w.Shape[0]
	size, res, taps := volume(g.in[:]), volume(g.out[:]), volume(g.kernel[:])
	for i := range x.Shape[0] * made {
		m := i % made
		group := m / (made / c.groups)
		img := x.I[(i/made*x.Shape[1]+group*channels)*size:][:channels*size]
		weights := w.I[m*channels*taps:][:channels*taps]
		zx, zw := zeroAt(xz, 0), zeroAt(wz, m)
		for o := range res {
			sum := g.dot(img, weights, channels, o, zx, zw)
			if c.quantized {
				if b := input(in, 8); b != nil {
					sum += b.I[m]
				}
				scale := float64(in[1].F[0]) * float64(in[4].F[m%len(in[4].F)]) / float64(in[6].F[0])
				sum = saturate(float64(sum)*scale, in[7].I[0], y.DType)
			}
			y.I[i*res+o] = y.DType.Wrap(sum)
		}
	}
}

// dot is the sum over one window; padding stands for zero, so it adds nothing.
func (g *geometry) dot(img, weights []int64, channels, o int, zx, zw int64) int64 {
	size, taps := volume(g.in[:]), volume(g.kernel[:])
	z0 := o/(g.out[1]*g.out[2])*g.stride[0] - g.before[0]
	y0 := o/g.out[2]%g.out[1]*g.stride[1] - g.before[1]
	x0 := o%g.out[2]*g.stride[2] - g.before[2]
	sum := int64(0)
	for tap := range taps {
		z := z0 + tap/(g.kernel[1]*g.kernel[2])*g.dilation[0]
		y := y0 + tap/g.kernel[2]%g.kernel[1]*g.dilation[1]
		x := x0 + tap%g.kernel[2]*g.dilation[2]
		if z < 0 || z >= g.in[0] || y < 0 || y >= g.in[1] || x < 0 || x >= g.in[2] {
			continue
		}
		at := (z*g.in[1]+y)*g.in[2] + x
		for c := range channels {
			sum += (img[c*size+at] - zx) * (weights[c*taps+tap] - zw)
		}
	}
	return sum
}
