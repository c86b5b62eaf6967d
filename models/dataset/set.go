package dataset

import (
	"fmt"
	"slices"
)

// Set is a whole data set in memory.
type Set struct {
	Name    string
	X       []byte   // all images, raw little-endian row-major
	DType   string   // U8 or F32
	Shape   []int    // of one image, for example [1, 28, 28]
	Y       []int32  // one label an image; nil when there are none
	Classes []string // class i is called Classes[i]
	Source  string   // where the data comes from and who made it
	Licence string
}

// imageBytes is the size of one image, 0 when shape or dtype is impossible.
func (s *Set) imageBytes() int {
	n, err := byteSize(s.Shape, s.DType)
	if err != nil {
		return 0
	}
	return n
}

// Len is the number of images.
func (s *Set) Len() int {
	n := s.imageBytes()
	if n == 0 {
		return 0
	}
	return len(s.X) / n
}

// Batches is the number of batches when the set is cut into batches of size
// images; the last one may be shorter. It is 0 for a size below 1.
func (s *Set) Batches(size int) int {
	if size < 1 || s.Len() == 0 {
		return 0
	}
	return (s.Len()-1)/size + 1
}

// Check says whether the fields agree with each other and every label is one of
// the classes, when these are named; the error wraps ErrFormat or ErrTooLarge.
func (s *Set) Check() error {
	if err := s.checkSizes(); err != nil {
		return err
	}
	for i, y := range s.Y {
		if y < 0 || len(s.Classes) > 0 && int(y) >= len(s.Classes) {
			return fmt.Errorf("set %s: label %d of image %d, but %d classes: %w", s.Name, y, i+1, len(s.Classes), ErrFormat)
		}
	}
	return nil
}

// checkSizes is the part of Check that costs nothing.
func (s *Set) checkSizes() error {
	n, err := byteSize(s.Shape, s.DType)
	if err != nil {
		return fmt.Errorf("set %s: %w", s.Name, err)
	}
	if s.DType != U8 && s.DType != F32 {
		return fmt.Errorf("set %s: images of type %.20q, expected U8 or F32: %w", s.Name, s.DType, ErrFormat)
	}
	if len(s.X)%n != 0 {
		return fmt.Errorf("set %s: %d bytes are no whole number of images of %d: %w", s.Name, len(s.X), n, ErrFormat)
	}
	if s.Y != nil && len(s.Y) != len(s.X)/n {
		return fmt.Errorf("set %s: %d images but %d labels: %w", s.Name, len(s.X)/n, len(s.Y), ErrFormat)
	}
	return nil
}

// Batch is batch i, counted from 1, of the set cut into batches of size images.
// It shares the set's memory. The error wraps ErrRange, or ErrFormat when the
// set's own sizes do not agree.
func (s *Set) Batch(i, size int) (*Batch, error) {
	if s.Len() > 0 {
		if err := s.checkSizes(); err != nil {
			return nil, err
		}
	}
	if n := s.Batches(size); i < 1 || i > n {
		return nil, fmt.Errorf("batch %d of %s in batches of %d: choose 1 to %d: %w", i, s.Name, size, n, ErrRange)
	}
	from, to := (i-1)*size, min(i*size, s.Len())
	return s.slice(from, to).batch(), nil
}

// Range is the batch of the images from..to-1, counted from 0. It shares the set's
// memory. The error wraps ErrRange or ErrFormat.
func (s *Set) Range(from, to int) (*Batch, error) {
	if err := s.checkSizes(); err != nil {
		return nil, err
	}
	if from < 0 || to <= from || to > s.Len() {
		return nil, fmt.Errorf("images %d to %d of %s, which has %d: %w", from+1, to, s.Name, s.Len(), ErrRange)
	}
	return s.slice(from, to).batch(), nil
}

// slice is the part of s with images from..to-1; it shares the set's memory.
func (s *Set) slice(from, to int) *Set {
	n, part := s.imageBytes(), *s
	part.X = s.X[from*n : to*n : to*n]
	if s.Y != nil {
		part.Y = s.Y[from:to:to]
	}
	return &part
}

// batch is the whole set as one batch.
func (s *Set) batch() *Batch {
	return &Batch{X: s.X, DType: s.DType, Shape: slices.Concat([]int{s.Len()}, s.Shape), Y: s.Y}
}
