// Command gen writes the micro-kernels of package kernel as Go assembly, for one instruction set a run.
//
//	cd models/internal/kernel/_gen
//	go run . -isa avx2 -out ../avx2_amd64.s -stubs ../avx2_amd64_stub.go -pkg kernel
//	go run . -isa avx512 -out ../avx512_amd64.s -stubs ../avx512_amd64_stub.go -pkg kernel
package main

import (
	"flag"
	"fmt"
	"os"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// isa is what the kernels of the instruction sets differ in.
type isa struct {
	suffix string                // of the names of functions
	lanes  int                   // float32 in a register
	rows   int                   // of the largest tile
	wide   map[int]int           // by rows: panels of B at a time, where one would leave the multipliers waiting for sums
	vec    func() reg.VecVirtual // a new register
	data   map[string]Mem        // constants by name
}

var sets = map[string]isa{
	"avx2":   {suffix: "AVX2", lanes: 8, rows: 6, wide: map[int]int{1: 4, 2: 2, 3: 2}, vec: YMM},
	"avx512": {suffix: "AVX512", lanes: 16, rows: 12, wide: map[int]int{1: 4, 2: 4, 3: 4, 4: 2, 5: 2, 6: 2}, vec: ZMM},
}

// cols is the number of columns of a panel of B: two registers.
func (s *isa) cols() int { return 2 * s.lanes }

func main() {
	name := flag.String("isa", "avx2", "avx2 or avx512")
	flag.Parse()
	s, ok := sets[*name]
	if !ok {
		fmt.Fprintf(os.Stderr, "gen: no instruction set %q; choose avx2 or avx512\n", *name)
		os.Exit(2)
	}
	s.data = map[string]Mem{}
	ConstraintExpr("amd64,!noasm")
	for rows := 1; rows <= s.rows; rows++ {
		s.tile(rows)
	}
	s.columnsInUse()
	s.transpose()
	s.halve()
	s.winogradIn()
	s.winogradOut()
	s.winograd4In()
	s.winograd4Out()
	s.limit()
	Generate()
}

// zero clears a register.
func (s *isa) zero(v reg.VecVirtual) {
	if s.lanes == 16 {
		VPXORD(v, v, v)
		return
	}
	VXORPS(v, v, v)
}

// maximum is y = max(x, y), NaN when one of them is.
func (s *isa) maximum(x, y reg.VecVirtual) {
	m := s.vec()
	VMAXPS(y, x, m) // y when one is NaN
	if s.lanes == 16 {
		nan := K()
		VCMPPS(Imm(3), x, x, nan)
		VMOVAPS(x, nan, m)
		VMOVAPS(m, y)
		return
	}
	nan := YMM()
	VCMPPS(Imm(3), x, x, nan)
	VBLENDVPS(nan, x, m, y)
}

// transposed transposes the 4 x 4 matrices in the quarters or halves of t.
func (s *isa) transposed(t [4]reg.VecVirtual) [4]reg.VecVirtual {
	a, b, c, d := s.vec(), s.vec(), s.vec(), s.vec()
	VUNPCKLPS(t[1], t[0], a)
	VUNPCKHPS(t[1], t[0], b)
	VUNPCKLPS(t[3], t[2], c)
	VUNPCKHPS(t[3], t[2], d)
	e := [4]reg.VecVirtual{s.vec(), s.vec(), s.vec(), s.vec()}
	VUNPCKLPD(c, a, e[0])
	VUNPCKHPD(c, a, e[1])
	VUNPCKLPD(d, b, e[2])
	VUNPCKHPD(d, b, e[3])
	return e
}

// quarters loads 4 floats from each place to the quarters (or halves) of a register.
func (s *isa) quarters(place func(i int) Mem) reg.VecVirtual {
	v := s.vec()
	if s.lanes == 8 {
		VBROADCASTF128(place(0), v)
		VINSERTF128(Imm(1), place(1), v, v)
		return v
	}
	VBROADCASTF32X4(place(0), v)
	for i := 1; i < 4; i++ {
		VINSERTF32X4(U8(i), place(i), v, v)
	}
	return v
}

// transpose packs the columns of a register of a panel.
func (s *isa) transpose() {
	TEXT("transpose"+s.suffix, NOSPLIT, "func(blocks int, src *float32, ld int, dst *float32)")
	Doc(fmt.Sprintf("transpose%s computes dst[i*%d+v] = src[v*ld+i] for v < %d and i < 4*blocks. blocks must be at least 1.", s.suffix, s.cols(), s.lanes))
	Pragma("noescape")
	n := Load(Param("blocks"), GP64())
	src := Load(Param("src"), GP64())
	ld := Load(Param("ld"), GP64())
	dst := Load(Param("dst"), GP64())
	SHLQ(Imm(2), ld) // in bytes
	three := GP64()
	LEAQ(Mem{Base: ld, Index: ld, Scale: 2}, three)
	quarter := []reg.Register{src} // where every fourth row begins
	for len(quarter) < s.lanes/4 {
		next := GP64()
		LEAQ(Mem{Base: quarter[len(quarter)-1], Index: ld, Scale: 4}, next)
		quarter = append(quarter, next)
	}
	Label("block")
	var t [4]reg.VecVirtual
	for i := range t {
		t[i] = s.quarters(func(g int) Mem {
			switch i {
			case 0:
				return Mem{Base: quarter[g]}
			case 3:
				return Mem{Base: quarter[g], Index: three, Scale: 1}
			}
			return Mem{Base: quarter[g], Index: ld, Scale: uint8(i)}
		})
	}
	for i, y := range s.transposed(t) {
		VMOVUPS(y, Mem{Base: dst, Disp: 4 * s.cols() * i})
	}
	for _, base := range quarter {
		ADDQ(Imm(16), base)
	}
	ADDQ(U32(4*4*s.cols()), dst)
	DECQ(n)
	JNZ(LabelRef("block"))
	VZEROUPPER()
	RET()
}

// limit keeps the multipliers busy with operands that are in registers.
func (s *isa) limit() {
	TEXT("limit"+s.suffix, NOSPLIT, "func(rounds int)")
	Doc(fmt.Sprintf("limit%s does rounds x 16 fused multiply-adds of registers of %d floats, none of which waits for another. rounds must be at least 1.",
		s.suffix, s.lanes))
	n := Load(Param("rounds"), GP64())
	one := s.vec()
	s.zero(one)
	sums := make([]reg.VecVirtual, 8)
	for i := range sums {
		sums[i] = s.vec()
		s.zero(sums[i])
	}
	Label("round")
	for range 2 {
		for _, v := range sums {
			VFMADD231PS(one, one, v)
		}
	}
	DECQ(n)
	JNZ(LabelRef("round"))
	VZEROUPPER()
	RET()
}
