package engine

import (
	"time"

	"idunno/models/internal/kernel"
)

// FMALimit measures for about d how many GFLOP/s this core reaches at most: additions and multiplications in registers with the widest
// instructions that the kernels use. It is what the speed of a model is to be compared with.
func FMALimit(d time.Duration) float64 { return kernel.FMALimit(d) }

// Product returns a function that multiplies two n x n matrices as a layer does: the right one, the weights, packed beforehand. A call is
// 2*n*n*n additions and multiplications; it allocates nothing.
func Product(n int) func() {
	a, b, c := make([]float32, n*n), make([]float32, n*n), make([]float32, n*n)
	for i := range a {
		a[i], b[i] = float32(i%7)-3, float32(i%5)-2
	}
	var w kernel.Workspace
	packed := kernel.PackB(false, n, n, b, n)
	return func() { w.MulB(n, a, n, packed, c, n, kernel.Epilogue{}) }
}
