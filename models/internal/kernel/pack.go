package kernel

// span is a range of vectors, the rows of A or the columns of B, cut into panels. Rows are cut evenly, as high as the level allows, so that
// no panel is padded: the first of all m rows make a few panels that are one higher than the others. Columns are cut into panels of one
// width, the last one padded with zeros.
type span struct {
	begin, end int // of the range, at panels' borders
	r          int // size of a panel
	larger     int // vectors, from vector 0 on, that are in panels of r+1
	total      int // vectors there are
	pad        bool
}

// even cuts n rows into panels of up to most rows.
func even(n, most int) span {
	panels := max((n+most-1)/most, 1)
	r := n / panels
	return span{end: n, r: max(r, 1), larger: n % panels * (r + 1), total: n}
}

// padded cuts n columns into panels of r.
func padded(n, r int) span { return span{end: n, r: r, total: n, pad: true} }

// size is the size of the panel at vector x.
func (s *span) size(x int) int {
	if x < s.larger {
		return s.r + 1
	}
	return s.r
}

// panel is the number of the panel at vector x, counted from vector 0.
func (s *span) panel(x int) int {
	if x < s.larger {
		return x / (s.r + 1)
	}
	return s.larger/(s.r+1) + (x-s.larger)/s.r
}

// from is the range of up to the given number of panels from vector x on.
func (s span) from(x, panels int) span {
	s.begin, s.end = x, x
	for range panels {
		if s.end < s.total {
			s.end = min(s.end+s.size(s.end), s.total)
		}
	}
	return s
}

// space is how many vectors the panels of the range have room for.
func (s *span) space() int {
	n := s.end - s.begin
	if s.pad {
		n = (n + s.r - 1) / s.r * s.r
	}
	return n
}

// operand is one side of a product, seen as vectors of length k: the rows of op(A) or the columns of op(B).
type operand struct {
	raw    []float32
	ld     int
	sparse bool // elements that are zero may be left out
	alongK bool // vector x is raw[x*ld : x*ld+k]; otherwise its element p is raw[p*ld+x]

	packed []float32 // not nil: the whole operand in panels, blocks of k one after the other
	room   int       // number of vectors the panels have room for
}

// pack returns the operand (vectors of length k) in panels.
func (o *operand) pack(k int, s span) operand {
	out := operand{room: s.space()}
	out.packed = make([]float32, out.room*k)
	depth := blockDepth(k)
	for p := 0; p < k; p += depth {
		kc := min(depth, k-p)
		o.fill(out.packed[p*out.room:(p+kc)*out.room], p, kc, s)
	}
	return out
}

// panels returns the vectors of s of the block of k at p: element i of vector v of a panel of r is at [i*r+v], and vectors past the end are
// zero. The space is buf's unless the operand is packed already.
func (o *operand) panels(buf *[]float32, p, kc int, s span) []float32 {
	size := s.space() * kc
	if o.packed != nil {
		from := p*o.room + s.begin*kc
		return o.packed[from : from+size]
	}
	dst := space(buf, size)
	o.fill(dst, p, kc, s)
	return dst
}

// fill packs the vectors of s.
func (o *operand) fill(dst []float32, p, kc int, s span) {
	for x := s.begin; x < s.end; {
		r, at := s.size(x), x-s.begin
		o.panel(dst[at*kc:(at+r)*kc], x, min(r, s.end-x), r, p, kc)
		x += r
	}
}

// panel packs live vectors from x on to a panel of r.
func (o *operand) panel(panel []float32, x, live, r, p, kc int) {
	if live < r {
		clear(panel)
	}
	if o.alongK {
		done := 0
		if live == r {
			done = transpose(panel, o.raw[x*o.ld+p:], o.ld, r, kc) // a level in assembly
		}
		for v := range live {
			src := o.raw[(x+v)*o.ld+p:][:kc][done:]
			for i, d := 0, v+done*r; i < len(src) && d < len(panel); i, d = i+1, d+r {
				panel[d] = src[i]
			}
		}
		return
	}
	if live < r {
		for i := range kc {
			copy(panel[i*r:i*r+live], o.raw[(p+i)*o.ld+x:])
		}
		return
	}
	// The common cases without a call for each copy.
	switch r {
	case 4:
		for i := range kc {
			*(*[4]float32)(panel[i*4:]) = [4]float32(o.raw[(p+i)*o.ld+x:])
		}
	case 16:
		for i := range kc {
			*(*[16]float32)(panel[i*16:]) = [16]float32(o.raw[(p+i)*o.ld+x:])
		}
	case 32:
		for i := range kc {
			*(*[32]float32)(panel[i*32:]) = [32]float32(o.raw[(p+i)*o.ld+x:])
		}
	default:
		for i := range kc {
			copy(panel[i*r:i*r+r], o.raw[(p+i)*o.ld+x:])
		}
	}
}
