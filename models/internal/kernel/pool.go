package kernel

// Halve takes the maximum over 2 x 2 places, rows x cols results: dst[i*cols+j] is the greatest of src at 2*i and 2*i+1 times ld plus 2*j and
// 2*j+1; NaN when one of them is. ld is the length of a row of src. It panics when a slice is too short.
func (w *Workspace) Halve(dst, src []float32, ld, rows, cols int) {
	if rows <= 0 || cols <= 0 {
		return
	}
	dst = dst[:rows*cols]
	done := 0
	if lv, ok := w.use().(shifter); ok {
		done = lv.halve(dst, src, ld, rows, cols)
	}
	for i := done; i < rows; i++ {
		a, b := src[2*i*ld:][:2*cols], src[(2*i+1)*ld:][:2*cols]
		line := dst[i*cols:][:cols]
		for x := range line {
			p, q := (*[2]float32)(a), (*[2]float32)(b)
			line[x] = max(p[0], p[1], q[0], q[1])
			a, b = a[2:], b[2:]
		}
	}
}
