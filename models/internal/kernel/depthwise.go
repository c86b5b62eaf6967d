package kernel

// A depthwise convolution filters each channel by itself, so it does two operations for each element of its weights and result, and has
// no use for a matrix. Windows of 3 x 3 and 5 x 5 with strides of 1 or 2 are walked down by columns as wide as a register, straight in the
// image: each row is loaded once for each column of the window. All others lay the channel out as one long line, as shift does for
// products, and walk along that.

// depthwiseEnd is what happens to a sum: it begins at bias and is limited to lo..hi; NaN stays.
type depthwiseEnd struct{ bias, lo, hi float32 }

// depthwiseColumn is a column of results as wide as a register, or two, or what there is, in some channels.
type depthwiseColumn struct {
	channels, rows int
	at             []int     // for each row of the image: where it begins in x, in bytes; negative for a row of zeros
	x, zero        []float32 // the image, one row of zeros
	xstep          int       // from channel to channel
	col            int       // column of the image under the first element of the window; negative in the padding
	weights        []float32
	bias           []float32 // nil for none
	end            *depthwiseEnd
	masks          []uint32 // by depthwiseMasks
	pair           bool     // two columns
	full           bool     // all lanes are stored
	y              []float32
	ystep, ldy     int
	ahead          int // elements of x to fetch early: the distance of the next channel
}

// depthwiseSpan is where a depthwiseColumn lies.
type depthwiseSpan struct {
	from, masks, words int
	pair, full         bool
}

// depthwisePlan is the layout of one call of Depthwise.
type depthwisePlan struct {
	column depthwiseColumn
	end    depthwiseEnd
	at     []int
	zero   []float32
	masks  []uint32
	spans  []depthwiseSpan
	line   shift
	lined  bool
}

// lineResults is how many results a line computes at a time, so that they stay in the first-level cache.
const lineResults = 4096

// zeroMargin is how many elements lie on either side of the row of zeros. Nothing of them is used, but a load whose unused lanes lie in a
// page that is not in memory takes a hundred times as long.
const zeroMargin = 64

// DepthwiseSpace is how many floats of a [Workspace] [Workspace.Depthwise] takes at most.
func DepthwiseSpace(g Window) int64 {
	g.C = 1
	g.defaults()
	s := newShift(&g)
	return int64(s.planes)*int64(s.h)*int64(s.w) + int64(max(lineResults, s.w)) + int64(g.W+2*zeroMargin) + 2*int64(g.H) + int64(g.KH*g.KW) + 4*int64(g.OutH()+g.OutW())
}

// Depthwise computes depthwise convolutions of n images: x holds g.C x H x W each, y gets out x OutH x OutW each. out is a multiple of
// g.C; result o is channel o/(out/g.C) under the window weights[o*KH*KW:]. bias has an entry for each result or is nil. It panics when a
// slice is too short.
//
// A sum begins at the bias and goes through the window by rows, with fused multiply-adds in the levels in assembly.
func (w *Workspace) Depthwise(g Window, out int, weights []float32, n int, x, y Images, bias []float32, act Activation) {
	g.defaults()
	k, area := g.KH*g.KW, g.OutH()*g.OutW()
	checkMatrix("weights", out, k, weights, k)
	checkMatrix("x", n, g.C*g.H*g.W, x.F, x.Stride)
	checkMatrix("y", n, out*area, y.F, y.Stride)
	if bias != nil && len(bias) < out {
		panic("kernel: bias is shorter than the channels")
	}
	if n == 0 || out*area == 0 {
		return
	}
	if g.C < 1 || out%g.C != 0 {
		panic("kernel: the results are no multiple of the channels")
	}
	w.depthwise(&g, out, weights, n, x, g.H*g.W, y, area, bias, act)
}

// depthwise is Depthwise for images of plane elements a channel, of which some are rows above and below the windows, see Expand, and for
// results that are yplane elements apart from channel to channel.
func (w *Workspace) depthwise(g *Window, out int, weights []float32, n int, x Images, xplane int, y Images, yplane int, bias []float32, act Activation) {
	k, size, area := g.KH*g.KW, g.H*g.W, g.OutH()*g.OutW()
	each := out / g.C
	one := *g
	g, one.C = &one, 1
	p := &w.depth
	lv := w.vectors()
	p.plan(w, g, lv)
	p.end.lo, p.end.hi = act.limits()
	p.column.xstep, p.column.ystep = xplane, yplane
	at := 1 // channels at a time
	if each == 1 && !p.lined && len(p.spans) == 1 {
		at = out // there is one column, so that a channel is done before the next one
	}
	for i := range n {
		for o := 0; o < out; o += at {
			img, dst := x.F[i*x.Stride+o/each*xplane:][:(at-1)*xplane+size], y.F[i*y.Stride+o*yplane:][:(at-1)*yplane+area]
			var begin []float32
			if bias != nil {
				begin = bias[o:][:at]
			}
			if p.lined {
				p.end.bias = 0
				if begin != nil {
					p.end.bias = begin[0]
				}
				w.depthwiseLine(g, lv, img, weights[o*k:][:k], dst)
			} else {
				p.columns(g, lv, at, img, weights[o*k:][:at*k], begin, dst)
			}
			for c := 0; c < at && !act.isLimit(); c++ {
				w.Apply(act, dst[c*yplane:][:area], dst[c*yplane:][:area])
			}
		}
	}
}

// columnwise says whether g is one of the windows that are walked by columns.
func (g *Window) columnwise() bool {
	return g.H*g.W > 0 && g.KH == g.KW && (g.KH == 3 || g.KH == 5) && g.StrideH == g.StrideW && g.StrideH <= 2 && g.DilationH == 1 && g.DilationW == 1
}

// plan prepares for images of one channel.
func (p *depthwisePlan) plan(w *Workspace, g *Window, lv vectorLevel) {
	if p.lined = lv.lanes() == 0 || !g.columnwise(); p.lined {
		p.line = newShift(g)
		w.off = grow(w.off, g.KH*g.KW)
		p.line.offsets(g, w.off)
		if p.line.staged {
			clear(space(&w.image, p.line.planes*p.line.h*p.line.w))
		}
		return
	}
	p.zero = grow(p.zero, g.W+2*zeroMargin)
	clear(p.zero)
	p.at = p.at[:0]
	for i := range (g.OutH()-1)*g.StrideH + g.KH + g.StrideH { // the last step reads places of rows it does not need
		y := i - g.PadTop
		if y < 0 || y >= g.H {
			y = -1
		}
		p.at = append(p.at, 4*y*g.W)
	}
	p.spread(g, lv.lanes())
	p.column = depthwiseColumn{rows: g.OutH(), at: p.at, zero: p.zero[zeroMargin:], end: &p.end, ldy: g.OutW(), ahead: g.H * g.W}
}

// spread cuts the results into columns.
func (p *depthwisePlan) spread(g *Window, lanes int) {
	p.masks, p.spans = p.masks[:0], p.spans[:0]
	whole := true // all lanes of the column before are there, but for some of the first load
	for j := 0; j < g.OutW(); j += lanes {
		s := depthwiseSpan{from: j, masks: len(p.masks), full: j+lanes <= g.OutW()}
		p.masks = depthwiseMasks(p.masks, g, j, lanes)
		s.words = len(p.masks) - s.masks
		if n := len(p.spans); n > 0 && whole && lanes == 16 && g.KW == 3 && !p.spans[n-1].pair {
			p.spans[n-1].pair, p.spans[n-1].full = true, s.full
			p.spans[n-1].words += s.words
			continue
		}
		whole = true
		for _, m := range p.masks[s.masks+g.StrideW:] {
			whole = whole && m == 1<<lanes-1
		}
		p.spans = append(p.spans, s)
	}
}

func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// depthwiseMasks appends the masks for results from column j on: which lanes of each load lie in the image, then which results there are.
// With stride 1 load i begins at column i of the window. With stride 2 and 8 lanes loads i and i+1 are two registers that begin at column
// i for even i; with 16 lanes load 0 is column 0 alone, for all lanes or none, and loads i and i+1 begin at column i for odd i.
func depthwiseMasks(list []uint32, g *Window, j, lanes int) []uint32 {
	col := j*g.StrideW - g.PadLeft
	loads, pairs := g.KW, 0
	switch {
	case g.StrideW == 2 && lanes == 8:
		loads = g.KW + 1
	case g.StrideW == 2:
		pairs = 1
		list = laneMask(list, lanes*max(0, -col, col-g.W+1), lanes, lanes)
	}
	for i := pairs; i < loads; i++ {
		from := col + i
		if g.StrideW == 2 {
			from = col + pairs + (i-pairs)&^1 + (i-pairs)&1*lanes
		}
		list = laneMask(list, -from, g.W-from, lanes)
	}
	return laneMask(list, 0, g.OutW()-j, lanes)
}

// laneMask appends a mask of the lanes i with lo <= i < hi: one word of bits for 16 lanes, a word for each lane for 8.
func laneMask(list []uint32, lo, hi, lanes int) []uint32 {
	bits := uint32(0)
	for i := range lanes {
		one := uint32(0)
		if lo <= i && i < hi {
			one = 1
		}
		bits |= one << i
		if lanes == 8 {
			list = append(list, -one)
		}
	}
	if lanes == 8 {
		return list
	}
	return append(list, bits)
}

// columns computes some channels.
func (p *depthwisePlan) columns(g *Window, lv vectorLevel, channels int, img, weights, bias, dst []float32) {
	c := &p.column
	c.channels, c.x, c.weights, c.bias = channels, img, weights, bias
	for i := range p.spans {
		s := &p.spans[i]
		c.col, c.full, c.pair, c.masks, c.y = s.from*g.StrideW-g.PadLeft, s.full, s.pair, p.masks[s.masks:][:s.words], dst[s.from:]
		lv.depthwise(g.KH, g.StrideH, c)
	}
}

// depthwiseLine computes one channel as one long line.
func (w *Workspace) depthwiseLine(g *Window, lv vectorLevel, img, weights, dst []float32) {
	s, oh, ow := &w.depth.line, g.OutH(), g.OutW()
	if s.staged {
		staged := w.image[:s.planes*s.h*s.w]
		s.stage(w, g, img, staged)
		img = staged
	}
	rows := max(1, lineResults/s.w)
	for row := 0; row < oh; row += rows {
		live := min(rows, oh-row)
		n := (live-1)*s.w + ow
		to := dst[row*ow:]
		if s.w != ow {
			to = space(&w.out, n)
		}
		lv.taps(w.off, weights, n, img[row*s.w:], to, &w.depth.end)
		for i := 0; i < live && s.w != ow; i++ {
			copy(dst[(row+i)*ow:][:ow], to[i*s.w:])
		}
	}
}

func (portable) depthwise(int, int, *depthwiseColumn) { panic("kernel: this level has no lanes") }

func (portable) taps(off []uint32, weights []float32, n int, x, y []float32, end *depthwiseEnd) {
	y = y[:n]
	for i := range y {
		y[i] = end.bias
	}
	p := 0
	for ; p+3 <= len(off); p += 3 { // three at a time save two of three loads and stores of the sum
		a, b, c := x[off[p]:][:n], x[off[p+1]:][:n], x[off[p+2]:][:n]
		u, v, w := weights[p], weights[p+1], weights[p+2]
		for i := range y {
			y[i] = y[i] + u*a[i] + v*b[i] + w*c[i]
		}
	}
	for ; p < len(off); p++ {
		a, u := x[off[p]:][:n], weights[p]
		for i := range y {
			y[i] += u * a[i]
		}
	}
	for i, v := range y {
		if v < end.lo {
			v = end.lo
		}
		if v > end.hi {
			v = end.hi
		}
		y[i] = v
	}
}
