package ops

// joined is convolutions whose results are joined channel by channel: each writes where its part lies in the whole.
type joined struct {
	parts  []*conv
	inputs []int // of each part
	whole  *concat
}

// NewJoin returns an Op that does the work of the parts, which have so many inputs each, and of whole, which joins their results; nil when
// these are not convolutions with constant weights and a join of their channels.
func NewJoin(parts []Op, inputs []int, whole Op) Op {
	j := &joined{inputs: inputs}
	var ok bool
	if j.whole, ok = whole.(*concat); !ok || j.whole.axis != 1 || len(parts) < 2 {
		return nil
	}
	for _, p := range parts {
		c, ok := p.(*conv)
		if !ok || c.planar == nil && c.depth == nil {
			return nil
		}
		j.parts = append(j.parts, c)
	}
	return j
}

// each calls f with every part and its inputs.
func (j *joined) each(in []*Tensor, f func(i int, part *conv, in []*Tensor)) {
	for i, p := range j.parts {
		f(i, p, in[:j.inputs[i]])
		in = in[j.inputs[i]:]
	}
}

func (j *joined) Shape(in []*Tensor, out []Spec) (err error) {
	results := make([]*Tensor, len(j.parts))
	j.each(in, func(i int, p *conv, in []*Tensor) {
		one := []Spec{{}}
		if err == nil {
			err = p.Shape(in, one)
		}
		results[i] = &Tensor{DType: one[0].DType, Shape: one[0].Shape}
	})
	if err != nil {
		return err
	}
	return j.whole.Shape(results, out)
}

// Cost is that of the parts, which use the same space in turn.
func (j *joined) Cost(in []*Tensor, _ []Spec) (flops, scratch int64) {
	j.each(in, func(_ int, p *conv, in []*Tensor) {
		one := []Spec{{}}
		if p.Shape(in, one) != nil {
			return
		}
		f, s := p.Cost(in, one)
		flops, scratch = flops+f, max(scratch, s)
	})
	return flops, scratch
}

func (j *joined) Run(s *Scratch, in, out []*Tensor) {
	y := out[0]
	images, per := y.Shape[0], volume(y.Shape[1:])
	if images == 0 || per == 0 {
		return
	}
	area, at := per/y.Shape[1], 0
	j.each(in, func(_ int, p *conv, in []*Tensor) {
		p.images(s, in, images, in[0].F, y.F[at*area:], per)
		at += in[1].Shape[0]
	})
}

// Packs says that the weights and biases are in the Op.
func (j *joined) Packs(i int) bool {
	for k, n := range j.inputs {
		if i < n {
			return i > 0 && j.parts[k].Packs(i)
		}
		i -= n
	}
	return false
}
