package kernel

import "math"

// Pool is the geometry of a pooling.
type Pool struct {
	Window     // without C; the last windows may end outside the image and its padding
	OH, OW int // of the result

	// Of an average: for each row and each column of the result, the number of places in the window; their product divides the sum.
	// Nil for a maximum.
	RowCounts, ColCounts []float32
}

// poolSpace is the working space of a pooling: the rows of a window joined to one, with its padding; that row taken apart by twos; what the
// sums of a row are divided by.
type poolSpace struct{ row, even, odd, counts []float32 }

// windowMargin is how many elements behind a row may be read.
const windowMargin = 64

// PoolSpace is how many floats of a [Workspace] a pooling takes at most.
func PoolSpace(g *Pool) int64 {
	w := g.Window
	w.defaults()
	return 2*w.reach(g.OW) + 4 + windowMargin + int64(g.OW)
}

// reach is the length of a row with its padding, as far as ow windows go.
func (g *Window) reach(ow int) int64 {
	return int64(ow-1)*int64(g.StrideW) + int64(g.KW-1)*int64(g.DilationW) + 1
}

// Pool reduces windows of an image to their maximum or average, n images (or channels) of H x W one after the other in src to OH x OW in
// dst. Places in the padding do not count. A maximum is NaN when one of its elements is, and minus infinity for windows without any. It
// panics when a slice is too short.
//
// The rows of a window are joined to one first, then its columns, so that everything goes along vectors.
func (w *Workspace) Pool(g *Pool, n int, src, dst []float32) {
	p := *g
	p.defaults()
	size, area := p.H*p.W, p.OH*p.OW
	if n <= 0 || area == 0 {
		return
	}
	if len(src) < n*size || len(dst) < n*area || p.RowCounts != nil && (len(p.RowCounts) < p.OH || len(p.ColCounts) < p.OW) {
		panic("kernel: a slice is too short for the pooling")
	}
	if area == 1 && p.KH == p.H && p.KW == p.W && p.DilationH*p.DilationW == 1 && p.PadTop == 0 && p.PadLeft == 0 && size > 0 {
		for i := range n {
			if p.RowCounts == nil {
				dst[i] = w.Highest(src[i*size:][:size])
			} else {
				dst[i] = float32(w.Sum(src[i*size:][:size]) / float64(p.RowCounts[0]*p.ColCounts[0]))
			}
		}
		return
	}
	r := poolRun{Pool: p, w: w, lv: w.vectors(), op: Add}
	if p.RowCounts == nil {
		r.op, r.none = Max, float32(math.Inf(-1))
	} else {
		for _, c := range p.ColCounts[:p.OW] {
			r.uneven = r.uneven || c != p.ColCounts[0]
		}
	}
	length := int(p.reach(p.OW))
	s := &w.pool
	s.row = grow(s.row, length+windowMargin)[:length]
	for i := range s.row {
		s.row[i] = r.none
	}
	s.even, s.odd, s.counts = grow(s.even, (length+1)/2), grow(s.odd, (length+1)/2), grow(s.counts, p.OW)
	r.inside = max(0, min(p.W, length-p.PadLeft))
	for i := range n {
		for y := range p.OH {
			r.line(y, src[i*size:][:size], dst[i*area+y*p.OW:][:p.OW])
		}
	}
}

// poolRun is one call of Pool.
type poolRun struct {
	Pool
	w      *Workspace
	lv     vectorLevel
	op     BinaryOp
	none   float32 // what places outside the image hold
	uneven bool    // the counts of the columns differ
	inside int     // columns of the image that windows reach
}

// line computes a row of the result.
func (r *poolRun) line(y int, src, dst []float32) {
	s := &r.w.pool
	if r.inside > 0 {
		r.join(y, src, s.row[r.PadLeft:][:r.inside])
	}
	switch three := r.op == Max && r.KW == 3 && r.DilationW == 1; {
	case three && r.StrideW == 1:
		r.lv.greatest(dst, s.row, s.row[1:], s.row[2:])
	case three && r.StrideW == 2:
		r.lv.greatestBy2(dst, s.row[:len(s.row)+windowMargin])
	case r.StrideW == 1:
		for i := range r.KW {
			r.fold(i, dst, s.row[i*r.DilationW:])
		}
	case r.StrideW == 2:
		r.w.Unzip(s.even[:(len(s.row)+1)/2], s.odd[:len(s.row)/2], s.row)
		for i := range r.KW {
			at, half := i*r.DilationW, s.even
			if at%2 > 0 {
				half = s.odd
			}
			r.fold(i, dst, half[at/2:])
		}
	default:
		f := pairFunc(r.op)
		for j := range dst {
			line := s.row[j*r.StrideW:]
			v := line[0]
			for i := 1; i < r.KW; i++ {
				v = f(v, line[i*r.DilationW])
			}
			dst[j] = v
		}
	}
	if r.RowCounts == nil {
		return
	}
	if !r.uneven {
		r.lv.zip(Div, vectorScalar, dst, dst, nil, r.RowCounts[y]*r.ColCounts[0])
		return
	}
	r.lv.zip(Mul, vectorScalar, s.counts, r.ColCounts[:r.OW], nil, r.RowCounts[y])
	r.lv.zip(Div, vectorVector, dst, dst, s.counts, 0)
}

// join reduces the rows of the window of result row y to one.
func (r *poolRun) join(y int, src, to []float32) {
	if top := y*r.StrideH - r.PadTop; r.op == Max && r.KH == 3 && top >= 0 && top+2*r.DilationH < r.H {
		r.lv.greatest(to, src[top*r.W:], src[(top+r.DilationH)*r.W:], src[(top+2*r.DilationH)*r.W:])
		return
	}
	first := true
	for k := range r.KH {
		at := y*r.StrideH - r.PadTop + k*r.DilationH
		if at < 0 || at >= r.H {
			continue
		}
		from := src[at*r.W:][:len(to)]
		if first {
			copy(to, from)
			first = false
			continue
		}
		r.lv.zip(r.op, vectorVector, to, to, from, 0)
	}
	for i := 0; first && i < len(to); i++ {
		to[i] = r.none
	}
}

// fold takes column i of the windows into dst.
func (r *poolRun) fold(i int, dst, from []float32) {
	if i == 0 {
		copy(dst, from)
		return
	}
	r.lv.zip(r.op, vectorVector, dst, dst, from[:len(dst)], 0)
}

func (portable) greatest(dst, x, y, z []float32) {
	x, y, z = x[:len(dst)], y[:len(dst)], z[:len(dst)]
	for i := range dst {
		dst[i] = max(x[i], y[i], z[i])
	}
}

func (portable) greatestBy2(dst, x []float32) {
	for i := range dst {
		dst[i] = max(x[0], x[1], x[2])
		x = x[2:]
	}
}
