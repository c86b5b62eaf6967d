package ops

import (
	"fmt"
	"math"
	"slices"

	"idunno/models/onnx"
)

// arrangeTable lists operators that make, mask or reorder tensors by position.
func arrangeTable() map[string]spec {
	return map[string]spec{
		"Range":           {since: 11, in: 3, max: 3, outs: 1, build: plain(&span{})},
		"EyeLike":         {since: 9, in: 1, max: 1, outs: 1, build: buildEye},
		"Trilu":           {since: 14, in: 1, max: 2, outs: 1, build: buildTrilu},
		"CumSum":          {since: 11, in: 2, max: 2, outs: 1, build: buildCumSum},
		"Hardmax":         {since: 1, in: 1, max: 1, outs: 1, build: buildHardmax},
		"TopK":            {since: 1, in: 1, max: 2, outs: 2, build: buildTopK},
		"OneHot":          {since: 9, in: 3, max: 3, outs: 1, build: buildOneHot},
		"NonZero":         {since: 9, in: 1, max: 1, outs: 1, build: plain(&nonZero{})},
		"ReverseSequence": {since: 10, in: 2, max: 2, outs: 1, build: buildReverseSequence},
		"DepthToSpace":    {since: 1, in: 1, max: 1, outs: 1, build: buildDepthToSpace},
		"SpaceToDepth":    {since: 1, in: 1, max: 1, outs: 1, build: buildSpaceToDepth},
	}
}

// span counts from a start to a limit.
type span struct{}

func (span) Shape(in []*Tensor, out []Spec) error {
	for i, t := range in {
		if t.Len() != 1 || t.DType != in[0].DType {
			return fmt.Errorf("input %d is %s%v, not one %s", i, t.DType, t.Shape, in[0].DType)
		}
		if !t.Known() {
			return ErrNeedsValues
		}
	}
	n := 0.0
	if in[0].DType.IsFloat() {
		n = math.Ceil((float64(in[1].F[0]) - float64(in[0].F[0])) / float64(in[2].F[0]))
	} else {
		n = math.Ceil((float64(in[1].I[0]) - float64(in[0].I[0])) / float64(in[2].I[0]))
	}
	if !(n <= math.MaxInt32) {
		return fmt.Errorf("a range of %v elements", n)
	}
	out[0].set(in[0].DType, int(max(n, 0)))
	return nil
}

func (span) Run(_ *Scratch, in, out []*Tensor) {
	for i := range out[0].F {
		out[0].F[i] = float32(float64(in[0].F[0]) + float64(i)*float64(in[2].F[0]))
	}
	for i := range out[0].I {
		out[0].I[i] = out[0].DType.Wrap(in[0].I[0] + int64(i)*in[2].I[0])
	}
}

// eye has ones on a diagonal.
type eye struct {
	to onnx.DType // 0: that of the input
	k  int64
}

func buildEye(_ *Node, a *attrs) (Op, error) {
	e := &eye{onnx.DType(a.int("dtype", 0)), a.int("k", 0)}
	if e.to != 0 && !e.to.IsInt() && !e.to.IsFloat() {
		return nil, fmt.Errorf("%w: EyeLike of %s", ErrUnsupported, e.to)
	}
	return e, nil
}

func (e *eye) Shape(in []*Tensor, out []Spec) error {
	if len(in[0].Shape) != 2 {
		return fmt.Errorf("input of shape %v is no matrix", in[0].Shape)
	}
	out[0].set(e.to, in[0].Shape...)
	if e.to == 0 {
		out[0].DType = in[0].DType
	}
	return nil
}

// ReadsShapesOnly marks that the elements of the input are not needed.
func (e *eye) ReadsShapesOnly() {}

func (e *eye) Run(_ *Scratch, _, out []*Tensor) {
	y := out[0]
	clear(y.F)
	clear(y.I)
	for i := range y.Shape[0] {
		j := int64(i) + e.k
		if j < 0 || j >= int64(y.Shape[1]) {
			continue
		}
		if y.DType.IsFloat() {
			y.F[i*y.Shape[1]+int(j)] = 1
		} else {
			y.I[i*y.Shape[1]+int(j)] = 1
		}
	}
}

// trilu keeps the upper or lower triangle of matrices.
type trilu struct{ upper bool }

func buildTrilu(_ *Node, a *attrs) (Op, error) { return &trilu{a.int("upper", 1) != 0}, nil }

func (t *trilu) Shape(in []*Tensor, out []Spec) error {
	if len(in[0].Shape) < 2 {
		return fmt.Errorf("input of shape %v is no matrix", in[0].Shape)
	}
	if len(in) > 1 && in[1] != nil && (in[1].Len() != 1 || !in[1].DType.IsInt()) {
		return fmt.Errorf("k is %s%v, not one integer", in[1].DType, in[1].Shape)
	}
	out[0].set(in[0].DType, in[0].Shape...)
	return nil
}

func (t *trilu) Run(_ *Scratch, in, out []*Tensor) {
	n := len(in[0].Shape)
	h, w := in[0].Shape[n-2], in[0].Shape[n-1]
	k := int64(0)
	if len(in) > 1 && in[1] != nil {
		k = in[1].I[0]
	}
	k = min(max(k, -int64(h)-1), int64(w)+1) // no overflow below
	clear(out[0].F)
	clear(out[0].I)
	for r := range in[0].Len() / max(w, 1) {
		cut := int(min(max(int64(r%h)+k, -1), int64(w)))
		from, to := max(cut, 0), w
		if !t.upper {
			from, to = 0, min(cut+1, w)
		}
		if from < to {
			transfer(out[0], r*w+from, in[0], r*w+from, to-from)
		}
	}
}

// cumSum sums along an axis up to each position.
type cumSum struct{ exclusive, reverse bool }

func buildCumSum(_ *Node, a *attrs) (Op, error) {
	return &cumSum{a.int("exclusive", 0) != 0, a.int("reverse", 0) != 0}, nil
}

func (c *cumSum) Shape(in []*Tensor, out []Spec) error {
	out[0].set(in[0].DType, in[0].Shape...)
	if in[1].Len() != 1 || !in[1].DType.IsInt() {
		return fmt.Errorf("the axis is %s%v, not one integer", in[1].DType, in[1].Shape)
	}
	if in[1].Known() {
		if _, err := axisOf(in[1].I[0], len(in[0].Shape)); err != nil {
			return err
		}
	}
	return nil
}

func (c *cumSum) Run(_ *Scratch, in, out []*Tensor) {
	axis, _ := axisOf(in[1].I[0], len(in[0].Shape))
	outer, n, inner := split(in[0].Shape, axis)
	for o := range outer {
		for i := range inner {
			first, step := o*n*inner+i, inner
			if c.reverse {
				first, step = first+(n-1)*inner, -inner
			}
			if in[0].DType.IsFloat() {
				accumulate(out[0].F, in[0].F, first, step, n, c.exclusive)
			} else {
				accumulate(out[0].I, in[0].I, first, step, n, c.exclusive)
			}
		}
	}
	for i, v := range out[0].I {
		out[0].I[i] = out[0].DType.Wrap(v)
	}
}

func accumulate[T float32 | int64](dst, src []T, at, step, n int, exclusive bool) {
	var sum T
	for range n {
		v := src[at]
		if exclusive {
			dst[at] = sum
		}
		sum += v
		if !exclusive {
			dst[at] = sum
		}
		at += step
	}
}

// hardmax is 1 at the first largest element along an axis (before opset 13: over all axes from one on) and 0 elsewhere.
type hardmax struct {
	axis int64
	old  bool
}

func buildHardmax(n *Node, a *attrs) (Op, error) {
	h := &hardmax{old: n.Opset < 13}
	h.axis = a.int("axis", map[bool]int64{true: 1, false: -1}[h.old])
	return h, nil
}

func (h *hardmax) Shape(in []*Tensor, out []Spec) error {
	out[0].set(in[0].DType, in[0].Shape...)
	if _, err := axisOf(h.axis, len(in[0].Shape)); err != nil {
		return err
	}
	return needFloat(in, 0)
}

func (h *hardmax) Run(_ *Scratch, in, out []*Tensor) {
	axis, _ := axisOf(h.axis, len(in[0].Shape))
	outer, n, inner := split(in[0].Shape, axis)
	if h.old {
		n, inner = n*inner, 1
	}
	clear(out[0].F)
	for o := range outer {
		for i := range inner {
			x := in[0].F[o*n*inner+i:]
			best := 0
			for j := range n {
				if x[j*inner] > x[best*inner] {
					best = j
				}
			}
			if n > 0 {
				out[0].F[o*n*inner+i+best*inner] = 1
			}
		}
	}
}

// topK gives the k largest or smallest elements along an axis, in order, and their positions.
type topK struct {
	axis     int64
	k        axesSource
	smallest bool
}

func buildTopK(n *Node, a *attrs) (Op, error) {
	t := &topK{axis: a.int("axis", -1), k: axesSource{input: 1}}
	if n.Opset < 10 {
		t.k = axesSource{list: []int64{a.int("k", -1)}, input: -1}
	} else if !n.present(1) {
		return nil, fmt.Errorf("k is missing")
	}
	if n.Opset >= 11 {
		t.smallest = a.int("largest", 1) == 0
		a.ignore("sorted") // sorted is one of the orders that unsorted allows
	}
	return t, nil
}

func (t *topK) Shape(in []*Tensor, out []Spec) error {
	axis, err := axisOf(t.axis, len(in[0].Shape))
	if err != nil {
		return err
	}
	k, err := t.k.of(in)
	if err != nil {
		return err
	}
	if len(k) != 1 || k[0] < 0 || k[0] > int64(in[0].Shape[axis]) {
		return fmt.Errorf("k is %v for an axis of %d", k, in[0].Shape[axis])
	}
	for i := range out {
		out[i].set(in[0].DType, in[0].Shape...)
		out[i].Shape[axis] = int(k[0])
	}
	if len(out) > 1 {
		out[1].DType = onnx.Int64
	}
	return nil
}

func (t *topK) Cost(in []*Tensor, _ []Spec) (int64, int64) {
	return 20 * int64(in[0].Len()), 2 * int64(in[0].Len())
}

func (t *topK) Run(s *Scratch, in, out []*Tensor) {
	x := in[0]
	axis, _ := axisOf(t.axis, len(x.Shape))
	outer, n, inner := split(x.Shape, axis)
	k := out[0].Shape[axis]
	order := s.ints(n)
	for o := range outer {
		for i := range inner {
			from := o*n*inner + i
			for j := range order {
				order[j] = j
			}
			slices.SortFunc(order, func(a, b int) int {
				c := compareAt(x, from+a*inner, from+b*inner)
				if !t.smallest {
					c = -c
				}
				if c == 0 {
					return a - b
				}
				return c
			})
			for j, p := range order[:k] {
				at := (o*k+j)*inner + i
				transfer(out[0], at, x, from+p*inner, 1)
				if len(out) > 1 {
					out[1].I[at] = int64(p)
				}
			}
		}
	}
}

// compareAt orders two elements of a tensor.
func compareAt(t *Tensor, a, b int) int {
	if t.DType.IsFloat() {
		return order(t.F[a], t.F[b])
	}
	return order(t.I[a], t.I[b])
}

func order[T float32 | int64](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// oneHot turns indices into vectors with one element switched on, along a new axis.
type oneHot struct{ axis int64 }

func buildOneHot(_ *Node, a *attrs) (Op, error) { return &oneHot{a.int("axis", -1)}, nil }

func (h *oneHot) Shape(in []*Tensor, out []Spec) error {
	axis, err := axisOf(h.axis, len(in[0].Shape)+1)
	if err != nil {
		return err
	}
	if in[1].Len() != 1 || in[2].Len() != 2 || len(in[0].Shape) >= maxRank {
		return fmt.Errorf("indices of shape %v, depth of shape %v, values of shape %v", in[0].Shape, in[1].Shape, in[2].Shape)
	}
	if !in[1].Known() {
		return ErrNeedsValues
	}
	depth := number(in[1], 0)
	if !(depth >= 0 && depth <= 1<<30) {
		return fmt.Errorf("a depth of %v", depth)
	}
	out[0].set(in[2].DType, in[0].Shape[:axis]...)
	out[0].Shape = append(append(out[0].Shape, int(depth)), in[0].Shape[axis:]...)
	return nil
}

func (h *oneHot) Run(_ *Scratch, in, out []*Tensor) {
	y := out[0]
	axis, _ := axisOf(h.axis, len(y.Shape))
	_, depth, inner := split(y.Shape, axis)
	for i := range y.Len() {
		transfer(y, i, in[2], 0, 1)
	}
	for i := range in[0].Len() {
		c := int(max(min(number(in[0], i), 1<<30), -1<<31))
		if c < 0 {
			c += depth
		}
		if c >= 0 && c < depth {
			transfer(y, i/inner*depth*inner+c*inner+i%inner, in[2], 1, 1)
		}
	}
}

// nonZero lists the coordinates of the elements that are not zero, one row a dimension.
type nonZero struct{}

func (nonZero) Shape(in []*Tensor, out []Spec) error {
	if !in[0].Known() {
		return ErrNeedsValues
	}
	n := 0
	for i := range in[0].Len() {
		if number(in[0], i) != 0 {
			n++
		}
	}
	out[0].set(onnx.Int64, len(in[0].Shape), n)
	return nil
}

func (nonZero) Run(s *Scratch, in, out []*Tensor) {
	index := s.ints(len(in[0].Shape))
	n, at := out[0].Shape[1], 0
	for i := range in[0].Len() {
		if number(in[0], i) != 0 {
			for d, c := range index {
				out[0].I[d*n+at] = int64(c)
			}
			at++
		}
		advance(index, in[0].Shape)
	}
}

// reverseSequence turns the first elements of each sequence of a batch around.
type reverseSequence struct{ batch, time int64 }

func buildReverseSequence(_ *Node, a *attrs) (Op, error) {
	r := &reverseSequence{a.int("batch_axis", 1), a.int("time_axis", 0)}
	if r.batch+r.time != 1 || r.batch*r.time != 0 {
		return nil, fmt.Errorf("batch_axis %d and time_axis %d", r.batch, r.time)
	}
	return r, nil
}

func (r *reverseSequence) Shape(in []*Tensor, out []Spec) error {
	if len(in[0].Shape) < 2 || !in[1].DType.IsInt() || len(in[1].Shape) != 1 || in[1].Shape[0] != in[0].Shape[r.batch] {
		return fmt.Errorf("lengths %s%v for a tensor of shape %v", in[1].DType, in[1].Shape, in[0].Shape)
	}
	out[0].set(in[0].DType, in[0].Shape...)
	return nil
}

func (r *reverseSequence) Run(_ *Scratch, in, out []*Tensor) {
	shape := in[0].Shape
	size := volume(shape[2:])
	for t := range shape[r.time] {
		for b := range shape[r.batch] {
			n := int(min(max(in[1].I[b], 0), int64(shape[r.time])))
			from := t
			if t < n {
				from = n - 1 - t
			}
			at, src := t*shape[1]+b, from*shape[1]+b
			if r.time == 1 {
				at, src = b*shape[1]+t, b*shape[1]+from
			}
			transfer(out[0], at*size, in[0], src*size, size)
		}
	}
}

// blocks moves blocks of an image between channels and positions: the elements, seen with six dimensions, are permuted.
type blocks struct {
	size    int
	toSpace bool
	perm    [6]int
}

func buildDepthToSpace(_ *Node, a *attrs) (Op, error) {
	b := &blocks{toSpace: true, perm: [6]int{0, 3, 4, 1, 5, 2}}
	switch mode := a.string("mode", "DCR"); mode {
	case "DCR":
	case "CRD":
		b.perm = [6]int{0, 1, 4, 2, 5, 3}
	default:
		return nil, fmt.Errorf("mode is %q", mode)
	}
	return b.read(a)
}

func buildSpaceToDepth(_ *Node, a *attrs) (Op, error) {
	b := &blocks{perm: [6]int{0, 3, 5, 1, 2, 4}}
	return b.read(a)
}

func (b *blocks) read(a *attrs) (Op, error) {
	n := a.int("blocksize", 0)
	if n < 1 || n > 1<<15 {
		return nil, fmt.Errorf("blocksize is %d", n)
	}
	b.size = int(n)
	return b, nil
}

func (b *blocks) Shape(in []*Tensor, out []Spec) error {
	x, n := in[0].Shape, b.size
	if len(x) != 4 || b.toSpace && x[1]%(n*n) != 0 || !b.toSpace && (x[2]%n != 0 || x[3]%n != 0) {
		return fmt.Errorf("shape %v does not divide into blocks of %d", x, n)
	}
	if b.toSpace {
		out[0].set(in[0].DType, x[0], x[1]/(n*n), x[2]*n, x[3]*n)
	} else {
		out[0].set(in[0].DType, x[0], x[1]*n*n, x[2]/n, x[3]/n)
	}
	return nil
}

func (b *blocks) Run(s *Scratch, in, out []*Tensor) {
	x, n := in[0].Shape, b.size
	dims := [6]int{x[0], n, n, x[1] / (n * n), x[2], x[3]}
	if b.toSpace && b.perm[1] == 1 {
		dims = [6]int{x[0], x[1] / (n * n), n, n, x[2], x[3]}
	}
	if !b.toSpace {
		dims = [6]int{x[0], x[1], x[2] / n, n, x[3] / n, n}
	}
	work := s.ints(18)
	step, shape, index := work[:6], work[6:12], work[12:]
	var from [6]int
	for i, p := 5, 1; i >= 0; i-- {
		from[i] = p
		p *= dims[i]
	}
	for i, p := range b.perm {
		step[i], shape[i] = from[p], dims[p]
	}
	pick(&Tensor{DType: out[0].DType, Shape: shape, F: out[0].F, I: out[0].I}, in[0], shape, step, index, 0)
}
