package kernel

import "math"

// Convolutions of 3 x 3 by F(2x2, 3x3) and F(4x4, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016): every
// 2 x 2 results come from 4 x 4 places of the image (4 x 4 from 6 x 6), both transformed; in between, 16 (36) products of matrices, weights
// by channels, take 16 multiplications where the definition takes 36 (36 instead of 144). TestWinogradErrors has the rounding errors.

const (
	winogradTiles    = 32 // transformed at a time, at most
	winogradElements = 36 // of a transformed tile, at most
	winogradLeast    = 16 // input and output channels from which on the transformations are worth their time
	winogradLarge    = 48 // input and output channels from which on those of 4 x 4 results are
)

// winograder is a level that has the transformations. It transforms as many tiles at a time as its own tile has columns.
type winograder interface {
	shifter
	// winogradIn fills dst, [elements][c+1 channels][tiles], for size x size results, 2 or 4. Tile j of channel i begins at x[at[j]+i*plane];
	// rows are width apart. The last channel of an element is left as it is: without it, with 32 channels or a multiple, all elements would
	// meet in the same places of the first-level cache.
	winogradIn(size, c int, x []float32, plane, width int, at []int32, dst []float32)
	// winogradOut multiplies h rows of weights, u is [elements][c][h], with d and transforms back: dst has size*size*tiles elements for each
	// row, line after line, of which a quarter are used, with half as many lines, when half: then they are maxima. bias is added and limits
	// apply. m is space for elements*h*tiles floats, bias has h elements.
	winogradOut(size, h, c int, u, d, m, bias []float32, lo, hi float32, half bool, dst []float32)
}

// suitsWinograd says whether convolutions with such windows can be done this way.
func suitsWinograd(lv level, g *Window) bool {
	w := *g
	w.defaults()
	_, ok := lv.(winograder)
	return ok && w.KH == 3 && w.KW == 3 && w.StrideH == 1 && w.StrideW == 1 && w.DilationH == 1 && w.DilationW == 1
}

// winogradSize is for how many results a side it is worth to be done this way; 0 for not.
func winogradSize(lv level, g *Window, out int) int {
	switch channels := min(g.C, out); {
	case !suitsWinograd(lv, g) || channels < winogradLeast:
		return 0
	case channels < winogradLarge:
		return 2
	}
	return 4
}

// winogradWeights transforms weights, rows x c x 3 x 3, to panels [elements][c][rows of the panel].
func winogradWeights(size int, rows span, c int, weights []float32) []float32 {
	matrix := winogradG[size]
	elements := (size + 2) * (size + 2)
	u := make([]float32, rows.total*c*elements)
	for o := 0; o < rows.total; {
		h := rows.size(o)
		panel := u[o*c*elements:]
		for r := range h {
			for i := range c {
				w := weights[((o+r)*c+i)*9:][:9]
				for e := range elements {
					// Element e of GwG'.
					var sum float64
					for j, x := range w {
						sum += matrix[e/(size+2)][j/3] * matrix[e%(size+2)][j%3] * float64(x)
					}
					panel[(e*c+i)*h+r] = float32(sum)
				}
			}
		}
		o += h
	}
	return u
}

// winogradG is the matrix G of the source by the number of results.
var winogradG = map[int][][3]float64{
	2: {{1, 0, 0}, {.5, .5, .5}, {.5, -.5, .5}, {0, 0, 1}},
	4: {{1. / 4, 0, 0}, {-1. / 6, -1. / 6, -1. / 6}, {-1. / 6, 1. / 6, -1. / 6},
		{1. / 24, 1. / 12, 1. / 6}, {1. / 24, -1. / 12, 1. / 6}, {0, 0, 1}},
}

// winogradPlan is the layout of the images and what is needed to walk them.
type winogradPlan struct {
	oh, ow        int // of the results that are kept
	size          int // results a side of a tile that are kept
	reach         int // places from one tile to the next
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
	from, n int // first result and number of results of a line
	to      int // place in y without that of the channel
	lines   int
}

func newWinogradPlan(size int, g *Window, half bool, n, stride, tiles int) winogradPlan {
	p := winogradPlan{oh: g.OutH(), ow: g.OutW(), size: size, reach: size, plane: g.H * g.W, stride: stride, width: g.W, tiles: tiles}
	if half {
		p.oh, p.ow, p.size = p.oh/2, p.ow/2, size/2
	}
	p.th, p.tw = (p.oh+p.size-1)/p.size, (p.ow+p.size-1)/p.size
	h, w := p.reach*p.th+2, p.reach*p.tw+2
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
	w.plan = newWinogradPlan(p.winograd, g, e.Halve, n, x.Stride, tiles)
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
	elements := (p.winograd + 2) * (p.winograd + 2)
	out := space(&w.out, elements*(g.C+1+mr)*tiles+mr*p.winograd*p.winograd*tiles)
	v, out := out[:elements*(g.C+1)*tiles], out[elements*(g.C+1)*tiles:]
	m, res := out[:elements*mr*tiles], out[elements*mr*tiles:]
	lo, hi := float32(math.Inf(-1)), float32(math.Inf(1))
	if e.Clip {
		lo, hi = e.Lo, e.Hi
	}
	if e.Relu {
		lo = max(lo, 0)
	}
	for i := 0; i < n; i += t.group {
		count := min(t.group, n-i)
		img := x.F[i*x.Stride:]
		if t.staged {
			s := shift{planes: 1, wide: 1, w: t.width, h: t.plane / t.width}
			for j := range count {
				s.stage(w, g, img[j*x.Stride:], staged[j*t.stride:])
			}
			img = staged
		}
		all := count * t.th * t.tw
		for from := 0; from < all && !w.stopped(); from += tiles {
			runs := t.place(from, min(tiles, all-from), y.Stride)
			lv.winogradIn(p.winograd, g.C, img, t.plane, t.width, t.at[:tiles], v)
			for c := 0; c < p.out; {
				h := p.rows.size(c)
				lv.winogradOut(p.winograd, h, g.C, p.panels[c*elements*g.C:], v, m, bias[c:], lo, hi, e.Halve, res)
				for r := range h {
					t.put(runs, res[r*p.winograd*p.winograd*tiles:], y.F[i*y.Stride+(c+r)*t.oh*t.ow:])
				}
				c += h
			}
		}
	}
}

// place finds the tiles from, from+1, ... in the images and where their results go.
func (t *winogradPlan) place(from, n, strideY int) []winogradRun {
	runs := t.runs[:0]
	for j := range t.tiles {
		tile := from + min(j, n-1)
		img, row, col := tile/(t.th*t.tw), tile/t.tw%t.th, tile%t.tw
		t.at[j] = int32(img*t.stride + t.reach*row*t.width + t.reach*col)
		if j >= n {
			continue
		}
		// With one result a tile, a row goes on where the one before it has ended.
		if j == 0 || col == 0 && (t.size > 1 || row == 0) {
			runs = append(runs, winogradRun{from: t.size * j, to: img*strideY + t.size*(row*t.ow+col), lines: min(t.size, t.oh-t.size*row)})
		}
		runs[len(runs)-1].n += min(t.size, t.ow-t.size*col)
	}
	return runs
}

// put copies the results of one channel to their places in y.
func (t *winogradPlan) put(runs []winogradRun, res, y []float32) {
	line := t.size * t.tiles
	for i := range runs {
		r := &runs[i]
		for l := range r.lines {
			copy(y[r.to+l*t.ow:][:r.n], res[l*line+r.from:])
		}
	}
}
