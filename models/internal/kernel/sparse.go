package kernel

// Inputs are often zero: the margins of images, what a ReLU has cut off. A tile of A needs no step of k for a column that is zero in all of
// its rows: with finite weights the step adds nothing, and the result is the same to the bit. Finding these columns costs about one percent
// of a product with 512 columns.

const (
	sparseColumns = 64 // columns of B from which on zeros in A are looked for
	sparseMargin  = 16 // elements that squeeze writes too many
)

// sparser is a level that can leave columns of A out.
type sparser interface {
	level
	// sparseRows is the height of the tiles to look for zeros in: as low as they can be without leaving the multipliers waiting.
	sparseRows() int
	// squeeze copies those of the kc columns of h rows of A, lda apart, that are not zero in all rows to rows of dst, ldd apart, and for
	// column p of A p*nr to off. It returns their number, or -1 without having copied anything when there are more than most.
	squeeze(h, kc int, a []float32, lda int, dst []float32, ldd int, off []uint32, most int) int
}

// skip is a block of A without its columns of zeros, tile by tile.
type skip struct {
	rows span
	a    []float32
	off  []uint32
	ld   int   // of the rows of a, and from one tile to the next in off
	used []int // columns left of a tile; -1 when it is to be read as it is
}

// find fills s for m rows of A, kc columns, and says whether any can be left out.
func (s *skip) find(lv level, m, kc int, a []float32, lda int) bool {
	by, ok := lv.(sparser)
	if !ok {
		return false
	}
	s.rows = even(m, by.sparseRows())
	s.ld = kc + sparseMargin
	tiles := s.rows.panel(m-1) + 1
	s.a = space(&s.a, m*s.ld)
	if cap(s.off) < tiles*s.ld {
		s.off = make([]uint32, tiles*s.ld)
	}
	s.off, s.used = s.off[:tiles*s.ld], s.used[:0]
	any := false
	for i := 0; i < m; {
		h, t := s.rows.size(i), len(s.used)
		n := by.squeeze(h, kc, a[i*lda:], lda, s.a[i*s.ld:][:h*s.ld], s.ld, s.off[t*s.ld:][:s.ld], kc-kc/8)
		s.used, any = append(s.used, n), any || n >= 0
		i += h
	}
	return any
}

// squeeze is sparser's in plain loops.
func squeeze(h, kc int, a []float32, lda int, dst []float32, ldd int, off []uint32, nr, most int) int {
	n := 0
	for p := range kc {
		used := false
		for r := range h {
			used = used || a[r*lda+p] != 0
		}
		if !used {
			continue
		}
		if n == most {
			return -1
		}
		off[n] = uint32(p * nr)
		for r := range h {
			dst[r*ldd+n] = a[r*lda+p]
		}
		n++
	}
	return n
}
