package models

import (
	"errors"
	"fmt"
	"slices"

	"idunno/models/engine"
)

// Plan is what a batch of a model costs and how it is computed, after fusion.
type Plan struct {
	Images    int        `json:"images"`
	AtOnce    int        `json:"images_at_once"` // larger batches are cut, so that memory does not grow with them
	FLOPs     int64      `json:"flops"`          // additions and multiplications for all images
	PeakBytes int64      `json:"peak_bytes"`     // of a session: inputs, all values in between, and working space; without weights
	Steps     []PlanStep `json:"steps"`          // for the images that are computed at once
}

// PlanStep is one step of a plan.
type PlanStep struct {
	Operator string  `json:"operator"` // with those it took over, as "Conv+Relu"
	Node     string  `json:"node"`     // operator and name in the model
	DType    string  `json:"dtype"`    // of the first output
	Shape    []int   `json:"shape"`
	FLOPs    int64   `json:"flops"`
	Share    float64 `json:"share"` // of the FLOPs of all steps, 0 to 1
}

// ErrUnknownCost is returned by Plan for models whose shapes depend on the images, or on dimensions of the image that they leave open.
var ErrUnknownCost = errors.New("only a run can tell what the model costs")

// Plan works out what a batch of n images costs, without running it. It returns ErrUnknownCost where that isn't possible, and ErrTooLarge
// with the figure when it needs more memory than Options allow.
func (m *Model) Plan(n int) (*Plan, error) {
	if n < 1 {
		return nil, fmt.Errorf("%w: a batch of %d images", ErrInput, n)
	}
	if m.image == nil || slices.Contains(m.image, -1) {
		return nil, fmt.Errorf("%w: it doesn't say how large an image is", ErrUnknownCost)
	}
	once := min(n, m.group)
	if m.fixed > 0 {
		once = m.fixed
	}
	size := product(append([]int{once}, m.image...))
	if size < 0 || int64(size) > m.memory/8 {
		return nil, fmt.Errorf("%w: %d images of %s need more than the %d MiB allowed", ErrTooLarge, once, dimString(m.image), m.memory>>20)
	}
	p, err := m.program.Plan([]*engine.Tensor{{DType: m.input.DType, Shape: append([]int{once}, m.image...)}})
	if errors.Is(err, engine.ErrShapeUnknown) {
		return nil, fmt.Errorf("%w: %w", ErrUnknownCost, err)
	}
	if err != nil {
		return nil, fmt.Errorf("a run with %d images: %w", once, classify(err))
	}
	element := int64(8)
	if m.input.DType.IsFloat() {
		element = 4
	}
	runs := int64((n + once - 1) / once)
	out := &Plan{Images: n, AtOnce: once, FLOPs: p.FLOPs / int64(once) * int64(n), PeakBytes: p.Peak + element*int64(size), Steps: []PlanStep{}}
	if m.fixed > 0 {
		out.FLOPs = p.FLOPs * runs
	}
	for _, st := range p.Steps {
		step := PlanStep{Operator: st.Operator, Node: st.Title, DType: st.Output.DType.String(), Shape: append([]int{}, st.Output.Shape...), FLOPs: st.FLOPs}
		if p.FLOPs > 0 {
			step.Share = float64(st.FLOPs) / float64(p.FLOPs)
		}
		out.Steps = append(out.Steps, step)
	}
	return out, nil
}
