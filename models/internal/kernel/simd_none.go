//go:build !amd64 || noasm

package kernel

// simd lists the levels in assembly: none on this platform.
func simd() []level { return nil }

// transpose packs r vectors to a panel; here it never does.
func transpose([]float32, []float32, int, int, int) int { return 0 }
