package kernel

// Unzip computes even[i] = x[2*i] and odd[i] = x[2*i+1] as far as they exist. It panics when even or odd is too short.
func (w *Workspace) Unzip(even, odd, x []float32) {
	n := len(x) / 2
	done := w.vectors().unzip(even[:(len(x)+1)/2], odd[:n], x)
	for i := done; i < n; i++ {
		even[i], odd[i] = x[2*i], x[2*i+1]
	}
	if len(x)%2 > 0 {
		even[n] = x[2*n]
	}
}

func (portable) unzip([]float32, []float32, []float32) int { return 0 }

// transposeBlock is the edge of the blocks a transposition goes by, so that what it reads and writes stays in the first-level cache.
const transposeBlock = 64

// Transpose computes dst[j*ldd+i] = src[i*lds+j] for i < rows, j < cols. dst and src do not overlap. It panics when one is too short.
func (w *Workspace) Transpose(dst []float32, ldd int, src []float32, lds, rows, cols int) {
	checkMatrix("source", rows, cols, src, lds)
	checkMatrix("destination", cols, rows, dst, ldd)
	lv := w.vectors()
	for i := 0; i < rows; i += transposeBlock {
		h := min(transposeBlock, rows-i)
		for j := 0; j < cols; j += transposeBlock {
			n := min(transposeBlock, cols-j)
			lv.transpose(dst[j*ldd+i:], ldd, src[i*lds+j:], lds, h, n)
		}
	}
}

func (portable) transpose(dst []float32, ldd int, src []float32, lds, rows, cols int) {
	TransposeBlock(dst, ldd, src, lds, rows, cols)
}

// TransposeBlock computes dst[j*ldd+i] = src[i*lds+j] for i < rows, j < cols, for elements of any type; both should fit the cache.
func TransposeBlock[T any](dst []T, ldd int, src []T, lds, rows, cols int) {
	for i := range rows {
		line := src[i*lds:][:cols]
		for j, v := range line {
			dst[j*ldd+i] = v
		}
	}
}
