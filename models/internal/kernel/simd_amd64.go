//go:build amd64 && !noasm

package kernel

import (
	"slices"
	"unsafe"

	"golang.org/x/sys/cpu"
)

// simd lists the levels in assembly that this processor can run, the best last.
// GODEBUG=cpu.avx2=off and the like are honoured.
func simd() []level {
	if !cpu.X86.HasAVX2 || !cpu.X86.HasFMA {
		return nil
	}
	list := []level{avx2}
	if cpu.X86.HasAVX512F && cpu.X86.HasAVX512VL && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512BW {
		list = append(list, avx512)
	}
	return list
}

// vector is a level for processors with vector registers. Of its registers most hold the sums of a tile of up to rows x 2*lanes.
type vector int

const (
	avx2   vector = iota // sixteen registers of 8 floats
	avx512               // thirty-two registers of 16 floats
)

func (v vector) name() string { return [...]string{"avx2", "avx512"}[v] }

func (v vector) tile() (mr, nr int) {
	if v == avx512 {
		return 12, 32
	}
	return 6, 16
}

// A block of A takes 288 KiB at most and stays in the second-level cache, as does the block of B.
func (v vector) blocks() (rows, cols int) {
	if v == avx512 {
		return 12, 8
	}
	return 24, 16
}

func (vector) readsRows() bool { return true }

// tile is what a micro-kernel is told. The generator has the offsets of the fields.
type tile struct {
	form   int
	k      int
	a      *float32
	lda    int // of formRows
	b      *float32
	ldb    int     // elements from one panel of B to the next
	off    *uint32 // of formShift
	c      *float32
	ldc    int
	bias   *float32
	end    int     // the bits below
	cols   int     // of C at most those of one panel
	count  int     // of formSeries
	lo, hi float32 // of endClip
}

// Where a micro-kernel finds its operands.
const (
	formPanels     = iota // a[p*rows+i], b[p*nr+j]
	formRows              // a[i*lda+p], b[p*nr+j]
	formShift             // a[p*rows+i], b[off[p]+j]
	formSeries            // formPanels, count times, the operands and results one after the other
	formSparse            // a[i*lda+p], b[off[p]+j]
	formPairs             // formPanels with several panels of B
	formWide              // formRows with several panels of B
	formSparseWide        // formSparse with several panels of B
)

// What a micro-kernel does at the end, in this order.
const (
	endAdd         = 1 << iota // begin the sums with the old c
	endBiasColumns             // add bias[j]
	endBiasRows                // add bias[i]
	endRelu                    // replace negative values by 0
	endClip                    // limit to lo and hi
	endPart                    // store only the columns that cols says
)

// run computes a tile of h rows.
func (v vector) run(h int, t *tile) {
	words := (*[unsafe.Sizeof(tile{}) / 8]int)(unsafe.Pointer(t))
	if v == avx512 {
		runAVX512(h, words)
		return
	}
	runAVX2(h, words)
}

func runAVX2(h int, t *[14]int) {
	switch h {
	case 1:
		tileAVX2x1(t)
	case 2:
		tileAVX2x2(t)
	case 3:
		tileAVX2x3(t)
	case 4:
		tileAVX2x4(t)
	case 5:
		tileAVX2x5(t)
	case 6:
		tileAVX2x6(t)
	}
}

func runAVX512(h int, t *[14]int) {
	switch h {
	case 1:
		tileAVX512x1(t)
	case 2:
		tileAVX512x2(t)
	case 3:
		tileAVX512x3(t)
	case 4:
		tileAVX512x4(t)
	case 5:
		tileAVX512x5(t)
	case 6:
		tileAVX512x6(t)
	case 7:
		tileAVX512x7(t)
	case 8:
		tileAVX512x8(t)
	case 9:
		tileAVX512x9(t)
	case 10:
		tileAVX512x10(t)
	case 11:
		tileAVX512x11(t)
	case 12:
		tileAVX512x12(t)
	}
}

// wide is how many panels of B a tile of h rows takes at a time: as many as give the multipliers enough sums to work on.
func (v vector) wide(h int) int {
	switch {
	case v == avx512 && h <= 3:
		return 4
	case v == avx512 && h <= 6:
		return 2
	case v == avx2 && h == 1:
		return 4
	case v == avx2 && h <= 3:
		return 2
	}
	return 1
}

func (v vector) block(kc int, a []float32, lda int, b []float32, st *store) {
	_, nr := v.tile()
	none := float32(0)
	t := tile{ldc: st.ldc, ldb: nr * kc, bias: &none}
	if !st.first || st.beta == 1 {
		t.end |= endAdd
	}
	if st.last {
		t.limits(&st.end)
	}
	direct := st.alpha == 1 && (!st.first || st.beta == 0 || st.beta == 1)
	end := t.end
	for j := st.cols.begin; j < st.cols.end; {
		width := 1
		for i := st.rows.begin; i < st.rows.end; {
			h := st.rows.size(i)
			// All tiles of a block are about as high: the first decides.
			if i == st.rows.begin && direct {
				if width = v.wide(h); v.wide(st.rows.size(st.rows.end-1)) != width || j+width*nr > st.cols.end {
					width = 1
				}
			}
			t.operands(kc, a, lda, b, i-st.rows.begin, j-st.cols.begin, h, width)
			if st.skip != nil {
				t.leaveOut(st.skip, st.rows.panel(i), i, width)
			}
			if !direct {
				v.indirect(h, &t, st, i, j)
				i += h
				continue
			}
			cols := min(width*nr, st.cols.end-j)
			// The last element that the tile writes, so that a short c panics here.
			c := st.c[i*st.ldc+j:][:(h-1)*st.ldc+cols]
			t.c, t.end = &c[0], end
			if cols < nr {
				t.end |= endPart
			}
			t.cols = min(cols, nr)
			if st.last && st.end.Bias != nil {
				if st.end.PerRow {
					t.end |= endBiasRows
					t.bias = &st.end.Bias[i:][:h][0]
				} else {
					t.end |= endBiasColumns
					t.bias = &st.end.Bias[j:][:cols][0]
				}
			}
			v.run(h, &t)
			i += h
		}
		j += width * nr
	}
}

// limits makes a tile apply ReLU and the limits.
func (t *tile) limits(e *Epilogue) {
	if e.Relu {
		t.end |= endRelu
	}
	if e.Clip {
		t.end |= endClip
		t.lo, t.hi = e.Lo, e.Hi
	}
}

// operands sets where a tile of h rows finds A and B in their blocks, whose rows and columns count from 0.
func (t *tile) operands(kc int, a []float32, lda int, b []float32, i, j, h, panels int) {
	t.form, t.k, t.lda = formPanels, kc, lda
	if panels > 1 {
		t.form = formPairs
	}
	if kc == 0 { // nothing is read
		t.a, t.b = t.bias, t.bias
		return
	}
	if lda > 0 {
		t.form = formRows
		if panels > 1 {
			t.form = formWide
		}
		t.a = &a[i*lda:][:(h-1)*lda+kc][0]
	} else {
		t.a = &a[i*kc:][:h*kc][0]
	}
	t.b = &b[j*kc:][:panels*t.ldb][0]
}

// leaveOut replaces A by what skip has of the tile of row i.
func (t *tile) leaveOut(s *skip, number, i, panels int) {
	used := s.used[number]
	if used < 0 {
		return
	}
	t.form, t.k, t.lda, t.a, t.off = formSparse, used, s.ld, &s.a[i*s.ld], &s.off[number*s.ld]
	if panels > 1 {
		t.form = formSparseWide
	}
}

func (v vector) sparseRows() int {
	mr, _ := v.tile()
	return mr / 2
}

func (v vector) squeeze(h, kc int, a []float32, lda int, dst []float32, ldd int, off []uint32, most int) int {
	_, nr := v.tile()
	blocks := kc / 16
	if v != avx512 || blocks == 0 {
		return squeeze(h, kc, a, lda, dst, ldd, off, nr, most)
	}
	_, _, _ = a[(h-1)*lda+kc-1], dst[(h-1)*ldd+kc+sparseMargin-1], off[kc+sparseMargin-1]
	n := countAVX512(h, blocks, &a[0], lda)
	if n > most {
		return -1
	}
	squeezeAVX512(h, blocks, &a[0], lda, &dst[0], ldd, &off[0], uint32(nr))
	// The columns that do not fill a register.
	from := 16 * blocks
	rest := squeeze(h, kc-from, a[from:], lda, dst[n:], ldd, off[n:], nr, most-n)
	if rest < 0 {
		return -1
	}
	for i := range rest {
		off[n+i] += uint32(from * nr)
	}
	return n + rest
}

// indirect computes a tile into a buffer and stores from there.
func (v vector) indirect(h int, t *tile, st *store, i, j int) {
	var acc [12 * 32]float32
	_, nr := v.tile()
	one := *t
	one.c, one.ldc, one.end, one.cols = &acc[0], nr, 0, nr
	v.run(h, &one)
	for r := range h {
		st.put(i+r, j, acc[r*nr:][:min(nr, st.cols.end-j)])
	}
}

func (v vector) shift(h, n, reach int, a []float32, off []uint32, x, c []float32, ldc int, bias []float32, e *Epilogue) {
	none := float32(0)
	t := tile{form: formShift, k: len(off), off: &off[0], ldc: ldc, bias: &none}
	if bias != nil {
		t.end, t.bias = endBiasRows, &bias[:h][0]
	}
	t.limits(e)
	_, nr := v.tile()
	last := max(n-nr, 0)
	t.a, t.cols = &a[:h*len(off)][0], nr
	_, _ = x[reach+last+nr-1], c[(h-1)*ldc+last+nr-1]
	for j := 0; j < n; j += nr {
		at := min(j, last) // what two tiles have in common is computed twice
		t.b, t.c = &x[at], &c[at]
		v.run(h, &t)
	}
}

func (v vector) halve(planes, rows, cols int, src []float32, plane, lds int, dst []float32, area int) {
	_, _ = src[(planes-1)*plane+(2*rows-1)*lds+2*cols-1], dst[(planes-1)*area+rows*cols-1]
	if v == avx512 {
		halveAVX512(planes, rows, cols, &src[0], plane, lds, &dst[0], area)
		return
	}
	halveAVX2(planes, rows, cols, &src[0], plane, lds, &dst[0], area)
}

func (v vector) winogradIn(size, c int, x []float32, plane, width int, at []int32, dst []float32) {
	_, tiles := v.tile()
	side := size + 2
	_, _ = x[int(slices.Max(at))+(c-1)*plane+(side-1)*width+side-1], dst[side*side*(c+1)*tiles-1]
	place := &at[:tiles][0]
	switch {
	case v == avx512 && size == 4:
		winograd4InAVX512(c, &x[0], plane, width, place, &dst[0])
	case v == avx512:
		winogradInAVX512(c, &x[0], plane, width, place, &dst[0])
	case size == 4:
		winograd4InAVX2(c, &x[0], plane, width, place, &dst[0])
	default:
		winogradInAVX2(c, &x[0], plane, width, place, &dst[0])
	}
}

func (v vector) winogradOut(size, h, c int, u, d, m, bias []float32, lo, hi float32, half bool, dst []float32) {
	_, tiles := v.tile()
	elements := (size + 2) * (size + 2)
	t := tile{form: formSeries, k: c, count: elements, a: &u[:elements*c*h][0], b: &d[:elements*(c+1)*tiles][0], c: &m[:elements*h*tiles][0]}
	v.run(h, &t)
	halved := 0
	if half {
		halved = 1
	}
	_, _ = bias[h-1], dst[h*size*size*tiles-1]
	switch {
	case v == avx512 && size == 4:
		winograd4OutAVX512(h, &m[0], &bias[0], lo, hi, halved, &dst[0])
	case v == avx512:
		winogradOutAVX512(h, &m[0], &bias[0], lo, hi, halved, &dst[0])
	case size == 4:
		winograd4OutAVX2(h, &m[0], &bias[0], lo, hi, halved, &dst[0])
	default:
		winogradOutAVX2(h, &m[0], &bias[0], lo, hi, halved, &dst[0])
	}
}

// transpose packs r vectors, ld apart, to a panel: element i of vector v to panel[i*r+v]. It returns how many of the kc elements of each it
// has done.
func transpose(panel, src []float32, ld, r, kc int) int {
	blocks := kc / 4
	if blocks == 0 || r != 16 && r != 32 {
		return 0
	}
	_, _ = src[(r-1)*ld+kc-1], panel[r*kc-1]
	if r == 16 {
		transposeAVX2(blocks, &src[0], ld, &panel[0])
		transposeAVX2(blocks, &src[8*ld], ld, &panel[8])
	} else {
		transposeAVX512(blocks, &src[0], ld, &panel[0])
		transposeAVX512(blocks, &src[16*ld], ld, &panel[16])
	}
	return 4 * blocks
}

func (v vector) limit(rounds int) int {
	if v == avx512 {
		limitAVX512(rounds)
		return rounds * 16 * 2 * 16
	}
	limitAVX2(rounds)
	return rounds * 16 * 2 * 8
}
