//go:build amd64 && !noasm

package kernel

import "golang.org/x/sys/cpu"

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
	var none float32
	end, bias := 0, &none
	if !st.first {
		end |= endAdd
	}
	if st.last && st.end.Relu {
		end |= endRelu
	}
	direct := st.alpha == 1 && (!st.first || st.beta == 0)
	for j := 0; j < nc; j += avx2Cols {
		bp := panel(b, j, avx2Cols, kc)
		for i := 0; i < mc; i += avx2Rows {
			ap := panel(a, i, avx2Rows, kc)
			row, col := st.row+i, st.col+j
			if !direct || i+avx2Rows > mc || j+avx2Cols > nc {
				part(kc, ap, bp, st, row, col, min(avx2Rows, mc-i), min(avx2Cols, nc-j))
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
			tile6x16(kc, ap, bp, &st.c[row*st.ldc+col], st.ldc, bias, tileEnd)
		}
	}
}

// part computes a tile into a buffer and stores the rows and columns of it that
// are within C.
func part(kc int, a, b *float32, st *store, row, col, rows, cols int) {
	var acc [avx2Rows * avx2Cols]float32
	var none float32
	tile6x16(kc, a, b, &acc[0], avx2Cols, &none, 0)
	for i := range rows {
		st.put(row+i, col, acc[i*avx2Cols:][:cols])
	}
}

// panel is where the panel of r vectors that holds vector x begins. A panel
// without elements (k is 0) is never read; any address will do.
func panel(p []float32, x, r, kc int) *float32 {
	if kc == 0 {
		return new(float32)
	}
	return &p[x*kc : x*kc+r*kc][0]
}
