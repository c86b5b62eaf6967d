package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// value is a register of numbers in an expression.
type value = reg.VecVirtual

// constants are the tables of one constant in every lane, by the bits of the constant.
var constants = map[uint32]Mem{}

// bits is a constant as an operand: a register full of it, in memory.
func (u unit) bits(b uint32) Mem {
	if m, ok := constants[b]; ok {
		return m
	}
	m := GLOBL(fmt.Sprintf("constant%08x", b), RODATA|NOPTR)
	for i := range u.lanes {
		DATA(4*i, U32(b))
	}
	constants[b] = m
	return m
}

func (u unit) num(x float32) Mem { return u.bits(math.Float32bits(x)) }

func (u unit) add(a value, b Op) value { y := u.reg(); VADDPS(b, a, y); return y }
func (u unit) sub(a value, b Op) value { y := u.reg(); VSUBPS(b, a, y); return y }
func (u unit) mul(a value, b Op) value { y := u.reg(); VMULPS(b, a, y); return y }
func (u unit) div(a value, b Op) value { y := u.reg(); VDIVPS(b, a, y); return y }
func (u unit) and(a value, b Op) value { y := u.reg(); VANDPS(b, a, y); return y }
func (u unit) or(a value, b Op) value  { y := u.reg(); VORPS(b, a, y); return y }
func (u unit) xor(a value, b Op) value { y := u.reg(); VXORPS(b, a, y); return y }

// limit is min(max(x, lo), hi), x itself when it is NaN or equal to a limit.
func (u unit) limit(x, lo, hi value) value { return u.atMost(u.atLeast(x, lo), hi) }

// The second operand of MAXPS and MINPS, avo's first, is the answer when one is NaN.
func (u unit) atLeast(x, lo value) value { y := u.reg(); VMAXPS(x, lo, y); return y }
func (u unit) atMost(x, hi value) value  { y := u.reg(); VMINPS(x, hi, y); return y }

// bySign is a where the sign bit of s is set, else b.
func (u unit) bySign(s, a, b value) value {
	y := u.reg()
	if u.wide() {
		k := K()
		VPMOVD2M(s, k)
		VBLENDMPS(a, b, k, y)
	} else {
		VBLENDVPS(s, a, b, y)
	}
	return y
}

// greater is x when it is NaN or greater than y, else y; less likewise.
func (u unit) greater(x value, y Op) value { return u.extreme(x, y, VMAXPS) }
func (u unit) less(x value, y Op) value    { return u.extreme(x, y, VMINPS) }

func (u unit) extreme(x value, y Op, op func(...Op)) value {
	m := u.reg()
	op(y, x, m)
	if u.wide() {
		k := K()
		VCMPPS(Imm(3), x, x, k)
		VMOVAPS(x, k, m)
		return m
	}
	nan, r := u.reg(), u.reg()
	VCMPPS(Imm(3), x, x, nan)
	VBLENDVPS(nan, x, m, r)
	return r
}

// keep clears the lanes that are not in the mask.
func (u unit) keep(x value, k mask) value {
	y := u.reg()
	if u.wide() {
		VMOVAPS_Z(x, k.r, y)
	} else {
		VANDPS(k.r, x, y)
	}
	return y
}

// fill replaces the lanes that are not in the mask.
func (u unit) fill(x value, k mask, by value) value {
	y := u.reg()
	if u.wide() {
		VBLENDMPS(x, by, k.r, y)
	} else {
		VBLENDVPS(k.r, x, by, y)
	}
	return y
}

// polynomial is c[0] + c[1]*x + ..., by Horner's rule, without fused multiply-adds so that plain Go gives the same bits.
func (u unit) polynomial(x value, c ...float32) value {
	y := u.add(u.mul(x, u.num(c[len(c)-1])), u.num(c[len(c)-2]))
	for i := len(c) - 3; i >= 0; i-- {
		y = u.add(u.mul(y, x), u.num(c[i]))
	}
	return y
}

const (
	log2e   = float32(math.Log2E)
	magic   = float32(3 << 22) // added to a small number, leaves its nearest integer in the low bits
	ln2High = float32(0.693359375)
	ln2Low  = float32(math.Ln2 - 0.693359375)
)

// reduced is x as n*log(2) + r with |r| at most log(2)/2; bits holds n in its low bits, p is exp(r) - 1.
func (u unit) reduced(x value) (n, bits, p value) {
	bits = u.add(u.mul(x, u.num(log2e)), u.num(magic))
	n = u.sub(bits, u.num(magic))
	r := u.sub(x, u.mul(n, u.num(ln2High)))
	r = u.sub(r, u.mul(n, u.num(ln2Low)))
	q := u.polynomial(r, 0.5, 0.16666576846, 0.0416665544377, 0.00836320297158, 0.00139262134663)
	return n, bits, u.add(u.mul(u.mul(r, r), q), r)
}

func (u unit) exp(x value) value {
	n, bits, p := u.reduced(u.limit(x, u.load(u.num(-104)), u.load(u.num(89))))
	p = u.add(p, u.num(1))
	if u.wide() {
		y := u.reg()
		VSCALEFPS(n, p, y)
		return y
	}
	// In two steps of half the exponent: 2 to the n need not be a normal number.
	i, half := u.reg(), u.reg()
	VPSUBD(u.num(magic), bits, i)
	VPSRAD(Imm(1), i, half)
	VPSUBD(half, i, i)
	return u.mul(u.mul(p, u.power(half)), u.power(i))
}

// power is 2 to the i, for an integer i.
func (u unit) power(i value) value {
	y := u.reg()
	VPADDD(u.bits(127), i, y)
	VPSLLD(Imm(23), y, y)
	return y
}

// expm1 is exp(x) - 1 for x in -25..0.
func (u unit) expm1(x value) value {
	_, bits, p := u.reduced(x)
	i := u.reg()
	VPSUBD(u.num(magic), bits, i)
	s := u.power(i)
	return u.add(u.mul(p, s), u.sub(s, u.num(1)))
}

func (u unit) sigmoid(x value) value {
	e := u.exp(u.or(x, u.bits(1<<31)))
	one := u.load(u.num(1))
	return u.div(u.bySign(x, e, one), u.add(e, one))
}

func (u unit) tanh(x value) value {
	a := u.atMost(u.and(x, u.bits(1<<31-1)), u.load(u.num(9.1)))
	e := u.expm1(u.mul(a, u.num(-2)))
	y := u.div(u.xor(e, u.bits(1<<31)), u.add(e, u.num(2)))
	return u.or(y, u.and(x, u.bits(1<<31)))
}

func (u unit) erf(x value) value {
	c := u.limit(x, u.load(u.num(-3.925)), u.load(u.num(3.925)))
	t := u.mul(c, c)
	p := u.polynomial(t, 1.12837914644, 0.190556375332, 0.0527635690685, 0.00377068462829, 0.000284758916513, 2.04579444347e-6)
	q := u.polynomial(t, 1, 0.502208936744, 0.11416654482, 0.0149795580534, 0.00116332174304, 3.80408389528e-5)
	return u.limit(u.div(u.mul(c, p), q), u.load(u.num(-1)), u.load(u.num(1)))
}
