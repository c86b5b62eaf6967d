package ops

import "idunno/models/internal/kernel"

// activationOf returns the function of package kernel that an operator of one input is, if it is one.
func activationOf(name string, a *attrs) kernel.Activation {
	f, ok := map[string]kernel.Func{
		"Relu": kernel.Relu, "LeakyRelu": kernel.LeakyRelu, "Elu": kernel.Elu, "HardSigmoid": kernel.HardSigmoid,
		"HardSwish": kernel.HardSwish, "Abs": kernel.Abs, "Neg": kernel.Neg, "Sqrt": kernel.Sqrt, "Reciprocal": kernel.Reciprocal,
		"Exp": kernel.Exp, "Sigmoid": kernel.Sigmoid, "Tanh": kernel.Tanh, "Erf": kernel.Erf, "Gelu": kernel.Gelu,
	}[name]
	if !ok {
		return kernel.Activation{}
	}
	act := kernel.Activation{Func: f}
	switch f {
	case kernel.LeakyRelu:
		act.Alpha = a.float("alpha", 0.01)
	case kernel.Elu:
		act.Alpha = a.float("alpha", 1)
	case kernel.HardSigmoid:
		act.Alpha, act.Beta = a.float("alpha", 0.2), a.float("beta", 0.5)
	case kernel.Gelu:
		if a.string("approximate", "none") == "tanh" {
			act.Func = kernel.GeluTanh
		}
	}
	return act
}

// merge joins neighbouring dimensions that two tensors walk through without a jump, and drops those of 1, in place.
func merge(shape, sa, sb []int) (s, a, b []int) {
	n := 0
	for i, d := range shape {
		if d == 1 {
			continue
		}
		if n > 0 && sa[n-1] == sa[i]*d && sb[n-1] == sb[i]*d {
			shape[n-1] *= d
			sa[n-1], sb[n-1] = sa[i], sb[i]
			continue
		}
		shape[n], sa[n], sb[n] = d, sa[i], sb[i]
		n++
	}
	return shape[:n], sa[:n], sb[:n]
}

// vectorRow computes a row of a binary function of package kernel and reports whether it could. The steps are 0 or 1.
func (b *binary) vectorRow(s *Scratch, x, y, z []float32, sx, sy int) bool {
	switch {
	case b.slope && sx == 1 && sy == 0:
		s.Gemm.Apply(kernel.Activation{Func: kernel.LeakyRelu, Alpha: y[0]}, z, x[:len(z)])
	case b.mixed && sx == 1 && sy == 0 && y[0] == 2:
		s.Gemm.Zip(kernel.Mul, z, x[:len(z)], x[:len(z)])
	case !b.vector:
		return false
	case sx == 1 && sy == 1:
		s.Gemm.Zip(b.op, z, x[:len(z)], y[:len(z)])
	case sx == 1 && sy == 0:
		s.Gemm.ZipScalar(b.op, z, x[:len(z)], y[0])
	case sx == 0 && sy == 1:
		s.Gemm.ScalarZip(b.op, z, x[0], y[:len(z)])
	default:
		return false
	}
	return true
}
