package ops

import (
	"fmt"
	"slices"

	"idunno/models/internal/kernel"
)

// conv is a convolution with groups over one to three spatial dimensions. Constant weights are packed, one matrix a group, unless a group
// is one channel; otherwise, and with three dimensions, the patches of an image become the columns of a matrix, which the weights multiply.
type conv struct {
	window
	groups int
	packed []*kernel.PackedA
	planar []*kernel.PackedConv // instead of packed: one or two dimensions
	depth  []float32            // instead of packed: weights of one channel a group, one or two dimensions
	bias   []float32            // the constant bias; nil when it comes with the inputs or is left out
	end    kernel.Epilogue      // without the bias; Halve only with planar, where a MaxPool of 2 x 2 follows
}

// PoolFuser is an Op that can take over the pooling that follows it. The engine calls it while compiling, before the Op is used.
type PoolFuser interface {
	// FusePool makes the Op do the work of next too and reports whether it could.
	FusePool(next Op) bool
}

func buildConv(n *Node, a *attrs) (Op, error) {
	w, err := readWindow(a)
	if err != nil {
		return nil, err
	}
	c := &conv{window: w}
	g := a.int("group", 1)
	if g < 1 || g > maxWindow {
		return nil, fmt.Errorf("group is %d", g)
	}
	c.groups = int(g)
	if err := needFloat(n.Consts, 1, 2); err != nil {
		return nil, err
	}
	wt := n.constant(1)
	if wt == nil || n.present(2) && n.constant(2) == nil {
		return c, nil
	}
	if b := n.constant(2); b != nil {
		c.bias = b.F
	}
	if len(wt.Shape) < 3 || wt.Shape[0]%c.groups != 0 {
		return nil, fmt.Errorf("weights of shape %v for %d groups", wt.Shape, g)
	}
	m, k := wt.Shape[0]/c.groups, volume(wt.Shape[1:])
	if c.groups > 1 && wt.Shape[1] == 1 && len(wt.Shape) < 5 && k > 0 {
		c.depth = wt.F
		return c, nil
	}
	for i := range c.groups {
		if len(wt.Shape) < 5 && k > 0 {
			c.planar = append(c.planar, kernel.PackConv(c.like(wt.Shape[1:]), m, wt.F[i*m*k:]))
			continue
		}
		c.packed = append(c.packed, kernel.PackA(false, m, k, wt.F[i*m*k:], k))
	}
	return c, nil
}

func (c *conv) place2(in []*Tensor) (geometry, error) {
	return c.place(in[0].Shape[2:], in[1].Shape[2:])
}

func (c *conv) Shape(in []*Tensor, out []Spec) error {
	if err := needFloat(in, 0, 1, 2); err != nil {
		return err
	}
	x, w := in[0].Shape, in[1].Shape
	if len(x) < 3 || len(w) != len(x) {
		return fmt.Errorf("input of shape %v and weights of shape %v", x, w)
	}
	if w[0]%c.groups != 0 || x[1]%c.groups != 0 || w[1] != x[1]/c.groups || volume(w) == 0 {
		return fmt.Errorf("weights of shape %v do not fit %d channels in %d groups", w, x[1], c.groups)
	}
	for i, k := range c.kernel {
		if len(c.kernel) != len(w)-2 || k != w[i+2] {
			return fmt.Errorf("kernel_shape %v and weights of shape %v", c.kernel, w)
		}
	}
	if len(in) > 2 && in[2] != nil && (len(in[2].Shape) != 1 || in[2].Shape[0] != w[0]) {
		return fmt.Errorf("bias of shape %v for %d channels", in[2].Shape, w[0])
	}
	g, err := c.place2(in)
	if err != nil {
		return err
	}
	if c.end.Halve {
		g.out[1], g.out[2] = g.out[1]/2, g.out[2]/2
		if g.out[1] == 0 || g.out[2] == 0 {
			return fmt.Errorf("a window of 2 x 2 does not fit the result for an input of shape %v", x)
		}
	}
	out[0].set(in[0].DType, x[0], w[0])
	out[0].Shape = append(out[0].Shape, g.out[5-len(x):]...)
	return nil
}

// Cost counts the product and the space of the columns of one image and group.
func (c *conv) Cost(in []*Tensor, out []Spec) (int64, int64) {
	k, results := int64(volume(in[1].Shape[1:])), int64(volume(out[0].Shape))
	g, _ := c.place2(in)
	area := int64(volume(g.out[:]))
	flops := 2 * int64(volume(out[0].Shape[:2])) * area * k
	if c.end.Halve {
		flops += 4 * results
	}
	if c.depth != nil {
		return flops, kernel.DepthwiseSpace(g.planar(1))
	}
	if c.planar != nil {
		return flops, c.planar[0].Space(g.planar(in[0].Shape[1] / c.groups))
	}
	return flops, 2 * k * area
}

func (c *conv) Run(s *Scratch, in, out []*Tensor) { c.blocks(s, in, out, nil) }

func (c *conv) blocks(s *Scratch, in, out []*Tensor, t *Tailed) {
	x, y := in[0], out[0]
	images, size, per := x.Shape[0], volume(x.Shape[1:]), volume(y.Shape[1:])
	step := max(images, 1)
	if t != nil {
		step = max(1, tailBlock/max(per, 1))
		if c.planar != nil {
			g, _ := c.place2(in)
			step = max(step, c.planar[0].Together(g.planar(x.Shape[1]/c.groups), images))
		}
	}
	for i := 0; i < images && !s.stopped(); i += step {
		n := min(step, images-i)
		part := y.F[i*per:][:n*per]
		c.images(s, in, n, x.F[i*size:][:n*size], part, per)
		if t != nil {
			t.finish(s, in[0].DType, part, i*per)
		}
	}
}

// images convolves some of the images: those of x, to y, where each begins stride elements after the one before.
func (c *conv) images(s *Scratch, in []*Tensor, images int, x, y []float32, stride int) {
	w := in[1]
	g, _ := c.place2(in)
	channels := in[0].Shape[1] / c.groups
	m, k := w.Shape[0]/c.groups, volume(w.Shape[1:])
	size, n := volume(g.in[:]), volume(g.out[:])
	if c.end.Halve {
		n = g.out[len(g.out)-2] / 2 * (g.out[len(g.out)-1] / 2)
	}
	bias := c.bias
	if bias == nil && len(in) > 2 && in[2] != nil {
		bias = in[2].F
	}
	if c.depth != nil {
		c.filter(s, g.planar(in[0].Shape[1]), w.Shape[0], images, x, y, stride)
		return
	}
	direct := g.pointwise()
	for q := range c.groups {
		e := c.end
		e.PerRow = true
		if bias != nil {
			e.Bias = bias[q*m:][:m]
		}
		if c.planar != nil {
			from := kernel.Images{F: x[q*channels*size:], Stride: c.groups * channels * size}
			to := kernel.Images{F: y[q*m*n:], Stride: stride}
			s.Gemm.Conv(c.planar[q], g.planar(channels), images, from, to, e)
			continue
		}
		for i := range images {
			dst := y[i*stride+q*m*n:][:m*n]
			col := x[(i*c.groups+q)*channels*size:][:channels*size]
			if s.stopped() {
				return
			}
			if !direct {
				img := col
				col = s.floats(0, k*n)
				g.columns(channels, img, col)
			}
			if c.packed != nil {
				s.Gemm.MulA(c.packed[q], n, col, n, dst, n, e)
				continue
			}
			s.Gemm.Gemm(false, false, m, n, k, 1, w.F[q*m*k:], k, col, n, 0, dst, n)
			finish(dst, n, &e)
		}
	}
}

// filter convolves some images with as many groups as channels.
func (c *conv) filter(s *Scratch, g kernel.Window, out, images int, x, y []float32, stride int) {
	from, to := kernel.Images{F: x, Stride: len(x) / images}, kernel.Images{F: y, Stride: stride}
	s.Gemm.Depthwise(g, out, c.depth, images, from, to, c.bias, c.activation())
}

// activation is what is done to results while they are stored, in the form of a depthwise convolution.
func (c *conv) activation() kernel.Activation {
	switch lo, hi := c.end.Lo, c.end.Hi; {
	case c.end.Clip && c.end.Relu:
		return kernel.Activation{Func: kernel.Clip, Alpha: max(lo, 0), Beta: max(hi, 0)}
	case c.end.Clip:
		return kernel.Activation{Func: kernel.Clip, Alpha: lo, Beta: hi}
	case c.end.Relu:
		return kernel.Activation{Func: kernel.Relu}
	}
	return kernel.Activation{}
}

// Packs says that the weights and the bias are in the Op.
func (c *conv) Packs(i int) bool { return c.packed != nil || c.planar != nil || c.depth != nil }

// finish applies an epilogue to a product that was computed without one.
func finish(y []float32, n int, e *kernel.Epilogue) {
	for i := range len(y) / max(n, 1) {
		row := y[i*n:][:n]
		if e.Bias != nil {
			for j := range row {
				row[j] += e.Bias[i]
			}
		}
		limit(row, e)
	}
}

// FuseRelu applies ReLU while storing.
func (c *conv) FuseRelu() { fuseRelu(&c.end) }

// FuseClip limits while storing.
func (c *conv) FuseClip(lo, hi float32) bool { return fuseClip(&c.end, lo, hi) }

// FuseBias never applies: Conv has its own bias.
func (c *conv) FuseBias(*Tensor) bool { return false }

// FusePool takes over the maximum of 2 x 2 places without overlap.
func (c *conv) FusePool(next Op) bool {
	p, ok := next.(*pool)
	if !ok || !p.max || p.ceil || p.auto != "NOTSET" && p.auto != "VALID" || c.planar == nil || c.end.Halve {
		return false
	}
	if !slices.Equal(p.kernel, []int{2, 2}) || !slices.Equal(p.strides, []int{2, 2}) || slices.Max(append(p.dilations, 1)) > 1 {
		return false
	}
	if p.auto == "NOTSET" && slices.Max(append(p.pads, 0)) > 0 {
		return false
	}
	c.end.Halve = true
	return true
}

// like is a window with the kernel of weights of shape [channels, ...], one or two dimensions, for any image.
func (w *window) like(shape []int) kernel.Window {
	last := func(list []int, i int) int {
		if len(list) < i {
			return 1
		}
		return list[len(list)-i]
	}
	return kernel.Window{
		C: shape[0], KH: last(shape[1:], 2), KW: last(shape[1:], 1), StrideH: last(w.strides, 2), StrideW: last(w.strides, 1),
		DilationH: last(w.dilations, 2), DilationW: last(w.dilations, 1),
	}
}

// pointwise says that the columns of an image are the image itself.
func (g *geometry) pointwise() bool {
	one := [3]int{1, 1, 1}
	return g.kernel == one && g.stride == one && g.before == [3]int{} && g.after == [3]int{}
}

// columns is [kernel.Im2col] for up to three dimensions.
func (g *geometry) columns(channels int, img, col []float32) {
	if g.in[0] == 1 && g.kernel[0] == 1 && g.out[0] == 1 {
		kernel.Im2col(g.planar(channels), img, col)
		return
	}
	at, size := 0, volume(g.in[:])
	for c := range channels {
		plane := img[c*size:][:size]
		for tap := range volume(g.kernel[:]) {
			kz, ky, kx := tap/(g.kernel[1]*g.kernel[2]), tap/g.kernel[2]%g.kernel[1], tap%g.kernel[2]
			for o := range volume(g.out[:]) {
				z := o/(g.out[1]*g.out[2])*g.stride[0] - g.before[0] + kz*g.dilation[0]
				y := o/g.out[2]%g.out[1]*g.stride[1] - g.before[1] + ky*g.dilation[1]
				x := o%g.out[2]*g.stride[2] - g.before[2] + kx*g.dilation[2]
				col[at] = 0
				if z >= 0 && z < g.in[0] && y >= 0 && y < g.in[1] && x >= 0 && x < g.in[2] {
					col[at] = plane[(z*g.in[1]+y)*g.in[2]+x]
				}
				at++
			}
		}
	}
}

// planar is the geometry without its first dimension, which must be 1.
func (g *geometry) planar(channels int) kernel.Window {
	return kernel.Window{
		C: channels, H: g.in[1], W: g.in[2], KH: g.kernel[1], KW: g.kernel[2],
		StrideH: g.stride[1], StrideW: g.stride[2], DilationH: g.dilation[1], DilationW: g.dilation[2],
		PadTop: g.before[1], PadLeft: g.before[2], PadBottom: g.after[1], PadRight: g.after[2],
	}
}
