package models

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"idunno/models/dataset"
	"idunno/models/engine"
	"idunno/models/internal/kernel"
)

// Session computes predictions, single-threaded, with buffers of its own that it keeps between calls. Use one for each compute slot.
type Session struct {
	m      *Model
	run    *engine.Session
	input  engine.Tensor
	pixels kernel.Workspace // turns bytes into numbers
}

// NewSession returns a session of the model.
func (m *Model) NewSession() *Session {
	return &Session{m: m, run: m.program.NewSession()}
}

// Prediction is the answer for a batch, in the order of its images.
type Prediction struct {
	Class   []int32   // the class with the highest score; the lowest of equals
	Prob    []float32 // probability of that class; nil for models whose output is Raw
	Loss    []float32 // cross-entropy of each image in nats; nil without labels or for Raw
	Correct int       // images whose class is their label; 0 without labels
	LossSum float64   // sum of the losses before rounding to float32

	// Values are the outputs asked for, image after image; Shape is that of one image's, empty for a single number.
	Values []float32
	Shape  []int
	// Unscored says that the raw outputs are no scores of classes: there are Values and nothing else.
	Unscored bool
}

// Outputs says what a prediction holds beside classes.
type Outputs int

// The outputs that can be asked for.
const (
	NoOutputs Outputs = iota
	AllProbs          // the probability of every class
	RawOutput         // the numbers that the model gives, rounded to float32 where they are others
)

// Predict runs the model over a batch; batches may differ in size. It returns ErrInput when the images or labels do not fit, ErrTooLarge when
// a run would need more memory than Options allow, ErrResult when the model gives NaN, and the error of ctx, which is looked at between
// operators. A panic behind it becomes an error.
func (s *Session) Predict(ctx context.Context, b *dataset.Batch) (p *Prediction, err error) {
	return s.PredictWith(ctx, b, NoOutputs)
}

// PredictWith is Predict that returns outputs as well. Asked for AllProbs it returns ErrNoProbabilities when the model gives none.
// Asked for RawOutput it takes any model that gives numbers for each image: one whose numbers can't be scores of the batch's classes
// gives a prediction that is Unscored.
func (s *Session) PredictWith(ctx context.Context, b *dataset.Batch, o Outputs) (p *Prediction, err error) {
	defer func() {
		if r := recover(); r != nil {
			p, err = nil, fmt.Errorf("%w: %v", ErrResult, r)
		}
	}()
	if b == nil {
		return nil, fmt.Errorf("%w: there is no batch", ErrInput)
	}
	if err := b.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInput, err)
	}
	shape, err := s.m.fit(b.Shape[1:], b.DType)
	if err != nil {
		return nil, err
	}
	if o == AllProbs && s.m.info.Output == Raw {
		return nil, fmt.Errorf("%w: ask for its raw outputs", ErrNoProbabilities)
	}
	n := b.Len()
	p = &Prediction{Class: make([]int32, n)}
	for from := 0; from < n; from += s.m.group {
		to := min(from+s.m.group, n)
		if err := s.group(ctx, b, shape, from, to, o, p); err != nil {
			return nil, err
		}
	}
	if p.Unscored {
		p = &Prediction{Values: p.Values, Shape: p.Shape, Unscored: true}
	}
	return p, nil
}

// group runs images from to to. A model with a fixed batch size gets zeros for what is missing.
func (s *Session) group(ctx context.Context, b *dataset.Batch, shape []int, from, to int, o Outputs, p *Prediction) error {
	n := to - from
	if s.m.fixed > 0 {
		n = s.m.fixed
	}
	if size := product(append([]int{n}, shape...)); size < 0 || int64(size) > s.m.memory/8 {
		return fmt.Errorf("%w: %d images of %s need more than the %d MiB allowed", ErrTooLarge, n, dimString(shape), s.m.memory>>20)
	}
	s.input.DType = s.m.input.DType
	s.input.Shape = append(append(s.input.Shape[:0], n), shape...)
	s.fill(b, n*product(shape), from, to)
	outs, err := s.run.Run(ctx, []*engine.Tensor{&s.input})
	if err != nil {
		if ctx.Err() == nil {
			err = fmt.Errorf("run of %d images: %w", n, err)
		}
		if errors.Is(err, engine.ErrTooLarge) {
			err = fmt.Errorf("%w: %w", ErrTooLarge, err)
		}
		return err
	}
	out := outs[s.m.output]
	if o == RawOutput {
		if err := s.raw(out, n, b.Len(), from, to, p); err != nil {
			return err
		}
		if !p.Unscored && s.scores(out, n, b, from, to, o, p) != nil {
			p.Unscored = true
		}
		return nil
	}
	return s.scores(out, n, b, from, to, o, p)
}

// scores takes the classes of images from to to from an output with n rows.
func (s *Session) scores(out *engine.Tensor, n int, b *dataset.Batch, from, to int, o Outputs, p *Prediction) error {
	classes, err := s.m.classes(out, n)
	if err != nil {
		return err
	}
	if out.DType.IsInt() {
		return s.integers(out, b, from, to, p)
	}
	if o == AllProbs {
		if err := s.reserve(p, out.Shape[1:], b.Len()); err != nil {
			return err
		}
	}
	for i := from; i < to; i++ {
		label := int32(-1)
		if b.Y != nil {
			label = b.Y[i]
			if int(label) >= classes {
				return fmt.Errorf("%w: image %d has label %d, the model knows classes 0 to %d", ErrInput, i, label, classes-1)
			}
		}
		y := out.F[(i-from)*classes:][:classes]
		if err := s.score(p, i, y, label); err != nil {
			return err
		}
		if o == AllProbs {
			s.probabilities(p, i, y)
		}
	}
	return nil
}

// fill puts images from to to into the input tensor of size elements.
func (s *Session) fill(b *dataset.Batch, size, from, to int) {
	per := product(b.Shape[1:])
	t := &s.input
	if !t.DType.IsFloat() {
		if cap(t.I) < size {
			t.I = make([]int64, size)
		}
		t.I = t.I[:size]
		clear(t.I)
		for i, v := range b.X[from*per : to*per] {
			t.I[i] = int64(v)
		}
		return
	}
	if cap(t.F) < size {
		t.F = make([]float32, size)
	}
	t.F = t.F[:size]
	clear(t.F[(to-from)*per:])
	if b.DType == dataset.U8 && s.m.tables != nil {
		s.m.scaled(t.F, b.X[from*per:to*per], per)
		return
	}
	if b.DType == dataset.U8 {
		s.pixels.Bytes(t.F, b.X[from*per:to*per])
		return
	}
	x := b.X[4*from*per : 4*to*per]
	for i := range t.F[:(to-from)*per] {
		t.F[i] = math.Float32frombits(binary.LittleEndian.Uint32(x[4*i:]))
	}
}

// integers takes an output that names the classes themselves.
func (s *Session) integers(out *engine.Tensor, b *dataset.Batch, from, to int, p *Prediction) error {
	for i := from; i < to; i++ {
		c := out.I[i-from]
		if c < math.MinInt32 || c > math.MaxInt32 {
			return fmt.Errorf("%w: class %d for image %d", ErrResult, c, i)
		}
		p.Class[i] = int32(c)
		if b.Y != nil && b.Y[i] == p.Class[i] {
			p.Correct++
		}
	}
	return nil
}

// score turns the numbers of one image into its class, probability and loss. label is -1 without labels.
func (s *Session) score(p *Prediction, i int, y []float32, label int32) error {
	best := 0
	for j, v := range y {
		if v != v || v > math.MaxFloat32 {
			return fmt.Errorf("%w: score %v of class %d for image %d", ErrResult, v, j, i)
		}
		if v > y[best] {
			best = j
		}
	}
	p.Class[i] = int32(best)
	if label == int32(best) {
		p.Correct++
	}
	if s.m.info.Output == Raw {
		return nil
	}
	if p.Prob == nil {
		p.Prob = make([]float32, len(p.Class))
		if label >= 0 {
			p.Loss = make([]float32, len(p.Class))
		}
	}
	norm := 0.0
	if s.m.info.Output == Logits {
		if norm = logSumExp(y, float64(y[best])); norm != norm {
			return fmt.Errorf("%w: every score of image %d is minus infinity", ErrResult, i)
		}
	}
	p.Prob[i] = float32(math.Exp(s.logProb(y[best], norm)))
	if label >= 0 {
		loss := -s.logProb(y[label], norm)
		p.Loss[i] = float32(loss)
		p.LossSum += loss
	}
	return nil
}

// logSumExp is log(sum of exp(y)), taken relative to the largest score so that nothing overflows.
func logSumExp(y []float32, top float64) float64 {
	var sum float64
	for _, v := range y {
		sum += math.Exp(float64(v) - top)
	}
	return top + math.Log(sum)
}

// floor is the smallest probability that is told from zero, so that losses stay finite.
const floor = 1e-30

// logProb returns the logarithm of a class's probability from its score. norm is the logSumExp of logits.
func (s *Session) logProb(score float32, norm float64) float64 {
	v := float64(score)
	switch s.m.info.Output {
	case Probabilities:
		return math.Log(max(v, floor))
	case LogProbabilities:
		return max(v, math.Log(floor))
	}
	return max(v-norm, -math.MaxFloat32)
}
