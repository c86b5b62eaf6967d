package train

import (
	"math"
	"math/rand/v2"

	"idunno/models/internal/kernel"
)

// layer is one step of a network. It owns its scratch memory, so one instance
// serves one goroutine; weights and gradients are passed in and may be shared.
// Matrices hold n images, one a row.
type layer interface {
	size() int    // elements it puts out for one image
	weights() int // parameters it has
	// initial fills the parameters with their random start.
	initial(rng *rand.Rand, w []float32)
	// forward computes y (n x size) from x.
	forward(m mode, w, x, y []float32, n int)
	// backward computes, from dy = dLoss/dy and what forward saw, the gradient g
	// of the parameters (overwritten) and dx = dLoss/dx (overwritten; nil when
	// nobody needs it). It follows the forward of the same images.
	backward(w, g, x, y, dy, dx []float32, n int)
}

// mode says what a forward pass is for.
type mode struct {
	dropout *rand.Rand // source of dropout's choices; nil outside training
}

// heInit draws weights from a normal distribution of variance 2/fanIn (He, Zhang,
// Ren, Sun, "Delving Deep into Rectifiers", 2015).
func heInit(rng *rand.Rand, w []float32, fanIn int) {
	sd := math.Sqrt(2 / float64(fanIn))
	for i := range w {
		w[i] = float32(sd * rng.NormFloat64())
	}
}

// dense is y = x*W^T + b. Its parameters are W, out x in as ONNX's Gemm with
// transB=1 wants it, then b.
type dense struct {
	in, out int
	ws      kernel.Workspace
}

func (l *dense) size() int    { return l.out }
func (l *dense) weights() int { return l.out * (l.in + 1) }

func (l *dense) initial(rng *rand.Rand, w []float32) { heInit(rng, w[:l.out*l.in], l.in) }

func (l *dense) forward(_ mode, w, x, y []float32, n int) {
	b := w[l.out*l.in:]
	for i := range n {
		copy(y[i*l.out:(i+1)*l.out], b)
	}
	l.ws.Gemm(false, true, n, l.out, l.in, 1, x, l.in, w, l.in, 1, y, l.out)
}

func (l *dense) backward(w, g, x, _, dy, dx []float32, n int) {
	l.ws.Gemm(true, false, l.out, l.in, n, 1, dy, l.out, x, l.in, 0, g, l.in)
	gb := g[l.out*l.in:][:l.out]
	clear(gb)
	for i := range n {
		for j, d := range dy[i*l.out : (i+1)*l.out] {
			gb[j] += d
		}
	}
	if dx != nil {
		l.ws.Gemm(false, false, n, l.in, l.out, 1, dy, l.out, w, l.in, 0, dx, l.in)
	}
}

// conv is a convolution without padding. Its parameters are W, out x C*KH*KW, then
// one bias an output channel.
type conv struct {
	geo  kernel.Window
	out  int
	ws   kernel.Workspace
	col  []float32 // im2col matrices of all images of the forward pass
	dcol []float32 // gradient of one of them
}

func newConv(c, h, w, out, rows int) *conv {
	l := &conv{geo: kernel.Window{C: c, H: h, W: w, KH: 3, KW: 3}, out: out}
	l.col = make([]float32, rows*l.k()*l.area())
	l.dcol = make([]float32, l.k()*l.area())
	return l
}

func (l *conv) k() int       { return l.geo.C * l.geo.KH * l.geo.KW }
func (l *conv) area() int    { return l.geo.OutH() * l.geo.OutW() }
func (l *conv) input() int   { return l.geo.C * l.geo.H * l.geo.W }
func (l *conv) size() int    { return l.out * l.area() }
func (l *conv) weights() int { return l.out * (l.k() + 1) }

func (l *conv) initial(rng *rand.Rand, w []float32) { heInit(rng, w[:l.out*l.k()], l.k()) }

func (l *conv) forward(_ mode, w, x, y []float32, n int) {
	k, area, b := l.k(), l.area(), w[l.out*l.k():]
	for i := range n {
		col, yi := l.col[i*k*area:(i+1)*k*area], y[i*l.size():(i+1)*l.size()]
		kernel.Im2col(l.geo, x[i*l.input():(i+1)*l.input()], col)
		for c := range l.out {
			plane := yi[c*area : (c+1)*area]
			for j := range plane {
				plane[j] = b[c]
			}
		}
		l.ws.Gemm(false, false, l.out, area, k, 1, w, k, col, area, 1, yi, area)
	}
}

func (l *conv) backward(w, g, _, _, dy, dx []float32, n int) {
	k, area := l.k(), l.area()
	clear(g)
	gb := g[l.out*k:]
	for i := range n {
		col, d := l.col[i*k*area:(i+1)*k*area], dy[i*l.size():(i+1)*l.size()]
		l.ws.Gemm(false, true, l.out, k, area, 1, d, area, col, area, 1, g, k)
		for c := range l.out {
			sum := float32(0)
			for _, v := range d[c*area : (c+1)*area] {
				sum += v
			}
			gb[c] += sum
		}
		if dx != nil {
			l.ws.Gemm(true, false, k, area, l.out, 1, w, k, d, area, 0, l.dcol, area)
			img := dx[i*l.input() : (i+1)*l.input()]
			clear(img)
			kernel.Col2im(l.geo, l.dcol, img)
		}
	}
}

// relu is y = max(x, 0), element by element.
type relu struct{ n int }

func (l *relu) size() int                     { return l.n }
func (l *relu) weights() int                  { return 0 }
func (l *relu) initial(*rand.Rand, []float32) {}

func (l *relu) forward(_ mode, _, x, y []float32, n int) {
	y = y[:n*l.n]
	for i, v := range x[:n*l.n] {
		y[i] = max(v, 0)
	}
}

func (l *relu) backward(_, _, _, y, dy, dx []float32, n int) {
	dy, dx = dy[:n*l.n], dx[:n*l.n]
	for i, v := range y[:n*l.n] {
		d := dy[i]
		if v <= 0 {
			d = 0
		}
		dx[i] = d
	}
}

// pool is max pooling over 2x2 windows with stride 2; an odd last row or column is
// left out.
type pool struct {
	c, h, w int
	from    []int32 // for every output the input it was taken from, within its row
}

func newPool(c, h, w, rows int) *pool {
	l := &pool{c: c, h: h, w: w}
	l.from = make([]int32, rows*l.size())
	return l
}

func (l *pool) size() int                     { return l.c * (l.h / 2) * (l.w / 2) }
func (l *pool) weights() int                  { return 0 }
func (l *pool) initial(*rand.Rand, []float32) {}

func (l *pool) forward(_ mode, _, x, y []float32, n int) {
	oh, ow, in := l.h/2, l.w/2, l.c*l.h*l.w
	o := 0
	for i := range n {
		img := x[i*in : (i+1)*in]
		for c := range l.c {
			for r := range oh {
				at := (c*l.h + 2*r) * l.w
				for range ow {
					best := at
					for _, p := range [3]int{at + 1, at + l.w, at + l.w + 1} {
						if img[p] > img[best] {
							best = p
						}
					}
					y[o], l.from[o] = img[best], int32(best)
					o++
					at += 2
				}
			}
		}
	}
}

func (l *pool) backward(_, _, _, _, dy, dx []float32, n int) {
	in, size := l.c*l.h*l.w, l.size()
	clear(dx[:n*in])
	for i := range n {
		img := dx[i*in : (i+1)*in]
		for o := i * size; o < (i+1)*size; o++ {
			img[l.from[o]] += dy[o]
		}
	}
}

// dropout sets a share of its inputs to zero while training and scales the others
// so that the sum stays the same on average ("inverted" dropout; Srivastava et
// al., 2014). It does not appear in the exported model.
type dropout struct {
	n    int
	rate float64
	keep []float32 // 0 or 1/(1-rate)
}

func newDropout(n int, rate float64, rows int) *dropout {
	return &dropout{n: n, rate: rate, keep: make([]float32, rows*n)}
}

func (l *dropout) size() int                     { return l.n }
func (l *dropout) weights() int                  { return 0 }
func (l *dropout) initial(*rand.Rand, []float32) {}

func (l *dropout) forward(m mode, _, x, y []float32, n int) {
	threshold, scale := uint32(l.rate*(1<<32)), float32(1/(1-l.rate))
	keep := l.keep[:n*l.n]
	for i := range keep {
		switch {
		case m.dropout == nil:
			keep[i] = 1
		case m.dropout.Uint32() >= threshold:
			keep[i] = scale
		default:
			keep[i] = 0
		}
		y[i] = x[i] * keep[i]
	}
}

func (l *dropout) backward(_, _, _, _, dy, dx []float32, n int) {
	for i, k := range l.keep[:n*l.n] {
		dx[i] = dy[i] * k
	}
}
