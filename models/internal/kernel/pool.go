package kernel

// Halve takes the maximum over 2 x 2 places, rows x cols results: dst[i*cols+j] is the greatest of src at 2*i and 2*i+1 times ld plus 2*j and
// 2*j+1; NaN when one of them is. ld is the length of a row of src. It panics when a slice is too short.
func (w *Workspace) Halve(dst, src []float32, ld, rows, cols int) {
	w.halve(1, rows, cols, src, 0, ld, dst, 0)
}

// halve is Halve for planes of src and dst, plane and area elements apart.
func (w *Workspace) halve(planes, rows, cols int, src []float32, plane, ld int, dst []float32, area int) {
	if planes <= 0 || rows <= 0 || cols <= 0 {
		return
	}
	if lv, ok := w.use().(shifter); ok {
		lv.halve(planes, rows, cols, src, plane, ld, dst, area)
		return
	}
	for p := range planes {
		halve(dst[p*area:][:rows*cols], src[p*plane:], ld, rows, cols)
	}
}

func halve(dst, src []float32, ld, rows, cols int) {
	for i := range rows {
		a, b := src[2*i*ld:][:2*cols], src[(2*i+1)*ld:][:2*cols]
		line := dst[i*cols:][:cols]
		for x := range line {
			p, q := (*[2]float32)(a), (*[2]float32)(b)
			line[x] = max(p[0], p[1], q[0], q[1])
			a, b = a[2:], b[2:]
		}
	}
}
