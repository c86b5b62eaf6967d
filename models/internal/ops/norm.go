package ops

import (
	"fmt"
	"math"
	"slices"

	"idunno/models/internal/kernel"
)

// normTable lists the operators that normalize by statistics of their input.
func normTable() map[string]spec {
	return map[string]spec{
		"LayerNormalization":        {since: 17, in: 2, max: 3, outs: 3, build: buildLayerNorm},
		"InstanceNormalization":     {since: 6, in: 3, max: 3, outs: 1, build: buildGroupNorm(false)},
		"GroupNormalization":        {since: 21, in: 3, max: 3, outs: 1, build: buildGroupNorm(true)},
		"MeanVarianceNormalization": {since: 9, in: 1, max: 1, outs: 1, build: buildMVN},
		"LRN":                       {since: 1, in: 1, max: 1, outs: 1, build: buildLRN},
		"LpNormalization":           {since: 1, in: 1, max: 1, outs: 1, build: buildLpNorm},
	}
}

// layerNorm normalizes over all dimensions from an axis on.
type layerNorm struct {
	axis    int64
	epsilon float32
}

func buildLayerNorm(_ *Node, a *attrs) (Op, error) {
	a.ignore("stash_type")
	return &layerNorm{a.int("axis", -1), a.float("epsilon", 1e-5)}, nil
}

func (l *layerNorm) Shape(in []*Tensor, out []Spec) error {
	shape := in[0].Shape
	axis, err := axisOf(l.axis, len(shape))
	if err != nil {
		return err
	}
	for i, t := range in[1:] {
		if t == nil {
			continue
		}
		if !slices.Equal(significant(t.Shape), significant(shape[axis:])) {
			return fmt.Errorf("%w: input %d has shape %v, normalized are %v", ErrUnsupported, i+1, t.Shape, shape[axis:])
		}
	}
	out[0].set(in[0].DType, shape...)
	for i := 1; i < len(out); i++ {
		out[i].set(in[0].DType, shape[:axis]...)
		for range len(shape) - axis {
			out[i].Shape = append(out[i].Shape, 1)
		}
	}
	return needFloat(in, 0, 1, 2)
}

// significant leaves out the ones in front.
func significant(shape []int) []int {
	for len(shape) > 0 && shape[0] == 1 {
		shape = shape[1:]
	}
	return shape
}

func (l *layerNorm) Cost(in []*Tensor, _ []Spec) (int64, int64) { return 6 * int64(in[0].Len()), 0 }

func (l *layerNorm) Run(s *Scratch, in, out []*Tensor) {
	axis, _ := axisOf(l.axis, len(in[0].Shape))
	n := volume(in[0].Shape[axis:])
	scale := in[1].F
	var bias []float32
	if len(in) > 2 && in[2] != nil {
		bias = in[2].F
	}
	for o := range volume(in[0].Shape[:axis]) {
		x, y := in[0].F[o*n:][:n], out[0].F[o*n:][:n]
		mean, inverse := s.Gemm.Moments(x, l.epsilon)
		s.Gemm.Normalize(y, x, mean, inverse, scale, bias)
		if len(out) > 1 {
			out[1].F[o] = mean
		}
		if len(out) > 2 {
			out[2].F[o] = inverse
		}
	}
}

// groupNorm normalizes each group of channels of each image; scale and bias belong to channels. An instance is a group of one channel.
type groupNorm struct {
	groups  int // 0: as many as channels
	epsilon float32
}

func buildGroupNorm(grouped bool) func(*Node, *attrs) (Op, error) {
	return func(_ *Node, a *attrs) (Op, error) {
		g := &groupNorm{epsilon: a.float("epsilon", 1e-5)}
		if !grouped {
			a.ignore("consumed_inputs")
			return g, nil
		}
		a.ignore("stash_type")
		n := a.int("num_groups", 0)
		if n < 1 || n > maxWindow {
			return nil, fmt.Errorf("num_groups is %d", n)
		}
		g.groups = int(n)
		return g, nil
	}
}

func (g *groupNorm) Shape(in []*Tensor, out []Spec) error {
	x := in[0].Shape
	if len(x) < 2 {
		return fmt.Errorf("input of shape %v has no channels", x)
	}
	for i, t := range in[1:] {
		if len(t.Shape) != 1 || t.Shape[0] != x[1] {
			return fmt.Errorf("input %d has shape %v, the channels are %d", i+1, t.Shape, x[1])
		}
	}
	if g.groups > 0 && x[1]%g.groups != 0 {
		return fmt.Errorf("%d channels in %d groups", x[1], g.groups)
	}
	out[0].set(in[0].DType, x...)
	return needFloat(in, 0, 1, 2)
}

func (g *groupNorm) Cost(in []*Tensor, _ []Spec) (int64, int64) { return 6 * int64(in[0].Len()), 0 }

func (g *groupNorm) Run(s *Scratch, in, out []*Tensor) {
	channels, size := in[0].Shape[1], volume(in[0].Shape[2:])
	groups := g.groups
	if groups == 0 {
		groups = channels
	}
	if in[0].Len() == 0 {
		return
	}
	per := channels / groups
	n := per * size
	for o := range in[0].Shape[0] * groups {
		mean, inverse := s.Gemm.Moments(in[0].F[o*n:][:n], g.epsilon)
		for c := range per {
			channel := o%groups*per + c
			scale, bias := in[1].F[channel], in[2].F[channel]
			x, y := in[0].F[o*n+c*size:][:size], out[0].F[o*n+c*size:][:size]
			s.Gemm.Apply(kernel.Activation{Func: kernel.Standard, Alpha: mean, Beta: inverse}, y, x)
			s.Gemm.Apply(kernel.Activation{Func: kernel.Linear, Alpha: scale, Beta: bias}, y, y)
		}
	}
}

// mvn normalizes over the images and positions of each channel, or over other axes.
type mvn struct{ axes []int64 }

func buildMVN(_ *Node, a *attrs) (Op, error) {
	axes := a.ints("axes")
	if axes == nil {
		axes = []int64{0, 2, 3}
	}
	return &mvn{axes}, nil
}

func (m *mvn) Shape(in []*Tensor, out []Spec) error {
	out[0].set(in[0].DType, in[0].Shape...)
	for _, v := range m.axes {
		if _, err := axisOf(v, len(in[0].Shape)); err != nil {
			return err
		}
	}
	return needFloat(in, 0)
}

func (m *mvn) Cost(in []*Tensor, _ []Spec) (int64, int64) {
	return 6 * int64(in[0].Len()), 2 * int64(in[0].Len())
}

func (m *mvn) Run(s *Scratch, in, out []*Tensor) {
	shape := in[0].Shape
	n := len(shape)
	work := s.ints(2 * n)
	step, index := work[:n], work[n:]
	for i := range step {
		step[i] = 1
	}
	for _, v := range m.axes {
		a, _ := axisOf(v, n)
		step[a] = 0
	}
	groups := 1
	for i := n - 1; i >= 0; i-- {
		if step[i] == 1 {
			step[i] = groups
			groups *= shape[i]
		}
	}
	stats := s.floats(0, 2*groups)
	clear(stats)
	sum, square := stats[:groups], stats[groups:]
	each := func(f func(i, group int)) {
		clear(index)
		for i := range in[0].F {
			at := 0
			for d, c := range index {
				at += c * step[d]
			}
			f(i, at)
			advance(index, shape)
		}
	}
	count := float32(in[0].Len() / max(groups, 1))
	each(func(i, g int) { sum[g] += in[0].F[i] / count })
	each(func(i, g int) { d := in[0].F[i] - sum[g]; square[g] += d * d / count })
	each(func(i, g int) {
		out[0].F[i] = (in[0].F[i] - sum[g]) / float32(math.Sqrt(float64(square[g]))+1e-9)
	})
}

// lrn divides by the local energy over neighbouring channels (Krizhevsky, Sutskever, Hinton 2012).
type lrn struct {
	alpha, beta, bias float32
	size              int
}

func buildLRN(_ *Node, a *attrs) (Op, error) {
	size := a.int("size", 0)
	if size < 1 || size > maxWindow {
		return nil, fmt.Errorf("size is %d", size)
	}
	return &lrn{a.float("alpha", 1e-4), a.float("beta", 0.75), a.float("bias", 1), int(size)}, nil
}

func (l *lrn) Shape(in []*Tensor, out []Spec) error {
	if len(in[0].Shape) < 2 {
		return fmt.Errorf("input of shape %v has no channels", in[0].Shape)
	}
	out[0].set(in[0].DType, in[0].Shape...)
	return needFloat(in, 0)
}

func (l *lrn) Cost(in []*Tensor, _ []Spec) (int64, int64) {
	return int64(in[0].Len()) * int64(2*min(l.size, in[0].Shape[1])+8), 0
}

func (l *lrn) Run(_ *Scratch, in, out []*Tensor) {
	channels, size := in[0].Shape[1], volume(in[0].Shape[2:])
	for o := range in[0].Shape[0] {
		x, y := in[0].F[o*channels*size:], out[0].F[o*channels*size:]
		for c := range channels {
			first, last := max(0, c-(l.size-1)/2), min(channels-1, c+l.size/2)
			for i := range size {
				sum := 0.0
				for k := first; k <= last; k++ {
					sum += float64(x[k*size+i]) * float64(x[k*size+i])
				}
				base := float64(l.bias) + float64(l.alpha)/float64(l.size)*sum
				y[c*size+i] = float32(float64(x[c*size+i]) / math.Pow(base, float64(l.beta)))
			}
		}
	}
}

// lpNorm divides by the L1 or L2 norm along an axis.
type lpNorm struct{ axis, p int64 }

func buildLpNorm(_ *Node, a *attrs) (Op, error) {
	l := &lpNorm{a.int("axis", -1), a.int("p", 2)}
	if l.p != 1 && l.p != 2 {
		return nil, fmt.Errorf("p is %d", l.p)
	}
	return l, nil
}

func (l *lpNorm) Shape(in []*Tensor, out []Spec) error {
	out[0].set(in[0].DType, in[0].Shape...)
	if _, err := axisOf(l.axis, len(in[0].Shape)); err != nil {
		return err
	}
	return needFloat(in, 0)
}

func (l *lpNorm) Cost(in []*Tensor, _ []Spec) (int64, int64) { return 3 * int64(in[0].Len()), 0 }

func (l *lpNorm) Run(_ *Scratch, in, out []*Tensor) {
	axis, _ := axisOf(l.axis, len(in[0].Shape))
	outer, n, inner := split(in[0].Shape, axis)
	for o := range outer {
		for i := range inner {
			x, y := in[0].F[o*n*inner+i:], out[0].F[o*n*inner+i:]
			sum := 0.0
			for j := range n {
				v := float64(x[j*inner])
				if l.p == 1 {
					sum += math.Abs(v)
				} else {
					sum += v * v
				}
			}
			if l.p == 2 {
				sum = math.Sqrt(sum)
			}
			for j := range n {
				y[j*inner] = 0
				if sum > 0 {
					y[j*inner] = float32(float64(x[j*inner]) / sum)
				}
			}
		}
	}
}
