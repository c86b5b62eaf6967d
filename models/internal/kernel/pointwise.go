package kernel

// Convolutions of 1 x 1 with stride 1 and no padding are products of matrices: weights by the image as it lies there, one row a channel. The
// kernel reads the image in place and writes the result in place. Small images, whose rows do not fill whole tiles, are laid side by side
// first, and their results taken apart afterwards.

// pointwise says whether a convolution is such a product.
func (p *PackedConv) pointwise(g *Window, e *Epilogue) bool {
	return p.panels != nil && p.winograd == 0 && g.KH == 1 && g.KW == 1 && g.StrideH == 1 && g.StrideW == 1 && !e.Halve &&
		g.PadTop == 0 && g.PadLeft == 0 && g.PadBottom == 0 && g.PadRight == 0
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
	area := g.H * g.W
	group := pointwiseGroup(area, n, nr)
	if cap(w.off) < p.k {
		w.off = make([]uint32, p.k)
	}
	if p.k*max(area, nr)*group >= 1<<32 {
		panic("kernel: image too large for a convolution")
	}
	w.end = *e
	for i := 0; i < n; i += group {
		count := min(group, n-i)
		cols := count * area
		img, out := x.F[i*x.Stride:], y.F[i*y.Stride:]
		if count == 1 && area >= nr {
			w.products(p, img, area, cols, out, area)
			continue
		}
		ld := max(cols, nr) // a tile reads and writes nr columns at least
		from := space(&w.image, p.k*ld)
		to := space(&w.out, p.out*ld)
		for c := range p.k {
			for j := range count {
				copy(from[c*ld+j*area:][:area], img[j*x.Stride+c*area:])
			}
			clear(from[c*ld+cols:][:ld-cols])
		}
		w.products(p, from, ld, ld, to, ld)
		for c := range p.out {
			for j := range count {
				copy(out[j*y.Stride+c*area:][:area], to[c*ld+j*area:])
			}
		}
	}
}

// products multiplies the weights with x, k x cols, rows ld apart, to y, rows ldy apart. cols is at least a tile's.
func (w *Workspace) products(p *PackedConv, x []float32, ld, cols int, y []float32, ldy int) {
	lv := p.lv.(shifter)
	_, nr := lv.tile()
	off := w.off[:p.k]
	for c := range off {
		off[c] = uint32(c * ld)
	}
	reach := (p.k - 1) * ld
	// As many columns at a time as stay in the second-level cache; no rest that would not fill a tile.
	wide := max(shiftImage/p.k/nr*nr, nr)
	for j := 0; j < cols; {
		width := min(wide, cols-j)
		if cols-j-width < nr {
			width = cols - j
		}
		for c := 0; c < p.out; {
			h := p.rows.size(c)
			var bias []float32
			if w.end.Bias != nil {
				bias = w.end.Bias[c:][:h]
			}
			lv.shift(h, width, reach, p.panels[c*p.k:][:h*p.k], off, x[j:], y[c*ldy+j:], ldy, bias, &w.end)
			c += h
		}
		j += width
	}
}
