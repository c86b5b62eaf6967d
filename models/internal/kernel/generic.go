package kernel

// generic is the level in portable Go. Its tile of 2 x 4 was the fastest of thirteen shapes measured on amd64: eight sums, four columns and
// two rows fit the sixteen registers, larger tiles spill.
type generic struct{}

const (
	genericRows = 2
	genericCols = 4
)

func (generic) name() string             { return "generic" }
func (generic) tile() (mr, nr int)       { return genericRows, genericCols }
func (generic) blocks() (rows, cols int) { return 32, 128 }
func (generic) readsRows() bool          { return false }

func (generic) block(kc int, a []float32, _ int, b []float32, st *store) {
	var acc [genericRows * genericCols]float32
	for j := st.cols.begin; j < st.cols.end; j += genericCols {
		bp := b[(j-st.cols.begin)*kc:][:genericCols*kc]
		cols := min(genericCols, st.cols.end-j)
		for i := st.rows.begin; i < st.rows.end; {
			h := st.rows.size(i)
			left := a[(i-st.rows.begin)*kc:][:h*kc]
			if h == 1 {
				genericRow(left, bp, &acc)
			} else {
				genericTile(left, bp, &acc)
			}
			for r := range h {
				if cols == genericCols {
					put4(st, i+r, j, (*[genericCols]float32)(acc[r*genericCols:]))
				} else {
					st.put(i+r, j, acc[r*genericCols:][:cols])
				}
			}
			i += h
		}
	}
}

// genericRow is genericTile for one row.
func genericRow(a, b []float32, acc *[genericRows * genericCols]float32) {
	var c0, c1, c2, c3 float32
	for len(a) >= 1 && len(b) >= 4 {
		p, q := a[0], (*[4]float32)(b)
		c0, c1, c2, c3 = c0+p*q[0], c1+p*q[1], c2+p*q[2], c3+p*q[3]
		a, b = a[1:], b[4:]
	}
	*acc = [8]float32{c0, c1, c2, c3}
}

func (generic) limit(rounds int) int {
	var s [8]float32
	x, y := float32(rounds), float32(rounds&1)
	s0, s1, s2, s3, s4, s5, s6, s7 := x, x, x, x, x, x, x, x
	for range rounds {
		s0, s1, s2, s3 = s0+x*y, s1+x*y, s2+x*y, s3+x*y
		s4, s5, s6, s7 = s4+x*y, s5+x*y, s6+x*y, s7+x*y
		x, y = y, x
	}
	s = [8]float32{s0, s1, s2, s3, s4, s5, s6, s7}
	for _, v := range s {
		x += v
	}
	if x != x { // never: the sums are used, so that the loop is not left out
		return 0
	}
	return 16 * rounds
}

// put4 is store.put for a whole row of a tile, with the values kept in registers.
func put4(s *store, i, j int, acc *[genericCols]float32) {
	dst := (*[genericCols]float32)(s.c[i*s.ldc+j:])
	a := s.alpha
	v0, v1, v2, v3 := float32(a*acc[0]), float32(a*acc[1]), float32(a*acc[2]), float32(a*acc[3])
	if !s.first {
		v0, v1, v2, v3 = dst[0]+v0, dst[1]+v1, dst[2]+v2, dst[3]+v3
	} else if b := s.beta; b != 0 {
		v0, v1, v2, v3 = v0+float32(b*dst[0]), v1+float32(b*dst[1]), v2+float32(b*dst[2]), v3+float32(b*dst[3])
	}
	if s.last {
		if s.end.PerRow && s.end.Bias != nil {
			b := s.end.Bias[i]
			v0, v1, v2, v3 = v0+b, v1+b, v2+b, v3+b
		} else if s.end.Bias != nil {
			b := (*[genericCols]float32)(s.end.Bias[j:])
			v0, v1, v2, v3 = v0+b[0], v1+b[1], v2+b[2], v3+b[3]
		}
		if s.end.Relu {
			v0, v1, v2, v3 = max(v0, 0), max(v1, 0), max(v2, 0), max(v3, 0)
		}
		if s.end.Clip {
			lo, hi := s.end.Lo, s.end.Hi
			v0, v1, v2, v3 = min(max(v0, lo), hi), min(max(v1, lo), hi), min(max(v2, lo), hi), min(max(v3, lo), hi)
		}
	}
	dst[0], dst[1], dst[2], dst[3] = v0, v1, v2, v3
}

// genericTile computes acc[i*4+j] = sum over p of a[p*2+i] * b[p*4+j]. len(b) must be twice len(a).
func genericTile(a, b []float32, acc *[genericRows * genericCols]float32) {
	var c00, c01, c02, c03, c10, c11, c12, c13 float32
	for len(a) >= 16 && len(b) >= 32 {
		p, q := (*[16]float32)(a), (*[32]float32)(b)
		c00, c01, c02, c03 = c00+p[0]*q[0], c01+p[0]*q[1], c02+p[0]*q[2], c03+p[0]*q[3]
		c10, c11, c12, c13 = c10+p[1]*q[0], c11+p[1]*q[1], c12+p[1]*q[2], c13+p[1]*q[3]
		c00, c01, c02, c03 = c00+p[2]*q[4], c01+p[2]*q[5], c02+p[2]*q[6], c03+p[2]*q[7]
		c10, c11, c12, c13 = c10+p[3]*q[4], c11+p[3]*q[5], c12+p[3]*q[6], c13+p[3]*q[7]
		c00, c01, c02, c03 = c00+p[4]*q[8], c01+p[4]*q[9], c02+p[4]*q[10], c03+p[4]*q[11]
		c10, c11, c12, c13 = c10+p[5]*q[8], c11+p[5]*q[9], c12+p[5]*q[10], c13+p[5]*q[11]
		c00, c01, c02, c03 = c00+p[6]*q[12], c01+p[6]*q[13], c02+p[6]*q[14], c03+p[6]*q[15]
		c10, c11, c12, c13 = c10+p[7]*q[12], c11+p[7]*q[13], c12+p[7]*q[14], c13+p[7]*q[15]
		c00, c01, c02, c03 = c00+p[8]*q[16], c01+p[8]*q[17], c02+p[8]*q[18], c03+p[8]*q[19]
		c10, c11, c12, c13 = c10+p[9]*q[16], c11+p[9]*q[17], c12+p[9]*q[18], c13+p[9]*q[19]
		c00, c01, c02, c03 = c00+p[10]*q[20], c01+p[10]*q[21], c02+p[10]*q[22], c03+p[10]*q[23]
		c10, c11, c12, c13 = c10+p[11]*q[20], c11+p[11]*q[21], c12+p[11]*q[22], c13+p[11]*q[23]
		c00, c01, c02, c03 = c00+p[12]*q[24], c01+p[12]*q[25], c02+p[12]*q[26], c03+p[12]*q[27]
		c10, c11, c12, c13 = c10+p[13]*q[24], c11+p[13]*q[25], c12+p[13]*q[26], c13+p[13]*q[27]
		c00, c01, c02, c03 = c00+p[14]*q[28], c01+p[14]*q[29], c02+p[14]*q[30], c03+p[14]*q[31]
		c10, c11, c12, c13 = c10+p[15]*q[28], c11+p[15]*q[29], c12+p[15]*q[30], c13+p[15]*q[31]
		a, b = a[16:], b[32:]
	}
	for len(a) >= 2 && len(b) >= 4 {
		p, q := (*[2]float32)(a), (*[4]float32)(b)
		c00, c01, c02, c03 = c00+p[0]*q[0], c01+p[0]*q[1], c02+p[0]*q[2], c03+p[0]*q[3]
		c10, c11, c12, c13 = c10+p[1]*q[0], c11+p[1]*q[1], c12+p[1]*q[2], c13+p[1]*q[3]
		a, b = a[2:], b[4:]
	}
	*acc = [8]float32{c00, c01, c02, c03, c10, c11, c12, c13}
}
