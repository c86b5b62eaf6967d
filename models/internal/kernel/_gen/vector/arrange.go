package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// normalize scales the elements of a row, each by a factor of its own.
func (u unit) normalize() {
	for _, biased := range []bool{false, true} {
		name, params, doc := "scale", "n int, x, y, scale *float32, mean, inverse float32", "(x[i]-mean)*inverse*scale[i]"
		if biased {
			name, params, doc = "scaleShift", "n int, x, y, scale, shift *float32, mean, inverse float32", doc+" + shift[i]"
		}
		u.text(name, params, "computes y[i] = "+doc+" for i < n. y may be x.")
		n := Load(Param("n"), GP64()).(reg.GPVirtual)
		x, y, scale := Load(Param("x"), GP64()), Load(Param("y"), GP64()), Load(Param("scale"), GP64())
		moving := []reg.Register{x, y, scale}
		var shift reg.Register
		if biased {
			shift = Load(Param("shift"), GP64())
			moving = append(moving, shift)
		}
		mean, inverse := u.param("mean"), u.param("inverse")
		u.along(n, 2, moving, func(disp int, some *mask) {
			v := u.mul(u.sub(u.get(Mem{Base: x, Disp: disp}, some), mean), inverse)
			v = u.mul(v, u.get(Mem{Base: scale, Disp: disp}, some))
			if biased {
				v = u.add(v, u.get(Mem{Base: shift, Disp: disp}, some))
			}
			u.put(v, Mem{Base: y, Disp: disp}, some)
		})
		u.end()
	}
}

// unzip takes a row apart.
func (u unit) unzip() {
	u.text("unzip", "blocks int, x, even, odd *float32", "computes even[i] = x[2*i], odd[i] = x[2*i+1] for i < blocks times the lanes. blocks must be at least 1.")
	n := Load(Param("blocks"), GP64())
	x, even, odd := Load(Param("x"), GP64()), Load(Param("even"), GP64()), Load(Param("odd"), GP64())
	var e, o value
	if u.wide() {
		e, o = u.load(evenLanes()), u.load(oddLanes())
	}
	Label("block")
	a, b := u.load(Mem{Base: x}), u.load(Mem{Base: x, Disp: u.bytes()})
	first, second := u.everySecond(a, b, e, 0x88), u.everySecond(a, b, o, 0xdd)
	VMOVUPS(first, Mem{Base: even})
	VMOVUPS(second, Mem{Base: odd})
	ADDQ(U32(2*u.bytes()), x)
	ADDQ(U32(u.bytes()), even)
	ADDQ(U32(u.bytes()), odd)
	DECQ(n)
	JNZ(LabelRef("block"))
	u.end()
}

// everySecond takes every second lane of two registers: those that the table says, or for 8 lanes what the shuffle does in each half.
func (u unit) everySecond(a, b, table value, shuffle uint64) value {
	y := u.reg()
	if u.wide() {
		VMOVAPS(a, y)
		VPERMT2PS(b, table, y)
		return y
	}
	VSHUFPS(Imm(shuffle), b, a, y)
	VPERMPD(Imm(0xd8), y, y) // the halves of 128 bits were shuffled apart
	return y
}

// greatest writes the maxima of three, NaN when one is.
func (u unit) greatest() {
	u.text("greatest", "n int, a, b, c, y *float32", "computes y[i] = max(a[i], b[i], c[i]), NaN when one is, for i < n.")
	n := Load(Param("n"), GP64()).(reg.GPVirtual)
	a, b, c := Load(Param("a"), GP64()), Load(Param("b"), GP64()), Load(Param("c"), GP64())
	y := Load(Param("y"), GP64())
	u.along(n, 1, []reg.Register{a, b, c, y}, func(disp int, some *mask) {
		v := u.greater(u.get(Mem{Base: a, Disp: disp}, some), u.get(Mem{Base: b, Disp: disp}, some))
		u.put(u.greater(v, u.get(Mem{Base: c, Disp: disp}, some)), Mem{Base: y, Disp: disp}, some)
	})
	u.end()

	u.text("greatestBy2", "n int, x, y *float32", "computes y[i] = max(x[2*i], x[2*i+1], x[2*i+2]), NaN when one is, for i < n. Up to four registers behind these of x are read.")
	n = Load(Param("n"), GP64()).(reg.GPVirtual)
	x := Load(Param("x"), GP64())
	y = Load(Param("y"), GP64())
	var e, o value
	if u.wide() {
		e, o = u.load(evenLanes()), u.load(oddLanes())
	}
	u.along(n, 1, []reg.Register{x, y}, func(_ int, some *mask) {
		p, q := u.load(Mem{Base: x}), u.load(Mem{Base: x, Disp: u.bytes()})
		v := u.greater(u.everySecond(p, q, e, 0x88), u.everySecond(p, q, o, 0xdd))
		p, q = u.load(Mem{Base: x, Disp: 8}), u.load(Mem{Base: x, Disp: 8 + u.bytes()})
		u.put(u.greater(v, u.everySecond(p, q, e, 0x88)), Mem{Base: y}, some)
		if some == nil {
			ADDQ(U32(u.bytes()), x) // two of x for one of y
		}
	})
	u.end()
}

// transpose turns 8 rows into 8 columns. It is bound by shuffles and stores; wider registers do not help.
func (u unit) transpose() {
	u.text("turn", "blocks int, x *float32, ldx int, y *float32, ldy int", "computes y[i*ldy+j] = x[j*ldx+i] for j < 8 and i < 8*blocks. blocks must be at least 1.")
	n := Load(Param("blocks"), GP64())
	x, y := Load(Param("x"), GP64()), Load(Param("y"), GP64())
	ldx, ldy := Load(Param("ldx"), GP64()), Load(Param("ldy"), GP64())
	SHLQ(Imm(2), ldx)
	SHLQ(Imm(2), ldy)
	three, three2, high := GP64(), GP64(), GP64()
	LEAQ(Mem{Base: ldx, Index: ldx, Scale: 2}, three)
	LEAQ(Mem{Base: ldy, Index: ldy, Scale: 2}, three2)
	row := func(i int, base, ld, three reg.Register, disp int) Mem {
		m := Mem{Base: base, Disp: disp}
		switch i {
		case 1, 2:
			m.Index, m.Scale = ld, uint8(i)
		case 3:
			m.Index, m.Scale = three, 1
		}
		return m
	}
	LEAQ(Mem{Base: x, Index: ldx, Scale: 4}, high)
	Label("block")
	// Halves of columns are joined while loading; then two 4 x 4 matrices a register group remain.
	for h := range 2 {
		var t [4]value
		for i := range t {
			t[i] = YMM()
			VMOVUPS(row(i, x, ldx, three, 16*h), t[i].AsX())
			VINSERTF128(Imm(1), row(i, high, ldx, three, 16*h), t[i], t[i])
		}
		a, b, c, d := YMM(), YMM(), YMM(), YMM()
		VUNPCKLPS(t[1], t[0], a)
		VUNPCKHPS(t[1], t[0], b)
		VUNPCKLPS(t[3], t[2], c)
		VUNPCKHPS(t[3], t[2], d)
		e := [4]value{YMM(), YMM(), YMM(), YMM()}
		VUNPCKLPD(c, a, e[0])
		VUNPCKHPD(c, a, e[1])
		VUNPCKLPD(d, b, e[2])
		VUNPCKHPD(d, b, e[3])
		for i := range e {
			VMOVUPS(e[i], row(i, y, ldy, three2, 0))
		}
		LEAQ(Mem{Base: y, Index: ldy, Scale: 4}, y)
	}
	ADDQ(Imm(32), x)
	ADDQ(Imm(32), high)
	DECQ(n)
	JNZ(LabelRef("block"))
	u.end()
}
