package ops

import "idunno/models/internal/kernel"

// expansion is a convolution of 1 x 1 and a depthwise one of its results, done together so that what lies between them, often the largest value
// of a network, need not leave the cache. Its inputs are those of the first, then those of the second without the value between.
type expansion struct {
	first, second *conv
	inputs        int               // of the first
	between       kernel.Activation // of the results of the first
}

// NewExpansion returns an Op that does the work of first, which has so many inputs, and then of second; nil when these are not a convolution of
// 1 x 1 and a depthwise one with constant weights.
func NewExpansion(first Op, inputs int, second Op) Op {
	e := &expansion{inputs: inputs}
	if t, ok := first.(*Tailed); ok && len(t.stages) == 1 {
		switch op := t.stages[0].op.(type) {
		case *silu:
			e.between.Func = kernel.Silu
		case *unary:
			e.between = op.act
		}
		if e.between.Func == kernel.Identity {
			return nil
		}
		first = t.head
	}
	var ok, both bool
	e.first, ok = first.(*conv)
	e.second, both = second.(*conv)
	if !ok || !both || e.first.groups != 1 || e.first.planar == nil || e.first.end.Halve || e.second.depth == nil || !e.first.planar[0].Pointwise() {
		return nil
	}
	return e
}

// expansionBlock is how many results of the first lie between the two at least, where [kernel.Workspace.Expand] can't do both.
const expansionBlock = 128 << 10

// inputsOfSecond returns the inputs of the second with a value of the given shape before them.
func (e *expansion) inputsOfSecond(in []*Tensor, mid *Tensor) []*Tensor {
	return append([]*Tensor{mid}, in[e.inputs:]...)
}

func (e *expansion) Shape(in []*Tensor, out []Spec) error {
	mid := []Spec{{}}
	if err := e.first.Shape(in[:e.inputs], mid); err != nil {
		return err
	}
	return e.second.Shape(e.inputsOfSecond(in, &Tensor{DType: mid[0].DType, Shape: mid[0].Shape}), out)
}

func (e *expansion) Cost(in []*Tensor, out []Spec) (flops, scratch int64) {
	mid := []Spec{{}}
	if e.first.Shape(in[:e.inputs], mid) != nil {
		return 0, 0
	}
	value := Tensor{DType: mid[0].DType, Shape: mid[0].Shape}
	f1, s1 := e.first.Cost(in[:e.inputs], mid)
	f2, s2 := e.second.Cost(e.inputsOfSecond(in, &value), out)
	g1, g2 := e.windows(in)
	if e.whole(in, g1) {
		return f1 + f2, e.first.planar[0].ExpandSpace(g1, g2)
	}
	return f1 + f2, s1 + s2 + int64(e.step(in, g1)*volume(value.Shape[1:]))
}

// windows are those of the two, whose images have the same size.
func (e *expansion) windows(in []*Tensor) (first, second kernel.Window) {
	a, _ := e.first.place(in[0].Shape[2:], in[1].Shape[2:])
	b, _ := e.second.place(in[0].Shape[2:], in[e.inputs].Shape[2:])
	return a.planar(in[0].Shape[1]), b.planar(in[1].Shape[0])
}

// whole says whether the kernel does both together.
func (e *expansion) whole(in []*Tensor, g kernel.Window) bool {
	return e.first.planar[0].SuitsExpand(g) && in[e.inputs].Shape[0] == in[1].Shape[0]
}

// step is how many images go through both at a time where the kernel does not do it.
func (e *expansion) step(in []*Tensor, g kernel.Window) int {
	images, per := in[0].Shape[0], in[1].Shape[0]*g.H*g.W
	return min(max(expansionBlock/max(per, 1), e.first.planar[0].Together(g, images), 1), max(images, 1))
}

func (e *expansion) Run(s *Scratch, in, out []*Tensor) { e.blocks(s, in, out, nil) }

func (e *expansion) blocks(s *Scratch, in, out []*Tensor, t *Tailed) {
	x, y := in[0], out[0]
	images, size, per := x.Shape[0], volume(x.Shape[1:]), volume(y.Shape[1:])
	first, second := e.windows(in)
	step := max(images, 1)
	whole := e.whole(in, first)
	if !whole {
		step = e.step(in, first)
	} else if t != nil {
		step = max(1, tailBlock/max(per, 1), e.first.planar[0].Together(first, images))
	}
	for i := 0; i < images && !s.stopped(); i += step {
		n := min(step, images-i)
		from, part := x.F[i*size:][:n*size], y.F[i*per:][:n*per]
		if whole {
			end := e.first.end
			end.Bias = e.first.bias
			s.Gemm.Expand(e.first.planar[0], first, end, e.between, second, e.second.depth, n, kernel.Images{F: from, Stride: size},
				kernel.Images{F: part, Stride: per}, e.second.bias, e.second.activation())
		} else {
			mid := s.floats(3, n*second.C*second.H*second.W)
			e.first.images(s, in[:e.inputs], n, from, mid, len(mid)/n)
			if e.between.Func != kernel.Identity {
				s.Gemm.Apply(e.between, mid, mid)
			}
			e.second.filter(s, second, y.Shape[1], n, mid, part, per)
		}
		if t != nil {
			t.finish(s, x.DType, part, i*per)
		}
	}
}

// Packs says that weights and constant biases are in the Op.
func (e *expansion) Packs(i int) bool { return i == 1 || i == e.inputs }

// FuseRelu applies ReLU while the second stores.
func (e *expansion) FuseRelu() { e.second.FuseRelu() }

// FuseClip limits while the second stores.
func (e *expansion) FuseClip(lo, hi float32) bool { return e.second.FuseClip(lo, hi) }

// FuseBias never applies: Conv has its own bias.
func (e *expansion) FuseBias(*Tensor) bool { return false }
