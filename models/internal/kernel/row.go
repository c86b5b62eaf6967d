package kernel

import "math"

// BinaryOp is a function of two numbers.
type BinaryOp int

// The functions of two numbers. Max and Min are NaN when one of the two is.
const (
	Add BinaryOp = iota
	Sub
	Mul
	Div
	Max
	Min
)

// operands says which operands of a function of two numbers are vectors.
type operands int

const (
	vectorVector operands = iota
	vectorScalar
	scalarVector
)

// Zip computes dst[i] = op(x[i], y[i]). dst may be x or y. It panics when the lengths differ.
func (w *Workspace) Zip(op BinaryOp, dst, x, y []float32) {
	if len(dst) != len(x) || len(x) != len(y) {
		panic("kernel: vectors of different lengths")
	}
	if len(x) > 0 {
		w.vectors().zip(op, vectorVector, dst, x, y, 0)
	}
}

// ZipScalar computes dst[i] = op(x[i], s). dst may be x. It panics when the lengths differ.
func (w *Workspace) ZipScalar(op BinaryOp, dst, x []float32, s float32) {
	if len(dst) != len(x) {
		panic("kernel: vectors of different lengths")
	}
	if len(x) > 0 {
		w.vectors().zip(op, vectorScalar, dst, x, nil, s)
	}
}

// ScalarZip computes dst[i] = op(s, x[i]). dst may be x. It panics when the lengths differ.
func (w *Workspace) ScalarZip(op BinaryOp, dst []float32, s float32, x []float32) {
	if len(dst) != len(x) {
		panic("kernel: vectors of different lengths")
	}
	if len(x) > 0 {
		w.vectors().zip(op, scalarVector, dst, x, nil, s)
	}
}

func (portable) zip(op BinaryOp, which operands, dst, x, y []float32, s float32) {
	f := pairFunc(op)
	switch { // what most elements go through is written out
	case op == Add && which == vectorVector:
		for i, v := range x {
			dst[i] = v + y[i]
		}
		return
	case op == Mul && which == vectorVector:
		for i, v := range x {
			dst[i] = v * y[i]
		}
		return
	case op == Mul:
		for i, v := range x {
			dst[i] = v * s
		}
		return
	}
	switch which {
	case vectorScalar:
		for i, v := range x {
			dst[i] = f(v, s)
		}
	case scalarVector:
		for i, v := range x {
			dst[i] = f(s, v)
		}
	default:
		for i, v := range x {
			dst[i] = f(v, y[i])
		}
	}
}

func pairFunc(op BinaryOp) func(x, y float32) float32 {
	switch op {
	case Add:
		return func(x, y float32) float32 { return x + y }
	case Sub:
		return func(x, y float32) float32 { return x - y }
	case Mul:
		return func(x, y float32) float32 { return x * y }
	case Div:
		return func(x, y float32) float32 { return x / y }
	case Max:
		return greater
	case Min:
		return less
	}
	panic("kernel: unknown function")
}

func greater(x, y float32) float32 {
	if x != x || x > y {
		return x
	}
	return y
}

func less(x, y float32) float32 {
	if x != x || x < y {
		return x
	}
	return y
}

// sumBlock is how many elements are added in single precision; the sums of blocks are added in double precision.
const sumBlock = 4096

// Sum returns the sum of x. Within blocks of 4096 elements, element i belongs to partial sum i modulo 64; these are then added in pairs.
func (w *Workspace) Sum(x []float32) float64 {
	lv, sum := w.vectors(), 0.0
	for len(x) > 0 {
		n := min(len(x), sumBlock)
		sum += float64(lv.sum(x[:n]))
		x = x[n:]
	}
	return sum
}

// Squares returns the sum of the squares of x[i] - mean, added up like [Workspace.Sum].
func (w *Workspace) Squares(x []float32, mean float32) float64 {
	lv, sum := w.vectors(), 0.0
	for len(x) > 0 {
		n := min(len(x), sumBlock)
		sum += float64(lv.squares(x[:n], mean))
		x = x[n:]
	}
	return sum
}

// Highest returns the greatest element of x, NaN when one is NaN, and minus infinity for none.
func (w *Workspace) Highest(x []float32) float32 {
	if len(x) == 0 {
		return float32(math.Inf(-1))
	}
	return w.vectors().highest(x)
}

// Moments returns the mean of x and 1/sqrt(variance + epsilon).
func (w *Workspace) Moments(x []float32, epsilon float32) (mean, inverse float32) {
	n := float64(max(len(x), 1))
	mean = float32(w.Sum(x) / n)
	return mean, float32(1 / math.Sqrt(w.Squares(x, mean)/n+float64(epsilon)))
}

// Softmax computes y[i] = exp(x[i]-t) / sum over j of exp(x[j]-t), where t is the greatest x. y may be x.
func (w *Workspace) Softmax(y, x []float32) {
	if len(x) == 0 {
		return
	}
	sum := w.expSum(y, x, w.Highest(x))
	w.ZipScalar(Mul, y[:len(x)], y[:len(x)], float32(1/sum))
}

// LogSoftmax computes the logarithms of Softmax. y may be x.
func (w *Workspace) LogSoftmax(y, x []float32) {
	if len(x) == 0 {
		return
	}
	y = y[:len(x)]
	w.ZipScalar(Sub, y, x, w.Highest(x))
	sum := 0.0
	for at := 0; at < len(y); at += sumBlock {
		n := min(len(y)-at, sumBlock)
		sum += w.expSum(space(&w.out, n), y[at:][:n], 0)
	}
	w.ZipScalar(Sub, y, y, float32(math.Log(sum)))
}

// expSum computes y[i] = exp(x[i]-top) and returns their sum. Within blocks, element i belongs to partial sum i modulo 16.
func (w *Workspace) expSum(y, x []float32, top float32) float64 {
	lv, sum := w.vectors(), 0.0
	y = y[:len(x)]
	for len(x) > 0 {
		n := min(len(x), sumBlock)
		sum += float64(lv.expSum(y[:n], x[:n], top))
		x, y = x[n:], y[n:]
	}
	return sum
}

// Normalize computes y[i] = (x[i]-mean)*inverse*scale[i] + shift[i]; shift may be nil. y may be x. It panics when the lengths differ.
func (w *Workspace) Normalize(y, x []float32, mean, inverse float32, scale, shift []float32) {
	if len(y) != len(x) || len(scale) != len(x) || shift != nil && len(shift) != len(x) {
		panic("kernel: vectors of different lengths")
	}
	if len(x) > 0 {
		w.vectors().normalize(y, x, mean, inverse, scale, shift)
	}
}

func (portable) normalize(y, x []float32, mean, inverse float32, scale, shift []float32) {
	for i, v := range x {
		y[i] = float32(float32((v-mean)*inverse) * scale[i])
	}
	for i, s := range shift {
		y[i] += s
	}
}

func (portable) sum(x []float32) float32 {
	var acc [64]float32
	for i, v := range x {
		acc[i%64] += v
	}
	return pairwise(&acc)
}

func (portable) squares(x []float32, mean float32) float32 {
	var acc [64]float32
	for i, v := range x {
		d := v - mean
		acc[i%64] += float32(d * d)
	}
	return pairwise(&acc)
}

// pairwise adds up partial sums: sixteens of neighbours first, then the halves of what remains.
func pairwise(acc *[64]float32) float32 {
	for i := range 16 {
		acc[i] = (acc[i] + acc[i+16]) + (acc[i+32] + acc[i+48])
	}
	return halves((*[16]float32)(acc[:]))
}

func halves(acc *[16]float32) float32 {
	for n := 8; n > 0; n /= 2 {
		for i := range n {
			acc[i] += acc[i+n]
		}
	}
	return acc[0]
}

func (portable) expSum(y, x []float32, top float32) float32 {
	var acc [16]float32
	for i, v := range x {
		e := exp(v - top)
		y[i] = e
		acc[i%16] += e
	}
	return halves(&acc)
}

func (portable) highest(x []float32) float32 {
	top := x[0]
	for _, v := range x[1:] {
		top = max(top, v)
	}
	return top
}
