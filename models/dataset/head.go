package dataset

import "fmt"

// Head is what is known of a data set before its images are read.
type Head struct {
	Images  int
	Shape   []int    // of one image, for example [1, 28, 28]
	DType   string   // U8 or F32
	Classes []string // class i is called Classes[i]; nil without labels
	Source  string   // where the data comes from and who made it
	Licence string
}

// Head describes the set.
func (s *Set) Head() Head {
	return Head{Images: s.Len(), Shape: s.Shape, DType: s.DType, Classes: s.Classes, Source: s.Source, Licence: s.Licence}
}

// BatchBytes is the size in bytes of n images; the error wraps ErrFormat or
// ErrTooLarge.
func (h *Head) BatchBytes(n int) (int, error) {
	size, err := byteSize(append([]int{n}, h.Shape...), h.DType)
	if err != nil {
		return 0, fmt.Errorf("a batch of %d images: %w", n, err)
	}
	return size, nil
}

// Numbered is n class names "0", "1", ...
func Numbered(n int) []string { return numbered(n) }
