package ops

import (
	"math"

	"idunno/models/internal/kernel"
)

// in64 lifts a function of package math.
func in64(f func(float64) float64) func(*attrs) func(float32) float32 {
	return func(*attrs) func(float32) float32 {
		return func(x float32) float32 { return float32(f(float64(x))) }
	}
}

// unaries maps the name of an operator to what makes its function from the attributes.
func unaries() map[string]func(*attrs) func(float32) float32 {
	return map[string]func(*attrs) func(float32) float32{
		"Abs":        in64(math.Abs),
		"Acos":       in64(math.Acos),
		"Acosh":      in64(math.Acosh),
		"Asin":       in64(math.Asin),
		"Asinh":      in64(math.Asinh),
		"Atan":       in64(math.Atan),
		"Atanh":      in64(math.Atanh),
		"Cosh":       in64(math.Cosh),
		"Sinh":       in64(math.Sinh),
		"Tan":        in64(math.Tan),
		"Ceil":       in64(math.Ceil),
		"Cos":        in64(math.Cos),
		"Erf":        in64(math.Erf),
		"Exp":        in64(math.Exp),
		"Floor":      in64(math.Floor),
		"Log":        in64(math.Log),
		"Neg":        in64(func(x float64) float64 { return -x }),
		"Reciprocal": in64(func(x float64) float64 { return 1 / x }),
		"Round":      in64(math.RoundToEven),
		"Sigmoid":    in64(sigmoid),
		"Sign":       in64(sign),
		"Sin":        in64(math.Sin),
		"Softplus":   in64(softplus),
		"Softsign":   in64(func(x float64) float64 { return x / (1 + math.Abs(x)) }),
		"Sqrt":       in64(math.Sqrt),
		"Tanh":       in64(math.Tanh),
		"HardSwish": in64(func(x float64) float64 {
			return x * max(0, min(1, x/6+0.5))
		}),
	}
}

// activations maps the activation functions, most of which have parameters, like unaries.
func activations() map[string]func(*attrs) func(float32) float32 {
	return map[string]func(*attrs) func(float32) float32{
		"Relu": func(*attrs) func(float32) float32 {
			return func(x float32) float32 { return max(x, 0) }
		},
		"HardSigmoid": func(a *attrs) func(float32) float32 {
			alpha, beta := a.float("alpha", 0.2), a.float("beta", 0.5)
			return func(x float32) float32 { return max(0, min(1, alpha*x+beta)) }
		},
		"LeakyRelu": func(a *attrs) func(float32) float32 {
			alpha := a.float("alpha", 0.01)
			return func(x float32) float32 { return prelu(x, alpha) }
		},
		"Elu": func(a *attrs) func(float32) float32 {
			alpha := a.float("alpha", 1)
			return func(x float32) float32 {
				if x < 0 {
					return alpha * float32(math.Expm1(float64(x)))
				}
				return x
			}
		},
		"Celu": func(a *attrs) func(float32) float32 {
			alpha := float64(a.float("alpha", 1))
			return func(x float32) float32 {
				if x < 0 {
					return float32(alpha * math.Expm1(float64(x)/alpha))
				}
				return x
			}
		},
		"Gelu": gelu,
		"Mish": in64(func(x float64) float64 { return x * math.Tanh(softplus(x)) }),
		"Shrink": func(a *attrs) func(float32) float32 {
			bias, lambda := a.float("bias", 0), a.float("lambd", 0.5)
			return func(x float32) float32 {
				switch {
				case x < -lambda:
					return x + bias
				case x > lambda:
					return x - bias
				}
				return 0
			}
		},
		"ThresholdedRelu": func(a *attrs) func(float32) float32 {
			alpha := a.float("alpha", 1)
			return func(x float32) float32 {
				if x > alpha {
					return x
				}
				return 0
			}
		},
		"Selu": func(a *attrs) func(float32) float32 {
			alpha, gamma := a.float("alpha", 1.67326319217681884765625), a.float("gamma", 1.05070102214813232421875)
			return func(x float32) float32 {
				if x < 0 {
					return gamma * alpha * float32(math.Expm1(float64(x)))
				}
				return gamma * x
			}
		},
	}
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// gelu is the Gaussian error linear unit (Hendrycks, Gimpel 2016), exact or by its approximation.
func gelu(a *attrs) func(float32) float32 {
	switch v := a.string("approximate", "none"); v {
	case "none":
		return func(x float32) float32 { return float32(float64(x) * (1 + math.Erf(float64(x)/math.Sqrt2)) / 2) }
	case "tanh":
	default:
		a.fail("approximate is %q", v)
	}
	return func(v float32) float32 {
		x := float64(v)
		return float32(x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x))) / 2)
	}
}

func softplus(x float64) float64 { return max(x, 0) + math.Log1p(math.Exp(-math.Abs(x))) }

func sign(x float64) float64 {
	switch {
	case x > 0:
		return 1
	case x < 0:
		return -1
	}
	return x
}

// unary applies a function to every element.
type unary struct {
	f     func(float32) float32
	whole func(int64) int64 // the same for integers; nil when ONNX defines none
	act   kernel.Activation // the same as f where package kernel has it, else the identity
}

func (u *unary) Shape(in []*Tensor, out []Spec) error {
	out[0].set(in[0].DType, in[0].Shape...)
	if u.whole != nil && in[0].DType.IsInt() {
		return nil
	}
	return needFloat(in, 0)
}

func (u *unary) Cost(in []*Tensor, _ []Spec) (int64, int64) { return int64(in[0].Len()), 0 }

func (u *unary) Run(s *Scratch, in, out []*Tensor) {
	dst := out[0].F
	if u.act.Func != kernel.Identity && in[0].F != nil {
		s.Gemm.Apply(u.act, dst, in[0].F)
		return
	}
	for i, v := range in[0].F {
		dst[i] = u.f(v)
	}
	for i, v := range in[0].I {
		out[0].I[i] = out[0].DType.Wrap(u.whole(v))
	}
}

// wholes are the unary operators that integers have too.
func wholes(name string) func(int64) int64 {
	switch name {
	case "Neg":
		return func(x int64) int64 { return -x }
	case "Abs":
		return func(x int64) int64 { return max(x, -x) }
	case "Sign":
		return func(x int64) int64 { return min(max(x, -1), 1) }
	}
	return nil
}
