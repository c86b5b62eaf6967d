package kernel

// Networks for small machines widen an image by a convolution of 1 x 1, filter every channel by itself, and narrow it again. What lies
// between the first two is several times larger than all else and would go to memory and back, so a few channels are widened at a time and
// filtered while they are in the second-level cache.

// expandLeast is how many places an image has at least for that; the tiles of smaller ones are better filled from several images.
const expandLeast = 512

// SuitsExpand says whether [Workspace.Expand] can do the convolution p over g and a depthwise one after it.
func (p *PackedConv) SuitsExpand(g Window) bool {
	g.defaults()
	return p.pointwise(&g, &Epilogue{}) && g.H*g.W >= expandLeast
}

// ExpandSpace is how many floats of a [Workspace] [Workspace.Expand] takes at most.
func (p *PackedConv) ExpandSpace(g, dg Window) int64 {
	mr, _ := p.lv.tile()
	return int64(mr)*int64(g.H)*int64(g.W) + int64(p.k) + DepthwiseSpace(dg)
}

// Expand is [Workspace.Conv] of p over g, for which SuitsExpand holds, and then [Workspace.Depthwise] with one result a channel, of windows
// dg, of its results. e and bias, act are what is done to the results of the first and of the second. It panics when a slice is too short.
func (w *Workspace) Expand(p *PackedConv, g Window, e Epilogue, dg Window, weights []float32, n int, x, y Images, bias []float32, act Activation) {
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
	lv := p.lv.(shifter)
	mr, _ := lv.tile()
	off := grow(w.rowOff, p.k)
	w.rowOff = off
	for c := range off {
		off[c] = uint32(c * each)
	}
	wide := space(&w.wide, mr*each)
	for i := 0; i < n && !w.stopped(); i++ {
		img, out := x.F[i*x.Stride:], y.F[i*y.Stride:]
		for c := 0; c < p.out; {
			h := p.rows.size(c)
			var b []float32
			if e.Bias != nil {
				b = e.Bias[c:][:h]
			}
			lv.shift(h, each, (p.k-1)*each, p.panels[c*p.k:][:h*p.k], off, img, wide, each, b, &w.end)
			dg.C, b = h, nil
			if bias != nil {
				b = bias[c:][:h]
			}
			w.Depthwise(dg, h, weights[c*k:][:h*k], 1, Images{wide, h * each}, Images{out[c*area:], h * area}, b, act)
			c += h
		}
	}
}
