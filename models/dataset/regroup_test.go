package dataset

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

// stored cuts n images of two bytes into batches and returns them with their manifest.
func stored(n, size int, labelled bool) (*Manifest, []*Batch) {
	m := &Manifest{BatchSize: size, Images: n, Batches: (n-1)/size + 1, Shape: []int{1, 2}, DType: U8}
	var parts []*Batch
	for from := 0; from < n; from += size {
		b := &Batch{DType: U8}
		for i := from; i < min(from+size, n); i++ {
			b.X = append(b.X, byte(i), byte(i>>8))
			if labelled {
				b.Y = append(b.Y, int32(i))
			}
		}
		b.Shape = []int{len(b.X) / 2, 1, 2}
		parts = append(parts, b)
	}
	return m, parts
}

// Whatever the sizes, the batches are the set's images in order, each once.
func TestRegroupedBatchesAreTheSet(t *testing.T) {
	for _, labelled := range []bool{true, false} {
		for _, images := range []int{1, 2, 7, 300} {
			for _, was := range []int{1, 3, 7, 100, 1000} {
				for _, size := range []int{1, 2, 5, 7, 99, 300, 4000} {
					m, parts := stored(images, was, labelled)
					_, whole := stored(images, images, labelled)
					var x []byte
					var y []int32
					for n := 1; n <= m.Regrouped(size); n++ {
						span, err := m.Span(n, size)
						if err != nil {
							t.Fatal(err)
						}
						b, err := span.Regroup(parts[span.First-1 : span.Last])
						if err != nil {
							t.Fatal(err)
						}
						if err := b.Check(); err != nil || b.Len() > size || n < m.Regrouped(size) && b.Len() != size {
							t.Fatalf("batch %d of %d images has %d: %v", n, size, b.Len(), err)
						}
						x, y = append(x, b.X...), append(y, b.Y...)
					}
					if !bytes.Equal(x, whole[0].X) || !slices.Equal(y, whole[0].Y) {
						t.Fatalf("%d images in batches of %d, regrouped to %d, differ", images, was, size)
					}
				}
			}
		}
	}
}

func TestRegroupRefuses(t *testing.T) {
	m, parts := stored(10, 4, true)
	for _, c := range [][2]int{{0, 4}, {4, 4}, {1, 0}, {11, 1}} {
		if _, err := m.Span(c[0], c[1]); !errors.Is(err, ErrRange) {
			t.Errorf("batch %d of %d images: %v", c[0], c[1], err)
		}
	}
	span, err := m.Span(1, 8)
	if err != nil {
		t.Fatal(err)
	}
	short, other := *parts[1], *parts[1]
	short.X, short.Y, short.Shape = short.X[:2], short.Y[:1], []int{1, 1, 2}
	other.Shape = []int{4, 2, 1}
	for name, p := range map[string][]*Batch{"too few": parts[:1], "too short": {parts[0], &short}, "of another shape": {parts[0], &other}, "empty": {parts[0], {DType: U8}}} {
		if _, err := span.Regroup(p); !errors.Is(err, ErrFormat) {
			t.Errorf("batches %s: %v", name, err)
		}
	}
}
