// Command gen writes the AVX2 micro-kernel of package kernel as Go assembly.
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
	Generate()
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
	c := Load(Param("c"), GP64())
	ldc := Load(Param("ldc"), GP64())
	end := Load(Param("end"), GP64())
	SHLQ(Imm(2), ldc) // in bytes

	var acc [rows][2]reg.VecVirtual
	for i := range acc {
		for h := range acc[i] {
			acc[i][h] = YMM()
			VXORPS(acc[i][h], acc[i][h], acc[i][h])
		}
	}
	step := func(p int) {
		b0, b1 := YMM(), YMM()
		VMOVUPS(Mem{Base: b, Disp: 4 * p * cols}, b0)
		VMOVUPS(Mem{Base: b, Disp: 4 * (p*cols + lanes)}, b1)
		for i := range acc {
			x := YMM()
			VBROADCASTSS(Mem{Base: a, Disp: 4 * (p*rows + i)}, x)
			VFMADD231PS(b0, x, acc[i][0])
			VFMADD231PS(b1, x, acc[i][1])
		}
	}
	Label("rounds")
	CMPQ(k, Imm(unroll))
	JLT(LabelRef("rest"))
	for p := range unroll {
		step(p)
	}
	ADDQ(U32(4*unroll*rows), a)
	ADDQ(U32(4*unroll*cols), b)
	SUBQ(Imm(unroll), k)
	JMP(LabelRef("rounds"))
	Label("rest")
	TESTQ(k, k)
	JZ(LabelRef("finish"))
	step(0)
	ADDQ(U32(4*rows), a)
	ADDQ(U32(4*cols), b)
	DECQ(k)
	JMP(LabelRef("rest"))

	Label("finish")
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
			if i+1 < rows {
				ADDQ(ldc, p)
			}
		}
	}
	when(addC, "added", func() {
		eachRow(func(i int, row Mem) {
			VADDPS(row, acc[i][0], acc[i][0])
			VADDPS(row.Offset(4*lanes), acc[i][1], acc[i][1])
		})
	})
	when(biasColumns, "columns", func() {
		bias := Load(Param("bias"), GP64())
		for h := range 2 {
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
			VADDPS(v, acc[i][0], acc[i][0])
			VADDPS(v, acc[i][1], acc[i][1])
		}
	})
	when(relu, "positive", func() {
		zero := YMM()
		VXORPS(zero, zero, zero)
		for i := range acc {
			// The second operand of MAXPS is the answer when one is NaN: keep it.
			VMAXPS(acc[i][0], zero, acc[i][0])
			VMAXPS(acc[i][1], zero, acc[i][1])
		}
	})
	eachRow(func(i int, row Mem) {
		VMOVUPS(acc[i][0], row)
		VMOVUPS(acc[i][1], row.Offset(4*lanes))
	})
	VZEROUPPER()
	RET()
}
