package ops

import "fmt"

// broadcast fills out with the common shape of a and b by ONNX's multidirectional rule: shapes are aligned at the end, a dimension of 1
// repeats.
func broadcast(out, a, b []int) ([]int, error) {
	n := max(len(a), len(b))
	out = out[:0]
	for i := range n {
		x, y := 1, 1
		if j := i - n + len(a); j >= 0 {
			x = a[j]
		}
		if j := i - n + len(b); j >= 0 {
			y = b[j]
		}
		switch {
		case x == y || y == 1:
			out = append(out, x)
		case x == 1:
			out = append(out, y)
		default:
			return nil, fmt.Errorf("shapes %v and %v do not broadcast", a, b)
		}
	}
	return out, nil
}

// strides writes to dst the step of each dimension of shape "to" in a tensor of shape "from" that is broadcast to it.
func strides(dst, from, to []int) {
	step := 1
	for i := range dst {
		dst[i] = 0
	}
	for i := len(from) - 1; i >= 0; i-- {
		j := len(to) - len(from) + i
		if from[i] != 1 {
			dst[j] = step
		}
		step *= from[i]
	}
}

// rows calls f for every innermost row of shape with the row's offsets into two tensors whose strides are sa and sb. index is working space
// of len(shape) zeros.
func rows(shape, sa, sb, index []int, f func(row, a, b int)) {
	n := len(shape)
	if volume(shape) == 0 {
		return
	}
	if n == 0 {
		f(0, 0, 0)
		return
	}
	a, b := 0, 0
	for row := 0; ; row++ {
		f(row, a, b)
		d := n - 2
		for ; d >= 0; d-- {
			index[d]++
			a += sa[d]
			b += sb[d]
			if index[d] < shape[d] {
				break
			}
			a -= sa[d] * shape[d]
			b -= sb[d] * shape[d]
			index[d] = 0
		}
		if d < 0 {
			return
		}
	}
}
