package kernel

import "math"

// Func is a function of one number.
type Func int

// The functions; alpha and beta are the parameters of an [Activation]. NaN stays NaN.
const (
	Identity Func = iota
	Relu          // max(x, 0)
	Clip          // min(max(x, alpha), beta)
)

// Activation is a function with its parameters.
type Activation struct {
	Func        Func
	Alpha, Beta float32
}

// isLimit says whether limits is all there is to the function.
func (a Activation) isLimit() bool { return a.Func == Identity || a.Func == Relu || a.Func == Clip }

// limits returns what the results are limited to, if that is all there is to the function; else no limits.
func (a Activation) limits() (lo, hi float32) {
	inf := float32(math.Inf(1))
	switch a.Func {
	case Relu:
		return 0, inf
	case Clip:
		return a.Alpha, a.Beta
	}
	return -inf, inf
}

// Apply computes dst[i] = act(x[i]); dst may be x.
func (w *Workspace) Apply(act Activation, dst, x []float32) {
	lo, hi := act.limits()
	for i, v := range x {
		if v < lo {
			v = lo
		}
		if v > hi {
			v = hi
		}
		dst[i] = v
	}
}
