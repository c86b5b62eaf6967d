package ops

import (
	"fmt"
	"slices"

	"idunno/models/onnx"
)

// unique finds the different slices along an axis, or the different elements: each once, where it came first, which one every slice is, and
// how often it came.
type unique struct {
	axis         int64
	flat, sorted bool
}

func buildUnique(n *Node, a *attrs) (Op, error) {
	_, given := n.Attrs["axis"]
	return &unique{a.int("axis", 0), !given, a.int("sorted", 1) != 0}, nil
}

// find returns the positions of the first of each different slice in the order of the output, and for each slice which one it is.
func (u *unique) find(x *Tensor) (first, which []int) {
	outer, n, inner := u.parts(x.Shape)
	compare := func(a, b int) int {
		for o := range outer {
			for i := range inner {
				if c := compareAt(x, (o*n+a)*inner+i, (o*n+b)*inner+i); c != 0 {
					return c
				}
			}
		}
		return 0
	}
	sorted := make([]int, n)
	for i := range sorted {
		sorted[i] = i
	}
	slices.SortStableFunc(sorted, compare)
	which = make([]int, n)
	for k, i := range sorted {
		if k == 0 || compare(sorted[k-1], i) != 0 {
			first = append(first, i)
		}
		which[i] = len(first) - 1
	}
	if u.sorted {
		return first, which
	}
	// In the order of appearance.
	rank, byPlace := make([]int, len(first)), slices.Sorted(slices.Values(first))
	for k, i := range byPlace {
		rank[which[i]] = k
	}
	for i, k := range which {
		which[i] = rank[k]
	}
	return byPlace, which
}

// parts returns the slices that are compared.
func (u *unique) parts(shape []int) (outer, n, inner int) {
	return (&compress{axis: u.axis, flat: u.flat}).parts(shape)
}

func (u *unique) Shape(in []*Tensor, out []Spec) error {
	axis := 0
	if !u.flat {
		var err error
		if axis, err = axisOf(u.axis, len(in[0].Shape)); err != nil {
			return err
		}
	}
	if !in[0].Known() {
		return ErrNeedsValues
	}
	if !u.flat && in[0].Len() == 0 {
		return fmt.Errorf("nothing to compare in a tensor of shape %v", in[0].Shape)
	}
	first, which := u.find(in[0])
	for i := range out {
		out[i].set(onnx.Int64, len(first))
	}
	if len(out) > 2 {
		out[2].set(onnx.Int64, len(which))
	}
	out[0].set(in[0].DType, len(first))
	if !u.flat {
		out[0].set(in[0].DType, in[0].Shape...)
		out[0].Shape[axis] = len(first)
	}
	return nil
}

func (u *unique) Run(_ *Scratch, in, out []*Tensor) {
	first, which := u.find(in[0])
	outer, n, inner := u.parts(in[0].Shape)
	for o := range outer {
		for k, i := range first {
			transfer(out[0], (o*len(first)+k)*inner, in[0], (o*n+i)*inner, inner)
		}
	}
	if len(out) > 1 {
		for k, i := range first {
			out[1].I[k] = int64(i)
		}
	}
	if len(out) > 3 {
		clear(out[3].I)
	}
	for i, k := range which {
		if len(out) > 2 {
			out[2].I[i] = int64(k)
		}
		if len(out) > 3 {
			out[3].I[k]++
		}
	}
}
