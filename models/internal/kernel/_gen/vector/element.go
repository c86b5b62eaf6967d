package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// along writes the loop over n elements, width registers a round. body gets the displacement of a register and, for the last elements,
// their mask.
func (u unit) along(n reg.GPVirtual, width int, moving []reg.Register, body func(disp int, some *mask)) {
	move := func(registers int) {
		for _, p := range moving {
			ADDQ(U32(u.bytes()*registers), p)
		}
		SUBQ(U32(u.lanes*registers), n)
	}
	for _, w := range []int{width, 1}[map[bool]int{true: 1}[width == 1]:] {
		name := map[bool]string{true: "one", false: "many"}[w == 1]
		Label(name)
		CMPQ(n, U32(w*u.lanes))
		JLT(LabelRef(name + "End"))
		for i := range w {
			body(u.bytes()*i, nil)
		}
		move(w)
		JMP(LabelRef(name))
		Label(name + "End")
	}
	TESTQ(n, n)
	JZ(LabelRef("done"))
	some := u.tail(n)
	body(0, &some)
	Label("done")
}

func (u unit) get(m Mem, some *mask) value {
	if some != nil {
		return u.maskLoad(m, *some)
	}
	return u.load(m)
}

func (u unit) put(y value, m Mem, some *mask) {
	if some != nil {
		u.maskStore(y, m, *some)
	} else {
		VMOVUPS(y, m)
	}
}

// param broadcasts a parameter of the function.
func (u unit) param(name string) value {
	p, err := Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	return u.broadcast(p.Addr)
}

// unary writes y[i] = f(x[i]).
func (u unit) unary(name, doc string, width int, f func(x value) value) {
	u.parametric(name, doc, "", width, func() func(value) value { return f })
}

// parametric is unary with parameters, which prepare loads.
func (u unit) parametric(name, doc, params string, width int, prepare func() func(value) value) {
	u.text(name, "n int, x, y *float32"+params, "computes y[i] = "+doc+" for i < n, in package kernel's steps. y may be x.")
	n := Load(Param("n"), GP64()).(reg.GPVirtual)
	x := Load(Param("x"), GP64())
	y := Load(Param("y"), GP64())
	f := prepare()
	u.along(n, width, []reg.Register{x, y}, func(disp int, some *mask) {
		u.put(f(u.get(Mem{Base: x, Disp: disp}, some)), Mem{Base: y, Disp: disp}, some)
	})
	u.end()
}

func (u unit) functions() {
	u.parametric("clip", "min(max(x[i], alpha), beta), x[i] when it is NaN,", ", alpha, beta float32", 4, func() func(value) value {
		lo, hi := u.param("alpha"), u.param("beta")
		return func(x value) value { return u.limit(x, lo, hi) }
	})
	u.parametric("leaky", "x[i], times alpha where the sign bit is set,", ", alpha float32", 4, func() func(value) value {
		alpha := u.param("alpha")
		return func(x value) value { return u.bySign(x, u.mul(x, alpha), x) }
	})
	u.parametric("linear", "alpha*x[i] + beta", ", alpha, beta float32", 4, func() func(value) value {
		alpha, beta := u.param("alpha"), u.param("beta")
		return func(x value) value { return u.add(u.mul(x, alpha), beta) }
	})
	u.parametric("standard", "(x[i] - alpha) * beta", ", alpha, beta float32", 4, func() func(value) value {
		alpha, beta := u.param("alpha"), u.param("beta")
		return func(x value) value { return u.mul(u.sub(x, alpha), beta) }
	})
	u.parametric("hardSigmoid", "min(max(alpha*x[i]+beta, 0), 1)", ", alpha, beta float32", 2, func() func(value) value {
		alpha, beta := u.param("alpha"), u.param("beta")
		zero, one := u.load(u.num(0)), u.load(u.num(1))
		return func(x value) value { return u.limit(u.add(u.mul(x, alpha), beta), zero, one) }
	})
	u.unary("hardSwish", "x[i] * min(max(x[i]/6+0.5, 0), 1)", 2, func(x value) value {
		h := u.add(u.mul(x, u.num(1.0/6)), u.num(0.5))
		return u.mul(x, u.limit(h, u.load(u.num(0)), u.load(u.num(1))))
	})
	u.parametric("elu", "x[i], or alpha*(exp(x[i])-1) where the sign bit is set,", ", alpha float32", 1, func() func(value) value {
		alpha := u.param("alpha")
		return func(x value) value {
			e := u.expm1(u.limit(x, u.load(u.num(-25)), u.load(u.num(0))))
			return u.bySign(x, u.mul(e, alpha), x)
		}
	})
	u.unary("abs", "|x[i]|", 4, func(x value) value { return u.and(x, u.bits(1<<31-1)) })
	u.unary("neg", "-x[i]", 4, func(x value) value { return u.xor(x, u.bits(1<<31)) })
	u.unary("sqrt", "the square root of x[i]", 1, func(x value) value { y := u.reg(); VSQRTPS(x, y); return y })
	u.unary("reciprocal", "1 / x[i]", 1, func(x value) value { return u.div(u.load(u.num(1)), x) })
	u.unary("exp", "exp(x[i])", 1, u.exp)
	u.unary("sigmoid", "1 / (1 + exp(-x[i]))", 1, u.sigmoid)
	u.unary("tanh", "tanh(x[i])", 1, u.tanh)
	u.unary("erf", "erf(x[i])", 1, u.erf)
	u.unary("silu", "x[i] / (1 + exp(-x[i]))", 1, func(x value) value { return u.mul(x, u.sigmoid(x)) })
	u.unary("gelu", "x[i]/2 * (1 + erf(x[i]/sqrt(2)))", 1, func(x value) value {
		e := u.erf(u.mul(x, u.num(float32(1/math.Sqrt2))))
		return u.mul(u.mul(x, u.num(0.5)), u.add(e, u.num(1)))
	})
	u.unary("geluTanh", "x[i]/2 * (1 + tanh(sqrt(2/pi)*(x[i]+0.044715*x[i]^3)))", 1, func(x value) value {
		k := u.add(u.mul(u.mul(x, x), u.num(0.044715)), u.num(1))
		return u.mul(x, u.sigmoid(u.mul(u.mul(x, u.num(float32(2*math.Sqrt(2/math.Pi)))), k)))
	})
}

// pairs writes the functions of two numbers: of two vectors, of a vector and a number, and of a number and a vector.
func (u unit) pairs() {
	for _, op := range []struct {
		name, doc string
		f         func(x value, y Op) value
	}{
		{"add", "+", u.add}, {"sub", "-", u.sub}, {"mul", "*", u.mul}, {"div", "/", u.div},
		{"max", "or, if greater,", u.greater}, {"min", "or, if less,", u.less},
	} {
		u.pair(op.name+"VV", "x, y", "x[i] "+op.doc+" y[i]", func(x, y value) value { return op.f(x, y) })
		u.pair(op.name+"VS", "x", "x[i] "+op.doc+" s", func(x, s value) value { return op.f(x, s) })
		if op.name != "add" && op.name != "mul" {
			u.pair(op.name+"SV", "x", "s "+op.doc+" x[i]", func(x, s value) value { return op.f(s, x) })
		}
	}
}

func (u unit) pair(name, vectors, doc string, f func(x, y value) value) {
	params := "n int, " + vectors + ", z *float32"
	if vectors == "x" {
		params += ", s float32"
	}
	u.text(name, params, "computes z[i] = "+doc+" for i < n. z may be x or y.")
	n := Load(Param("n"), GP64()).(reg.GPVirtual)
	x := Load(Param("x"), GP64())
	z := Load(Param("z"), GP64())
	moving := []reg.Register{x, z}
	var s value
	var y reg.Register
	if vectors == "x" {
		s = u.param("s")
	} else {
		y = Load(Param("y"), GP64())
		moving = append(moving, y)
	}
	u.along(n, 4, moving, func(disp int, some *mask) {
		second := s
		if y != nil {
			second = u.get(Mem{Base: y, Disp: disp}, some)
		}
		u.put(f(u.get(Mem{Base: x, Disp: disp}, some), second), Mem{Base: z, Disp: disp}, some)
	})
	u.end()
}
