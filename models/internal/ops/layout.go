package ops

import (
	"fmt"
	"math"

	"idunno/models/onnx"
)

// layoutTable lists the operators that move elements or make them.
func layoutTable() map[string]spec {
	return map[string]spec{
		"Identity":        {since: 1, in: 1, max: 1, outs: 1, build: plain(&reshape{to: same})},
		"Flatten":         {since: 1, in: 1, max: 1, outs: 1, build: buildFlatten},
		"Reshape":         {since: 1, in: 1, max: 2, outs: 1, build: buildReshape},
		"Squeeze":         {since: 1, in: 1, max: 2, outs: 1, build: buildSqueeze},
		"Unsqueeze":       {since: 1, in: 1, max: 2, outs: 1, build: buildUnsqueeze},
		"Dropout":         {since: 1, in: 1, max: 3, outs: 2, build: buildDropout},
		"Transpose":       {since: 1, in: 1, max: 1, outs: 1, build: buildTranspose},
		"Concat":          {since: 1, in: 1, max: many, outs: 1, build: buildConcat},
		"Slice":           {since: 1, in: 1, max: 5, outs: 1, build: buildSlice},
		"Split":           {since: 2, in: 1, max: 2, outs: many, build: buildSplit},
		"Pad":             {since: 2, in: 1, max: 4, outs: 1, build: buildPad},
		"Expand":          {since: 8, in: 2, max: 2, outs: 1, build: plain(&expand{})},
		"Shape":           {since: 1, in: 1, max: 1, outs: 1, build: buildShape},
		"Constant":        {since: 1, in: 0, max: 0, outs: 1, build: buildConstant},
		"Size":            {since: 1, in: 1, max: 1, outs: 1, build: plain(&size{})},
		"Tile":            {since: 6, in: 2, max: 2, outs: 1, build: plain(&tile{})},
		"ConstantOfShape": {since: 9, in: 1, max: 1, outs: 1, build: buildConstantOfShape},
	}
}

// reshape gives the elements another shape without touching them.
type reshape struct {
	to func(in []*Tensor, dst []int) ([]int, error)
}

func same(in []*Tensor, dst []int) ([]int, error) { return append(dst, in[0].Shape...), nil }

func (r *reshape) Shape(in []*Tensor, out []Spec) (err error) {
	out[0].DType = in[0].DType
	out[0].Shape, err = r.to(in, out[0].Shape[:0])
	return err
}

// Run is never called: the output is the input under another shape.
func (r *reshape) Run(*Scratch, []*Tensor, []*Tensor) { panic("ops: run of a view") }

// Alias marks the output as a view.
func (r *reshape) Alias() {}

func buildFlatten(_ *Node, a *attrs) (Op, error) {
	axis := a.int("axis", 1)
	return &reshape{to: func(in []*Tensor, dst []int) ([]int, error) {
		s := in[0].Shape
		x := axis
		if x < 0 {
			x += int64(len(s))
		}
		if x < 0 || x > int64(len(s)) {
			return nil, fmt.Errorf("axis %d of a tensor with %d dimensions", axis, len(s))
		}
		return append(dst, volume(s[:x]), volume(s[x:])), nil
	}}, nil
}

func buildReshape(n *Node, a *attrs) (Op, error) {
	src := axesSource{input: 1}
	if n.Opset < 5 {
		src = axesSource{input: -1, list: a.ints("shape")}
		a.ignore("consumed_inputs")
	} else if !n.present(1) {
		return nil, fmt.Errorf("the shape is missing")
	}
	zero := a.int("allowzero", 0) != 0
	return &reshape{to: func(in []*Tensor, dst []int) ([]int, error) {
		want, err := src.of(in)
		if err != nil {
			return nil, err
		}
		total, known, free := in[0].Len(), 1, -1
		for i, d := range want {
			switch {
			case d == 0 && !zero:
				if i >= len(in[0].Shape) {
					return nil, fmt.Errorf("shape %v copies a dimension that %v does not have", want, in[0].Shape)
				}
				d = int64(in[0].Shape[i])
			case d == -1 && free < 0:
				free = i
				d = 1
			case d < 0 || d > int64(max(total, math.MaxInt32)):
				return nil, fmt.Errorf("%v can't be given the shape %v", in[0].Shape, want)
			}
			if d > 0 && known > total/int(d) && total > 0 {
				return nil, fmt.Errorf("%v can't be given the shape %v", in[0].Shape, want)
			}
			known *= int(d)
			dst = append(dst, int(d))
		}
		if free >= 0 && known > 0 {
			dst[free] = total / known
			known *= dst[free]
		}
		if known != total {
			return nil, fmt.Errorf("%v can't be given the shape %v", in[0].Shape, want)
		}
		return dst, nil
	}}, nil
}

func buildSqueeze(_ *Node, a *attrs) (Op, error) {
	src := a.axes(13, 1)
	return &reshape{to: func(in []*Tensor, dst []int) ([]int, error) {
		axes, err := src.of(in)
		if err != nil {
			return nil, err
		}
		s := in[0].Shape
		drop := make([]bool, len(s))
		for _, v := range axes {
			x, err := axisOf(v, len(s))
			if err != nil {
				return nil, err
			}
			if s[x] != 1 {
				return nil, fmt.Errorf("dimension %d of %v is not 1", x, s)
			}
			drop[x] = true
		}
		for i, d := range s {
			if !drop[i] && (len(axes) > 0 || d != 1) {
				dst = append(dst, d)
			}
		}
		return dst, nil
	}}, nil
}

func buildUnsqueeze(_ *Node, a *attrs) (Op, error) {
	src := a.axes(13, 1)
	return &reshape{to: func(in []*Tensor, dst []int) ([]int, error) {
		axes, err := src.of(in)
		if err != nil {
			return nil, err
		}
		rank := len(in[0].Shape) + len(axes)
		if rank > maxRank {
			return nil, fmt.Errorf("%d dimensions are too many", rank)
		}
		added := make([]bool, rank)
		for _, v := range axes {
			x, err := axisOf(v, rank)
			if err != nil {
				return nil, err
			}
			if added[x] {
				return nil, fmt.Errorf("axis %d is given twice", v)
			}
			added[x] = true
		}
		from := in[0].Shape
		for _, one := range added {
			if one {
				dst = append(dst, 1)
				continue
			}
			dst, from = append(dst, from[0]), from[1:]
		}
		return dst, nil
	}}, nil
}

const maxRank = 16

// dropoutMask is Dropout in inference with its mask: everything passes.
type dropoutMask struct{}

func (dropoutMask) Shape(in []*Tensor, out []Spec) error {
	out[0].set(in[0].DType, in[0].Shape...)
	out[1].set(onnx.Bool, in[0].Shape...)
	return inferenceOnly(in)
}

func (dropoutMask) Run(_ *Scratch, in, out []*Tensor) {
	if out[0] != nil {
		copy(out[0].F, in[0].F)
		copy(out[0].I, in[0].I)
	}
	for i := range out[1].I {
		out[1].I[i] = 1
	}
}

func inferenceOnly(in []*Tensor) error {
	if len(in) > 2 && in[2] != nil {
		if !in[2].Known() {
			return ErrNeedsValues
		}
		if in[2].Len() != 1 || !in[2].DType.IsInt() || in[2].I[0] != 0 {
			return fmt.Errorf("%w: Dropout in training mode; %w", ErrUnsupported, noTraining)
		}
	}
	return nil
}

func buildDropout(n *Node, a *attrs) (Op, error) {
	a.ignore("ratio", "is_test", "consumed_inputs", "seed")
	if n.constant(2) != nil {
		if err := inferenceOnly(n.Consts); err != nil {
			return nil, err
		}
	}
	if len(n.Outputs) > 1 && n.Outputs[1] != "" {
		if n.Opset < 10 {
			return nil, fmt.Errorf("%w: the mask of Dropout before opset 10", ErrUnsupported)
		}
		return dropoutMask{}, nil
	}
	return &reshape{to: func(in []*Tensor, dst []int) ([]int, error) {
		if err := inferenceOnly(in); err != nil {
			return nil, err
		}
		return same(in, dst)
	}}, nil
}

// transpose permutes dimensions; nil reverses them.
type transpose struct{ perm []int64 }

func buildTranspose(_ *Node, a *attrs) (Op, error) { return &transpose{a.ints("perm")}, nil }

func (t *transpose) at(i, rank int) int {
	if t.perm == nil {
		return rank - 1 - i
	}
	return int(t.perm[i])
}

func (t *transpose) Shape(in []*Tensor, out []Spec) error {
	s := in[0].Shape
	out[0].set(in[0].DType)
	seen := make([]bool, len(s))
	for i := range s {
		if t.perm != nil && (len(t.perm) != len(s) || t.perm[i] < 0 || t.perm[i] >= int64(len(s))) {
			return fmt.Errorf("perm %v of a tensor with %d dimensions", t.perm, len(s))
		}
		d := t.at(i, len(s))
		if seen[d] {
			return fmt.Errorf("perm %v names a dimension twice", t.perm)
		}
		seen[d] = true
		out[0].Shape = append(out[0].Shape, s[d])
	}
	return nil
}

func (t *transpose) Run(s *Scratch, in, out []*Tensor) {
	n := len(in[0].Shape)
	work := s.ints(4*n + 1)
	shape, step, from, index := work[:n], work[n:2*n], work[2*n:3*n], work[3*n:]
	for i, p := n-1, 1; i >= 0; i-- {
		from[i] = p
		p *= in[0].Shape[i]
	}
	for i := range n {
		shape[i], step[i] = out[0].Shape[i], from[t.at(i, n)]
	}
	shape, step, _ = merge(shape, step, step)
	n = len(shape)
	if n > 1 && step[n-1] > 1 && out[0].F != nil {
		t.blocks(s, in[0].F, out[0].F, shape, step, index[:n])
		return
	}
	pick(out[0], in[0], shape, step, index[:n], 0)
}

// blocks transposes the dimension that comes last in x with the one that comes last in y, for all places in the other dimensions.
func (t *transpose) blocks(s *Scratch, x, y []float32, shape, step, index []int) {
	n := len(shape)
	last, ldy := 0, 1 // the dimension of y that comes last in x, and its step in y
	for step[last] != 1 {
		last++
	}
	for _, d := range shape[last+1:] {
		ldy *= d
	}
	rows, cols := shape[n-1], shape[last]
	for {
		from, to := 0, 0
		for d, i := range index {
			from, to = from+i*step[d], to*shape[d]+i
		}
		s.Gemm.Transpose(y[to:], ldy, x[from:], step[n-1], rows, cols)
		d := n - 2
		for ; d >= 0; d-- {
			if d == last {
				continue
			}
			if index[d]++; index[d] < shape[d] {
				break
			}
			index[d] = 0
		}
		if d < 0 {
			return
		}
	}
}

// pick fills dst, in row-major order of shape, with the elements of src at base plus the index times step. index holds zeros.
func pick(dst, src *Tensor, shape, step, index []int, base int) {
	n := len(shape)
	if n == 0 {
		if dst.F != nil {
			dst.F[0] = src.F[base]
		} else {
			dst.I[0] = src.I[base]
		}
		return
	}
	width, last := shape[n-1], step[n-1]
	rows(shape, step, step, index, func(row, a, _ int) {
		a += base
		if dst.F != nil {
			line := dst.F[row*width:][:width]
			if last == 1 {
				copy(line, src.F[a:])
				return
			}
			for i := range line {
				line[i] = src.F[a+i*last]
			}
			return
		}
		line := dst.I[row*width:][:width]
		for i := range line {
			line[i] = src.I[a+i*last]
		}
	})
}

// concat puts tensors one after the other along an axis.
type concat struct{ axis int64 }

func buildConcat(n *Node, a *attrs) (Op, error) {
	def := int64(1) // since opset 4 the attribute is required
	return &concat{a.int("axis", def)}, nil
}

func (c *concat) Shape(in []*Tensor, out []Spec) error {
	out[0].set(in[0].DType, in[0].Shape...)
	axis, err := axisOf(c.axis, len(in[0].Shape))
	if err != nil {
		return err
	}
	out[0].Shape[axis] = 0
	for i, t := range in {
		if t == nil || t.DType != in[0].DType || len(t.Shape) != len(in[0].Shape) {
			return fmt.Errorf("input %d is unlike the first", i)
		}
		for d, v := range t.Shape {
			if d == axis {
				out[0].Shape[d] += v
			} else if v != in[0].Shape[d] {
				return fmt.Errorf("shapes %v and %v can't be joined at axis %d", in[0].Shape, t.Shape, axis)
			}
		}
	}
	return nil
}

func (c *concat) Run(_ *Scratch, in, out []*Tensor) {
	axis, _ := axisOf(c.axis, len(in[0].Shape))
	outer := volume(in[0].Shape[:axis])
	at := 0
	for o := range outer {
		for _, t := range in {
			n := volume(t.Shape[axis:])
			if out[0].F != nil {
				copy(out[0].F[at:], t.F[o*n:][:n])
			} else {
				copy(out[0].I[at:], t.I[o*n:][:n])
			}
			at += n
		}
	}
}

// gather takes slices along an axis by their indices.
type gather struct{ axis int64 }

func buildGather(_ *Node, a *attrs) (Op, error) { return &gather{a.int("axis", 0)}, nil }

func (g *gather) Shape(in []*Tensor, out []Spec) error {
	axis, err := axisOf(g.axis, len(in[0].Shape))
	if err != nil {
		return err
	}
	if !in[1].DType.IsInt() {
		return fmt.Errorf("indices are %s", in[1].DType)
	}
	out[0].set(in[0].DType, in[0].Shape[:axis]...)
	out[0].Shape = append(append(out[0].Shape, in[1].Shape...), in[0].Shape[axis+1:]...)
	if len(out[0].Shape) > maxRank {
		return fmt.Errorf("%d dimensions are too many", len(out[0].Shape))
	}
	if in[0].Shape[axis] == 0 && in[1].Len() > 0 {
		return fmt.Errorf("axis %d of %v is empty", axis, in[0].Shape)
	}
	return nil
}

// Run panics for an index outside the axis; the session turns that into an error.
func (g *gather) Run(_ *Scratch, in, out []*Tensor) {
	axis, _ := axisOf(g.axis, len(in[0].Shape))
	outer, n, inner := split(in[0].Shape, axis)
	at := 0
	for o := range outer {
		for _, i := range in[1].I {
			from := (o*n + position(i, n)) * inner
			if out[0].F != nil {
				copy(out[0].F[at:at+inner], in[0].F[from:])
			} else {
				copy(out[0].I[at:at+inner], in[0].I[from:])
			}
			at += inner
		}
	}
}
