package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// partials is the number of partial sums: element i belongs to sum i modulo partials, on every level.
const partials = 64

// reduction walks n elements of x with partial results in registers, which it returns.
func (u unit) reduction(wide int, n reg.GPVirtual, moving []reg.Register, start Mem, body func(acc value, disp int, some *mask)) []value {
	acc := u.regs(wide / u.lanes)
	for _, a := range acc {
		VMOVUPS(start, a)
	}
	move := func(registers int) {
		for _, p := range moving {
			ADDQ(U32(u.bytes()*registers), p)
		}
		SUBQ(U32(u.lanes*registers), n)
	}
	Label("many")
	CMPQ(n, U32(wide))
	JLT(LabelRef("rest"))
	for i, a := range acc {
		body(a, u.bytes()*i, nil)
	}
	move(len(acc))
	JMP(LabelRef("many"))
	Label("rest")
	for i, a := range acc {
		next, part := fmt.Sprintf("rest%d", i+1), fmt.Sprintf("part%d", i)
		CMPQ(n, U32(u.lanes))
		JLT(LabelRef(part))
		body(a, 0, nil)
		move(1)
		JMP(LabelRef(next))
		Label(part)
		TESTQ(n, n)
		JZ(LabelRef("combine"))
		some := u.tail(n)
		body(a, 0, &some)
		JMP(LabelRef("combine"))
		Label(next)
	}
	Label("combine")
	return acc
}

// combine joins partial results, neighbours among sixteens first, then the halves of sixteen, eight, four and two, and returns.
func (u unit) combine(acc []value, join func(x, y, z reg.VecVirtual)) {
	per := 16 / u.lanes
	for len(acc) > per {
		var half []value
		for i := 0; i < len(acc); i += 2 * per {
			for j := range per {
				join(acc[i+j], acc[i+per+j], acc[i+j])
				half = append(half, acc[i+j])
			}
		}
		acc = half
	}
	y := YMM()
	if u.wide() {
		high := YMM()
		VEXTRACTF64X4(Imm(1), acc[0], high)
		join(acc[0].AsY().(reg.VecVirtual), high, y)
	} else {
		join(acc[0], acc[1], y)
	}
	x, other := XMM(), XMM()
	VEXTRACTF128(Imm(1), y, other)
	join(y.AsX().(reg.VecVirtual), other, x)
	VPERMILPS(Imm(0x4e), x, other)
	join(x, other, x)
	VPERMILPS(Imm(0xb1), x, other)
	join(x, other, x)
	Store(x, ReturnIndex(0))
	u.end()
}

func (u unit) reductions() {
	plus := func(x, y, z reg.VecVirtual) { VADDPS(y, x, z) }
	begin := func(name, params, doc string) (n reg.GPVirtual, x reg.Register) {
		u.text(name, "n int, x"+params, doc)
		return Load(Param("n"), GP64()).(reg.GPVirtual), Load(Param("x"), GP64())
	}

	n, x := begin("sum", " *float32) (s float32", "returns the sum of n elements, added up in the order of package kernel's sum.")
	u.combine(u.reduction(partials, n, []reg.Register{x}, u.num(0), func(acc value, disp int, some *mask) {
		VADDPS(u.get(Mem{Base: x, Disp: disp}, some), acc, acc)
	}), plus)

	n, x = begin("squares", " *float32, mean float32) (s float32", "returns the sum of the squares of x[i] - mean, i < n, added up like sum.")
	mean := u.param("mean")
	u.combine(u.reduction(partials, n, []reg.Register{x}, u.num(0), func(acc value, disp int, some *mask) {
		d := u.sub(u.get(Mem{Base: x, Disp: disp}, some), mean)
		if some != nil {
			d = u.keep(d, *some)
		}
		VADDPS(u.mul(d, d), acc, acc)
	}), plus)

	n, x = begin("expSum", ", y *float32, top float32) (s float32", "computes y[i] = exp(x[i] - top), i < n, and returns their sum, added up in 16 parts. y may be x.")
	y := Load(Param("y"), GP64())
	top := u.param("top")
	u.combine(u.reduction(16, n, []reg.Register{x, y}, u.num(0), func(acc value, disp int, some *mask) {
		e := u.exp(u.sub(u.get(Mem{Base: x, Disp: disp}, some), top))
		u.put(e, Mem{Base: y, Disp: disp}, some)
		if some != nil {
			e = u.keep(e, *some)
		}
		VADDPS(e, acc, acc)
	}), plus)

	n, x = begin("highest", " *float32) (s float32", "returns the greatest of n elements, NaN when one is, minus infinity when there are none.")
	least := u.bits(0xff800000)
	u.combine(u.reduction(64, n, []reg.Register{x}, least, func(acc value, disp int, some *mask) {
		v := u.get(Mem{Base: x, Disp: disp}, some)
		if some != nil {
			v = u.fill(v, *some, u.load(least))
		}
		higher(v, acc, acc)
	}), higher)
}

// higher is z = max(x, y), NaN when one is, for registers of any width. MAXPS gives its second operand when one is NaN. So asking both ways
// gives the same number twice or NaN at least once, and NaN stays NaN when bits are added.
func higher(x, y, z reg.VecVirtual) {
	var a, b reg.VecVirtual
	switch x.Size() {
	case 64:
		a, b = ZMM(), ZMM()
	case 32:
		a, b = YMM(), YMM()
	default:
		a, b = XMM(), XMM()
	}
	VMAXPS(y, x, a)
	VMAXPS(x, y, b)
	VORPS(a, b, z)
}
