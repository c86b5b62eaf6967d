//go:build amd64 && !noasm

package kernel

import (
	"testing"
	"unsafe"
)

// The generator has the places of the fields as multiples of a word.
func TestTileIsLaidOutAsTheGeneratorSays(t *testing.T) {
	var x tile
	for i, at := range []uintptr{
		unsafe.Offsetof(x.form), unsafe.Offsetof(x.k), unsafe.Offsetof(x.a), unsafe.Offsetof(x.lda), unsafe.Offsetof(x.b),
		unsafe.Offsetof(x.ldb), unsafe.Offsetof(x.off), unsafe.Offsetof(x.c), unsafe.Offsetof(x.ldc), unsafe.Offsetof(x.bias),
		unsafe.Offsetof(x.end), unsafe.Offsetof(x.cols), unsafe.Offsetof(x.count), unsafe.Offsetof(x.lo),
	} {
		if at != uintptr(8*i) {
			t.Errorf("field %d is at %d, not %d", i, at, 8*i)
		}
	}
	if size := unsafe.Sizeof(x); size != 14*8 || unsafe.Offsetof(x.hi) != 13*8+4 {
		t.Errorf("tile has %d bytes", size)
	}
}
