//go:build amd64 && !noasm

package kernel

import (
	"slices"

	"golang.org/x/sys/cpu"
)

// simd lists the levels in assembly that this processor can run, the best last.
// GODEBUG=cpu.avx2=off and the like are honoured.
func simd() []level {
	if cpu.X86.HasAVX2 && cpu.X86.HasFMA {
		return []level{avx2{}}
	}
	return nil
}

// avx2 is the level for processors with AVX2 and FMA. Of the sixteen registers
// twelve hold a tile of 6 x 16.
type avx2 struct{}

const (
	avx2Rows = 6
	avx2Cols = 16
)

// What tile6x16 does at the end, in this order.
const (
	endAdd         = 1 << iota // add the old c
	endBiasColumns             // add bias[j]
	endBiasRows                // add bias[i]
	endRelu                    // replace negative values by 0
)

func (avx2) name() string       { return "avx2" }
func (avx2) tile() (mr, nr int) { return avx2Rows, avx2Cols }

// A block of A takes 144 KiB at most and stays in the second-level cache, a
// panel of B 16 KiB and stays in the first.
func (avx2) blocks() (m, n int) { return 144, 512 }

func (avx2) block(mc, nc, kc int, a, b []float32, st *store) {
	left := avx2Left{a: a}
	left.times(mc, nc, kc, b, st)
}

func (avx2) rowBlock(mc, nc, kc int, a []float32, lda int, b []float32, st *store) {
	var tail [avx2Rows * blockK]float32
	left := avx2Left{a: a, lda: lda, tail: &tail[0]}
	if odd := mc % avx2Rows; odd > 0 {
		rest := operand{raw: a, ld: lda, alongK: true}
		rest.fill(tail[:avx2Rows*kc], mc-odd, odd, 0, kc, avx2Rows)
	}
	left.times(mc, nc, kc, b, st)
}

// avx2Left is a block of A: panels, or rows lda apart of which those that do not
// fill a tile are in a panel of their own.
type avx2Left struct {
	a    []float32
	lda  int // 0: panels
	tail *float32
}

func (l *avx2Left) times(mc, nc, kc int, b []float32, st *store) {
	var none float32
	end, bias := 0, &none
	if !st.first || st.beta == 1 {
		end |= endAdd
	}
	if st.last && st.end.Relu {
		end |= endRelu
	}
	direct := st.alpha == 1 && (!st.first || st.beta == 0 || st.beta == 1)
	if odd := mc % avx2Rows; direct && l.lda > 0 && odd > 0 && odd <= 4 && nc >= 2*avx2Cols && !st.end.PerRow {
		l.pairs(mc-odd, odd, nc, kc, b, st, end)
		if mc -= odd; nc%(2*avx2Cols) > 0 {
			l.rest(mc, odd, nc, kc, b, st)
		}
	}
	for j := 0; j < nc; j += avx2Cols {
		bp := panel(b, j, avx2Cols, kc)
		for i := 0; i < mc; i += avx2Rows {
			row, col := st.row+i, st.col+j
			if !direct || i+avx2Rows > mc || j+avx2Cols > nc {
				l.part(i, mc, kc, bp, st, min(avx2Cols, nc-j), col)
				continue
			}
			tileEnd := end
			if st.last && st.end.Bias != nil {
				if st.end.PerRow {
					tileEnd |= endBiasRows
					bias = &st.end.Bias[row : row+avx2Rows][0]
				} else {
					tileEnd |= endBiasColumns
					bias = &st.end.Bias[col : col+avx2Cols][0]
				}
			}
			// The last element that the tile writes, so that a short c panics here.
			_ = st.c[(row+avx2Rows-1)*st.ldc+col+avx2Cols-1]
			l.tile(i, mc, kc, bp, &st.c[row*st.ldc+col], st.ldc, bias, tileEnd)
		}
	}
}

// pairs multiplies the odd last rows, from i on, with all pairs of panels.
func (l *avx2Left) pairs(i, odd, nc, kc int, b []float32, st *store, end int) {
	var none float32
	bias := &none
	biased := st.last && st.end.Bias != nil
	if biased {
		end |= endBiasColumns
	}
	for j := 0; j+2*avx2Cols <= nc; j += 2 * avx2Cols {
		bp := panel(b, j, 2*avx2Cols, kc)
		for r := 0; r < odd; r += 2 {
			row, col := st.row+i+r, st.col+j
			lda, ldc := l.lda, st.ldc
			if r+1 == odd {
				lda, ldc = 0, 0 // the same row twice
			}
			if biased {
				bias = &st.end.Bias[col : col+2*avx2Cols][0]
			}
			_, _ = l.a[(i+r)*l.lda+lda+kc-1], st.c[row*st.ldc+ldc+col+2*avx2Cols-1]
			rows2x32(kc, &l.a[(i+r)*l.lda], lda, bp, avx2Cols*kc, &st.c[row*st.ldc+col], ldc, bias, end)
		}
	}
}

// rest multiplies the odd last rows, from i on, with the panels that pairs leaves.
func (l *avx2Left) rest(i, odd, nc, kc int, b []float32, st *store) {
	for j := nc / (2 * avx2Cols) * 2 * avx2Cols; j < nc; j += avx2Cols {
		l.part(i, i+odd, kc, panel(b, j, avx2Cols, kc), st, min(avx2Cols, nc-j), st.col+j)
	}
}

func (l *avx2Left) tile(i, mc, kc int, b, c *float32, ldc int, bias *float32, end int) {
	switch {
	case l.lda == 0:
		tile6x16(kc, panel(l.a, i, avx2Rows, kc), b, c, ldc, bias, end)
	case i+avx2Rows > mc:
		tile6x16(kc, l.tail, b, c, ldc, bias, end)
	default:
		_ = l.a[(i+avx2Rows-1)*l.lda+kc-1]
		rows6x16(kc, &l.a[i*l.lda], l.lda, b, c, ldc, bias, end)
	}
}

// part computes a tile into a buffer and stores the rows and columns of it that
// are within C.
func (l *avx2Left) part(i, mc, kc int, b *float32, st *store, cols, col int) {
	var acc [avx2Rows * avx2Cols]float32
	var none float32
	l.tile(i, mc, kc, b, &acc[0], avx2Cols, &none, 0)
	for r := range min(avx2Rows, mc-i) {
		st.put(st.row+i+r, col, acc[r*avx2Cols:][:cols])
	}
}

func (avx2) shift(n, reach int, a []float32, off []uint32, x, c []float32, ldc int, bias []float32, relu bool) {
	var none float32
	end, b := 0, &none
	if bias != nil {
		end, b = endBiasRows, &bias[:avx2Rows][0]
	}
	if relu {
		end |= endRelu
	}
	k, last := len(off), max(n-avx2Cols, 0)
	if k == 0 || len(a) < avx2Rows*k {
		panic("kernel: convolution without weights")
	}
	_, _ = x[reach+last+avx2Cols-1], c[(avx2Rows-1)*ldc+last+avx2Cols-1]
	for j := 0; j < n; j += avx2Cols {
		at := min(j, last) // what two tiles have in common is computed twice
		shift6x16(k, &a[0], &off[0], &x[at], &c[at], ldc, b, end)
	}
}

func (avx2) halve(dst, src []float32, ld, rows, cols int) int {
	blocks := (cols + 7) / 8
	if len(dst) < 8*blocks || len(src) < ld+16*blocks {
		return 0
	}
	n := min(rows, (len(dst)-8*blocks)/cols+1, ((len(src)-16*blocks)/ld+1)/2)
	halve2x2(n, blocks, &src[0], ld, &dst[0], cols)
	if n != rows-1 || len(src) < (2*n+1)*ld+max(16, 2*cols) {
		return n
	}
	// The last row: writing whole registers would leave dst.
	src, dst = src[2*n*ld:], dst[n*cols:][:cols]
	if cols < 8 {
		var line [8]float32
		halve2x2(1, 1, &src[0], ld, &line[0], 8)
		copy(dst, line[:])
		return rows
	}
	for j := 0; j < cols; j += 8 {
		at := min(j, cols-8)
		halve2x2(1, 1, &src[2*at], ld, &dst[at], 8)
	}
	return rows
}

func (avx2) winogradIn(c int, x []float32, plane, width int, at *[winogradTiles]int32, v []float32) {
	_, _ = x[int(slices.Max(at[:]))+(c-1)*plane+3*width+3], v[winogradElements*c*winogradTiles-1]
	winogradIn(c, &x[0], plane, width, &at[0], &v[0])
}

func (avx2) winogradOut(c int, u, v, m, bias []float32, relu, half bool, dst []float32) {
	const size = avx2Rows * winogradTiles
	_, _, _ = u[winogradElements*c*avx2Rows-1], v[winogradElements*c*winogradTiles-1], m[winogradElements*size-1]
	_, _ = bias[avx2Rows-1], dst[avx2Rows*4*winogradTiles-1]
	winogradProducts(c, &u[0], &v[0], &m[0])
	positive, halved := 0, 0
	if relu {
		positive = 1
	}
	if half {
		halved = 1
	}
	winogradOut(&m[0], &bias[0], positive, halved, &dst[0])
}

// transpose packs 16 vectors of length kc, ld apart, to a panel: element i of vector
// v to panel[i*16+v]. It returns how many elements of each it has done.
func transpose(panel, src []float32, ld, kc int) int {
	blocks := kc / 4
	if blocks == 0 {
		return 0
	}
	_, _ = src[15*ld+kc-1], panel[16*kc-1]
	transpose8(blocks, &src[0], ld, &panel[0])
	transpose8(blocks, &src[8*ld], ld, &panel[8])
	return 4 * blocks
}

// panel is where the panel of r vectors that holds vector x begins. A panel
// without elements (k is 0) is never read; any address will do.
func panel(p []float32, x, r, kc int) *float32 {
	if kc == 0 {
		return new(float32)
	}
	return &p[x*kc : x*kc+r*kc][0]
}
