package dataset

import "fmt"

// Span says where a batch of another size lies in the stored ones.
type Span struct {
	// First and Last are the stored batches that have its images, from 1.
	First, Last int
	// Skip is how many images of the first come before it, Images how many it has.
	Skip, Images int
}

// Regrouped is how many batches a set has when size images make one.
func (m *Manifest) Regrouped(size int) int { return (m.Images-1)/size + 1 }

// Span is where batch n, from 1, lies when size images make one, both at least 1. The
// error wraps ErrRange.
func (m *Manifest) Span(n, size int) (Span, error) {
	if size < 1 || n < 1 || n > m.Regrouped(size) {
		return Span{}, fmt.Errorf("batch %d of %d images: the data set has %d images: %w", n, size, m.Images, ErrRange)
	}
	from := (n - 1) * size
	s := Span{First: from/m.BatchSize + 1, Skip: from % m.BatchSize, Images: min(size, m.Images-from)}
	s.Last = (from+s.Images-1)/m.BatchSize + 1
	return s, nil
}

// ImageBytes is the size of one image of the set.
func (m *Manifest) ImageBytes() (int, error) { return byteSize(append([]int{1}, m.Shape...), m.DType) }

// Regroup makes one batch of the images that the span takes from the stored batches
// First to Last, which parts are. It has labels when all of these have. Where one
// part has all images they are not copied. The error wraps ErrFormat.
func (s Span) Regroup(parts []*Batch) (*Batch, error) {
	if len(parts) != s.Last-s.First+1 || len(parts) == 0 {
		return nil, fmt.Errorf("regroup: %d batches for %d to %d: %w", len(parts), s.First, s.Last, ErrFormat)
	}
	images, labelled := 0, true
	for i, p := range parts {
		if !sameImages(p, parts[0]) {
			return nil, fmt.Errorf("regroup: batch %d has %s images of shape %v, batch %d %s of %v: %w", s.First+i, p.DType, p.Shape, s.First, parts[0].DType, parts[0].Shape, ErrFormat)
		}
		images += p.Len()
		labelled = labelled && p.Y != nil
	}
	if images < s.Skip+s.Images {
		return nil, fmt.Errorf("regroup: batches %d to %d have %d images, %d are needed: %w", s.First, s.Last, images, s.Skip+s.Images, ErrFormat)
	}
	size := len(parts[0].X) / parts[0].Len()
	b := &Batch{DType: parts[0].DType, Shape: append([]int{s.Images}, parts[0].Shape[1:]...)}
	if len(parts) > 1 {
		b.X = make([]byte, 0, s.Images*size)
	}
	skip, left := s.Skip, s.Images
	for _, p := range parts {
		n := min(p.Len()-skip, left)
		if n <= 0 {
			skip -= p.Len()
			continue
		}
		x := p.X[skip*size : (skip+n)*size : (skip+n)*size]
		if len(parts) == 1 {
			b.X = x
		} else {
			b.X = append(b.X, x...)
		}
		if labelled {
			b.Y = append(b.Y, p.Y[skip:skip+n]...)
		}
		skip, left = 0, left-n
	}
	return b, nil
}

// sameImages reports whether two batches hold the same kind of images, if any.
func sameImages(a, b *Batch) bool {
	if a.Len() == 0 || a.DType != b.DType || len(a.Shape) != len(b.Shape) {
		return false
	}
	for i := 1; i < len(a.Shape); i++ {
		if a.Shape[i] != b.Shape[i] {
			return false
		}
	}
	return true
}
