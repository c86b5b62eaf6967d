// Command gen writes the AVX2 micro-kernels of package kernel as Go assembly.
//
//	cd models/internal/kernel/_gen && go run . -out ../avx2_amd64.s -stubs ../avx2_amd64_stub.go -pkg kernel
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const (
	rows  = 6  // of the tile
	lanes = 8  // float32 in a register
	cols  = 16 // of the tile: two registers

	unroll = 4 // steps of k a round
)

// The bits of the argument end, as in avx2_amd64.go.
const (
	addC = 1 << iota
	biasColumns
	biasRows
	relu
)

func main() {
	ConstraintExpr("amd64,!noasm")
	tile()
	rowTile()
	pairTile()
	shiftTile()
	halve()
	transpose()
	winogradIn()
	winogradProducts()
	winogradOut()
	Generate()
}

// loop is what the tiles differ in: where their operands are.
type loop struct {
	left    func(p, i int) Mem // element i of A in step p of a round
	right   func(p, h int) Mem // register h of B in step p of a round
	advance func(steps int)    // to the next round
}

// tile multiplies a panel of 6 rows with a panel of 16 columns. Twelve of the
// sixteen registers hold sums; each step of k loads 16 values of B, and
// broadcasts 6 of A straight from memory.
func tile() {
	TEXT("tile6x16", NOSPLIT, "func(k int, a, b, c *float32, ldc int, bias *float32, end int)")
	Doc("tile6x16 computes c[i*ldc+j] = sum over p of a[p*6+i] * b[p*16+j] for i < 6, j < 16, and then, as the bits of end",
		"say: adds the old c, adds bias[j] or bias[i], replaces negative values by 0. In Go:",
		"",
		"	for i := range 6 {",
		"		for j := range 16 {",
		"			var s float32",
		"			for p := range k {",
		"				s = fma(a[p*6+i], b[p*16+j], s)",
		"			}",
		"			c[i*ldc+j] = finish(s, i, j)",
		"		}",
		"	}")
	Pragma("noescape")
	k := Load(Param("k"), GP64())
	a := Load(Param("a"), GP64())
	b := Load(Param("b"), GP64())
	product(k, newSums(rows, cols/lanes), loop{
		left:  func(p, i int) Mem { return Mem{Base: a, Disp: 4 * (p*rows + i)} },
		right: func(p, h int) Mem { return Mem{Base: b, Disp: 4 * (p*cols + h*lanes)} },
		advance: func(steps int) {
			ADDQ(U32(4*steps*rows), a)
			ADDQ(U32(4*steps*cols), b)
		},
	})
}

// rowTile is tile with A as it is in a row-major matrix.
func rowTile() {
	TEXT("rows6x16", NOSPLIT, "func(k int, a *float32, lda int, b, c *float32, ldc int, bias *float32, end int)")
	Doc("rows6x16 is tile6x16 with rows of A that are not packed: element i of step p is a[i*lda+p].")
	Pragma("noescape")
	k := Load(Param("k"), GP64())
	a := Load(Param("a"), GP64())
	lda := Load(Param("lda"), GP64())
	b := Load(Param("b"), GP64())
	SHLQ(Imm(2), lda) // in bytes
	a3 := GP64()
	LEAQ(Mem{Base: lda, Index: lda, Scale: 2}, a3)
	ADDQ(a, a3)
	product(k, newSums(rows, cols/lanes), loop{
		left: func(p, i int) Mem {
			m := Mem{Base: a, Disp: 4 * p}
			if i >= 3 {
				m.Base = a3
			}
			if i%3 > 0 {
				m.Index, m.Scale = lda, uint8(i%3)
			}
			return m
		},
		right: func(p, h int) Mem { return Mem{Base: b, Disp: 4 * (p*cols + h*lanes)} },
		advance: func(steps int) {
			ADDQ(U32(4*steps), a)
			ADDQ(U32(4*steps), a3)
			ADDQ(U32(4*steps*cols), b)
		},
	})
}

// pairTile is for the rows that do not fill a tile: two of them, which may be one
// and the same, by two panels of B. Fewer registers would leave the multipliers
// waiting for sums.
func pairTile() {
	TEXT("rows2x32", NOSPLIT, "func(k int, a *float32, lda int, b *float32, ldb int, c *float32, ldc int, bias *float32, end int)")
	Doc("rows2x32 is rows6x16 for 2 rows of A and of C and two panels of B, the second ldb elements after the first. bias[i] is not for it.")
	Pragma("noescape")
	k := Load(Param("k"), GP64())
	a := Load(Param("a"), GP64())
	lda := Load(Param("lda"), GP64())
	b := Load(Param("b"), GP64())
	ldb := Load(Param("ldb"), GP64())
	product(k, newSums(2, 2*cols/lanes), loop{
		left: func(p, i int) Mem {
			m := Mem{Base: a, Disp: 4 * p}
			if i > 0 {
				m.Index, m.Scale = lda, 4
			}
			return m
		},
		right: func(p, h int) Mem {
			m := Mem{Base: b, Disp: 4 * (p*cols + h%2*lanes)}
			if h >= 2 {
				m.Index, m.Scale = ldb, 4
			}
			return m
		},
		advance: func(steps int) {
			ADDQ(U32(4*steps), a)
			ADDQ(U32(4*steps*cols), b)
		},
	})
}

// shiftTile is tile with every row of B at a place of its own.
func shiftTile() {
	TEXT("shift6x16", NOSPLIT, "func(k int, a *float32, off *uint32, b, c *float32, ldc int, bias *float32, end int)")
	Doc("shift6x16 is tile6x16 with rows of B that are not packed: element j of step p is b[off[p]+j].")
	Pragma("noescape")
	k := Load(Param("k"), GP64())
	a := Load(Param("a"), GP64())
	off := Load(Param("off"), GP64())
	b := Load(Param("b"), GP64())
	place := GP64()
	product(k, newSums(rows, cols/lanes), loop{
		left: func(p, i int) Mem { return Mem{Base: a, Disp: 4 * (p*rows + i)} },
		right: func(p, h int) Mem {
			if h == 0 {
				MOVL(Mem{Base: off, Disp: 4 * p}, place.As32())
			}
			return Mem{Base: b, Index: place, Scale: 4, Disp: 4 * h * lanes}
		},
		advance: func(steps int) {
			ADDQ(U32(4*steps*rows), a)
			ADDQ(U32(4*steps), off)
		},
	})
}

// product is the body of a tile: the loop over k, then the end.
func product(k reg.Register, acc sums, at loop) {
	c := Load(Param("c"), GP64())
	ldc := Load(Param("ldc"), GP64())
	end := Load(Param("end"), GP64())
	SHLQ(Imm(2), ldc) // in bytes
	accumulate(k, acc, at)
	Label("finish")
	finish(acc, c, ldc, end)
}

// accumulate sums up over k and goes to the label finish.
func accumulate(k reg.Register, acc sums, at loop) {
	for i := range acc {
		for h := range acc[i] {
			VXORPS(acc[i][h], acc[i][h], acc[i][h])
		}
	}
	step := func(p int) {
		var right []reg.VecVirtual
		for h := range acc[0] {
			y := YMM()
			VMOVUPS(at.right(p, h), y)
			right = append(right, y)
		}
		for i := range acc {
			x := YMM()
			VBROADCASTSS(at.left(p, i), x)
			for h, y := range right {
				VFMADD231PS(y, x, acc[i][h])
			}
		}
	}
	Label("rounds")
	CMPQ(k, Imm(unroll))
	JLT(LabelRef("rest"))
	for p := range unroll {
		step(p)
	}
	at.advance(unroll)
	SUBQ(Imm(unroll), k)
	JMP(LabelRef("rounds"))
	Label("rest")
	TESTQ(k, k)
	JZ(LabelRef("finish"))
	step(0)
	at.advance(1)
	DECQ(k)
	JMP(LabelRef("rest"))
}

// sums are the registers of a tile, row by row.
type sums [][]reg.VecVirtual

func newSums(rows, width int) sums {
	s := make(sums, rows)
	for i := range s {
		for range width {
			s[i] = append(s[i], YMM())
		}
	}
	return s
}

// finish does what the bits of end say and stores the tile.
func finish(acc sums, c, ldc, end reg.Register) {
	// In the order of package kernel's store: old c, then bias, then ReLU.
	when := func(bit uint64, skip string, body func()) {
		TESTQ(U32(bit), end)
		JZ(LabelRef(skip))
		body()
		Label(skip)
	}
	eachRow := func(body func(i int, row Mem)) {
		p := GP64()
		MOVQ(c, p)
		for i := range acc {
			body(i, Mem{Base: p})
			if i+1 < len(acc) {
				ADDQ(ldc, p)
			}
		}
	}
	when(addC, "added", func() {
		eachRow(func(i int, row Mem) {
			for h, v := range acc[i] {
				VADDPS(row.Offset(4*lanes*h), v, v)
			}
		})
	})
	when(biasColumns, "columns", func() {
		bias := Load(Param("bias"), GP64())
		for h := range acc[0] {
			v := YMM()
			VMOVUPS(Mem{Base: bias, Disp: 4 * lanes * h}, v)
			for i := range acc {
				VADDPS(v, acc[i][h], acc[i][h])
			}
		}
	})
	when(biasRows, "rows", func() {
		bias := Load(Param("bias"), GP64())
		for i := range acc {
			v := YMM()
			VBROADCASTSS(Mem{Base: bias, Disp: 4 * i}, v)
			for _, sum := range acc[i] {
				VADDPS(v, sum, sum)
			}
		}
	})
	when(relu, "positive", func() {
		zero := YMM()
		VXORPS(zero, zero, zero)
		for i := range acc {
			// The second operand of MAXPS is the answer when one is NaN: keep it.
			for _, v := range acc[i] {
				VMAXPS(v, zero, v)
			}
		}
	})
	eachRow(func(i int, row Mem) {
		for h, v := range acc[i] {
			VMOVUPS(v, row.Offset(4*lanes*h))
		}
	})
	VZEROUPPER()
	RET()
}

// halve takes the maximum of 2 x 2 elements. It computes whole registers of
// results, so that it reads and writes past the end of a row.
func halve() {
	TEXT("halve2x2", NOSPLIT, "func(rows, blocks int, src *float32, lds int, dst *float32, ldd int)")
	Doc("halve2x2 computes dst[i*ldd+j] = max(src[2*i*lds+2*j], src[2*i*lds+2*j+1], src[(2*i+1)*lds+2*j], src[(2*i+1)*lds+2*j+1])",
		"for i < rows, j < 8*blocks, the rows in ascending order; NaN when one of them is. blocks must be at least 1.")
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
		v[h] = YMM()
		low := YMM()
		VMOVUPS(Mem{Base: a, Disp: 4 * lanes * h}, v[h])
		VMOVUPS(Mem{Base: b, Disp: 4 * lanes * h}, low)
		maximum(low, v[h])
	}
	even, odd := YMM(), YMM()
	VSHUFPS(Imm(0x88), v[1], v[0], even)
	VSHUFPS(Imm(0xdd), v[1], v[0], odd)
	maximum(odd, even)
	VPERMPD(Imm(0xd8), even, even) // the halves of 128 bits were shuffled apart
	VMOVUPS(even, Mem{Base: d})
	ADDQ(Imm(8*lanes), a)
	ADDQ(Imm(8*lanes), b)
	ADDQ(Imm(4*lanes), d)
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

// maximum is y = max(x, y), NaN when one of them is.
func maximum(x, y reg.VecVirtual) {
	nan, m := YMM(), YMM()
	VCMPPS(Imm(3), x, x, nan)
	VMAXPS(y, x, m) // y when one is NaN
	VBLENDVPS(nan, x, m, y)
}

// transpose packs half a panel.
func transpose() {
	TEXT("transpose8", NOSPLIT, "func(blocks int, src *float32, ld int, dst *float32)")
	Doc("transpose8 computes dst[i*16+v] = src[v*ld+i] for v < 8 and i < 4*blocks. blocks must be at least 1.")
	Pragma("noescape")
	n := Load(Param("blocks"), GP64())
	src := Load(Param("src"), GP64())
	ld := Load(Param("ld"), GP64())
	dst := Load(Param("dst"), GP64())
	SHLQ(Imm(2), ld) // in bytes
	three, high := GP64(), GP64()
	LEAQ(Mem{Base: ld, Index: ld, Scale: 2}, three)
	LEAQ(Mem{Base: src, Index: ld, Scale: 4}, high)
	Label("block")
	var t [4]reg.VecVirtual
	for i := range t {
		row := func(base reg.Register) Mem {
			switch i {
			case 0:
				return Mem{Base: base}
			case 3:
				return Mem{Base: base, Index: three, Scale: 1}
			}
			return Mem{Base: base, Index: ld, Scale: uint8(i)}
		}
		t[i] = YMM()
		VBROADCASTF128(row(src), t[i])
		VINSERTF128(Imm(1), row(high), t[i], t[i])
	}
	for i, y := range transposed(t) {
		VMOVUPS(y, Mem{Base: dst, Disp: 4 * cols * i})
	}
	ADDQ(Imm(16), src)
	ADDQ(Imm(16), high)
	ADDQ(U32(4*4*cols), dst)
	DECQ(n)
	JNZ(LabelRef("block"))
	VZEROUPPER()
	RET()
}
