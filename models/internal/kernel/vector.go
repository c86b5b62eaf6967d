package kernel

// vectorLevel is one implementation of the loops beside the products: those that walk along vectors. Every slice is at least as long as said,
// and nothing behind that length is touched. An element's value depends neither on its place nor on the length, and where no sum of
// products is involved the implementations agree in every bit.
type vectorLevel interface {
	name() string
	lanes() int // float32 in a register; 0 when there is no depthwise
	// taps computes y[j] = end.clip(end.bias + sum over p of weights[p]*x[off[p]+j]) for j < n, p ascending.
	taps(off []uint32, weights []float32, n int, x, y []float32, end *depthwiseEnd)
	// depthwise does c for a window of size x size, 3 or 5, with a stride of 1 or 2.
	depthwise(size, stride int, c *depthwiseColumn)

	// The others are their namesakes of Workspace, for vectors of at least one element.

	apply(act Activation, dst, x []float32) // limits are Clip
	zip(op BinaryOp, which operands, dst, x, y []float32, s float32)
	bytes(dst []float32, src []byte) int // for as many as it can; it returns their number
	sum(x []float32) float32
	squares(x []float32, mean float32) float32
	expSum(y, x []float32, top float32) float32
	highest(x []float32) float32
	normalize(y, x []float32, mean, inverse float32, scale, shift []float32)
	unzip(even, odd, x []float32) int // for as many pairs as it can; it returns their number
	// greatest computes dst[i] = max(x[i], y[i], z[i]), greatestBy2 dst[i] = max(x[2*i], x[2*i+1], x[2*i+2]) of an x that is windowMargin
	// longer than that; NaN when one is.
	greatest(dst, x, y, z []float32)
	greatestBy2(dst, x []float32)
	transpose(dst []float32, ldd int, src []float32, lds, rows, cols int)
}

// vectors lists what this processor can run, the best last.
func vectors() []vectorLevel { return append([]vectorLevel{portable{}}, simdVectors()...) }

func bestVector() vectorLevel {
	v := vectors()
	return v[len(v)-1]
}

func (w *Workspace) vectors() vectorLevel {
	if w.vector == nil {
		w.vector = bestVector()
	}
	return w.vector
}

// portable is the vector level in plain Go.
type portable struct{}

func (portable) name() string { return "portable" }
func (portable) lanes() int   { return 0 }
