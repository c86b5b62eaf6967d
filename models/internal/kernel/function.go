package kernel

import "math"

// Func is a function of one number.
type Func int

// The functions; alpha and beta are the parameters of an [Activation]. NaN stays NaN. Errors are the greatest against the exact result,
// over all numbers, in units of the last place (ulp); functions without one are exact or rounded at each step of the formula.
const (
	Identity    Func = iota
	Relu             // max(x, 0)
	Clip             // min(max(x, alpha), beta)
	LeakyRelu        // x, times alpha when negative
	Elu              // x, or alpha*(exp(x)-1) when negative: 3 ulp for alpha 1
	Linear           // alpha*x + beta, rounded twice
	Standard         // (x - alpha) * beta
	HardSigmoid      // min(max(alpha*x+beta, 0), 1)
	HardSwish        // x * min(max(x/6+0.5, 0), 1)
	Abs              // |x|
	Neg              // -x
	Sqrt             // the square root
	Reciprocal       // 1/x
	Exp              // exp(x): 1.5 ulp
	Sigmoid          // 1 / (1+exp(-x)): 3 ulp
	Tanh             // tanh(x): 4 ulp
	Erf              // erf(x): 6 ulp
	Silu             // x / (1+exp(-x)): 4 ulp (and 1e-43)
	Gelu             // x/2 * (1+erf(x/sqrt(2))): 2e-7 of |x|
	GeluTanh         // x/2 * (1+tanh(sqrt(2/pi)*(x+0.044715*x*x*x))): 2e-6 of the result (the argument is rounded)
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

// Apply computes dst[i] = act(x[i]); dst may be x. It panics when dst is shorter than x. The result is the same in every bit on every
// processor: no step fuses a multiplication with an addition.
func (w *Workspace) Apply(act Activation, dst, x []float32) {
	dst = dst[:len(x)]
	if len(x) == 0 {
		return
	}
	if act.Func == Identity {
		copy(dst, x)
		return
	}
	if act.isLimit() {
		act.Alpha, act.Beta = act.limits()
		act.Func = Clip
	}
	w.vectors().apply(act, dst, x)
}

// apply is the specification of the functions, step by step.
func (portable) apply(act Activation, dst, x []float32) {
	a, b := act.Alpha, act.Beta
	each := func(f func(float32) float32) {
		for i, v := range x {
			dst[i] = f(v)
		}
	}
	switch act.Func {
	case Clip:
		for i, v := range x {
			dst[i] = limit(v, a, b)
		}
	case LeakyRelu:
		each(func(v float32) float32 { return bySign(v, v*a, v) })
	case Elu:
		each(func(v float32) float32 { return bySign(v, expm1(limit(v, -25, 0))*a, v) })
	case Linear:
		for i, v := range x {
			dst[i] = float32(v*a) + b
		}
	case Standard:
		for i, v := range x {
			dst[i] = (v - a) * b
		}
	case HardSigmoid:
		each(func(v float32) float32 { return limit(float32(v*a)+b, 0, 1) })
	case HardSwish:
		each(func(v float32) float32 { return v * limit(float32(v*(1.0/6))+0.5, 0, 1) })
	case Abs:
		each(func(v float32) float32 { return math.Float32frombits(math.Float32bits(v) &^ signBit) })
	case Neg:
		each(func(v float32) float32 { return math.Float32frombits(math.Float32bits(v) ^ signBit) })
	case Sqrt:
		each(func(v float32) float32 { return float32(math.Sqrt(float64(v))) })
	case Reciprocal:
		each(func(v float32) float32 { return 1 / v })
	case Exp:
		each(exp)
	case Sigmoid:
		each(sigmoid)
	case Tanh:
		each(tanh)
	case Erf:
		each(erf)
	case Silu:
		each(func(v float32) float32 { return v * sigmoid(v) })
	case Gelu:
		each(func(v float32) float32 { return float32(v*0.5) * (erf(v*float32(1/math.Sqrt2)) + 1) })
	case GeluTanh:
		each(func(v float32) float32 {
			return v * sigmoid(float32(v*float32(2*math.Sqrt(2/math.Pi)))*(float32(float32(v*v)*0.044715)+1))
		})
	default:
		panic("kernel: unknown function")
	}
}

const signBit = 1 << 31

// limit is min(max(x, lo), hi); x itself when it is NaN or equals a limit.
func limit(x, lo, hi float32) float32 {
	if x < lo {
		x = lo
	}
	if x > hi {
		x = hi
	}
	return x
}

// bySign is a where the sign bit of s is set, else b.
func bySign(s, a, b float32) float32 {
	if math.Float32bits(s)&signBit != 0 {
		return a
	}
	return b
}

const (
	log2e   = float32(math.Log2E)
	magic   = float32(3 << 22) // added to a small number, leaves its nearest integer in the low bits
	ln2High = float32(0.693359375)
	ln2Low  = float32(math.Ln2 - 0.693359375)
)

// reduced is x as n*log(2) + r with |r| at most log(2)/2 (Cody and Waite, "Software Manual for the Elementary Functions", 1980): it
// returns n and p = exp(r) - 1, by a polynomial whose own error is 1e-8. The conversions forbid fused multiply-adds.
func reduced(x float32) (n int32, p float32) {
	bits := float32(x*log2e) + magic
	k := bits - magic
	r := x - float32(k*ln2High)
	r -= float32(k * ln2Low)
	q := float32(r*0.00139262134663) + 0.00836320297158
	q = float32(q*r) + 0.0416665544377
	q = float32(q*r) + 0.16666576846
	q = float32(q*r) + 0.5
	return int32(math.Float32bits(bits) - math.Float32bits(magic)), float32(float32(r*r)*q) + r
}

// power is 2 to the n, for -126 <= n <= 127.
func power(n int32) float32 { return math.Float32frombits(uint32(n+127) << 23) }

func exp(x float32) float32 {
	n, p := reduced(limit(x, -104, 89))
	// In two steps of half the exponent: 2 to the n need not be a normal number.
	half := n >> 1
	return float32((p+1)*power(half)) * power(n-half)
}

// expm1 is exp(x) - 1 for x in -25..0.
func expm1(x float32) float32 {
	n, p := reduced(x)
	s := power(n)
	return float32(p*s) + (s - 1)
}

func sigmoid(x float32) float32 {
	e := exp(math.Float32frombits(math.Float32bits(x) | signBit))
	return bySign(x, e, 1) / (e + 1)
}

func tanh(x float32) float32 {
	a := math.Float32frombits(math.Float32bits(x) &^ signBit)
	if a > 9.1 { // where it rounds to 1
		a = 9.1
	}
	e := expm1(a * -2)
	y := -e / (e + 2)
	return math.Float32frombits(math.Float32bits(y) | math.Float32bits(x)&signBit)
}

// erf is a rational function, fitted for the least relative error (2e-8) up to 3.925, where it rounds to 1.
func erf(x float32) float32 {
	c := limit(x, -3.925, 3.925)
	t := c * c
	p := float32(t*2.04579444347e-6) + 0.000284758916513
	p = float32(p*t) + 0.00377068462829
	p = float32(p*t) + 0.0527635690685
	p = float32(p*t) + 0.190556375332
	p = float32(p*t) + 1.12837914644
	q := float32(t*3.80408389528e-5) + 0.00116332174304
	q = float32(q*t) + 0.0149795580534
	q = float32(q*t) + 0.11416654482
	q = float32(q*t) + 0.502208936744
	q = float32(q*t) + 1
	return limit(float32(c*p)/q, -1, 1)
}
