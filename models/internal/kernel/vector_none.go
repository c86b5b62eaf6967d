//go:build !amd64 || noasm

package kernel

// simdVectors lists the vector levels in assembly: none on this platform.
func simdVectors() []vectorLevel { return nil }
