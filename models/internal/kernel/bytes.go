package kernel

// Bytes computes dst[i] = float32(src[i])/255, as images are scaled. It panics when dst is shorter than src. The result is the same in
// every bit on every processor.
func (w *Workspace) Bytes(dst []float32, src []byte) {
	dst = dst[:len(src)]
	done := 0
	if len(src) > 0 {
		done = w.vectors().bytes(dst, src)
	}
	if done == len(src) {
		return
	}
	if w.scale[255] == 0 {
		for i := range w.scale {
			w.scale[i] = float32(i) / 255
		}
	}
	dst, src = dst[done:], src[done:]
	for i := range min(len(dst), len(src)) {
		dst[i] = w.scale[src[i]] // faster than a division
	}
}

func (portable) bytes([]float32, []byte) int { return 0 }
