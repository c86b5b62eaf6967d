package kernel

// operand is one side of a product, seen as vectors of length k: the rows of op(A) or the columns of op(B).
type operand struct {
	raw    []float32
	ld     int
	alongK bool // vector x is raw[x*ld : x*ld+k]; otherwise its element p is raw[p*ld+x]

	packed []float32 // not nil: the whole operand in panels, blocks of blockK one after the other
	pad    int       // number of vectors rounded up to whole panels
}

// pack returns the operand (n vectors of length k) in panels of r vectors.
func (o *operand) pack(n, k, r int) operand {
	pad := (n + r - 1) / r * r
	out := operand{packed: make([]float32, pad*k), pad: pad}
	for p := 0; p < k; p += blockK {
		kc := min(blockK, k-p)
		o.fill(out.packed[p*pad:p*pad+pad*kc], 0, n, p, kc, r)
	}
	return out
}

// panels returns vectors x0 to x0+n of the block of k at p in panels of r vectors: element i of vector v of a panel is at [i*r+v], and
// vectors past the end are zero. x0 must be a multiple of r. The space is buf's unless the operand is packed already.
func (o *operand) panels(buf *[]float32, x0, n, p, kc, r int) []float32 {
	size := (n + r - 1) / r * r * kc
	if o.packed != nil {
		from := p*o.pad + x0*kc
		return o.packed[from : from+size]
	}
	if cap(*buf) < size {
		*buf = make([]float32, size)
	}
	dst := (*buf)[:size]
	o.fill(dst, x0, n, p, kc, r)
	return dst
}

func (o *operand) fill(dst []float32, x0, n, p, kc, r int) {
	for x := 0; x < n; x += r {
		panel := dst[x*kc : x*kc+r*kc]
		live := min(r, n-x)
		if live < r {
			clear(panel)
		}
		if o.alongK {
			done := 0
			if r == 16 && live == 16 { // a level in assembly
				done = transpose(panel, o.raw[(x0+x)*o.ld+p:], o.ld, kc)
			}
			for v := range live {
				src := o.raw[(x0+x+v)*o.ld+p:][:kc][done:]
				for i, d := 0, v+done*r; i < len(src) && d < len(panel); i, d = i+1, d+r {
					panel[d] = src[i]
				}
			}
			continue
		}
		if r == 4 && live == 4 { // the common case of the portable level, without a call for each copy
			for i := range kc {
				*(*[4]float32)(panel[i*4:]) = [4]float32(o.raw[(p+i)*o.ld+x0+x:])
			}
			continue
		}
		if r == 16 && live == 16 {
			for i := range kc {
				*(*[16]float32)(panel[i*16:]) = [16]float32(o.raw[(p+i)*o.ld+x0+x:])
			}
			continue
		}
		for i := range kc {
			copy(panel[i*r:i*r+live], o.raw[(p+i)*o.ld+x0+x:])
		}
	}
}

// pad is the number of rows rounded up to whole panels.
func (p *PackedA) pad() int { return p.op.pad }
