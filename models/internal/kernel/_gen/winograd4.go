package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// six is where the six elements of a row or column are: a distance of step bytes from one to the next.
type six struct{ step, three, five reg.Register }

func newSix(step reg.Register) six {
	s := six{step: step, three: GP64(), five: GP64()}
	LEAQ(Mem{Base: step, Index: step, Scale: 2}, s.three)
	LEAQ(Mem{Base: step, Index: step, Scale: 4}, s.five)
	return s
}

func (s six) at(base reg.Register, i int) Mem {
	m := Mem{Base: base}
	switch i {
	case 1, 2, 4:
		m.Index, m.Scale = s.step, uint8(i)
	case 3:
		m.Index, m.Scale = s.three, 1
	case 5:
		m.Index, m.Scale = s.five, 1
	}
	return m
}

// all is a constant in all elements of a register, in memory.
func (s *isa) all(x uint32) Mem {
	words := make([]uint64, s.lanes)
	for i := range words {
		words[i] = uint64(x)
	}
	return s.constant(fmt.Sprintf("all%08x", x), 4, words...)
}

// Float32 numbers.
const (
	two   = 0x40000000
	four  = 0x40800000
	five  = 0x40a00000
	eight = 0x41000000
)

// winograd4In is winogradIn for 6 x 6 places. The columns of each row are transformed first and stored where the rows are found again.
func (s *isa) winograd4In() {
	T := s.cols()
	TEXT("winograd4In"+s.suffix, NOSPLIT, "func(c int, x *float32, plane, width int, at *int32, v *float32)")
	Doc(fmt.Sprintf("winograd4In%s transforms %d tiles of c channels: v[(e*(c+1)+i)*%d+j] is element e of B'dB, where d is the 6 x 6 places of x from",
		s.suffix, T, T),
		"at[j]+i*plane on, width apart from row to row. c must be at least 1.")
	Pragma("noescape")
	c := Load(Param("c"), GP64())
	x := Load(Param("x"), GP64())
	at := Load(Param("at"), GP64())
	v := Load(Param("v"), GP64())
	// There are not enough registers: some distances stay in the arguments, in bytes.
	plane, width, step := argument("plane"), argument("width"), argument("c")
	SHLQ(Imm(2), plane)
	SHLQ(Imm(2), width)
	one := GP64()
	IMUL3Q(U32(4*T), c, one)
	ADDQ(U32(4*T), one)
	MOVQ(one, step)
	p, line, n, row := GP64(), GP64(), GP64(), GP64()
	across := newSix(one) // from one element to the next
	turn := func(stride, next uint32) {
		MOVQ(step, row)
		IMUL3Q(U32(stride), row, across.step)
		LEAQ(Mem{Base: across.step, Index: across.step, Scale: 2}, across.three)
		LEAQ(Mem{Base: across.step, Index: across.step, Scale: 4}, across.five)
		IMUL3Q(U32(next), row, row)
	}
	Label("channel")
	for h := range 2 {
		loop := func(name string, body func()) {
			label := fmt.Sprintf("%s%d", name, h)
			MOVQ(v, p)
			MOVQ(U64(6), n)
			Label(label)
			body()
			ADDQ(row, p)
			DECQ(n)
			JNZ(LabelRef(label))
		}
		turn(1, 6)
		MOVQ(x, line)
		loop("columns", func() {
			for i, y := range s.transform4(s.sixOf(line, at, h)) {
				VMOVUPS(y, across.at(p, i).Offset(4*s.lanes*h))
			}
			ADDQ(width, line)
		})
		turn(6, 1) // the same down the columns
		loop("rows", func() {
			var d [6]reg.VecVirtual
			for i := range d {
				d[i] = s.vec()
				VMOVUPS(across.at(p, i).Offset(4*s.lanes*h), d[i])
			}
			for i, y := range s.transform4(d) {
				VMOVUPS(y, across.at(p, i).Offset(4*s.lanes*h))
			}
		})
	}
	ADDQ(plane, x)
	ADDQ(U32(4*T), v)
	DECQ(c)
	JNZ(LabelRef("channel"))
	VZEROUPPER()
	RET()
}

// sixOf loads six places of a line for a register of tiles and gives the columns.
func (s *isa) sixOf(line, at reg.Register, h int) (d [6]reg.VecVirtual) {
	load := func(disp int) (t [4]reg.VecVirtual) {
		for i := range t {
			t[i] = s.quarters(s.place(line, at, s.lanes*h+i, disp))
		}
		return t
	}
	first := s.transposed(load(0))
	copy(d[:], first[:])
	t := load(8) // places 2 to 5, so that nothing past the sixth is read; 4 and 5 are wanted
	b, e := s.vec(), s.vec()
	VUNPCKHPS(t[1], t[0], b)
	VUNPCKHPS(t[3], t[2], e)
	d[4], d[5] = s.vec(), s.vec()
	VUNPCKLPD(e, b, d[4])
	VUNPCKHPD(e, b, d[5])
	return d
}

// transform4 is B'd of F(4x4, 3x3) for six registers.
func (s *isa) transform4(d [6]reg.VecVirtual) (t [6]reg.VecVirtual) {
	for i := range t {
		t[i] = s.vec()
	}
	// 4*d0 - 5*d2 + d4
	VMOVAPS(d[4], t[0])
	VFMADD231PS(s.all(four), d[0], t[0])
	VFNMADD231PS(s.all(five), d[2], t[0])
	// (d4 - 4*d2) + (d3 - 4*d1) and their difference
	even, odd := s.vec(), s.vec()
	VMOVAPS(d[4], even)
	VFNMADD231PS(s.all(four), d[2], even)
	VMOVAPS(d[3], odd)
	VFNMADD231PS(s.all(four), d[1], odd)
	VADDPS(odd, even, t[1])
	VSUBPS(odd, even, t[2])
	// (d4 - d2) + 2*(d3 - d1) and their difference
	far, near := s.vec(), s.vec()
	VSUBPS(d[2], d[4], far)
	VSUBPS(d[1], d[3], near)
	VMOVAPS(far, t[3])
	VFMADD231PS(s.all(two), near, t[3])
	VMOVAPS(far, t[4])
	VFNMADD231PS(s.all(two), near, t[4])
	// 4*d1 - 5*d3 + d5
	VMOVAPS(d[5], t[5])
	VFMADD231PS(s.all(four), d[1], t[5])
	VFNMADD231PS(s.all(five), d[3], t[5])
	return t
}

// results4 is A'e of F(4x4, 3x3) for six registers.
func (s *isa) results4(load func(i int) reg.VecVirtual) (y [4]reg.VecVirtual) {
	e1, e2 := load(1), load(2)
	sum, diff := s.vec(), s.vec()
	VADDPS(e2, e1, sum)
	VSUBPS(e2, e1, diff)
	e3, e4 := load(3), load(4)
	far, odd := s.vec(), s.vec()
	VADDPS(e4, e3, far)
	VSUBPS(e4, e3, odd)
	for i := range y {
		y[i] = s.vec()
	}
	VADDPS(load(0), sum, y[0])
	VADDPS(far, y[0], y[0])
	VMOVAPS(diff, y[1])
	VFMADD231PS(s.all(two), odd, y[1])
	VMOVAPS(sum, y[2])
	VFMADD231PS(s.all(four), far, y[2])
	VADDPS(load(5), diff, y[3])
	VFMADD231PS(s.all(eight), odd, y[3])
	return y
}

// winograd4Out is winogradOut for 36 products and 4 x 4 results.
func (s *isa) winograd4Out() {
	T := s.cols()
	TEXT("winograd4Out"+s.suffix, NOSPLIT, "func(rows int, m, bias *float32, lo, hi float32, half int, dst *float32)")
	Doc(fmt.Sprintf("winograd4Out%s computes for rows of %d tiles the 4 x 4 elements of A'MA, where element e of tile j of row i is", s.suffix, T),
		fmt.Sprintf("m[(e*rows+i)*%d+j], which is overwritten, adds bias[i] and limits them to lo and hi. Line r of tile j is at", T),
		fmt.Sprintf("dst[i*%d+r*%d+4*j]. If half is not 0, the greatest of each 2 x 2 (NaN when one of them is) are at", 16*T, 4*T),
		fmt.Sprintf("dst[i*%d+r*%d+2*j]. rows must be at least 1.", 16*T, 2*T))
	Pragma("noescape")
	left := Load(Param("rows"), GP64())
	m := Load(Param("m"), GP64())
	bias := Load(Param("bias"), GP64())
	half := Load(Param("half"), GP64())
	dst := Load(Param("dst"), GP64())
	step, row := GP64(), GP64()
	IMUL3Q(U32(4*T), left, step) // bytes from one element to the next
	LEAQ(Mem{Base: step, Index: step, Scale: 2}, row)
	ADDQ(row, row)      // from one row of elements to the next
	next := newSix(row) // down, then across
	p, n, h := GP64(), GP64(), GP64()
	Label("row")
	MOVQ(U64(2), h)
	Label("registers")
	MOVQ(m, p)
	MOVQ(U64(6), n)
	Label("columns")
	for i, y := range s.results4(func(i int) reg.VecVirtual {
		v := s.vec()
		VMOVUPS(next.at(p, i), v)
		return v
	}) {
		VMOVUPS(y, next.at(p, i))
	}
	ADDQ(step, p)
	DECQ(n)
	JNZ(LabelRef("columns"))
	// Across: the distances are turned.
	MOVQ(m, p)
	line := func() [4]reg.VecVirtual {
		q := GP64()
		MOVQ(p, q)
		y := s.results4(func(i int) reg.VecVirtual {
			v := s.vec()
			switch i { // the order of results4 is 1, 2, 3, 4, 0, 5
			case 1, 2, 4:
				VMOVUPS(Mem{Base: q, Index: step, Scale: uint8(i)}, v)
			case 0:
				VMOVUPS(Mem{Base: q}, v)
			default:
				five := GP64()
				LEAQ(Mem{Base: q, Index: step, Scale: 1}, five)
				VMOVUPS(Mem{Base: five, Index: step, Scale: uint8(i - 1)}, v)
			}
			return v
		})
		s.end(y[:], bias)
		ADDQ(row, p)
		return y
	}
	TESTQ(half, half)
	JNZ(LabelRef("half"))
	for r := range 4 {
		s.storeLines(line(), Mem{Base: dst, Disp: 4 * 4 * T * r})
	}
	ADDQ(U32(4*4*s.lanes), dst)
	JMP(LabelRef("next"))
	Label("half")
	for r := range 2 {
		upper := line()
		s.maximum(upper[1], upper[0])
		s.maximum(upper[3], upper[2])
		lower := line()
		s.maximum(lower[1], lower[0])
		s.maximum(lower[3], lower[2])
		s.maximum(lower[0], upper[0])
		s.maximum(lower[2], upper[2])
		s.interleave(upper[0], upper[2], dst, 4*2*T*r)
	}
	ADDQ(U32(4*2*s.lanes), dst)
	Label("next")
	ADDQ(U32(4*s.lanes), m)
	DECQ(h)
	JNZ(LabelRef("registers"))
	ADDQ(Imm(4), bias)
	ADDQ(U32(4*12*T), dst) // which was moved by 4*T or 2*T elements
	TESTQ(half, half)
	JZ(LabelRef("moved"))
	ADDQ(U32(4*2*T), dst)
	Label("moved")
	DECQ(left)
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}

// storeLines stores four results of each tile side by side.
func (s *isa) storeLines(y [4]reg.VecVirtual, to Mem) {
	for k, v := range s.transposed(y) {
		for g := range s.lanes / 4 {
			at := to.Offset(16 * (4*g + k))
			switch {
			case g == 0:
				VMOVUPS(v.AsX(), at)
			case s.lanes == 16:
				VEXTRACTF32X4(U8(g), v, at)
			default:
				VEXTRACTF128(Imm(1), v, at)
			}
		}
	}
}
