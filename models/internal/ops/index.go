package ops

import (
	"fmt"
	"slices"
)

// indexTable lists the operators that read or write at positions which are themselves elements of a tensor.
func indexTable() map[string]spec {
	return map[string]spec{
		"Gather":          {since: 1, in: 2, max: 2, outs: 1, build: buildGather},
		"GatherElements":  {since: 11, in: 2, max: 2, outs: 1, build: buildGatherElements},
		"GatherND":        {since: 11, in: 2, max: 2, outs: 1, build: buildGatherND},
		"Scatter":         {since: 9, in: 3, max: 3, outs: 1, build: buildScatterElements},
		"ScatterElements": {since: 11, in: 3, max: 3, outs: 1, build: buildScatterElements},
		"ScatterND":       {since: 11, in: 3, max: 3, outs: 1, build: buildScatterND},
		"Compress":        {since: 9, in: 2, max: 2, outs: 1, build: buildCompress},
		"Unique":          {since: 11, in: 1, max: 1, outs: 4, build: buildUnique},
	}
}

// position resolves a possibly negative index of an axis. It panics for one outside; the session turns that into an error.
func position(i int64, n int) int {
	if i < int64(-n) || i >= int64(n) {
		panic(fmt.Sprintf("index %d outside an axis of %d", i, n))
	}
	if i < 0 {
		i += int64(n)
	}
	return int(i)
}

// transfer copies n elements between tensors of the same type.
func transfer(dst *Tensor, at int, src *Tensor, from, n int) {
	if dst.DType.IsFloat() {
		copy(dst.F[at:at+n], src.F[from:from+n])
	} else {
		copy(dst.I[at:at+n], src.I[from:from+n])
	}
}

// gatherElements takes one element for each index: it replaces the coordinate of one axis.
type gatherElements struct{ axis int64 }

func buildGatherElements(_ *Node, a *attrs) (Op, error) {
	return &gatherElements{a.int("axis", 0)}, nil
}

// elementwise checks indices that replace the coordinate of an axis of data.
func elementwise(data, indices *Tensor, axis int64) error {
	x, err := axisOf(axis, len(data.Shape))
	if err != nil {
		return err
	}
	if !indices.DType.IsInt() || len(indices.Shape) != len(data.Shape) {
		return fmt.Errorf("indices are %s of shape %v for data of shape %v", indices.DType, indices.Shape, data.Shape)
	}
	for d, n := range indices.Shape {
		if d != x && n > data.Shape[d] {
			return fmt.Errorf("indices of shape %v for data of shape %v", indices.Shape, data.Shape)
		}
	}
	return nil
}

// along calls f with the number of each index and the offset in data that it stands for.
func along(s *Scratch, data, indices *Tensor, axis int64, f func(i, offset int)) {
	x, _ := axisOf(axis, len(data.Shape))
	index := s.ints(len(data.Shape))
	for i, v := range indices.I {
		at := 0
		for d, c := range index {
			if d == x {
				c = position(v, data.Shape[x])
			}
			at = at*data.Shape[d] + c
		}
		f(i, at)
		advance(index, indices.Shape)
	}
}

func (g *gatherElements) Shape(in []*Tensor, out []Spec) error {
	out[0].set(in[0].DType, in[1].Shape...)
	return elementwise(in[0], in[1], g.axis)
}

func (g *gatherElements) Run(s *Scratch, in, out []*Tensor) {
	along(s, in[0], in[1], g.axis, func(i, offset int) { transfer(out[0], i, in[0], offset, 1) })
}

// reduction joins an update with what is there.
type reduction string

func readReduction(a *attrs) (reduction, error) {
	r := a.string("reduction", "none")
	if !slices.Contains([]string{"none", "add", "mul", "max", "min"}, r) {
		return "", fmt.Errorf("%w: reduction %q", ErrUnsupported, r)
	}
	return reduction(r), nil
}

func join[T float32 | int64](r reduction, old, v T) T {
	switch r {
	case "add":
		return old + v
	case "mul":
		return old * v
	case "max":
		return max(old, v)
	case "min":
		return min(old, v)
	}
	return v
}

// update joins n elements of src into dst.
func (r reduction) update(dst *Tensor, at int, src *Tensor, from, n int) {
	if r == "none" {
		transfer(dst, at, src, from, n)
		return
	}
	for i := range n {
		if dst.DType.IsFloat() {
			dst.F[at+i] = join(r, dst.F[at+i], src.F[from+i])
		} else {
			dst.I[at+i] = dst.DType.Wrap(join(r, dst.I[at+i], src.I[from+i]))
		}
	}
}

// scatterElements copies its first input and writes updates where indices say.
type scatterElements struct {
	axis int64
	how  reduction
}

func buildScatterElements(_ *Node, a *attrs) (Op, error) {
	how, err := readReduction(a)
	return &scatterElements{a.int("axis", 0), how}, err
}

func (g *scatterElements) Shape(in []*Tensor, out []Spec) error {
	if in[2].DType != in[0].DType || !slices.Equal(in[2].Shape, in[1].Shape) {
		return fmt.Errorf("updates are %s%v, indices %v, data %s", in[2].DType, in[2].Shape, in[1].Shape, in[0].DType)
	}
	out[0].set(in[0].DType, in[0].Shape...)
	return elementwise(in[0], in[1], g.axis)
}

func (g *scatterElements) Run(s *Scratch, in, out []*Tensor) {
	transfer(out[0], 0, in[0], 0, in[0].Len())
	along(s, in[0], in[1], g.axis, func(i, offset int) { g.how.update(out[0], offset, in[2], i, 1) })
}

// tuples checks indices whose last dimension holds coordinates of the axes of data from batch on; it returns how many these are.
func tuples(data, indices *Tensor, batch int) (int, error) {
	n := len(indices.Shape)
	if !indices.DType.IsInt() || n == 0 {
		return 0, fmt.Errorf("indices are %s of shape %v", indices.DType, indices.Shape)
	}
	k := indices.Shape[n-1]
	if batch < 0 || batch >= n || k < 1 || k > len(data.Shape)-batch || !slices.Equal(indices.Shape[:batch], data.Shape[:batch]) {
		return 0, fmt.Errorf("indices of shape %v for data of shape %v with %d batch dimensions", indices.Shape, data.Shape, batch)
	}
	return k, nil
}

// tuple is the number of the block in dims that the coordinates stand for.
func tuple(coordinates []int64, dims []int) int {
	at := 0
	for d, v := range coordinates {
		at = at*dims[d] + position(v, dims[d])
	}
	return at
}

// gatherND takes blocks by their coordinates.
type gatherND struct{ batch int64 }

func buildGatherND(_ *Node, a *attrs) (Op, error) {
	b := a.int("batch_dims", 0)
	if b < 0 || b > maxRank {
		return nil, fmt.Errorf("batch_dims is %d", b)
	}
	return &gatherND{b}, nil
}

func (g *gatherND) Shape(in []*Tensor, out []Spec) error {
	b := int(g.batch)
	k, err := tuples(in[0], in[1], b)
	if err != nil {
		return err
	}
	out[0].set(in[0].DType, in[1].Shape[:len(in[1].Shape)-1]...)
	out[0].Shape = append(out[0].Shape, in[0].Shape[b+k:]...)
	if len(out[0].Shape) > maxRank {
		return fmt.Errorf("%d dimensions are too many", len(out[0].Shape))
	}
	return nil
}

func (g *gatherND) Run(_ *Scratch, in, out []*Tensor) {
	b := int(g.batch)
	shape, idx := in[0].Shape, in[1]
	k := idx.Shape[len(idx.Shape)-1]
	block, part := volume(shape[b+k:]), volume(shape[b:])
	per := volume(idx.Shape[b : len(idx.Shape)-1])
	for i := range len(idx.I) / k {
		from := i/per*part + tuple(idx.I[i*k:][:k], shape[b:b+k])*block
		transfer(out[0], i*block, in[0], from, block)
	}
}

// scatterND copies its first input and writes blocks at their coordinates.
type scatterND struct{ how reduction }

func buildScatterND(_ *Node, a *attrs) (Op, error) {
	how, err := readReduction(a)
	return &scatterND{how}, err
}

func (g *scatterND) Shape(in []*Tensor, out []Spec) error {
	k, err := tuples(in[0], in[1], 0)
	if err != nil {
		return err
	}
	want := slices.Concat(in[1].Shape[:len(in[1].Shape)-1], in[0].Shape[k:])
	if in[2].DType != in[0].DType || !slices.Equal(in[2].Shape, want) {
		return fmt.Errorf("updates are %s%v, expected %s%v", in[2].DType, in[2].Shape, in[0].DType, want)
	}
	out[0].set(in[0].DType, in[0].Shape...)
	return nil
}

func (g *scatterND) Run(_ *Scratch, in, out []*Tensor) {
	idx := in[1]
	k := idx.Shape[len(idx.Shape)-1]
	block := volume(in[0].Shape[k:])
	transfer(out[0], 0, in[0], 0, in[0].Len())
	for i := range len(idx.I) / k {
		g.how.update(out[0], tuple(idx.I[i*k:][:k], in[0].Shape[:k])*block, in[2], i*block, block)
	}
}

// compress keeps the slices along an axis, or the elements, whose condition is true.
type compress struct {
	axis int64
	flat bool
}

func buildCompress(n *Node, a *attrs) (Op, error) {
	_, given := n.Attrs["axis"]
	return &compress{a.int("axis", 0), !given}, nil
}

// parts returns the blocks that are chosen from: outer times n blocks of inner elements.
func (c *compress) parts(shape []int) (outer, n, inner int) {
	if c.flat {
		return 1, volume(shape), 1
	}
	axis, _ := axisOf(c.axis, len(shape))
	return split(shape, axis)
}

func (c *compress) Shape(in []*Tensor, out []Spec) error {
	axis := 0
	if !c.flat {
		var err error
		if axis, err = axisOf(c.axis, len(in[0].Shape)); err != nil {
			return err
		}
	}
	_, n, _ := c.parts(in[0].Shape)
	if in[1].DType != 7 && in[1].DType != 9 || len(in[1].Shape) != 1 || in[1].Shape[0] > n {
		return fmt.Errorf("condition is %s%v for %d parts", in[1].DType, in[1].Shape, n)
	}
	if !in[1].Known() {
		return ErrNeedsValues
	}
	kept := 0
	for _, v := range in[1].I {
		if v != 0 {
			kept++
		}
	}
	if c.flat {
		out[0].set(in[0].DType, kept)
		return nil
	}
	out[0].set(in[0].DType, in[0].Shape...)
	out[0].Shape[axis] = kept
	return nil
}

func (c *compress) Run(_ *Scratch, in, out []*Tensor) {
	outer, n, inner := c.parts(in[0].Shape)
	at := 0
	for o := range outer {
		for i, v := range in[1].I {
			if v != 0 {
				transfer(out[0], at, in[0], (o*n+i)*inner, inner)
				at += inner
			}
		}
	}
}
