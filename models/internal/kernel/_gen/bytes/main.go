// Command bytes writes the conversion of bytes to numbers from 0 to 1 as Go assembly:
//
//	cd models/internal/kernel/_gen && go run ./bytes -out ../bytes_amd64.s -stubs ../bytes_amd64_stub.go -pkg kernel
//
// The quotient by 255 is a division, so that it is rounded like that of the portable loop.
package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func main() {
	ConstraintExpr("amd64,!noasm")
	for _, lanes := range []int{8, 16} {
		write(lanes)
	}
	Generate()
}

func write(lanes int) {
	name := fmt.Sprintf("bytesx%d", lanes)
	TEXT(name, NOSPLIT, "func(n int, x *byte, y *float32)")
	Doc(fmt.Sprintf("%s computes y[i] = float32(x[i])/255 for i < n, a multiple of %d.", name, lanes))
	Pragma("noescape")
	n := Load(Param("n"), GP64())
	x, y := Mem{Base: Load(Param("x"), GP64())}, Mem{Base: Load(Param("y"), GP64())}
	top, bits := vec(lanes), GP32()
	MOVL(U32(math.Float32bits(255)), bits)
	first := XMM()
	VMOVD(bits, first)
	VBROADCASTSS(first, top)
	Label(name + "_loop")
	CMPQ(n, Imm(uint64(lanes)))
	JL(LabelRef(name + "_end"))
	v := vec(lanes)
	VPMOVZXBD(x, v)
	VCVTDQ2PS(v, v)
	VDIVPS(top, v, v)
	VMOVUPS(v, y)
	ADDQ(Imm(uint64(lanes)), x.Base)
	ADDQ(Imm(uint64(4*lanes)), y.Base)
	SUBQ(Imm(uint64(lanes)), n)
	JMP(LabelRef(name + "_loop"))
	Label(name + "_end")
	VZEROUPPER()
	RET()
}

func vec(lanes int) reg.VecVirtual {
	if lanes == 16 {
		return ZMM()
	}
	return YMM()
}
