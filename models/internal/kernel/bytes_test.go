package kernel

import (
	"testing"
)

// Every byte, at every place and length, gives the quotient as Go rounds it, and nothing behind it is written.
func TestBytesMatchDivision(t *testing.T) {
	for _, lv := range vectors() {
		w := Workspace{vector: lv}
		for n := range 70 {
			for offset := range 4 {
				src := make([]byte, offset+n)
				dst := make([]float32, offset+n+1)
				for first := 0; first < 256; first += max(n, 64) {
					for i := range src {
						src[i] = byte(first + i)
					}
					dst[offset+n] = 7
					w.Bytes(dst[offset:], src[offset:])
					for i, v := range src[offset:] {
						if want := float32(v) / 255; dst[offset+i] != want {
							t.Fatalf("level %s: %d of %d became %v, want %v", lv.name(), v, n, dst[offset+i], want)
						}
					}
					if dst[offset+n] != 7 {
						t.Fatalf("level %s: what is behind %d results was written", lv.name(), n)
					}
				}
			}
		}
	}
}

func BenchmarkBytes(b *testing.B) {
	src, dst := make([]byte, 78400), make([]float32, 78400)
	for _, lv := range vectors() {
		b.Run(lv.name(), func(b *testing.B) {
			w := Workspace{vector: lv}
			for b.Loop() {
				w.Bytes(dst, src)
			}
		})
	}
}
