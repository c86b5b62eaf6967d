package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// winogradIn transforms 4 x 4 places of the image to 16 elements, for two
// registers of tiles. The tiles may be anywhere: their elements are gathered.
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
	SHLQ(Imm(2), plane) // in bytes
	SHLQ(Imm(2), width)
	one, three := GP64(), GP64() // bytes from one element e to the next, and three times as much
	MOVQ(c, one)
	SHLQ(Imm(6), one)
	LEAQ(Mem{Base: one, Index: one, Scale: 2}, three)
	var index [2]reg.VecVirtual
	for h := range index {
		index[h] = YMM()
		VMOVDQU(Mem{Base: at, Disp: 4 * lanes * h}, index[h])
	}
	var row [4]reg.Register
	for r := range row {
		row[r] = GP64()
	}
	Label("channel")
	MOVQ(v, row[0])
	for r := 1; r < 4; r++ {
		LEAQ(Mem{Base: row[r-1], Index: one, Scale: 4}, row[r])
	}
	element := func(r, s, h int) Mem {
		m := Mem{Base: row[r], Disp: 4 * lanes * h}
		switch s {
		case 1, 2:
			m.Index, m.Scale = one, uint8(s)
		case 3:
			m.Index, m.Scale = three, 1
		}
		return m
	}
	for h := range index {
		for s := range 4 {
			var d [4]reg.VecVirtual
			p := GP64()
			MOVQ(x, p)
			for r := range d {
				d[r] = YMM()
				mask := YMM()
				VPCMPEQD(mask, mask, mask)
				VXORPS(d[r], d[r], d[r])
				VGATHERDPS(mask, Mem{Base: p, Index: index[h], Scale: 4, Disp: 4 * s}, d[r])
				if r < 3 {
					ADDQ(width, p)
				}
			}
			for r, t := range differences(d) {
				VMOVUPS(t, element(r, s, h))
			}
		}
		for r := range row {
			var d [4]reg.VecVirtual
			for s := range d {
				d[s] = YMM()
				VMOVUPS(element(r, s, h), d[s])
			}
			for s, t := range differences(d) {
				VMOVUPS(t, element(r, s, h))
			}
		}
	}
	ADDQ(plane, x)
	ADDQ(Imm(4*cols), v)
	DECQ(c)
	JNZ(LabelRef("channel"))
	VZEROUPPER()
	RET()
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

// winogradOut transforms the 16 products of a tile to 2 x 2 results.
func winogradOut() {
	TEXT("winogradOut", NOSPLIT, "func(m, bias *float32, relu, half int, dst *float32)")
	Doc("winogradOut computes for 16 tiles the 2 x 2 elements of A'MA, where element e of tile j is m[e*96+j], adds bias[0] and, if relu",
		"is not 0, replaces negative values by 0. If half is not 0, dst[j] is the greatest of the four (NaN when one of them is); else",
		"dst[2*j] and dst[2*j+1] are the upper two and dst[32+2*j] and dst[32+2*j+1] the lower.")
	Pragma("noescape")
	m := Load(Param("m"), GP64())
	bias := Load(Param("bias"), GP64())
	relu := Load(Param("relu"), GP64())
	half := Load(Param("half"), GP64())
	dst := Load(Param("dst"), GP64())
	n := GP64()
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
	for r := range 2 {
		low, high, v := YMM(), YMM(), YMM()
		VUNPCKLPS(q[2*r+1], q[2*r], low)
		VUNPCKHPS(q[2*r+1], q[2*r], high)
		VPERM2F128(Imm(0x20), high, low, v)
		VMOVUPS(v, Mem{Base: dst, Disp: 4 * 2 * cols * r})
		VPERM2F128(Imm(0x31), high, low, v)
		VMOVUPS(v, Mem{Base: dst, Disp: 4 * (2*cols*r + lanes)})
	}
	ADDQ(Imm(8*lanes), dst)
	Label("next")
	ADDQ(Imm(4*lanes), m)
	DECQ(n)
	JNZ(LabelRef("registers"))
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
