package ops

import (
	"fmt"

	"idunno/models/onnx"
)

// convTranspose is the gradient of a convolution with respect to its input, also called deconvolution: the transposed weights times the
// image give columns, which are added up where a convolution would have read them.
type convTranspose struct {
	window
	groups      int
	outPad, out []int // output_padding, output_shape
}

func transposedTable() map[string]spec {
	return map[string]spec{"ConvTranspose": {since: 1, in: 2, max: 3, outs: 1, build: buildConvTranspose}}
}

func buildConvTranspose(_ *Node, a *attrs) (Op, error) {
	w, err := readWindow(a)
	if err != nil {
		return nil, err
	}
	g := a.int("group", 1)
	if g < 1 || g > maxWindow {
		return nil, fmt.Errorf("group is %d", g)
	}
	return &convTranspose{window: w, groups: int(g), outPad: a.small("output_padding", 0, maxWindow), out: a.small("output_shape", 0, 1<<30)}, nil
}

// adjoint computes the geometry of the convolution that this one is the gradient of: its input is our output.
func (c *convTranspose) adjoint(in []*Tensor) (geometry, error) {
	var g geometry
	dims, kernel := in[0].Shape[2:], in[1].Shape[2:]
	n := len(dims)
	if n > 3 {
		return g, fmt.Errorf("%w: %d spatial dimensions, 1 to 3 are possible", ErrUnsupported, n)
	}
	if bad(c.strides, n) || bad(c.dilations, n) || bad(c.pads, 2*n) || bad(c.outPad, n) || bad(c.kernel, n) {
		return g, fmt.Errorf("kernel, strides, dilations, pads or output_padding do not have %d dimensions", n)
	}
	shape := c.out
	if len(shape) == n+2 {
		shape = shape[2:]
	}
	if bad(shape, n) {
		return g, fmt.Errorf("output_shape %v for %d dimensions", c.out, n)
	}
	for i := range 3 {
		g.in[i], g.kernel[i], g.stride[i], g.dilation[i], g.out[i] = 1, 1, 1, 1, 1
	}
	for i := range n {
		j := 3 - n + i
		g.out[j], g.kernel[j] = dims[i], kernel[i]
		if len(c.strides) > 0 {
			g.stride[j] = c.strides[i]
		}
		if len(c.dilations) > 0 {
			g.dilation[j] = c.dilations[i]
		}
		extra := 0
		if len(c.outPad) > 0 {
			extra = c.outPad[i]
		}
		if dims[i] < 1 || kernel[i] < 1 || dims[i] > 1<<30 || kernel[i] > maxWindow {
			return g, fmt.Errorf("an image of %v and a kernel of %v", dims, kernel)
		}
		full := (dims[i]-1)*g.stride[j] + extra + (kernel[i]-1)*g.dilation[j] + 1
		same := c.auto == "SAME_UPPER" || c.auto == "SAME_LOWER"
		switch {
		case len(shape) > 0 || same:
			g.in[j] = dims[i] * g.stride[j]
			if len(shape) > 0 {
				g.in[j] = shape[i]
			}
			// The smaller half comes first, except for SAME_LOWER.
			total := max(full-g.in[j], 0)
			g.before[j] = total / 2
			if c.auto == "SAME_LOWER" {
				g.before[j] = total - total/2
			}
		case c.auto == "NOTSET" && len(c.pads) > 0:
			g.before[j] = c.pads[i]
			g.in[j] = full - c.pads[i] - c.pads[n+i]
		default:
			g.in[j] = full
		}
		if g.in[j] < 1 {
			return g, fmt.Errorf("the output would have %d elements along dimension %d", g.in[j], i+2)
		}
	}
	return g, nil
}

func (c *convTranspose) Shape(in []*Tensor, out []Spec) error {
	x, w := in[0].Shape, in[1].Shape
	if len(x) < 3 || len(w) != len(x) || w[0] != x[1] || x[1]%c.groups != 0 || volume(w) == 0 {
		return fmt.Errorf("input of shape %v and weights of shape %v in %d groups", x, w, c.groups)
	}
	if w[1] > maxWindow*64 || c.groups > 1<<30/w[1] {
		return fmt.Errorf("%d channels in %d groups", w[1], c.groups)
	}
	channels := w[1] * c.groups
	for i, k := range c.kernel {
		if i+2 >= len(w) || k != w[i+2] {
			return fmt.Errorf("kernel_shape %v and weights of shape %v", c.kernel, w)
		}
	}
	if len(in) > 2 && in[2] != nil && (len(in[2].Shape) != 1 || in[2].Shape[0] != channels) {
		return fmt.Errorf("bias of shape %v for %d channels", in[2].Shape, channels)
	}
	g, err := c.adjoint(in)
	if err != nil {
		return err
	}
	out[0].set(onnx.Float, x[0], channels)
	out[0].DType = in[0].DType
	out[0].Shape = append(out[0].Shape, g.in[5-len(x):]...)
	return needFloat(in, 0, 1, 2)
}

// Cost counts the product and the space of the columns of one image and group.
func (c *convTranspose) Cost(in []*Tensor, _ []Spec) (int64, int64) {
	k := satMul(int64(volume(in[1].Shape[1:])), int64(volume(in[0].Shape[2:])))
	return satMul(k, 2*int64(in[0].Shape[0])*int64(in[0].Shape[1])), k
}

// satMul multiplies without overflow, up to 2^60.
func satMul(a, b int64) int64 {
	const most = 1 << 60
	if a > 0 && b > most/a {
		return most
	}
	return a * b
}

func (c *convTranspose) Run(s *Scratch, in, out []*Tensor) {
	x, w, y := in[0], in[1], out[0]
	g, _ := c.adjoint(in)
	taps := volume(g.kernel[:])
	channels, made := x.Shape[1]/c.groups, w.Shape[1]
	k, n, size := made*taps, volume(g.out[:]), volume(g.in[:])
	clear(y.F)
	if len(in) > 2 && in[2] != nil {
		for i := range y.F {
			y.F[i] = in[2].F[i/size%y.Shape[1]]
		}
	}
	col := s.floats(0, k*n)
	for i := range x.Shape[0] * c.groups {
		img := x.F[i*channels*n:][:channels*n]
		s.Gemm.Gemm(true, false, k, n, channels, 1, w.F[i%c.groups*channels*k:], k, img, n, 0, col, n)
		for m := range made {
			g.spread(col[m*taps*n:], y.F[(i*made+m)*size:][:size])
		}
	}
}

// spread adds the columns of one channel to the positions that a convolution reads them from.
func (g *geometry) spread(col, plane []float32) {
	at := 0
	for tap := range volume(g.kernel[:]) {
		kz, ky, kx := tap/(g.kernel[1]*g.kernel[2]), tap/g.kernel[2]%g.kernel[1], tap%g.kernel[2]
		for oz := range g.out[0] {
			z := oz*g.stride[0] - g.before[0] + kz*g.dilation[0]
			for oy := range g.out[1] {
				y := oy*g.stride[1] - g.before[1] + ky*g.dilation[1]
				row := col[at:][:g.out[2]]
				at += len(row)
				if z < 0 || z >= g.in[0] || y < 0 || y >= g.in[1] {
					continue
				}
				line := plane[(z*g.in[1]+y)*g.in[2]:][:g.in[2]]
				x := kx*g.dilation[2] - g.before[2]
				for _, v := range row {
					if x >= 0 && x < len(line) {
						line[x] += v
					}
					x += g.stride[2]
				}
			}
		}
	}
}
