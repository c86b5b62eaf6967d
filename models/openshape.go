package models

import (
	"errors"
	"slices"

	"idunno/models/engine"
)

// guesses are sizes of images that a model with open dimensions may be made for.
var guesses = []int{224, 28, 32, 64, 256, 299}

// tryShapes plans runs with images of some sizes, for a model that leaves dimensions open. What goes wrong in the same way for every size lies
// in the model, as an operator that doesn't take a type: it is refused now and not at the first batch.
func (m *Model) tryShapes() error {
	var first error
	for _, size := range guesses {
		shape := []int{max(m.fixed, 1)}
		for _, d := range m.image {
			if d < 0 {
				d = size
			}
			shape = append(shape, d)
		}
		if n := product(shape); n < 0 || int64(n) > m.memory/8 {
			return nil
		}
		_, err := m.program.Plan([]*engine.Tensor{{DType: m.input.DType, Shape: shape}})
		switch {
		case err == nil, errors.Is(err, engine.ErrShapeUnknown), errors.Is(err, engine.ErrTooLarge):
			return nil
		case first == nil:
			first = err
		case err.Error() != first.Error():
			return nil // the size matters
		}
	}
	return first
}

// open says whether the model leaves dimensions of the image open, but tells how many there are.
func (m *Model) open() bool { return slices.Contains(m.image, -1) }
