package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Where the fields of package kernel's tile are; a test there compares.
const (
	tileForm = 8 * iota
	tileK
	tileA
	tileLDA
	tileB
	tileLDB
	tileOff
	tileC
	tileLDC
	tileBias
	tileEnd
	tileCols
	tileCount
	tileLimits
)

// The values of tile.form.
const (
	formPanels = iota
	formRows
	formShift
	formSeries // panels, tile.count products one after the other in A and C, and in B with a row between
	formSparse // rows of A without the columns that are zero in all of them
	formPairs  // panels by several panels; the number of them depends on the rows
	formWide   // rows by several panels
	formSparseWide
)

// The bits of tile.end.
const (
	addC = 1 << iota
	biasColumns
	biasRows
	relu
	clip
	part
)

const unroll = 4 // steps of k a round

// loop is what the forms differ in: where their operands are.
type loop struct {
	left    func(p, i int) Mem // element i of A in step p of a round
	right   func(p, h int) Mem // register h of B in step p of a round
	advance func(steps int)    // to the next round
}

// tileGen is the generation of one function.
type tileGen struct {
	*isa
	height int
	t      reg.Register
	k, a   reg.Register
	b      reg.Register
}

// tile writes the product of a few rows with a panel, or with several panels. All sums are in registers; each step of k loads the columns
// of B and broadcasts the rows of A.
func (s *isa) tile(height int) {
	name := fmt.Sprintf("tile%sx%d", s.suffix, height)
	TEXT(name, NOSPLIT, fmt.Sprintf("func(t *[%d]int)", tileLimits/8+1))
	Doc(fmt.Sprintf("%s computes a tile of %d rows. t is a tile.", name, height))
	Pragma("noescape")
	g := &tileGen{isa: s, height: height, t: Load(Param("t"), GP64())}
	g.k, g.a, g.b = GP64(), GP64(), GP64()
	MOVQ(g.field(tileK), g.k)
	MOVQ(g.field(tileA), g.a)
	MOVQ(g.field(tileB), g.b)
	form := GP64()
	MOVQ(g.field(tileForm), form)
	jump := func(value int, label string) {
		CMPQ(form, Imm(uint64(value)))
		JEQ(LabelRef(label))
	}
	wide := s.wide[height]
	acc := s.sums(height, 2)
	jump(formSeries, "series")
	if wide > 0 {
		CMPQ(form, Imm(formPairs))
		JGE(LabelRef("several"))
	}
	g.start(acc, "one")
	jump(formRows, "rows")
	jump(formShift, "shift")
	jump(formSparse, "sparse")
	g.panels("panels", acc, 1)
	Label("finish")
	g.finish(acc, "one")
	Label("rows")
	g.rows("rows", acc, 1)
	JMP(LabelRef("finish"))
	Label("shift")
	g.shift("shift", acc)
	JMP(LabelRef("finish"))
	Label("sparse")
	g.sparse("sparse", acc, 1)
	JMP(LabelRef("finish"))
	Label("series")
	g.series(acc)
	if wide == 0 {
		return
	}
	Label("several")
	acc = s.sums(height, 2*wide)
	g.start(acc, "several")
	jump(formWide, "wide")
	jump(formSparseWide, "sparsewide")
	g.panels("pairs", acc, wide)
	Label("finishwide")
	g.finish(acc, "several")
	Label("wide")
	g.rows("wide", acc, wide)
	JMP(LabelRef("finishwide"))
	Label("sparsewide")
	g.sparse("sparsewide", acc, wide)
	JMP(LabelRef("finishwide"))
}

func (g *tileGen) field(at int) Mem { return Mem{Base: g.t, Disp: at} }

// sums are the registers of a tile, row by row.
type sums [][]reg.VecVirtual

func (s *isa) sums(rows, width int) sums {
	list := make(sums, rows)
	for i := range list {
		for range width {
			list[i] = append(list[i], s.vec())
		}
	}
	return list
}

// columns returns where the registers of B are: panels ldb apart.
func (g *tileGen) columns(panels int) func(p, h int) Mem {
	var one, three reg.Register
	if panels > 1 {
		one = GP64()
		MOVQ(g.field(tileLDB), one)
		SHLQ(Imm(2), one) // in bytes
	}
	if panels > 3 {
		three = GP64()
		LEAQ(Mem{Base: one, Index: one, Scale: 2}, three)
	}
	return func(p, h int) Mem {
		m := Mem{Base: g.b, Disp: 4 * (p*g.cols() + h%2*g.lanes)}
		switch h / 2 {
		case 1, 2:
			m.Index, m.Scale = one, uint8(h/2)
		case 3:
			m.Index, m.Scale = three, 1
		}
		return m
	}
}

// panels is the loop over packed operands.
func (g *tileGen) panels(label string, acc sums, panels int) {
	right := g.columns(panels)
	g.accumulate(label, acc, loop{
		left:  func(p, i int) Mem { return Mem{Base: g.a, Disp: 4 * (p*g.height + i)} },
		right: right,
		advance: func(steps int) {
			ADDQ(U32(4*steps*g.height), g.a)
			ADDQ(U32(4*steps*g.cols()), g.b)
		},
	})
}

// rowsOfA returns where element i of A in step p is when the rows are lda apart, and how to go on.
func (g *tileGen) rowsOfA() (left func(p, i int) Mem, advance func(steps int)) {
	lda := GP64()
	MOVQ(g.field(tileLDA), lda)
	SHLQ(Imm(2), lda) // in bytes
	base := []reg.Register{g.a}
	for len(base)*3 < g.height {
		next := GP64()
		LEAQ(Mem{Base: base[len(base)-1], Index: lda, Scale: 1}, next)
		LEAQ(Mem{Base: next, Index: lda, Scale: 2}, next)
		base = append(base, next)
	}
	left = func(p, i int) Mem {
		m := Mem{Base: base[i/3], Disp: 4 * p}
		if i%3 > 0 {
			m.Index, m.Scale = lda, uint8(i%3)
		}
		return m
	}
	advance = func(steps int) {
		for _, r := range base {
			ADDQ(U32(4*steps), r)
		}
	}
	return left, advance
}

// rows is the loop over rows of A as they are in a row-major matrix.
func (g *tileGen) rows(label string, acc sums, panels int) {
	left, advance := g.rowsOfA()
	g.accumulate(label, acc, loop{left: left, right: g.columns(panels), advance: func(steps int) {
		advance(steps)
		ADDQ(U32(4*steps*g.cols()), g.b)
	}})
}

// sparse is the loop over rows of A with rows of B that are each at a place of their own.
func (g *tileGen) sparse(label string, acc sums, panels int) {
	left, advance := g.rowsOfA()
	off, place := GP64(), GP64()
	MOVQ(g.field(tileOff), off)
	base := []reg.Register{g.b}
	for len(base) < panels {
		ldb, next := GP64(), GP64()
		MOVQ(g.field(tileLDB), ldb)
		LEAQ(Mem{Base: base[len(base)-1], Index: ldb, Scale: 4}, next)
		base = append(base, next)
	}
	g.accumulate(label, acc, loop{
		left: left,
		right: func(p, h int) Mem {
			if h == 0 {
				MOVL(Mem{Base: off, Disp: 4 * p}, place.As32())
			}
			return Mem{Base: base[h/2], Index: place, Scale: 4, Disp: 4 * (h % 2 * g.lanes)}
		},
		advance: func(steps int) {
			advance(steps)
			ADDQ(U32(4*steps), off)
		},
	})
}

// shift is the loop over rows of B that are each at a place of their own.
func (g *tileGen) shift(label string, acc sums) {
	off, place := GP64(), GP64()
	MOVQ(g.field(tileOff), off)
	g.accumulate(label, acc, loop{
		left: func(p, i int) Mem { return Mem{Base: g.a, Disp: 4 * (p*g.height + i)} },
		right: func(p, h int) Mem {
			if h == 0 {
				MOVL(Mem{Base: off, Disp: 4 * p}, place.As32())
			}
			return Mem{Base: g.b, Index: place, Scale: 4, Disp: 4 * h * g.lanes}
		},
		advance: func(steps int) {
			ADDQ(U32(4*steps*g.height), g.a)
			ADDQ(U32(4*steps), off)
		},
	})
}

// series multiplies pairs of panels that lie one after the other, those of B with a row between, and stores the products one after the other.
func (g *tileGen) series(acc sums) {
	c, count := GP64(), GP64()
	MOVQ(g.field(tileC), c)
	MOVQ(g.field(tileCount), count)
	Label("series_next")
	MOVQ(g.field(tileK), g.k)
	g.clear(acc)
	g.panels("series", acc, 1)
	for i := range acc {
		for h, v := range acc[i] {
			VMOVUPS(v, Mem{Base: c, Disp: 4 * (i*g.cols() + h*g.lanes)})
		}
	}
	ADDQ(U32(4*g.height*g.cols()), c)
	ADDQ(U32(4*g.cols()), g.b)
	DECQ(count)
	JNZ(LabelRef("series_next"))
	VZEROUPPER()
	RET()
}

// accumulate sums up over k.
func (g *tileGen) accumulate(label string, acc sums, at loop) {
	rounds, rest, done := label+"_rounds", label+"_rest", label+"_done"
	Label(rounds)
	CMPQ(g.k, Imm(unroll))
	JLT(LabelRef(rest))
	for p := range unroll {
		g.step(p, acc, at)
	}
	at.advance(unroll)
	SUBQ(Imm(unroll), g.k)
	JMP(LabelRef(rounds))
	Label(rest)
	TESTQ(g.k, g.k)
	JZ(LabelRef(done))
	g.step(0, acc, at)
	at.advance(1)
	DECQ(g.k)
	JMP(LabelRef(rest))
	Label(done)
}

// step adds one outer product. Of the two sides the one with fewer registers stays in them.
func (g *tileGen) step(p int, acc sums, at loop) {
	if len(acc) < len(acc[0]) {
		var left []reg.VecVirtual
		for i := range acc {
			x := g.vec()
			VBROADCASTSS(at.left(p, i), x)
			left = append(left, x)
		}
		for h := range acc[0] {
			y := g.vec()
			VMOVUPS(at.right(p, h), y)
			for i, x := range left {
				VFMADD231PS(y, x, acc[i][h])
			}
		}
		return
	}
	var right []reg.VecVirtual
	for h := range acc[0] {
		y := g.vec()
		VMOVUPS(at.right(p, h), y)
		right = append(right, y)
	}
	for i := range acc {
		x := g.vec()
		VBROADCASTSS(at.left(p, i), x)
		for h, y := range right {
			VFMADD231PS(y, x, acc[i][h])
		}
	}
}

// start begins the sums with the old c or with nothing.
func (g *tileGen) start(acc sums, label string) {
	c, ldc := GP64(), GP64()
	TESTQ(U32(addC), g.field(tileEnd))
	JNZ(LabelRef(label + "_old"))
	g.clear(acc)
	JMP(LabelRef(label + "_begun"))
	Label(label + "_old")
	MOVQ(g.field(tileC), c)
	MOVQ(g.field(tileLDC), ldc)
	SHLQ(Imm(2), ldc) // in bytes
	one := len(acc[0]) == 2
	mask := columnMask{isa: g.isa}
	if one {
		cols := GP64()
		MOVQ(g.field(tileCols), cols)
		mask.load(cols)
	}
	eachRow(acc, c, ldc, func(i int, row Mem) {
		for h, v := range acc[i] {
			mask.read(one, h, row.Offset(4*g.lanes*h), v)
		}
	})
	Label(label + "_begun")
}

func (g *tileGen) clear(acc sums) {
	for i := range acc {
		for _, v := range acc[i] {
			g.zero(v)
		}
	}
}

// eachRow calls body with the place of each row of c.
func eachRow(acc sums, c, ldc reg.Register, body func(i int, row Mem)) {
	p := GP64()
	MOVQ(c, p)
	for i := range acc {
		body(i, Mem{Base: p})
		if i+1 < len(acc) {
			ADDQ(ldc, p)
		}
	}
}

// finish does what the bits of end say and stores the tile. The order is that of package kernel's store: bias, ReLU, limits.
func (g *tileGen) finish(acc sums, label string) {
	c, ldc, end := GP64(), GP64(), GP64()
	MOVQ(g.field(tileC), c)
	MOVQ(g.field(tileLDC), ldc)
	MOVQ(g.field(tileEnd), end)
	SHLQ(Imm(2), ldc) // in bytes
	when := func(bit uint64, skip string, body func()) {
		TESTQ(U32(bit), end)
		JZ(LabelRef(label + skip))
		body()
		Label(label + skip)
	}
	one := len(acc[0]) == 2 // only a single panel may be cut off
	mask := columnMask{isa: g.isa}
	if one {
		cols := GP64()
		MOVQ(g.field(tileCols), cols)
		mask.load(cols)
	}
	when(biasColumns, "_columns", func() {
		bias := GP64()
		MOVQ(g.field(tileBias), bias)
		for h := range acc[0] {
			v := g.vec()
			mask.read(one, h, Mem{Base: bias, Disp: 4 * g.lanes * h}, v)
			for i := range acc {
				VADDPS(v, acc[i][h], acc[i][h])
			}
		}
	})
	when(biasRows, "_rows", func() {
		bias := GP64()
		MOVQ(g.field(tileBias), bias)
		for i := range acc {
			v := g.vec()
			VBROADCASTSS(Mem{Base: bias, Disp: 4 * i}, v)
			for _, sum := range acc[i] {
				VADDPS(v, sum, sum)
			}
		}
	})
	when(relu, "_positive", func() {
		zero := g.vec()
		g.zero(zero)
		for i := range acc {
			// The second operand of MAXPS is the answer when one is NaN: keep it.
			for _, v := range acc[i] {
				VMAXPS(v, zero, v)
			}
		}
	})
	when(clip, "_limited", func() {
		lo, hi := g.vec(), g.vec()
		VBROADCASTSS(g.field(tileLimits), lo)
		VBROADCASTSS(g.field(tileLimits+4), hi)
		for i := range acc {
			for _, v := range acc[i] {
				VMAXPS(v, lo, v)
				VMINPS(v, hi, v)
			}
		}
	})
	store := func(masked bool) {
		eachRow(acc, c, ldc, func(i int, row Mem) {
			for h, v := range acc[i] {
				if masked {
					mask.write(h, v, row.Offset(4*g.lanes*h))
				} else {
					VMOVUPS(v, row.Offset(4*g.lanes*h))
				}
			}
		})
		VZEROUPPER()
		RET()
	}
	if one {
		TESTQ(U32(part), end)
		JNZ(LabelRef(label + "_part"))
	}
	store(false)
	if one {
		Label(label + "_part")
		store(true)
	}
}

// columnMask lets the first columns of two registers through.
type columnMask struct {
	*isa
	k [2]reg.Register // opmask registers of AVX-512
	y reg.Register    // where the words for VMASKMOVPS begin, negative for the columns to let through
}

// load prepares the mask for a number of columns, 1 to 2*lanes.
func (m *columnMask) load(cols reg.Register) {
	if m.lanes == 16 {
		bits := GP64()
		MOVQ(I32(-1), bits)
		SHLXQ(cols, bits, bits)
		NOTQ(bits)
		m.k = [2]reg.Register{K(), K()}
		KMOVW(bits.As32(), m.k[0])
		SHRQ(Imm(16), bits)
		KMOVW(bits.As32(), m.k[1])
		return
	}
	var words []uint64
	for range 16 {
		words = append(words, math.MaxUint32)
	}
	bytes := GP64()
	m.y = GP64()
	LEAQ(m.constant("window", 4, append(words, make([]uint64, 16)...)...).Offset(64), m.y)
	MOVQ(cols, bytes)
	SHLQ(Imm(2), bytes)
	SUBQ(bytes, m.y)
}

func (m *columnMask) read(masked bool, h int, from Mem, v reg.VecVirtual) {
	switch {
	case !masked:
		VMOVUPS(from, v)
	case m.lanes == 16:
		VMOVUPS_Z(from, m.k[h], v)
	default:
		words := YMM()
		VMOVUPS(Mem{Base: m.y, Disp: 4 * 8 * h}, words)
		VMASKMOVPS(from, words, v)
	}
}

func (m *columnMask) write(h int, v reg.VecVirtual, to Mem) {
	if m.lanes == 16 {
		VMOVUPS(v, m.k[h], to)
		return
	}
	words := YMM()
	VMOVUPS(Mem{Base: m.y, Disp: 4 * 8 * h}, words)
	VMASKMOVPS(v, words, to)
}
