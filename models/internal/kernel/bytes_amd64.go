//go:build amd64 && !noasm

package kernel

func (vector8) bytes(dst []float32, src []byte) int {
	n := len(src) &^ 7
	bytesx8(n, &src[0], &dst[:len(src)][0])
	return n
}

func (vector16) bytes(dst []float32, src []byte) int {
	n := len(src) &^ 15
	bytesx16(n, &src[0], &dst[:len(src)][0])
	return n
}
