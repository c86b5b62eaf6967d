//go:build !amd64 || noasm

package kernel

// simd lists the levels in assembly: none on this platform.
func simd() []level { return nil }
