package models

import (
	"fmt"
	"math"
	"slices"

	"idunno/models/engine"
)

// reserve makes room for the outputs of n images, of the given shape each, which must be that of the images before.
func (s *Session) reserve(p *Prediction, shape []int, n int) error {
	each := product(shape)
	if each < 1 {
		return fmt.Errorf("%w: its output has the shape %s for each image", ErrResult, dimString(shape))
	}
	if p.Values == nil {
		if total := product([]int{each, max(n, 1)}); total < 0 || int64(total) > s.m.memory/4 {
			return fmt.Errorf("%w: outputs of shape %s for %d images need more than the %d MiB allowed", ErrTooLarge, dimString(shape), n, s.m.memory>>20)
		}
		p.Values, p.Shape = make([]float32, 0, each*n), slices.Clone(shape)
	}
	if !slices.Equal(p.Shape, shape) {
		return fmt.Errorf("%w: its output has the shape %s for some images of the batch and %s for others", ErrResult, dimString(p.Shape), dimString(shape))
	}
	return nil
}

// raw appends the numbers of images from to to, of all images of the batch, from an output with n rows.
func (s *Session) raw(out *engine.Tensor, n, all, from, to int, p *Prediction) error {
	name := s.m.program.Outputs()[s.m.output].Name
	if !out.DType.IsFloat() && !out.DType.IsInt() {
		return fmt.Errorf("%w: its output %q is not a tensor of numbers", ErrResult, name)
	}
	if len(out.Shape) == 0 || out.Shape[0] != n {
		return fmt.Errorf("%w: its output %q has the shape %s for %d images; expected one row for each", ErrResult, name, dimString(out.Shape), n)
	}
	if err := s.reserve(p, out.Shape[1:], all); err != nil {
		return err
	}
	count := (to - from) * product(out.Shape[1:])
	if out.DType.IsFloat() {
		p.Values = append(p.Values, out.F[:count]...)
		return nil
	}
	for _, v := range out.I[:count] {
		p.Values = append(p.Values, float32(v))
	}
	return nil
}

// probabilities appends the probability of every class of an image, whose own has been scored.
func (s *Session) probabilities(p *Prediction, i int, y []float32) {
	norm := 0.0
	if s.m.info.Output == Logits {
		norm = logSumExp(y, float64(y[p.Class[i]]))
	}
	for _, v := range y {
		p.Values = append(p.Values, float32(math.Exp(s.logProb(v, norm))))
	}
}
