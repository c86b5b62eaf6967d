package ops

import (
	"fmt"
	"math"

	"idunno/models/internal/kernel"
)

// windowTable lists the operators on images: convolution, pooling and normalization by channel.
func windowTable() map[string]spec {
	return map[string]spec{
		"Conv":               {since: 1, in: 2, max: 3, outs: 1, build: buildConv},
		"MaxPool":            {since: 1, in: 1, max: 1, outs: 2, build: buildPool(true)},
		"AveragePool":        {since: 1, in: 1, max: 1, outs: 1, build: buildPool(false)},
		"GlobalAveragePool":  {since: 1, in: 1, max: 1, outs: 1, build: plain(&globalPool{})},
		"GlobalMaxPool":      {since: 1, in: 1, max: 1, outs: 1, build: plain(&globalPool{max: true})},
		"BatchNormalization": {since: 1, in: 5, max: 5, outs: 1, build: buildBatchNorm},
	}
}

const maxWindow = 1 << 20 // of kernel sizes, strides, dilations and pads; products stay far from overflow

// window holds the attributes that convolution and pooling share.
type window struct {
	kernel, strides, dilations, pads []int // empty: the default
	auto                             string
	ceil                             bool
}

func readWindow(a *attrs) (window, error) {
	w := window{
		kernel: a.small("kernel_shape", 1, maxWindow), strides: a.small("strides", 1, maxWindow),
		dilations: a.small("dilations", 1, maxWindow), pads: a.small("pads", 0, maxWindow),
		auto: a.string("auto_pad", "NOTSET"),
	}
	switch w.auto {
	case "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID":
	default:
		return w, fmt.Errorf("auto_pad is %q", w.auto)
	}
	return w, nil
}

// geometry is a window placed on an image of up to three dimensions; images of fewer get dimensions of 1 in front.
type geometry struct {
	in, kernel, stride, dilation, before, after, out [3]int
}

// place computes the geometry for spatial dimensions dims. kernel is from the weights or the attributes.
func (w *window) place(dims, kernel []int) (geometry, error) {
	var g geometry
	n := len(dims)
	if n < 1 || n > 3 {
		return g, fmt.Errorf("%w: %d spatial dimensions, 1 to 3 are possible", ErrUnsupported, n)
	}
	if len(kernel) != n || bad(w.strides, n) || bad(w.dilations, n) || bad(w.pads, 2*n) {
		return g, fmt.Errorf("kernel, strides, dilations or pads do not have %d dimensions", n)
	}
	for i := range 3 {
		g.in[i], g.kernel[i], g.stride[i], g.dilation[i], g.out[i] = 1, 1, 1, 1, 1
	}
	for i := range n {
		j := 3 - n + i
		g.in[j], g.kernel[j] = dims[i], kernel[i]
		if len(w.strides) > 0 {
			g.stride[j] = w.strides[i]
		}
		if len(w.dilations) > 0 {
			g.dilation[j] = w.dilations[i]
		}
		span := (g.kernel[j]-1)*g.dilation[j] + 1
		switch w.auto {
		case "SAME_UPPER", "SAME_LOWER":
			out := (dims[i] + g.stride[j] - 1) / g.stride[j]
			total := max((out-1)*g.stride[j]+span-dims[i], 0)
			g.before[j] = total / 2
			if w.auto == "SAME_LOWER" {
				g.before[j] = total - total/2
			}
			g.after[j] = total - g.before[j]
		case "NOTSET":
			if len(w.pads) > 0 {
				g.before[j], g.after[j] = w.pads[i], w.pads[n+i]
			}
		}
		room := dims[i] + g.before[j] + g.after[j] - span
		if room < 0 || dims[i] == 0 {
			return g, fmt.Errorf("a window of %d does not fit %d padded by %d and %d", span, dims[i], g.before[j], g.after[j])
		}
		g.out[j] = room/g.stride[j] + 1
		if w.ceil && room%g.stride[j] != 0 && g.out[j]*g.stride[j] < dims[i]+g.before[j] {
			g.out[j]++ // the last window begins inside the image
		}
	}
	return g, nil
}

func bad(list []int, n int) bool { return len(list) != 0 && len(list) != n }

// clipped returns the input positions first, first+dilation, ... < end of output position o in dimension d that lie in the image.
func (g *geometry) clipped(d, o int) (first, end int) {
	first = o*g.stride[d] - g.before[d]
	end = min(first+(g.kernel[d]-1)*g.dilation[d]+1, g.in[d])
	if step := g.dilation[d]; first < 0 {
		first += (step - 1 - first) / step * step
	}
	return first, end
}

// pool is MaxPool or AveragePool.
type pool struct {
	window
	max, padded bool
	columnMajor bool // order of MaxPool's indices
}

func buildPool(isMax bool) func(*Node, *attrs) (Op, error) {
	return func(n *Node, a *attrs) (Op, error) {
		w, err := readWindow(a)
		if err != nil {
			return nil, err
		}
		w.ceil = a.int("ceil_mode", 0) != 0
		p := &pool{window: w, max: isMax}
		if isMax {
			p.columnMajor = a.int("storage_order", 0) != 0
		} else {
			p.padded = a.int("count_include_pad", 0) != 0
		}
		if len(w.kernel) == 0 {
			return nil, fmt.Errorf("%s without kernel_shape", n.Op)
		}
		return p, nil
	}
}

func (p *pool) Shape(in []*Tensor, out []Spec) error {
	x := in[0]
	if !x.DType.IsFloat() && (!p.max || !x.DType.IsInt()) {
		return fmt.Errorf("input is %s", x.DType)
	}
	if len(x.Shape) < 3 {
		return fmt.Errorf("input of shape %v has no spatial dimensions", x.Shape)
	}
	g, err := p.place(x.Shape[2:], p.kernel)
	if err != nil {
		return err
	}
	for i := range out {
		d := x.DType
		if i == 1 {
			d = 7 // the indices are int64
		}
		out[i].set(d, x.Shape[:2]...)
		out[i].Shape = append(out[i].Shape, g.out[3-len(p.kernel):]...)
	}
	return nil
}

func (p *pool) Cost(in []*Tensor, out []Spec) (int64, int64) {
	g, _ := p.place(in[0].Shape[2:], p.kernel)
	scratch := int64(0)
	if k, ok := p.planar(&g); ok {
		scratch = kernel.PoolSpace(&k) + int64(g.out[1]+g.out[2])
	}
	return int64(volume(out[0].Shape)) * int64(min(volume(p.kernel), 1<<30)), scratch
}

// planar is the pooling for package kernel, without the counts of an average; not ok for three dimensions.
func (p *pool) planar(g *geometry) (k kernel.Pool, ok bool) {
	if g.in[0] != 1 || g.kernel[0] != 1 || g.out[0] != 1 {
		return k, false
	}
	return kernel.Pool{Window: g.planar(1), OH: g.out[1], OW: g.out[2]}, true
}

func (p *pool) Run(s *Scratch, in, out []*Tensor) {
	x := in[0]
	g, _ := p.place(x.Shape[2:], p.kernel)
	size, res := volume(g.in[:]), volume(g.out[:])
	var indices []int64
	if len(out) > 1 && out[1] != nil {
		indices = out[1].I
	}
	if k, ok := p.planar(&g); ok && indices == nil && x.F != nil && !(p.max && g.isHalving()) {
		if !p.max {
			p.counts(s, &g, &k)
		}
		s.Gemm.Pool(&k, x.Shape[0]*x.Shape[1], x.F, out[0].F)
		return
	}
	for c := range x.Shape[0] * x.Shape[1] {
		switch {
		case x.DType.IsInt():
			poolInts(&g, x.I[c*size:][:size], out[0].I[c*res:][:res])
		case !p.max:
			p.average(&g, x.F[c*size:][:size], out[0].F[c*res:][:res])
		case indices == nil && g.isHalving():
			s.Gemm.Halve(out[0].F[c*res:][:res], x.F[c*size:][:size], g.in[2], g.out[1], g.out[2])
		default:
			var at []int64
			if indices != nil {
				at = indices[c*res:][:res]
			}
			p.maximum(&g, x.F[c*size:][:size], out[0].F[c*res:][:res], at, c*size)
		}
	}
}

// counts fills in what the sums of a planar average are divided by.
func (p *pool) counts(s *Scratch, g *geometry, k *kernel.Pool) {
	space := s.floats(0, k.OH+k.OW)
	k.RowCounts, k.ColCounts = space[:k.OH], space[k.OH:]
	p.lengths(g, 1, k.RowCounts)
	p.lengths(g, 2, k.ColCounts)
}

// lengths fills in the number of places that count in each window along a dimension.
func (p *pool) lengths(g *geometry, d int, list []float32) {
	for i := range list {
		first, end := g.clipped(d, i)
		n := (end - first + g.dilation[d] - 1) / g.dilation[d]
		if p.padded {
			n = g.paddedLength(d, i)
		}
		list[i] = float32(max(n, 1))
	}
}

// each calls f with the clipped ranges of every output position: z to ze, y to ye, x to xe.
func (g *geometry) each(f func(o, z, ze, y, ye, x, xe int)) {
	o := 0
	for oz := range g.out[0] {
		z, ze := g.clipped(0, oz)
		for oy := range g.out[1] {
			y, ye := g.clipped(1, oy)
			for ox := range g.out[2] {
				x, xe := g.clipped(2, ox)
				f(o, z, ze, y, ye, x, xe)
				o++
			}
		}
	}
}

func (p *pool) maximum(g *geometry, src, dst []float32, at []int64, base int) {
	h, w := g.in[1], g.in[2]
	g.each(func(o, z0, ze, y0, ye, x0, xe int) {
		best, pos := float32(math.Inf(-1)), -1
		for z := z0; z < ze; z += g.dilation[0] {
			for y := y0; y < ye; y += g.dilation[1] {
				line := src[(z*h+y)*w:][:w]
				for x := x0; x < xe; x += g.dilation[2] {
					if v := line[x]; v > best || pos < 0 || v != v {
						best, pos = v, (z*h+y)*w+x
					}
				}
			}
		}
		dst[o] = best
		if at == nil {
			return
		}
		if p.columnMajor && pos >= 0 {
			z, y, x := pos/(h*w), pos/w%h, pos%w
			pos = (x*h+y)*g.in[0] + z
		}
		at[o] = int64(base + pos)
	})
}

func (p *pool) average(g *geometry, src, dst []float32) {
	h, w := g.in[1], g.in[2]
	g.each(func(o, z0, ze, y0, ye, x0, xe int) {
		var sum float64
		n := 0
		for z := z0; z < ze; z += g.dilation[0] {
			for y := y0; y < ye; y += g.dilation[1] {
				line := src[(z*h+y)*w:][:w]
				for x := x0; x < xe; x += g.dilation[2] {
					sum += float64(line[x])
					n++
				}
			}
		}
		if p.padded {
			n = g.paddedCount(o)
		}
		dst[o] = float32(sum / float64(max(n, 1)))
	})
}

// paddedCount is the number of window positions of output o inside the image and its padding.
func (g *geometry) paddedCount(o int) int {
	n := 1
	for d := 2; d >= 0; d-- {
		i := o % g.out[d]
		o /= g.out[d]
		n *= g.paddedLength(d, i)
	}
	return n
}

// paddedLength is the number of positions of window i in dimension d inside the image and its padding.
func (g *geometry) paddedLength(d, i int) int {
	first := i*g.stride[d] - g.before[d]
	return min(g.kernel[d], (g.in[d]+g.after[d]-first-1)/g.dilation[d]+1)
}

func poolInts(g *geometry, src, dst []int64) {
	h, w := g.in[1], g.in[2]
	g.each(func(o, z0, ze, y0, ye, x0, xe int) {
		best, any := int64(0), false
		for z := z0; z < ze; z += g.dilation[0] {
			for y := y0; y < ye; y += g.dilation[1] {
				for x := x0; x < xe; x += g.dilation[2] {
					if v := src[(z*h+y)*w+x]; v > best || !any {
						best, any = v, true
					}
				}
			}
		}
		dst[o] = best
	})
}

// isHalving recognizes the 2 x 2 windows with stride 2 of most image networks.
func (g *geometry) isHalving() bool {
	return g.in[0] == 1 && g.kernel == [3]int{1, 2, 2} && g.stride == [3]int{1, 2, 2} && g.dilation == [3]int{1, 1, 1} &&
		g.before == [3]int{} && 2*g.out[1] <= g.in[1] && 2*g.out[2] <= g.in[2]
}

// globalPool reduces each channel to one number.
type globalPool struct{ max bool }

func (p *globalPool) Shape(in []*Tensor, out []Spec) error {
	if len(in[0].Shape) < 2 {
		return fmt.Errorf("input of shape %v has no channels", in[0].Shape)
	}
	out[0].set(in[0].DType, in[0].Shape...)
	for i := 2; i < len(out[0].Shape); i++ {
		out[0].Shape[i] = 1
	}
	return needFloat(in, 0)
}

func (p *globalPool) Cost(in []*Tensor, _ []Spec) (int64, int64) { return int64(in[0].Len()), 0 }

func (p *globalPool) Run(s *Scratch, in, out []*Tensor) {
	size := volume(in[0].Shape[2:])
	for c := range out[0].F {
		plane := in[0].F[c*size:][:size]
		if p.max {
			out[0].F[c] = s.Gemm.Highest(plane)
			continue
		}
		out[0].F[c] = float32(s.Gemm.Sum(plane) / float64(max(size, 1)))
	}
}

// batchNorm scales and shifts each channel by its stored statistics.
type batchNorm struct{ epsilon float32 }

func buildBatchNorm(n *Node, a *attrs) (Op, error) {
	b := &batchNorm{epsilon: a.float("epsilon", 1e-5)}
	a.ignore("momentum", "consumed_inputs")
	training := n.Opset < 7 && a.int("is_test", 0) == 0
	if training || a.int("training_mode", 0) != 0 || a.int("spatial", 1) != 1 {
		return nil, fmt.Errorf("%w: BatchNormalization in training mode or over positions; %w", ErrUnsupported, noTraining)
	}
	return b, nil
}

func (b *batchNorm) Shape(in []*Tensor, out []Spec) error {
	x := in[0]
	if len(x.Shape) < 2 {
		return fmt.Errorf("input of shape %v has no channels", x.Shape)
	}
	for i, t := range in[1:] {
		if len(t.Shape) != 1 || t.Shape[0] != x.Shape[1] {
			return fmt.Errorf("input %d has shape %v, the channels are %d", i+1, t.Shape, x.Shape[1])
		}
	}
	out[0].set(x.DType, x.Shape...)
	return needFloat(in, 0, 1, 2, 3, 4)
}

func (b *batchNorm) Cost(in []*Tensor, _ []Spec) (int64, int64) { return 2 * int64(in[0].Len()), 0 }

func (b *batchNorm) Run(s *Scratch, in, out []*Tensor) {
	x := in[0]
	channels, size := x.Shape[1], volume(x.Shape[2:])
	for c := range x.Shape[0] * channels {
		i := c % max(channels, 1)
		scale := float64(in[1].F[i]) / math.Sqrt(float64(in[4].F[i])+float64(b.epsilon))
		mul, add := float32(scale), float32(float64(in[2].F[i])-float64(in[3].F[i])*scale)
		src, dst := x.F[c*size:][:size], out[0].F[c*size:][:size]
		s.Gemm.Apply(kernel.Activation{Func: kernel.Linear, Alpha: mul, Beta: add}, dst, src)
	}
}
