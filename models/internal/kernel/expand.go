package kernel

// Networks for small machines widen an image by a convolution of 1 x 1, filter every channel by itself, and narrow it again. What lies
// between the first two is several times larger than all else and would go to memory and back, so a few channels are widened at a time and
// filtered while they are in the second-level cache.

// expandCache is how many floats of the image and of what lies between are worked on at a time.
const expandCache = 128 << 10

// expandLeast is how many places an image has at least to be cut into strips for that; smaller ones are laid side by side, to fill tiles.
const expandLeast = 512

// SuitsExpand says whether [Workspace.Expand] can do the convolution p over g and a depthwise one after it.
func (p *PackedConv) SuitsExpand(g Window) bool {
	g.defaults()
	return p.pointwise(&g, &Epilogue{}) && g.H*g.W > 0
}

// ExpandSpace is how many floats of a [Workspace] [Workspace.Expand] takes at most.
func (p *PackedConv) ExpandSpace(g, dg Window) int64 {
	mr, nr := p.lv.tile()
	each, rows := int64(g.H)*int64(g.W), int64(p.k+mr)
	if each < expandLeast {
		return max(expandCache, rows*each) + rows*int64(nr) + int64(p.k) + DepthwiseSpace(dg)
	}
	return int64(mr)*each + int64(p.k) + DepthwiseSpace(dg)
}

// Expand is [Workspace.Conv] of p over g, for which SuitsExpand holds, and then [Workspace.Depthwise] with one result a channel, of windows
// dg, of its results. e and between are what is done to the results of the first, bias and act to those of the second. It panics when a slice is too short.
func (w *Workspace) Expand(p *PackedConv, g Window, e Epilogue, between Activation, dg Window, weights []float32, n int, x, y Images, bias []float32, act Activation) {
	g.defaults()
	dg.defaults()
	area, each, k := dg.OutH()*dg.OutW(), g.H*g.W, dg.KH*dg.KW
	if !p.fits(g) || !p.SuitsExpand(g) || dg.H != g.H || dg.W != g.W || dg.C != p.out {
		panic("kernel: the windows do not fit the weights or each other")
	}
	checkMatrix("x", n, p.k*each, x.F, x.Stride)
	checkMatrix("y", n, p.out*area, y.F, y.Stride)
	checkMatrix("weights", p.out, k, weights, k)
	e.PerRow = true
	checkBias(&e, p.out, each)
	if p.k*each >= 1<<32 {
		panic("kernel: image too large for a convolution")
	}
	w.level, w.end = p.lv, e
	t := expansion{p: p, lv: p.lv.(shifter), g: g, dg: dg, weights: weights, bias: bias, between: between, act: act}
	w.rowOff = grow(w.rowOff, p.k)
	if each < expandLeast {
		t.beside(w, n, x, y)
		return
	}
	mr, _ := t.lv.tile()
	for c := range w.rowOff {
		w.rowOff[c] = uint32(c * each)
	}
	strips := t.strips()
	t.wide = space(&w.wide, mr*each)
	for i := range n {
		for row := 0; row < strips.total && !w.stopped(); row += strips.size(row) {
			t.run(w, row, strips.size(row), x.F[i*x.Stride:], y.F[i*y.Stride:])
		}
	}
}

// expansion is one call of Expand.
type expansion struct {
	p             *PackedConv
	lv            shifter
	g, dg         Window
	weights, bias []float32
	between, act  Activation
	wide          []float32
}

// strips cuts the rows of results so that what is needed for some of them stays in the second-level cache.
func (t *expansion) strips() span {
	mr, nr := t.lv.tile()
	in := expandCache / ((t.p.k + mr) * t.g.W) // rows of the image
	reach := (t.dg.KH-1)*t.dg.DilationH + 1
	rows := even(t.dg.OutH(), max(1, (in-reach)/t.dg.StrideH+1))
	least := (rows.r-1)*t.dg.StrideH + reach - t.dg.PadTop - t.dg.PadBottom
	if least*t.g.W < nr || max(t.dg.PadTop, t.dg.PadBottom) >= reach { // a strip needs some of the image, a tile at least
		return even(t.dg.OutH(), t.dg.OutH())
	}
	return rows
}

// run computes rows of results from row on.
func (t *expansion) run(w *Workspace, row, rows int, img, out []float32) {
	dg, each := t.dg, t.g.H*t.g.W
	// The rows of the image they need, of which some may be padding.
	top := row*dg.StrideH - dg.PadTop
	bottom := top + (rows-1)*dg.StrideH + (dg.KH-1)*dg.DilationH + 1
	from, to := max(top, 0), min(bottom, t.g.H)
	dg.H, dg.PadTop, dg.PadBottom = to-from, from-top, bottom-to
	t.channels(w, dg, dg.H*dg.W, each, img[from*t.g.W:], t.wide, 1, Images{out[row*dg.OutW():], 0})
}

// beside computes n images, some side by side at a time.
func (t *expansion) beside(w *Workspace, n int, x, y Images) {
	p, each := t.p, t.g.H*t.g.W
	mr, nr := t.lv.tile()
	groups := even(n, max(1, expandCache/((p.k+mr)*each)))
	for i := 0; i < n && !w.stopped(); i += groups.size(i) {
		images := groups.size(i)
		ld := (images*each + nr - 1) / nr * nr
		for c := range w.rowOff {
			w.rowOff[c] = uint32(c * ld)
		}
		buf := space(&w.wide, (p.k+mr)*ld)
		side, wide := buf[:p.k*ld], buf[p.k*ld:]
		sideBySide(side, ld, p.k, Images{x.F[i*x.Stride:], x.Stride}, images, each)
		t.channels(w, t.dg, ld, ld, side, wide, images, Images{y.F[i*y.Stride:], y.Stride})
	}
}

// channels widens what is at src into wide and filters it into dst, some channels at a time. A channel has n values for all images
// together, those of src are ld apart.
func (t *expansion) channels(w *Workspace, dg Window, n, ld int, src, wide []float32, images int, dst Images) {
	p, each, area, k := t.p, t.g.H*t.g.W, t.dg.OutH()*t.dg.OutW(), dg.KH*dg.KW
	for c := 0; c < p.out; {
		h := p.rows.size(c)
		var bias []float32
		if w.end.Bias != nil {
			bias = w.end.Bias[c:][:h]
		}
		t.lv.shift(h, n, (p.k-1)*ld, p.panels[c*p.k:][:h*p.k], w.rowOff, src, wide, n, bias, &w.end)
		if t.between.Func != Identity {
			w.Apply(t.between, wide[:h*n], wide[:h*n])
		}
		dg.C, bias = h, nil
		if t.bias != nil {
			bias = t.bias[c:][:h]
		}
		w.depthwise(&dg, h, t.weights[c*k:][:h*k], images, Images{wide, each}, n, Images{dst.F[c*area:], dst.Stride}, area, bias, t.act)
		c += h
	}
}
