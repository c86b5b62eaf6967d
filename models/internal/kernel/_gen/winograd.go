package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// winogradIn transforms 4 x 4 places of the image to 16 elements, for two registers of tiles, which may be anywhere. A register holds one
// row of two or four of them; so rows are combined before, columns after four registers are transposed.
func (s *isa) winogradIn() {
	TEXT("winogradIn"+s.suffix, NOSPLIT, "func(c int, x *float32, plane, width int, at *int32, v *float32)")
	Doc(fmt.Sprintf("winogradIn%s transforms %d tiles of c channels: v[(e*(c+1)+i)*%d+j] is element e of B'dB, where d is the 4 x 4 places of x from",
		s.suffix, s.cols(), s.cols()),
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
	IMUL3Q(U32(4*s.cols()), c, one)
	ADDQ(U32(4*s.cols()), one)
	LEAQ(Mem{Base: one, Index: one, Scale: 2}, three)
	line := [4]reg.Register{x, GP64(), GP64(), GP64()} // the rows of the image
	for r := 1; r < 4; r++ {
		LEAQ(Mem{Base: line[r-1], Index: width, Scale: 4}, line[r])
	}
	p := GP64()
	Label("channel")
	for h := range 2 {
		MOVQ(v, p)
		first, _ := s.combine(line, at, h, 0, 2, false)
		s.columns(first, p, one, three, h)
		second, third := s.combine(line, at, h, 1, 2, true)
		s.columns(second, p, one, three, h)
		s.columns(third, p, one, three, h)
		last, _ := s.combine(line, at, h, 1, 3, false)
		s.columns(last, p, one, three, h)
	}
	for r := range line {
		ADDQ(plane, line[r])
	}
	ADDQ(U32(4*s.cols()), v)
	DECQ(c)
	JNZ(LabelRef("channel"))
	VZEROUPPER()
	RET()
}

// combine loads rows r and s of a register of tiles, tiles i, i+4, ... into register i, and returns r-s, or if both is set r+s and s-r.
func (s *isa) combine(line [4]reg.Register, at reg.Register, h, r, q int, both bool) (t, u [4]reg.VecVirtual) {
	for i := range t {
		d, e := s.quarters(s.place(line[r], at, s.lanes*h+i, 0)), s.quarters(s.place(line[q], at, s.lanes*h+i, 0))
		t[i] = s.vec()
		if !both {
			VSUBPS(e, d, t[i])
			continue
		}
		u[i] = s.vec()
		VADDPS(e, d, t[i])
		VSUBPS(d, e, u[i])
	}
	return t, u
}

// place returns where tile first+4*g is in a line of the image, disp bytes on.
func (s *isa) place(line, at reg.Register, first, disp int) func(g int) Mem {
	return func(g int) Mem {
		place := GP64()
		MOVLQSX(Mem{Base: at, Disp: 4 * (first + 4*g)}, place)
		return Mem{Base: line, Index: place, Scale: 4, Disp: disp}
	}
}

// columns transposes a row of tiles, combines its columns and stores them at p, which it moves on to the next row of elements.
func (s *isa) columns(t [4]reg.VecVirtual, p, one, three reg.Register, h int) {
	for i, y := range s.differences(s.transposed(t)) {
		m := Mem{Base: p, Disp: 4 * s.lanes * h}
		switch i {
		case 1, 2:
			m.Index, m.Scale = one, uint8(i)
		case 3:
			m.Index, m.Scale = three, 1
		}
		VMOVUPS(y, m)
	}
	LEAQ(Mem{Base: p, Index: one, Scale: 4}, p)
}

// differences is d0-d2, d1+d2, d2-d1, d1-d3.
func (s *isa) differences(d [4]reg.VecVirtual) [4]reg.VecVirtual {
	t := [4]reg.VecVirtual{s.vec(), s.vec(), s.vec(), s.vec()}
	VSUBPS(d[2], d[0], t[0])
	VADDPS(d[2], d[1], t[1])
	VSUBPS(d[1], d[2], t[2])
	VSUBPS(d[3], d[1], t[3])
	return t
}

// winogradOut transforms the 16 products of a tile to 2 x 2 results.
func (s *isa) winogradOut() {
	T := s.cols()
	TEXT("winogradOut"+s.suffix, NOSPLIT, "func(rows int, m, bias *float32, lo, hi float32, half int, dst *float32)")
	Doc(fmt.Sprintf("winogradOut%s computes for rows of %d tiles the 2 x 2 elements of A'MA, where element e of tile j of row i is", s.suffix, T),
		fmt.Sprintf("m[(e*rows+i)*%d+j], adds bias[i] and limits them to lo and hi. If half is not 0, dst[i*%d+j] is the greatest of the four", T, 4*T),
		fmt.Sprintf("(NaN when one of them is); else dst[i*%d+2*j] and dst[i*%d+2*j+1] are the upper two and dst[i*%d+%d+2*j] and the one after it", 4*T, 4*T, 4*T, 2*T),
		"the lower two. rows must be at least 1.")
	Pragma("noescape")
	left := Load(Param("rows"), GP64())
	m := Load(Param("m"), GP64())
	bias := Load(Param("bias"), GP64())
	half := Load(Param("half"), GP64())
	dst := Load(Param("dst"), GP64())
	one, three, n, p := GP64(), GP64(), GP64(), GP64()
	IMUL3Q(U32(4*T), left, one) // bytes from one element e to the next
	LEAQ(Mem{Base: one, Index: one, Scale: 2}, three)
	Label("row")
	MOVQ(U64(2), n)
	Label("registers")
	MOVQ(m, p)
	var y [2][4]reg.VecVirtual
	// Row by row of elements; sums over the rows in registers.
	for r := range 4 {
		for q := range 4 {
			at := Mem{Base: p}
			switch q {
			case 1, 2:
				at.Index, at.Scale = one, uint8(q)
			case 3:
				at.Index, at.Scale = three, 1
			}
			switch r {
			case 0:
				y[0][q] = s.vec()
				VMOVUPS(at, y[0][q])
			case 1:
				y[1][q] = s.vec()
				VMOVUPS(at, y[1][q])
				VADDPS(y[1][q], y[0][q], y[0][q])
			case 2:
				e := s.vec()
				VMOVUPS(at, e)
				VADDPS(e, y[0][q], y[0][q])
				VSUBPS(e, y[1][q], y[1][q])
			case 3:
				VSUBPS(at, y[1][q], y[1][q])
			}
		}
		if r < 3 {
			LEAQ(Mem{Base: p, Index: one, Scale: 4}, p)
		}
	}
	var q [4]reg.VecVirtual
	for r := range y {
		q[2*r], q[2*r+1] = s.sumsOf(y[r])
	}
	s.end(q[:], bias)
	TESTQ(half, half)
	JZ(LabelRef("all"))
	s.maximum(q[1], q[0])
	s.maximum(q[3], q[2])
	s.maximum(q[2], q[0])
	VMOVUPS(q[0], Mem{Base: dst})
	ADDQ(U32(4*s.lanes), dst)
	JMP(LabelRef("next"))
	Label("all")
	for r := range 2 {
		s.interleave(q[2*r], q[2*r+1], dst, 4*2*T*r)
	}
	ADDQ(U32(8*s.lanes), dst)
	Label("next")
	ADDQ(U32(4*s.lanes), m)
	DECQ(n)
	JNZ(LabelRef("registers"))
	ADDQ(Imm(4), bias)
	ADDQ(U32(4*2*T), dst) // which was moved by T or 2*T elements
	TESTQ(half, half)
	JZ(LabelRef("moved"))
	ADDQ(U32(4*T), dst)
	Label("moved")
	DECQ(left)
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}

// end adds the bias of the row and limits the results; NaN stays.
func (s *isa) end(q []reg.VecVirtual, bias reg.Register) {
	b, lo, hi := s.vec(), s.vec(), s.vec()
	VBROADCASTSS(Mem{Base: bias}, b)
	VBROADCASTSS(argument("lo"), lo)
	VBROADCASTSS(argument("hi"), hi)
	for _, v := range q {
		VADDPS(b, v, v)
		VMAXPS(v, lo, v)
		VMINPS(v, hi, v)
	}
}

// argument is the place of an argument.
func argument(name string) Mem {
	b, err := Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	return b.Addr
}

// sumsOf is e0+e1+e2 and e1-e2-e3.
func (s *isa) sumsOf(e [4]reg.VecVirtual) (p, q reg.VecVirtual) {
	p, q = s.vec(), s.vec()
	VADDPS(e[1], e[0], p)
	VADDPS(e[2], p, p)
	VSUBPS(e[2], e[1], q)
	VSUBPS(e[3], q, q)
	return p, q
}

// interleave stores two registers element by element.
func (s *isa) interleave(a, b reg.VecVirtual, dst reg.Register, disp int) {
	low, high, v := s.vec(), s.vec(), s.vec()
	if s.lanes == 8 {
		VUNPCKLPS(b, a, low)
		VUNPCKHPS(b, a, high)
		VPERM2F128(Imm(0x20), high, low, v)
		VMOVUPS(v, Mem{Base: dst, Disp: disp})
		VPERM2F128(Imm(0x31), high, low, v)
		VMOVUPS(v, Mem{Base: dst, Disp: disp + 4*8})
		return
	}
	for h := range 2 {
		var words []uint64
		for i := range 8 {
			words = append(words, uint64(8*h+i), uint64(16+8*h+i))
		}
		v := s.vec()
		VMOVDQU32(s.constant(fmt.Sprintf("interleave%d", h), 4, words...), v)
		VPERMI2PS(b, a, v)
		VMOVUPS(v, Mem{Base: dst, Disp: disp + 4*16*h})
	}
}
