package ops

import (
	"fmt"
	"math"
)

// lossTable lists the losses of classifiers. Models exported with their training loss hold them.
func lossTable() map[string]spec {
	return map[string]spec{
		"NegativeLogLikelihoodLoss": {since: 12, in: 2, max: 3, outs: 1, build: buildLoss(false)},
		"SoftmaxCrossEntropyLoss":   {since: 12, in: 2, max: 3, outs: 2, build: buildLoss(true)},
	}
}

// loss is the weighted negative log-likelihood of the target classes; the scores, of shape [N, C, d1...], are logarithms of probabilities
// or, with softmax, become so first.
type loss struct {
	softmax    bool
	reduction  string
	ignore     int64
	hasIgnored bool
}

func buildLoss(softmax bool) func(*Node, *attrs) (Op, error) {
	return func(n *Node, a *attrs) (Op, error) {
		l := &loss{softmax: softmax, reduction: a.string("reduction", "mean"), ignore: a.int("ignore_index", 0)}
		_, l.hasIgnored = n.Attrs["ignore_index"]
		switch l.reduction {
		case "mean", "sum", "none":
			return l, nil
		}
		return nil, fmt.Errorf("reduction is %q", l.reduction)
	}
}

func (l *loss) Shape(in []*Tensor, out []Spec) error {
	x, y := in[0].Shape, in[1].Shape
	if len(x) < 2 || len(y) != len(x)-1 || y[0] != x[0] || !in[1].DType.IsInt() {
		return fmt.Errorf("scores of shape %v and targets of shape %v (%s)", x, y, in[1].DType)
	}
	for i, d := range y[1:] {
		if d != x[i+2] {
			return fmt.Errorf("scores of shape %v and targets of shape %v", x, y)
		}
	}
	if len(in) > 2 && in[2] != nil && (len(in[2].Shape) != 1 || in[2].Shape[0] != x[1]) {
		return fmt.Errorf("weights of shape %v for %d classes", in[2].Shape, x[1])
	}
	out[0].set(in[0].DType)
	if l.reduction == "none" {
		out[0].set(in[0].DType, y...)
	}
	if len(out) > 1 {
		out[1].set(in[0].DType, x...)
	}
	return needFloat(in, 0, 2)
}

func (l *loss) Cost(in []*Tensor, _ []Spec) (int64, int64) { return 4 * int64(in[0].Len()), 0 }

// Run panics for a target that is no class; the session turns that into an error.
func (l *loss) Run(_ *Scratch, in, out []*Tensor) {
	classes, inner := in[0].Shape[1], volume(in[0].Shape[2:])
	total, weights := 0.0, 0.0
	for i, target := range in[1].I {
		from := i/inner*classes*inner + i%inner
		x := in[0].F[from:]
		base := 0.0
		if l.softmax {
			base = logSum(x, classes, inner)
		}
		if len(out) > 1 {
			for c := range classes {
				out[1].F[from+c*inner] = float32(float64(x[c*inner]) - base)
			}
		}
		value, weight := 0.0, 0.0
		if !l.hasIgnored || target != l.ignore {
			if target < 0 || target >= int64(classes) {
				panic(fmt.Sprintf("target %d of %d classes", target, classes))
			}
			weight = 1
			if len(in) > 2 && in[2] != nil {
				weight = float64(in[2].F[target])
			}
			value = -(float64(x[int(target)*inner]) - base) * weight
		}
		if l.reduction == "none" {
			out[0].F[i] = float32(value)
		}
		total += value
		weights += weight
	}
	switch l.reduction {
	case "sum":
		out[0].F[0] = float32(total)
	case "mean":
		out[0].F[0] = float32(total / weights)
	}
}

// logSum is the logarithm of the sum of the exponentials of n numbers with a step.
func logSum(x []float32, n, step int) float64 {
	top := math.Inf(-1)
	for c := range n {
		top = max(top, float64(x[c*step]))
	}
	sum := 0.0
	for c := range n {
		sum += math.Exp(float64(x[c*step]) - top)
	}
	return top + math.Log(sum)
}
