package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// halve takes the maximum of 2 x 2 elements. It computes whole registers of results, so that it reads and writes past the end of a row.
func (s *isa) halve() {
	TEXT("halve"+s.suffix, NOSPLIT, "func(rows, blocks int, src *float32, lds int, dst *float32, ldd int)")
	Doc("halve"+s.suffix+" computes dst[i*ldd+j] = max(src[2*i*lds+2*j], src[2*i*lds+2*j+1], src[(2*i+1)*lds+2*j], src[(2*i+1)*lds+2*j+1])",
		fmt.Sprintf("for i < rows, j < %d*blocks, the rows in ascending order; NaN when one of them is. blocks must be at least 1.", s.lanes))
	Pragma("noescape")
	n := Load(Param("rows"), GP64())
	src := Load(Param("src"), GP64())
	lds := Load(Param("lds"), GP64())
	dst := Load(Param("dst"), GP64())
	ldd := Load(Param("ldd"), GP64())
	SHLQ(Imm(2), lds) // in bytes
	SHLQ(Imm(2), ldd)
	Label("row")
	TESTQ(n, n)
	JZ(LabelRef("done"))
	a, b, d := GP64(), GP64(), GP64()
	MOVQ(src, a)
	LEAQ(Mem{Base: src, Index: lds, Scale: 1}, b)
	MOVQ(dst, d)
	blocks := Load(Param("blocks"), GP64())
	Label("block")
	var v [2]reg.VecVirtual
	for h := range v {
		v[h] = s.vec()
		low := s.vec()
		VMOVUPS(Mem{Base: a, Disp: 4 * s.lanes * h}, v[h])
		VMOVUPS(Mem{Base: b, Disp: 4 * s.lanes * h}, low)
		s.maximum(low, v[h])
	}
	even, odd := s.vec(), s.vec()
	VSHUFPS(Imm(0x88), v[1], v[0], even)
	VSHUFPS(Imm(0xdd), v[1], v[0], odd)
	s.maximum(odd, even)
	s.gather(even)
	VMOVUPS(even, Mem{Base: d})
	ADDQ(U32(8*s.lanes), a)
	ADDQ(U32(8*s.lanes), b)
	ADDQ(U32(4*s.lanes), d)
	DECQ(blocks)
	JNZ(LabelRef("block"))
	LEAQ(Mem{Base: src, Index: lds, Scale: 2}, src)
	ADDQ(ldd, dst)
	DECQ(n)
	JMP(LabelRef("row"))
	Label("done")
	VZEROUPPER()
	RET()
}

// gather puts pairs that a shuffle of two registers has left side by side in each quarter back into their order: those of the first
// register before those of the second.
func (s *isa) gather(v reg.VecVirtual) {
	if s.lanes == 8 {
		VPERMPD(Imm(0xd8), v, v)
		return
	}
	order := s.vec()
	VMOVDQU64(s.constant("gather", 8, 0, 2, 4, 6, 1, 3, 5, 7), order)
	VPERMPD(v, order, v)
}

// constant is read-only data of words of size 4 or 8.
func (s *isa) constant(name string, size int, words ...uint64) Mem {
	full := name + s.suffix
	if m, ok := s.data[full]; ok {
		return m
	}
	m := GLOBL(full, RODATA|NOPTR)
	for i, w := range words {
		if size == 8 {
			DATA(8*i, U64(w))
		} else {
			DATA(4*i, U32(w))
		}
	}
	s.data[full] = m
	return m
}
