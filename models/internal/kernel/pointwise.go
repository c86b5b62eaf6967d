package kernel

// Convolutions of 1 x 1 with stride 1 and no padding are products of matrices: weights by the image as it lies there, one row a channel. The
// kernel reads the image in place and writes the result in place. Small images, whose rows do not fill whole tiles, are laid side by side
// first, and their results taken apart afterwards.

// pointwise says whether a convolution is such a product.
func (p *PackedConv) pointwise(g *Window, e *Epilogue) bool {
	return p.Pointwise() && !e.Halve &&
		g.PadTop == 0 && g.PadLeft == 0 && g.PadBottom == 0 && g.PadRight == 0
}

// Pointwise says whether the windows are of 1 x 1, with stride 1.
func (p *PackedConv) Pointwise() bool {
	return p.panels != nil && p.winograd == 0 && p.g.KH == 1 && p.g.KW == 1 && p.g.StrideH == 1 && p.g.StrideW == 1
}

// pointwiseGroup is how many of n images with so many places are laid side by side: 1 for none.
func pointwiseGroup(area, n, nr int) int {
	if tiles := (area + nr - 1) / nr; tiles*nr*16 <= area*17 { // at most a sixteenth of the tiles is wasted
		return 1
	}
	return min(n, max(1, shiftColumns/area))
}

func (w *Workspace) pointwise(p *PackedConv, g *Window, n int, x, y Images, e *Epilogue) {
	_, nr := p.lv.tile()
	t := products{p: p, area: g.H * g.W}
	group := pointwiseGroup(t.area, n, nr)
	if cap(w.off) < p.k {
		w.off = make([]uint32, p.k)
	}
	if p.k*max(t.area*group, nr) >= 1<<32 {
		panic("kernel: image too large for a convolution")
	}
	w.end = *e
	for i := 0; i < n && !w.stopped(); i += group {
		t.images = min(group, n-i)
		img := x.F[i*x.Stride:]
		t.y = Images{y.F[i*y.Stride:], y.Stride}
		if t.images == 1 && t.area >= nr {
			t.ld, t.direct = t.area, true
			t.run(w, img)
			continue
		}
		cols := t.images * t.area
		t.ld, t.direct = (cols+nr-1)/nr*nr, false // whole tiles, whose rows begin at the begin of a cache line
		side := space(&w.image, p.k*t.ld)
		sideBySide(side, t.ld, p.k, Images{img, x.Stride}, t.images, t.area)
		t.run(w, side)
	}
}

// sideBySide lays each channel of n images of so many places into a row of dst, with zeros behind them.
func sideBySide(dst []float32, ld, channels int, x Images, n, area int) {
	for c := range channels {
		row := dst[c*ld:][:ld]
		for j := range n {
			copy(row[j*area:][:area], x.F[j*x.Stride+c*area:])
		}
		clear(row[n*area:])
	}
}

// products multiplies the weights with some images side by side.
type products struct {
	p      *PackedConv
	images int
	area   int  // places of an image
	ld     int  // of the rows of x, which are at least a tile long
	direct bool // results go to y as they come
	y      Images
}

func (t *products) run(w *Workspace, x []float32) {
	p, lv := t.p, t.p.lv.(shifter)
	mr, nr := lv.tile()
	off := w.off[:p.k]
	for c := range off {
		off[c] = uint32(c * t.ld)
	}
	reach := (p.k - 1) * t.ld
	// As many columns at a time as stay in the second-level cache; no rest that would not fill a tile.
	wide := max(min(shiftImage/p.k, shiftColumns)/nr*nr, nr)
	var part []float32
	if !t.direct {
		part = space(&w.out, mr*(wide+nr))
	}
	for j := 0; j < t.ld; {
		width := min(wide, t.ld-j)
		if t.ld-j-width < nr {
			width = t.ld - j
		}
		for c := 0; c < p.out; {
			h := p.rows.size(c)
			var bias []float32
			if w.end.Bias != nil {
				bias = w.end.Bias[c:][:h]
			}
			panel := p.panels[c*p.k:][:h*p.k]
			if t.direct {
				lv.shift(h, width, reach, panel, off, x[j:], t.y.F[c*t.area+j:], t.area, bias, &w.end)
			} else {
				lv.shift(h, width, reach, panel, off, x[j:], part, width, bias, &w.end)
				t.put(h, c, j, width, part)
			}
			c += h
		}
		j += width
	}
}

// put takes results of h channels apart, of columns j to j+width.
func (t *products) put(h, c, j, width int, part []float32) {
	for i := j / t.area; i < t.images && i*t.area < j+width; i++ {
		from, to := max(j, i*t.area), min(j+width, (i+1)*t.area)
		for r := range h {
			copy(t.y.F[i*t.y.Stride+(c+r)*t.area+from-i*t.area:][:to-from], part[r*width+from-j:])
		}
	}
}
