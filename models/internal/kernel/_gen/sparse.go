package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// columnsInUse writes count and squeeze, which only AVX-512 has: AVX2 can't compress a register.
func (s *isa) columnsInUse() {
	if s.lanes != 16 {
		return
	}
	s.count()
	s.squeeze()
}

// columnsUsed sets a mask, and the same bits, of the 16 columns at a that are not zero in all rows. left and p are free registers.
func columnsUsed(rows, a, lda, left, p reg.Register, bits reg.GPVirtual) reg.Register {
	any := ZMM()
	VMOVUPS(Mem{Base: a}, any)
	MOVQ(a, p)
	MOVQ(rows, left)
	JMP(LabelRef("test"))
	Label("row")
	ADDQ(lda, p)
	VPORD(Mem{Base: p}, any, any)
	Label("test")
	DECQ(left)
	JNZ(LabelRef("row"))
	used := K()
	VPTESTMD(any, any, used)
	KMOVW(used, bits.As32())
	return used
}

// count counts columns.
func (s *isa) count() {
	TEXT("count"+s.suffix, NOSPLIT, "func(rows, blocks int, a *float32, lda int) int")
	Doc("count"+s.suffix+" returns how many of the first 16*blocks columns of rows of A, lda apart, are not zero in all of them.",
		"rows and blocks must be at least 1.")
	Pragma("noescape")
	rows := Load(Param("rows"), GP64())
	blocks := Load(Param("blocks"), GP64())
	a := Load(Param("a"), GP64())
	lda := Load(Param("lda"), GP64())
	SHLQ(Imm(2), lda) // in bytes
	sum, bits, left, p := GP64(), GP64(), GP64(), GP64()
	XORQ(sum, sum)
	Label("block")
	columnsUsed(rows, a, lda, left, p, bits)
	POPCNTQ(bits, bits)
	ADDQ(bits, sum)
	ADDQ(Imm(64), a)
	DECQ(blocks)
	JNZ(LabelRef("block"))
	Store(sum, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// squeeze leaves columns out.
func (s *isa) squeeze() {
	TEXT("squeeze"+s.suffix, NOSPLIT, "func(rows, blocks int, a *float32, lda int, dst *float32, ldd int, off *uint32, step uint32)")
	Doc("squeeze"+s.suffix+" copies of the first 16*blocks columns of rows of A, lda apart, those that are not zero in all of them to rows of",
		"dst, ldd apart, and for column p of A p*step to off. It writes up to 15 elements more. rows and blocks must be at least 1.")
	Pragma("noescape")
	rows := Load(Param("rows"), GP64())
	blocks := Load(Param("blocks"), GP64())
	a := Load(Param("a"), GP64())
	lda := Load(Param("lda"), GP64())
	dst := Load(Param("dst"), GP64())
	ldd := Load(Param("ldd"), GP64())
	off := Load(Param("off"), GP64())
	step := Load(Param("step"), GP32())
	SHLQ(Imm(2), lda) // in bytes
	SHLQ(Imm(2), ldd)
	bits, left, p, q := GP64(), GP64(), GP64(), GP64()
	at, forward := ZMM(), ZMM()
	VPBROADCASTD(step, forward)
	var count []uint64
	for i := range 16 {
		count = append(count, uint64(i))
	}
	VPMULLD(s.constant("count", 4, count...), forward, at)
	VPSLLD(Imm(4), forward, forward)
	Label("block")
	used := columnsUsed(rows, a, lda, left, p, bits)
	POPCNTQ(bits, bits)
	places := ZMM()
	VPCOMPRESSD(at, used, places)
	VMOVDQU32(places, Mem{Base: off})
	LEAQ(Mem{Base: off, Index: bits, Scale: 4}, off)
	VPADDD(forward, at, at)
	MOVQ(a, p)
	MOVQ(dst, q)
	MOVQ(rows, left)
	Label("copy")
	v := ZMM()
	VMOVUPS(Mem{Base: p}, v)
	VCOMPRESSPS(v, used, v)
	VMOVUPS(v, Mem{Base: q})
	ADDQ(lda, p)
	ADDQ(ldd, q)
	DECQ(left)
	JNZ(LabelRef("copy"))
	LEAQ(Mem{Base: dst, Index: bits, Scale: 4}, dst)
	ADDQ(Imm(64), a)
	DECQ(blocks)
	JNZ(LabelRef("block"))
	VZEROUPPER()
	RET()
}
