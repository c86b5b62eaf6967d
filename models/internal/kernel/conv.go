package kernel

// PackedConv is the weights of a two-dimensional convolution in the form the kernels read. There are two ways to compute it. A level that
// is a shifter multiplies straight from the image: for stride 1, one element of the weights meets the outputs of an image in places that
// lie one after the other, if the results between the end of a row and the begin of the next are computed too and thrown away (the
// convolution of the image as one long line); 3 x 3 windows on many channels go by winograd.go. All others build the matrix of [Im2col].
type PackedConv struct {
	out, k   int
	g        Window
	lv       level
	winograd int       // results a side that are computed together by winograd.go; 0 for the other ways
	rows     span      // of the panels
	panels   []float32 // for a shifter: panels over the whole of k, or what winogradWeights makes
	matrix   *PackedA  // for other levels
}

// PackConv packs weights, out x C*KH*KW, of convolutions with windows like g, which may differ in their heights, widths and pads, for the
// best level of this processor.
func PackConv(g Window, out int, weights []float32) *PackedConv {
	lv := best()
	return packConv(lv, winogradSize(lv, &g, out), g, out, weights)
}

// packConv packs for winograd.go when size is not 0.
func packConv(lv level, size int, g Window, out int, weights []float32) *PackedConv {
	g.defaults()
	k := g.C * g.KH * g.KW
	checkMatrix("weights", out, k, weights, k)
	mr, _ := lv.tile()
	p := &PackedConv{out: out, k: k, g: g, lv: lv, winograd: size, rows: even(out, mr)}
	if p.winograd > 0 {
		p.panels = winogradWeights(p.winograd, p.rows, g.C, weights)
		return p
	}
	if _, ok := lv.(shifter); !ok {
		p.matrix = packA(lv, false, out, k, weights, k)
		return p
	}
	raw := operand{raw: weights, ld: k, alongK: true}
	p.panels = make([]float32, out*k)
	raw.fill(p.panels, 0, k, p.rows)
	return p
}

// fits says whether g differs from the windows the weights were packed for only in what may differ.
func (p *PackedConv) fits(g Window) bool {
	q := p.g
	q.H, q.W, q.PadTop, q.PadLeft, q.PadBottom, q.PadRight = g.H, g.W, g.PadTop, g.PadLeft, g.PadBottom, g.PadRight
	return q == g
}

// Space is how many floats of a [Workspace] a convolution over g takes at most.
func (p *PackedConv) Space(g Window) int64 {
	g.defaults()
	area := int64(g.OutH()) * int64(g.OutW())
	if p.matrix != nil {
		return (int64(p.k)+int64(p.out))*area + int64(p.out)
	}
	mr, _ := p.lv.tile()
	if p.winograd > 0 {
		t := newWinogradPlan(p.winograd, &g, false, 1, 0, winogradTiles)
		return max(int64(g.C)*int64(t.plane), shiftImage) + 2*winogradElements*int64(g.C+mr)*winogradTiles + int64(p.out+mr)
	}
	if p.pointwise(&g, &Epilogue{}) {
		return int64(p.k+p.out)*max(area, shiftColumns) + int64(p.k)
	}
	s := newShift(&g)
	return int64(s.planes)*int64(g.C)*int64(s.h)*int64(s.w) + int64(mr)*int64(shiftColumns+s.w*2) + 2*int64(p.k) + int64(p.out)
}

// Together is how many of n images over g are best computed in one call: with fewer, tiles would not be filled.
func (p *PackedConv) Together(g Window, n int) int {
	g.defaults()
	_, nr := p.lv.tile()
	if p.winograd > 0 {
		t := newWinogradPlan(p.winograd, &g, false, 1, 0, nr)
		return min(n, max(1, nr/max(t.th*t.tw, 1)))
	}
	if p.pointwise(&g, &Epilogue{}) {
		return pointwiseGroup(g.H*g.W, n, nr)
	}
	return 1
}

// Images is a number of images one after the other: image i begins at F[i*Stride].
type Images struct {
	F      []float32
	Stride int
}

// Conv computes the convolutions of n images: x holds C x H x W each, y gets out x OutH x OutW each, or with [Epilogue.Halve] out x OutH/2 x
// OutW/2. The bias of e has an entry for each output channel. It panics when a slice is too short.
func (w *Workspace) Conv(p *PackedConv, g Window, n int, x, y Images, e Epilogue) {
	g.defaults()
	oh, ow := g.OutH(), g.OutW()
	area := oh * ow
	if e.Halve {
		area = oh / 2 * (ow / 2)
	}
	if !p.fits(g) {
		panic("kernel: the window does not fit the weights")
	}
	checkMatrix("x", n, g.C*g.H*g.W, x.F, x.Stride)
	checkMatrix("y", n, p.out*area, y.F, y.Stride)
	e.PerRow = true
	checkBias(&e, p.out, area)
	if n == 0 || p.out*area == 0 {
		return
	}
	w.level = p.lv
	if p.winograd > 0 {
		w.winograd(p, &g, n, x, y, &e)
		return
	}
	if p.pointwise(&g, &e) {
		w.pointwise(p, &g, n, x, y, &e)
		return
	}
	if p.matrix == nil {
		w.shift(p, &g, n, x, y, &e)
		return
	}
	col := space(&w.image, p.k*oh*ow)
	for i := range n {
		Im2col(g, x.F[i*x.Stride:], col)
		yi := y.F[i*y.Stride:][:p.out*area]
		if !e.Halve {
			w.MulA(p.matrix, oh*ow, col, oh*ow, yi, oh*ow, e)
			continue
		}
		full := space(&w.out, p.out*oh*ow)
		w.MulA(p.matrix, oh*ow, col, oh*ow, full, oh*ow, e)
		for c := range p.out {
			w.Halve(yi[c*area:][:area], full[c*oh*ow:][:oh*ow], ow, oh/2, ow/2)
		}
	}
}

// space returns n floats of *buf, of unspecified content.
func space(buf *[]float32, n int) []float32 {
	if cap(*buf) < n {
		*buf = make([]float32, n)
	}
	return (*buf)[:n]
}

// shifter is a level that convolves without a matrix.
type shifter interface {
	level
	// shift computes, for the h rows of a panel, c[i*ldc+j] = sum over p of a[p*h+i] * x[off[p]+j] for j < n and applies bias (nil for
	// none) and of e ReLU and the limits. It may compute up to nr columns even when n is less: no element of off is more than reach, and x
	// has reach+max(n, nr) elements.
	shift(h, n, reach int, a []float32, off []uint32, x, c []float32, ldc int, bias []float32, e *Epilogue)
	// halve is [Workspace.Halve] for planes of src and dst, plane and area elements apart. No number is 0.
	halve(planes, rows, cols int, src []float32, plane, ld int, dst []float32, area int)
}

const (
	shiftStraight = 64      // steps of k up to which rows of results are computed one by one
	shiftColumns  = 768     // computed at a time at most, so that the results stay in the first-level cache
	shiftImage    = 1 << 16 // floats of the image read for them at most, so that these stay in the second-level cache
)

// shift is how an image is laid out for a shifter. With a stride the image is taken apart into stride x stride planes (fewer when the
// kernel is smaller), each of which has the positions that are equal modulo the stride; in each the convolution has stride 1.
type shift struct {
	planes   int // for each channel
	wide     int // planes side by side; planes/wide below each other
	h, w     int // of one plane
	rows     int // of the output computed at a time; even
	flat     int // columns computed for them
	lastFlat int // columns computed for the last rows
	staged   bool
}

func newShift(g *Window) shift {
	oh, ow := g.OutH(), g.OutW()
	s := shift{wide: min(g.StrideW, (g.KW-1)*g.DilationW+1), h: g.H, w: g.W, staged: true}
	s.planes = s.wide * min(g.StrideH, (g.KH-1)*g.DilationH+1)
	if g.StrideH == 1 && g.StrideW == 1 && g.PadTop == 0 && g.PadBottom == 0 && g.PadLeft == 0 && g.PadRight == 0 {
		s.staged = false
	} else {
		s.h = oh + ((g.KH-1)*g.DilationH)/g.StrideH
		s.w = ow + ((g.KW-1)*g.DilationW)/g.StrideW
	}
	s.rows = max(2, min(shiftColumns, shiftImage/max(g.C*s.planes, 1))/max(s.w, 1)&^1)
	s.rows = min(s.rows, (oh+1)&^1)
	s.flat = (min(s.rows, oh)-1)*s.w + ow
	last := (oh-1)%max(s.rows, 1) + 1
	s.lastFlat = (last-1)*s.w + ow
	return s
}

// offsets lists for each element of the weights where its plane of the image begins, and returns the largest of them.
func (s *shift) offsets(g *Window, off []uint32) int {
	i, reach := 0, 0
	for c := range g.C {
		for kh := range g.KH {
			for kw := range g.KW {
				y, x := kh*g.DilationH, kw*g.DilationW
				plane := c*s.planes + y%g.StrideH*s.wide + x%g.StrideW
				at := (plane*s.h+y/g.StrideH)*s.w + x/g.StrideW
				off[i] = uint32(at)
				reach = max(reach, at)
				i++
			}
		}
	}
	return reach
}

// stage lays an image out with its padding and takes it apart by the stride. What is not covered by the image is left as it is.
func (s *shift) stage(w *Workspace, g *Window, img, dst []float32) {
	if g.StrideW == 2 && s.wide == 2 {
		s.unzip(w, g, img, dst)
		return
	}
	for c := range g.C {
		for ph := range s.planes / s.wide {
			for pw := range s.wide {
				plane := dst[(c*s.planes+ph*s.wide+pw)*s.h*s.w:][:s.h*s.w]
				lo, hi := cover(pw-g.PadLeft, g.StrideW, s.w, g.W)
				top, bottom := cover(ph-g.PadTop, g.StrideH, s.h, g.H)
				for y := top; y < bottom && lo < hi; y++ {
					line := plane[y*s.w:][lo:hi]
					src := img[(c*g.H+y*g.StrideH+ph-g.PadTop)*g.W:][:g.W][lo*g.StrideW+pw-g.PadLeft:]
					if g.StrideW == 1 {
						copy(line, src)
						continue
					}
					for x, at := 0, 0; x < len(line) && at < len(src); x, at = x+1, at+g.StrideW {
						line[x] = src[at]
					}
				}
			}
		}
	}
}

// unzip is stage for windows that move by two columns and use both planes: a line of the image goes to the two in one pass.
func (s *shift) unzip(w *Workspace, g *Window, img, dst []float32) {
	// Columns of the image that lie in a plane; the padding before them decides in which plane even ones are.
	cols := min(g.W, 2*s.w-g.PadLeft)
	if cols <= 0 {
		return
	}
	for c := range g.C {
		for ph := range s.planes / 2 {
			planes := dst[(c*s.planes+ph*2)*s.h*s.w:][:2*s.h*s.w]
			top, bottom := cover(ph-g.PadTop, g.StrideH, s.h, g.H)
			for y := top; y < bottom; y++ {
				src := img[(c*g.H+y*g.StrideH+ph-g.PadTop)*g.W:][:cols]
				left, right := planes[y*s.w:][:s.w], planes[(s.h+y)*s.w:][:s.w]
				if at := g.PadLeft / 2; g.PadLeft%2 == 0 {
					w.Unzip(left[at:], right[at:], src)
				} else {
					w.Unzip(right[at:], left[min(at+1, s.w):], src)
				}
			}
		}
	}
}

// cover returns the range of x < n for which first+x*stride is at least 0 and less than size.
func cover(first, stride, n, size int) (lo, hi int) {
	if first < 0 {
		lo = (stride - 1 - first) / stride
	}
	if size > first {
		hi = (size-first-1)/stride + 1
	}
	return min(lo, n), min(hi, n)
}

func (w *Workspace) shift(p *PackedConv, g *Window, n int, x, y Images, e *Epilogue) {
	lv := p.lv.(shifter)
	s := newShift(g)
	mr, nr := lv.tile()
	if cap(w.off) < p.k {
		w.off = make([]uint32, p.k)
	}
	var staged []float32
	if s.staged || s.lastFlat < nr {
		size := g.C * s.planes * s.h * s.w
		if size >= 1<<32 {
			panic("kernel: image too large for a convolution")
		}
		s.staged = true
		staged = space(&w.image, size+nr)
		clear(staged)
	}
	t := shiftRun{s: s, g: *g, p: p, e: *e, lv: lv, off: w.off[:p.k]}
	t.reach = s.offsets(g, t.off)
	t.ld = (max(s.flat, nr) + nr - 1) / nr * nr
	t.out = space(&w.out, mr*t.ld+2*nr)
	// With few steps a result, copying it costs more than the tile at the end of a row that is not full.
	t.straight = p.k <= shiftStraight && g.OutW() >= nr && !e.Halve
	w.end = *e
	for i := range n {
		img := x.F[i*x.Stride:][:g.C*g.H*g.W]
		if s.staged {
			s.stage(w, g, img, staged)
			img = staged
		}
		t.image(w, img, y.F[i*y.Stride:])
	}
}

// shiftRun is one call of Conv.
type shiftRun struct {
	s         shift
	g         Window
	p         *PackedConv
	e         Epilogue
	lv        shifter
	off       []uint32
	reach, ld int
	out       []float32
	straight  bool // rows of results are computed in their places, one by one
}

func (t *shiftRun) image(w *Workspace, img, y []float32) {
	oh, ow := t.g.OutH(), t.g.OutW()
	area := oh * ow
	if t.e.Halve {
		oh, ow = oh&^1, ow&^1 // an odd last row or column is not needed
		area = oh / 2 * (ow / 2)
	}
	var bias []float32
	for row := 0; row < oh && !w.stopped(); row += t.s.rows {
		rows := min(t.s.rows, oh-row)
		flat := (rows-1)*t.s.w + ow
		for c := 0; c < t.p.out; {
			h := t.p.rows.size(c)
			if t.e.Bias != nil {
				bias = t.e.Bias[c:][:h]
			}
			panel := t.p.panels[c*t.p.k:][:h*t.p.k]
			if t.straight {
				for r := row; r < row+rows; r++ {
					t.lv.shift(h, ow, t.reach, panel, t.off, img[r*t.s.w:], y[c*area+r*ow:], area, bias, &w.end)
				}
			} else {
				t.lv.shift(h, flat, t.reach, panel, t.off, img[row*t.s.w:], t.out, t.ld, bias, &w.end)
				t.put(w, h, y[c*area:][:h*area], area, row, rows, ow)
			}
			c += h
		}
	}
}

// put copies the results of h channels to their places, leaving out those between the rows.
func (t *shiftRun) put(w *Workspace, h int, dst []float32, area, row, rows, ow int) {
	if t.e.Halve {
		w.halve(h, rows/2, ow/2, t.out, t.ld, t.s.w, dst[row/2*(ow/2):], area)
		return
	}
	for r := range h {
		to, from := dst[r*area+row*ow:][:rows*ow], t.out[r*t.ld:]
		if t.s.w == ow {
			copy(to, from)
			continue
		}
		for i := range rows {
			copy(to[i*ow:][:ow], from[i*t.s.w:])
		}
	}
}
