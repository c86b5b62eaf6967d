package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// winogradIn transforms 4 x 4 places of the image to 16 elements, for two times
// eight tiles, which may be anywhere. A register holds one row of two of them; so
// rows are combined before, columns after four registers are transposed.
func winogradIn() {
	TEXT("winogradIn", NOSPLIT, "func(c int, x *float32, plane, width int, at *int32, v *float32)")
	Doc("winogradIn transforms 16 tiles of c channels: v[(e*c+i)*16+j] is element e of B'dB, where d is the 4 x 4 places of x from",
		"at[j]+i*plane on, width apart from row to row. c must be at least 1.")
	Pragma("noescape")
	c := Load(Param("c"), GP64())
	x := Load(Param("x"), GP64())
	plane := Load(Param("plane"), GP64())
	width := Load(Param("width"), GP64())
	at := Load(Param("at"), GP64())
	v := Load(Param("v"), GP64())
	SHLQ(Imm(2), plane)          // in bytes
	one, three := GP64(), GP64() // bytes from one element e to the next, and three times as much
	MOVQ(c, one)
	SHLQ(Imm(6), one)
	LEAQ(Mem{Base: one, Index: one, Scale: 2}, three)
	line := [4]reg.Register{x, GP64(), GP64(), GP64()} // the rows of the image
	for r := 1; r < 4; r++ {
		LEAQ(Mem{Base: line[r-1], Index: width, Scale: 4}, line[r])
	}
	p := GP64()
	Label("channel")
	for h := range 2 {
		MOVQ(v, p)
		first, _ := combine(line, at, h, 0, 2, false)
		columns(first, p, one, three, h)
		second, third := combine(line, at, h, 1, 2, true)
		columns(second, p, one, three, h)
		columns(third, p, one, three, h)
		last, _ := combine(line, at, h, 1, 3, false)
		columns(last, p, one, three, h)
	}
	for r := range line {
		ADDQ(plane, line[r])
	}
	ADDQ(Imm(4*cols), v)
	DECQ(c)
	JNZ(LabelRef("channel"))
	VZEROUPPER()
	RET()
}

// combine loads rows r and s of eight tiles, tiles i and i+4 into register i, and
// returns r-s, or if both is set r+s and s-r.
func combine(line [4]reg.Register, at reg.Register, h, r, s int, both bool) (t, u [4]reg.VecVirtual) {
	for i := range t {
		low, high := GP64(), GP64()
		MOVLQSX(Mem{Base: at, Disp: 4 * (lanes*h + i)}, low)
		MOVLQSX(Mem{Base: at, Disp: 4 * (lanes*h + i + 4)}, high)
		load := func(r int) reg.VecVirtual {
			y := YMM()
			VBROADCASTF128(Mem{Base: line[r], Index: low, Scale: 4}, y)
			VINSERTF128(Imm(1), Mem{Base: line[r], Index: high, Scale: 4}, y, y)
			return y
		}
		d, e := load(r), load(s)
		t[i] = YMM()
		if !both {
			VSUBPS(e, d, t[i])
			continue
		}
		u[i] = YMM()
		VADDPS(e, d, t[i])
		VSUBPS(d, e, u[i])
	}
	return t, u
}

// columns transposes a row of eight tiles, combines its columns and stores them at
// p, which it moves on to the next row of elements.
func columns(t [4]reg.VecVirtual, p, one, three reg.Register, h int) {
	for s, y := range differences(transposed(t)) {
		m := Mem{Base: p, Disp: 4 * lanes * h}
		switch s {
		case 1, 2:
			m.Index, m.Scale = one, uint8(s)
		case 3:
			m.Index, m.Scale = three, 1
		}
		VMOVUPS(y, m)
	}
	LEAQ(Mem{Base: p, Index: one, Scale: 4}, p)
}

// transposed transposes the two 4 x 4 matrices in the halves of t.
func transposed(t [4]reg.VecVirtual) [4]reg.VecVirtual {
	a, b, c, d := YMM(), YMM(), YMM(), YMM()
	VUNPCKLPS(t[1], t[0], a)
	VUNPCKHPS(t[1], t[0], b)
	VUNPCKLPS(t[3], t[2], c)
	VUNPCKHPS(t[3], t[2], d)
	e := [4]reg.VecVirtual{YMM(), YMM(), YMM(), YMM()}
	VUNPCKLPD(c, a, e[0])
	VUNPCKHPD(c, a, e[1])
	VUNPCKLPD(d, b, e[2])
	VUNPCKHPD(d, b, e[3])
	return e
}

// differences is d0-d2, d1+d2, d2-d1, d1-d3.
func differences(d [4]reg.VecVirtual) [4]reg.VecVirtual {
	t := [4]reg.VecVirtual{YMM(), YMM(), YMM(), YMM()}
	VSUBPS(d[2], d[0], t[0])
	VADDPS(d[2], d[1], t[1])
	VSUBPS(d[1], d[2], t[2])
	VSUBPS(d[3], d[1], t[3])
	return t
}

// winogradProducts is the 16 products of a panel of weights.
func winogradProducts() {
	TEXT("winogradProducts", NOSPLIT, "func(k int, a, b, c *float32)")
	Doc("winogradProducts computes for 16 pairs of panels, that lie one after the other in a and b, what tile6x16 does: c[e*96+i*16+j] = sum",
		"over p of a[(e*k+p)*6+i] * b[(e*k+p)*16+j].")
	Pragma("noescape")
	a := Load(Param("a"), GP64())
	b := Load(Param("b"), GP64())
	c := Load(Param("c"), GP64())
	n, k := GP64(), GP64()
	MOVQ(U64(16), n)
	Label("tile")
	Load(Param("k"), k)
	acc := newSums(rows, cols/lanes)
	accumulate(k, acc, loop{
		left:  func(p, i int) Mem { return Mem{Base: a, Disp: 4 * (p*rows + i)} },
		right: func(p, h int) Mem { return Mem{Base: b, Disp: 4 * (p*cols + h*lanes)} },
		advance: func(steps int) {
			ADDQ(U32(4*steps*rows), a)
			ADDQ(U32(4*steps*cols), b)
		},
	})
	Label("finish")
	for i := range acc {
		for h, v := range acc[i] {
			VMOVUPS(v, Mem{Base: c, Disp: 4 * (i*cols + h*lanes)})
		}
	}
	ADDQ(U32(4*rows*cols), c)
	DECQ(n)
	JNZ(LabelRef("tile"))
	VZEROUPPER()
	RET()
}

// winogradOut transforms the 16 products of a tile to 2 x 2 results.
func winogradOut() {
	TEXT("winogradOut", NOSPLIT, "func(m, bias *float32, relu, half int, dst *float32)")
	Doc("winogradOut computes for 6 rows of 16 tiles the 2 x 2 elements of A'MA, where element e of tile j of row i is m[e*96+i*16+j], adds",
		"bias[i] and, if relu is not 0, replaces negative values by 0. If half is not 0, dst[i*64+j] is the greatest of the four (NaN when one",
		"of them is); else dst[i*64+2*j] and dst[i*64+2*j+1] are the upper two and dst[i*64+32+2*j] and dst[i*64+32+2*j+1] the lower.")
	Pragma("noescape")
	m := Load(Param("m"), GP64())
	bias := Load(Param("bias"), GP64())
	relu := Load(Param("relu"), GP64())
	half := Load(Param("half"), GP64())
	dst := Load(Param("dst"), GP64())
	left, n := GP64(), GP64()
	MOVQ(U64(rows), left)
	Label("row")
	MOVQ(U64(2), n)
	Label("registers")
	var y [2][4]reg.VecVirtual
	for s := range 4 {
		var e [4]reg.VecVirtual
		for r := range e {
			e[r] = YMM()
			VMOVUPS(Mem{Base: m, Disp: 4 * rows * cols * (4*r + s)}, e[r])
		}
		y[0][s], y[1][s] = sumsOf(e)
	}
	b, zero := YMM(), YMM()
	VBROADCASTSS(Mem{Base: bias}, b)
	var q [4]reg.VecVirtual
	for r := range y {
		q[2*r], q[2*r+1] = sumsOf(y[r])
	}
	for _, v := range q {
		VADDPS(b, v, v)
	}
	TESTQ(relu, relu)
	JZ(LabelRef("any"))
	VXORPS(zero, zero, zero)
	for _, v := range q {
		VMAXPS(v, zero, v) // keeps NaN
	}
	Label("any")
	TESTQ(half, half)
	JZ(LabelRef("all"))
	maximum(q[1], q[0])
	maximum(q[3], q[2])
	maximum(q[2], q[0])
	VMOVUPS(q[0], Mem{Base: dst})
	ADDQ(Imm(4*lanes), dst)
	JMP(LabelRef("next"))
	Label("all")
	interleave(q, dst)
	ADDQ(Imm(8*lanes), dst)
	Label("next")
	ADDQ(Imm(4*lanes), m)
	DECQ(n)
	JNZ(LabelRef("registers"))
	ADDQ(Imm(4), bias)
	ADDQ(U32(4*2*cols), dst) // which was moved by 16 or 32 elements
	TESTQ(half, half)
	JZ(LabelRef("moved"))
	ADDQ(Imm(4*cols), dst)
	Label("moved")
	DECQ(left)
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}

// sumsOf is e0+e1+e2 and e1-e2-e3.
func sumsOf(e [4]reg.VecVirtual) (p, q reg.VecVirtual) {
	p, q = YMM(), YMM()
	VADDPS(e[1], e[0], p)
	VADDPS(e[2], p, p)
	VSUBPS(e[2], e[1], q)
	VSUBPS(e[3], q, q)
	return p, q
}

// interleave stores the upper two results of eight tiles, then the lower two.
func interleave(q [4]reg.VecVirtual, dst reg.Register) {
	for r := range 2 {
		low, high, v := YMM(), YMM(), YMM()
		VUNPCKLPS(q[2*r+1], q[2*r], low)
		VUNPCKHPS(q[2*r+1], q[2*r], high)
		VPERM2F128(Imm(0x20), high, low, v)
		VMOVUPS(v, Mem{Base: dst, Disp: 4 * 2 * cols * r})
		VPERM2F128(Imm(0x31), high, low, v)
		VMOVUPS(v, Mem{Base: dst, Disp: 4 * (2*cols*r + lanes)})
	}
}
