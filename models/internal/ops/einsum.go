package ops

import (
	"fmt"
	"slices"
	"strings"
)

// einsum sums products over labelled dimensions, as NumPy's einsum. Labels are letters; "..." stands for dimensions that broadcast.
type einsum struct {
	terms    []string // one an input
	result   string
	explicit bool
}

func buildEinsum(n *Node, a *attrs) (Op, error) {
	eq := strings.ReplaceAll(a.string("equation", ""), " ", "")
	left, right, explicit := strings.Cut(eq, "->")
	e := &einsum{strings.Split(left, ","), right, explicit}
	if len(e.terms) != len(n.Inputs) || len(eq) > 1024 {
		return nil, fmt.Errorf("equation %q for %d inputs", eq, len(n.Inputs))
	}
	for _, term := range append(slices.Clone(e.terms), right) {
		plain := strings.Replace(term, "...", "", 1)
		if strings.ContainsFunc(plain, func(r rune) bool { return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z') }) {
			return nil, fmt.Errorf("%w: equation %q", ErrUnsupported, eq)
		}
	}
	return e, nil
}

// einsumPlan are the labels in loop order, those of the result first, with their sizes, and per input the step of each.
type einsumPlan struct {
	labels []byte
	sizes  []int
	free   int // so many labels belong to the result
	steps  [][]int
}

// dots are the labels of the dimensions that "..." stands for, aligned at the end.
func dots(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte('0' + n - 1 - i)
	}
	return out
}

// expandTerm replaces "..." in a term by labels for the dimensions that are left of rank.
func expandTerm(term string, rank int) ([]byte, error) {
	before, after, has := strings.Cut(term, "...")
	n := rank - len(before) - len(after)
	if n < 0 || n > maxRank || !has && n != 0 {
		return nil, fmt.Errorf("term %q for a tensor with %d dimensions", term, rank)
	}
	return slices.Concat([]byte(before), dots(n), []byte(after)), nil
}

func (e *einsum) plan(in []*Tensor) (*einsumPlan, error) {
	size, count := map[byte]int{}, map[byte]int{}
	terms := make([][]byte, len(in))
	widest := 0
	for i, t := range in {
		term, err := expandTerm(e.terms[i], len(t.Shape))
		if err != nil {
			return nil, err
		}
		terms[i] = term
		if strings.Contains(e.terms[i], "...") {
			widest = max(widest, len(t.Shape)-len(e.terms[i])+3)
		}
		for d, label := range term {
			n, known := size[label]
			switch {
			case !known || n == 1 && label < 'A':
				size[label] = t.Shape[d]
			case n != t.Shape[d] && !(t.Shape[d] == 1 && label < 'A'):
				return nil, fmt.Errorf("label %q stands for %d and for %d", label, n, t.Shape[d])
			}
			count[label]++
		}
	}
	p := &einsumPlan{}
	before, after, has := strings.Cut(e.result, "...")
	switch {
	case e.explicit && has:
		p.labels = slices.Concat([]byte(before), dots(widest), []byte(after))
	case e.explicit:
		p.labels = []byte(e.result)
	default: // in alphabetic order what appears once
		p.labels = dots(widest)
		for label := byte('A'); label <= 'z'; label++ {
			if count[label] == 1 {
				p.labels = append(p.labels, label)
			}
		}
	}
	p.free = len(p.labels)
	for i, label := range p.labels {
		if _, ok := size[label]; !ok || slices.Contains(p.labels[:i], label) {
			return nil, fmt.Errorf("the result %q has label %q twice, or no input has it", e.result, label)
		}
	}
	for _, term := range terms {
		for _, label := range term {
			if !slices.Contains(p.labels, label) {
				p.labels = append(p.labels, label)
			}
		}
	}
	for _, label := range p.labels {
		p.sizes = append(p.sizes, size[label])
	}
	for i, term := range terms {
		steps := make([]int, len(p.labels))
		step := 1
		for d := len(term) - 1; d >= 0; d-- {
			if n := in[i].Shape[d]; n != 1 {
				steps[slices.Index(p.labels, term[d])] += step // += for a diagonal
			}
			step *= in[i].Shape[d]
		}
		p.steps = append(p.steps, steps)
	}
	return p, nil
}

func (e *einsum) Shape(in []*Tensor, out []Spec) error {
	for i, t := range in {
		if t == nil || t.DType != in[0].DType || !t.DType.IsFloat() {
			return fmt.Errorf("input %d is left out or of an unsupported type", i)
		}
	}
	p, err := e.plan(in)
	if err != nil {
		return err
	}
	if p.free > maxRank {
		return fmt.Errorf("%d dimensions are too many", p.free)
	}
	if flops, _ := e.Cost(in, nil); flops > 1<<42 {
		return fmt.Errorf("%w: a sum over %v", ErrUnsupported, p.sizes)
	}
	out[0].set(in[0].DType, p.sizes[:p.free]...)
	return nil
}

func (e *einsum) Cost(in []*Tensor, _ []Spec) (int64, int64) {
	p, err := e.plan(in)
	if err != nil {
		return 0, 0
	}
	flops := int64(len(in))
	for _, n := range p.sizes {
		flops = satMul(flops, int64(n))
	}
	return flops, 0
}

func (e *einsum) Run(s *Scratch, in, out []*Tensor) {
	p, _ := e.plan(in)
	n := len(p.labels)
	work := s.ints(n + len(in))
	index, at := work[:n], work[n:]
	inner := volume(p.sizes[p.free:])
	for i := range out[0].F {
		sum := 0.0
		for range inner {
			product := 1.0
			for k, t := range in {
				product *= float64(t.F[at[k]])
			}
			sum += product
			for d := n - 1; d >= 0; d-- {
				index[d]++
				for k := range at {
					at[k] += p.steps[k][d]
				}
				if index[d] < p.sizes[d] {
					break
				}
				for k := range at {
					at[k] -= p.steps[k][d] * p.sizes[d]
				}
				index[d] = 0
			}
		}
		out[0].F[i] = float32(sum)
	}
}
