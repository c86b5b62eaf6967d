package kernel

import "math"

// Convolutions of 3 x 3 by F(2x2, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016): every 2 x 2 results
// come from 4 x 4 places of the image, both transformed; in between, 16 products of matrices (weights by channels) take 16 multiplications
// where the definition takes 36. With 64 channels of normal random numbers the rounding errors measured were those of a plain sum: a root
// mean square of 3e-7 of the results' own.

const (
	winogradElements = 16 // of a transformed tile
	winogradTiles    = 32 // transformed at a time, at most
	winogradLeast    = 16 // input and output channels from which on the transformations are worth their time
)

// winograder is a level that has the transformations. It transforms as many tiles at a time as its own tile has columns.
type winograder interface {
	shifter
	// winogradIn fills dst, [16 elements][c channels][tiles]. Tile j of channel i begins at x[at[j]+i*plane]; rows are width apart.
	winogradIn(c int, x []float32, plane, width int, at []int32, dst []float32)
	// winogradOut multiplies h rows of weights, u is [16 elements][c][h], with d and transforms back: dst has for each row 4 values a tile,
	// one when half, where they are maxima; bias is added and limits apply. m is space for 16*h*tiles floats, bias has h elements.
	winogradOut(h, c int, u, d, m, bias []float32, lo, hi float32, half bool, dst []float32)
}

// suitsWinograd says whether a convolution with such windows is to be done this way.
func suitsWinograd(lv level, g *Window, out int) bool {
	_, ok := lv.(winograder)
	return ok && g.KH == 3 && g.KW == 3 && g.StrideH == 1 && g.StrideW == 1 && g.DilationH == 1 && g.DilationW == 1 &&
		g.C >= winogradLeast && out >= winogradLeast
}

// winogradWeights transforms weights, rows x c x 3 x 3, to panels [16 elements][c][rows of the panel].
func winogradWeights(rows span, c int, weights []float32) []float32 {
	u := make([]float32, rows.total*c*winogradElements)
	for o := 0; o < rows.total; {
		h := rows.size(o)
		panel := u[o*c*winogradElements:]
		for r := range h {
			for i := range c {
				w := weights[((o+r)*c+i)*9:][:9]
				for e, v := range winogradElement(w) {
					panel[(e*c+i)*h+r] = v
				}
			}
		}
		o += h
	}
	return u
}

// winogradElement transforms the weights of one channel, GgG' of the source.
func winogradElement(w []float32) (u [winogradElements]float32) {
	var t [4][3]float64
	for s := range 3 {
		t[0][s], t[1][s], t[2][s], t[3][s] = spread(float64(w[s]), float64(w[3+s]), float64(w[6+s]))
	}
	for r := range 4 {
		e0, e1, e2, e3 := spread(t[r][0], t[r][1], t[r][2])
		for s, e := range [4]float64{e0, e1, e2, e3} {
			u[4*r+s] = float32(e)
		}
	}
	return u
}

func spread(a, b, c float64) (float64, float64, float64, float64) {
	return a, (a + b + c) / 2, (a - b + c) / 2, c
}

// winogradPlan is the layout of the images and what is needed to walk them.
type winogradPlan struct {
	oh, ow        int // of the results that are kept
	th, tw        int // tiles
	plane, stride int // of the images, staged or not
	width         int
	group         int // images at a time
	tiles         int // at a time
	staged        bool

	at   [winogradTiles]int32
	runs [winogradTiles]winogradRun
}

// winogradRun is a number of tiles whose results lie one after the other.
type winogradRun struct {
	from, n int // first tile, number of results (of one row)
	to      int // place in y without that of the channel
	lower   bool
}

func newWinogradPlan(g *Window, half bool, n, stride, tiles int) winogradPlan {
	p := winogradPlan{oh: g.OutH(), ow: g.OutW(), plane: g.H * g.W, stride: stride, width: g.W, tiles: tiles}
	if half {
		p.oh, p.ow = p.oh/2, p.ow/2
		p.th, p.tw = p.oh, p.ow
	} else {
		p.th, p.tw = (p.oh+1)/2, (p.ow+1)/2
	}
	h, w := 2*p.th+2, 2*p.tw+2
	p.staged = g.PadTop > 0 || g.PadLeft > 0 || g.PadBottom > 0 || g.PadRight > 0 || h > g.H || w > g.W
	if !p.staged {
		p.group = max(1, min(n, 1<<28/max(stride, 1)))
		return p
	}
	p.plane, p.width, p.stride = h*w, w, g.C*h*w
	// As many as stay in the second-level cache, but at least what gives enough tiles.
	p.group = max(1, min(n, max(shiftImage/p.stride, tiles/max(p.th*p.tw, 1))))
	return p
}

// winograd is Conv for weights packed this way.
func (w *Workspace) winograd(p *PackedConv, g *Window, n int, x, y Images, e *Epilogue) {
	lv := p.lv.(winograder)
	mr, tiles := lv.tile()
	w.plan = newWinogradPlan(g, e.Halve, n, x.Stride, tiles)
	t := &w.plan
	if t.plane >= 1<<30 {
		panic("kernel: image too large for a convolution")
	}
	var staged []float32
	if t.staged {
		staged = space(&w.image, t.group*t.stride)
		clear(staged)
	}
	bias := space(&w.bias, p.out)
	clear(bias)
	if e.Bias != nil {
		copy(bias, e.Bias[:p.out])
	}
	out := space(&w.out, winogradElements*(g.C+mr)*tiles+mr*4*tiles)
	v, out := out[:winogradElements*g.C*tiles], out[winogradElements*g.C*tiles:]
	m, res := out[:winogradElements*mr*tiles], out[winogradElements*mr*tiles:]
	lo, hi := float32(math.Inf(-1)), float32(math.Inf(1))
	if e.Relu {
		lo = 0
	}
	for i := 0; i < n; i += t.group {
		count := min(t.group, n-i)
		img := x.F[i*x.Stride:]
		if t.staged {
			s := shift{planes: 1, wide: 1, w: t.width, h: t.plane / t.width}
			for j := range count {
				s.stage(g, img[j*x.Stride:], staged[j*t.stride:])
			}
			img = staged
		}
		all := count * t.th * t.tw
		for from := 0; from < all; from += tiles {
			runs := t.place(from, min(tiles, all-from), y.Stride, e.Halve)
			lv.winogradIn(g.C, img, t.plane, t.width, t.at[:tiles], v)
			for c := 0; c < p.out; {
				h := p.rows.size(c)
				lv.winogradOut(h, g.C, p.panels[c*winogradElements*g.C:], v, m, bias[c:], lo, hi, e.Halve, res)
				for r := range h {
					put(runs, res[r*4*tiles:], 2*tiles, y.F[i*y.Stride+(c+r)*t.oh*t.ow:], t.ow)
				}
				c += h
			}
		}
	}
}

// place finds the tiles from, from+1, ... in the images and where their results go.
func (t *winogradPlan) place(from, n, strideY int, half bool) []winogradRun {
	runs := t.runs[:0]
	for j := range t.tiles {
		tile := from + min(j, n-1)
		img, row, col := tile/(t.th*t.tw), tile/t.tw%t.th, tile%t.tw
		t.at[j] = int32(img*t.stride + 2*row*t.width + 2*col)
		if j >= n {
			continue
		}
		if half {
			if j == 0 || row == 0 && col == 0 {
				runs = append(runs, winogradRun{from: j, to: img*strideY + row*t.ow + col})
			}
			runs[len(runs)-1].n++
			continue
		}
		if j == 0 || col == 0 {
			runs = append(runs, winogradRun{from: 2 * j, to: img*strideY + 2*row*t.ow + 2*col, lower: 2*row+1 < t.oh})
		}
		runs[len(runs)-1].n += min(2, t.ow-2*col)
	}
	return runs
}

// put copies the results of one channel, the lower lines from res[lower] on, to their places in y, whose rows have width elements.
func put(runs []winogradRun, res []float32, lower int, y []float32, width int) {
	for _, r := range runs {
		copy(y[r.to:][:r.n], res[r.from:])
		if r.lower {
			copy(y[r.to+width:][:r.n], res[lower+r.from:])
		}
	}
}
