package ops

import (
	"fmt"
	"math"

	"idunno/models/internal/kernel"
)

// reducer folds numbers in double precision: step adds one, end turns the sum over n into the result. whole is the same for integers, nil
// where they are not supported.
type reducer struct {
	start float64
	step  func(sum, x float64) float64
	end   func(sum, n float64) float64
	whole func(sum, x int64) int64
	first int64 // where whole starts
}

func reducers() map[string]reducer {
	same := func(s, _ float64) float64 { return s }
	add := func(s, x float64) float64 { return s + x }
	square := func(s, x float64) float64 { return s + x*x }
	plus := func(s, x int64) int64 { return s + x }
	most := func(s, x int64) int64 { return max(s, x) }
	least := func(s, x int64) int64 { return min(s, x) }
	return map[string]reducer{
		"ReduceSum":       {0, add, same, plus, 0},
		"ReduceMean":      {0, add, func(s, n float64) float64 { return s / n }, nil, 0},
		"ReduceMax":       {math.Inf(-1), math.Max, same, most, math.MinInt64},
		"ReduceMin":       {math.Inf(1), math.Min, same, least, math.MaxInt64},
		"ReduceProd":      {1, func(s, x float64) float64 { return s * x }, same, func(s, x int64) int64 { return s * x }, 1},
		"ReduceL1":        {0, func(s, x float64) float64 { return s + math.Abs(x) }, same, func(s, x int64) int64 { return s + max(x, -x) }, 0},
		"ReduceL2":        {0, square, func(s, _ float64) float64 { return math.Sqrt(s) }, nil, 0},
		"ReduceSumSquare": {0, square, same, func(s, x int64) int64 { return s + x*x }, 0},
		"ReduceLogSum":    {0, add, func(s, _ float64) float64 { return math.Log(s) }, nil, 0},
		"ReduceLogSumExp": {math.Inf(-1), logAdd, same, nil, 0},
	}
}

// logAdd is log(exp(s) + exp(x)) without overflow.
func logAdd(s, x float64) float64 {
	if s < x {
		s, x = x, s
	}
	if math.IsInf(x, -1) {
		return s
	}
	return s + math.Log1p(math.Exp(x-s))
}

// reduce folds over some axes or all.
type reduce struct {
	reducer
	name string
	axes axesSource
	keep bool
	noop bool // no axes means no reduction instead of all axes
}

// mask says which axes are reduced.
func (r *reduce) mask(in []*Tensor) (m [maxRank]bool, err error) {
	n := len(in[0].Shape)
	if n > maxRank {
		return m, fmt.Errorf("%d dimensions are too many", n)
	}
	axes, err := r.axes.of(in)
	if err != nil {
		return m, err
	}
	for i := range n {
		m[i] = len(axes) == 0 && !r.noop
	}
	for _, v := range axes {
		a, err := axisOf(v, n)
		if err != nil {
			return m, err
		}
		m[a] = true
	}
	return m, nil
}

func (r *reduce) Shape(in []*Tensor, out []Spec) error {
	m, err := r.mask(in)
	if err != nil {
		return err
	}
	out[0].set(in[0].DType)
	for i, d := range in[0].Shape {
		switch {
		case !m[i]:
			out[0].Shape = append(out[0].Shape, d)
		case r.keep:
			out[0].Shape = append(out[0].Shape, 1)
		}
	}
	if r.whole != nil && in[0].DType.IsInt() {
		return nil
	}
	return needFloat(in, 0)
}

func (r *reduce) Cost(in []*Tensor, out []Spec) (int64, int64) {
	return int64(in[0].Len()), 2 * int64(volume(out[0].Shape))
}

func (r *reduce) Run(s *Scratch, in, out []*Tensor) {
	x, y := in[0], out[0]
	m, _ := r.mask(in)
	n := len(x.Shape)
	kept := n // the axes from here on are reduced
	for kept > 0 && m[kept-1] {
		kept--
	}
	trailing := true
	for _, reduced := range m[:kept] {
		trailing = trailing && !reduced
	}
	if trailing && x.DType.IsFloat() {
		r.rows(s, x.F, y.F)
		return
	}
	if r.columns(s, x, y, &m) {
		return
	}
	work := s.ints(2 * n)
	step, index := work[:n], work[n:]
	for i, p := n-1, 1; i >= 0; i-- {
		if !m[i] {
			step[i] = p
			p *= x.Shape[i]
		}
	}
	sums := s.doubles(y.Len())
	for i := range sums {
		sums[i] = r.start
	}
	for i := range y.I {
		y.I[i] = r.first
	}
	for i := range x.Len() {
		at := 0
		for d, c := range index {
			at += c * step[d]
		}
		if x.DType.IsFloat() {
			sums[at] = r.step(sums[at], float64(x.F[i]))
		} else {
			y.I[at] = x.DType.Wrap(r.whole(y.I[at], x.I[i]))
		}
		advance(index, x.Shape)
	}
	count := float64(x.Len()) / float64(max(len(sums), 1))
	for i := range y.F {
		y.F[i] = float32(r.end(sums[i], count))
	}
}

// rows reduces each row of x to one number.
func (r *reduce) rows(s *Scratch, x, y []float32) {
	width := len(x) / max(len(y), 1)
	for i := range y {
		row := x[i*width:][:width]
		switch r.name {
		case "ReduceSum", "ReduceMean", "ReduceLogSum":
			y[i] = float32(r.end(s.Gemm.Sum(row), float64(width)))
			continue
		case "ReduceSumSquare", "ReduceL2":
			y[i] = float32(r.end(s.Gemm.Squares(row, 0), float64(width)))
			continue
		case "ReduceMax":
			y[i] = s.Gemm.Highest(row)
			continue
		}
		sum := r.start
		for _, v := range row {
			sum = r.step(sum, float64(v))
		}
		y[i] = float32(r.end(sum, float64(width)))
	}
}

// maxColumn is how many numbers are added one after the other in single precision.
const maxColumn = 4096

// columns reduces over neighbouring axes that are followed by others, as vectors, and reports whether it could.
func (r *reduce) columns(s *Scratch, x, y *Tensor, m *[maxRank]bool) bool {
	op := kernel.Add
	switch r.name {
	case "ReduceSum", "ReduceMean":
	case "ReduceMax":
		op = kernel.Max
	case "ReduceMin":
		op = kernel.Min
	default:
		return false
	}
	first, last := -1, -1
	for i := range x.Shape {
		if m[i] {
			if last >= 0 && last != i-1 {
				return false
			}
			if first < 0 {
				first = i
			}
			last = i
		}
	}
	if first < 0 || !x.DType.IsFloat() {
		return false
	}
	outer, n, inner := volume(x.Shape[:first]), volume(x.Shape[first:last+1]), volume(x.Shape[last+1:])
	if n == 0 || n > maxColumn || inner < 4 {
		return false
	}
	for o := range outer {
		from, to := x.F[o*n*inner:][:n*inner], y.F[o*inner:][:inner]
		copy(to, from)
		for i := 1; i < n; i++ {
			s.Gemm.Zip(op, to, to, from[i*inner:][:inner])
		}
	}
	if r.name == "ReduceMean" {
		s.Gemm.ZipScalar(kernel.Div, y.F, y.F, float32(n))
	}
	return true
}
