package main

import (
	"math/bits"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// halve takes the maximum of 2 x 2 elements.
func (s *isa) halve() {
	TEXT("halve"+s.suffix, NOSPLIT, "func(planes, rows, cols int, src *float32, plane, lds int, dst *float32, area int)")
	Doc("halve"+s.suffix+" computes for every plane, plane elements of src apart and area elements of dst, dst[i*cols+j] = the greatest of",
		"src[2*i*lds+2*j], src[2*i*lds+2*j+1], src[(2*i+1)*lds+2*j], src[(2*i+1)*lds+2*j+1] for i < rows, j < cols; NaN when one of them is.",
		"All numbers must be at least 1.")
	Pragma("noescape")
	planes := Load(Param("planes"), GP64())
	cols := Load(Param("cols"), GP64())
	src := Load(Param("src"), GP64())
	lds := Load(Param("lds"), GP64())
	dst := Load(Param("dst"), GP64())
	SHLQ(Imm(2), lds) // in bytes
	// The last register of a row, which need not be full.
	full := GP64()
	LEAQ(Mem{Base: cols, Disp: -1}, full)
	SHRQ(Imm(uint64(s.log())), full)
	last := GP64()
	MOVQ(full, last)
	SHLQ(Imm(uint64(s.log())), last)
	SUBQ(cols, last)
	NEGQ(last)
	write := columnMask{isa: s}
	write.load(last)
	ADDQ(last, last)
	read := columnMask{isa: s}
	read.load(last)
	Label("plane")
	rows, a, d := GP64(), GP64(), GP64()
	Load(Param("rows"), rows)
	MOVQ(src, a)
	MOVQ(dst, d)
	Label("row")
	p, blocks := GP64(), GP64()
	MOVQ(a, p)
	MOVQ(full, blocks)
	JMP(LabelRef("test"))
	Label("block")
	v := s.greatest(p, lds, nil)
	VMOVUPS(v, Mem{Base: d})
	ADDQ(U32(8*s.lanes), p)
	ADDQ(U32(4*s.lanes), d)
	Label("test")
	DECQ(blocks)
	JGE(LabelRef("block"))
	v = s.greatest(p, lds, &read)
	write.write(0, v, Mem{Base: d})
	LEAQ(Mem{Base: a, Index: lds, Scale: 2}, a)
	forward := GP64()
	MOVQ(full, forward)
	SHLQ(Imm(uint64(s.log()+2)), forward)
	SUBQ(forward, d)
	LEAQ(Mem{Base: d, Index: cols, Scale: 4}, d)
	DECQ(rows)
	JNZ(LabelRef("row"))
	Load(Param("plane"), p)
	LEAQ(Mem{Base: src, Index: p, Scale: 4}, src)
	Load(Param("area"), p)
	LEAQ(Mem{Base: dst, Index: p, Scale: 4}, dst)
	DECQ(planes)
	JNZ(LabelRef("plane"))
	VZEROUPPER()
	RET()
}

// log is the logarithm of the number of lanes.
func (s *isa) log() int { return bits.Len(uint(s.lanes)) - 1 }

// greatest is the maximum of each 2 x 2 elements of two registers at p and in the row below.
func (s *isa) greatest(p, lds reg.Register, mask *columnMask) reg.VecVirtual {
	var v [2]reg.VecVirtual
	for h := range v {
		v[h] = s.vec()
		low := s.vec()
		up, down := Mem{Base: p, Disp: 4 * s.lanes * h}, Mem{Base: p, Index: lds, Scale: 1, Disp: 4 * s.lanes * h}
		if mask != nil {
			mask.read(true, h, up, v[h])
			mask.read(true, h, down, low)
		} else {
			VMOVUPS(up, v[h])
			VMOVUPS(down, low)
		}
		s.maximum(low, v[h])
	}
	even, odd := s.vec(), s.vec()
	VSHUFPS(Imm(0x88), v[1], v[0], even)
	VSHUFPS(Imm(0xdd), v[1], v[0], odd)
	s.maximum(odd, even)
	s.gather(even)
	return even
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
