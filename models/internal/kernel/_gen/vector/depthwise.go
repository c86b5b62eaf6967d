package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// taps is a convolution of one channel with any window, once the image is laid out as one long line (see package kernel's shift).
func (u unit) taps() {
	u.text("taps", "k int, off *uint32, w *float32, n int, x, y, ends *float32",
		"computes y[j] = clip(ends[0] + sum over p < k of w[p]*x[off[p]+j]) for j < n, where clip limits to ends[1] and ends[2].",
		"p ascends, with fused multiply-adds.")
	k := Load(Param("k"), GP64())
	off := Load(Param("off"), GP64())
	w := Load(Param("w"), GP64())
	n := Load(Param("n"), GP64()).(reg.GPVirtual)
	x := Load(Param("x"), GP64())
	y := Load(Param("y"), GP64())
	ends := Load(Param("ends"), GP64())
	block := func(name string, width int, some *mask) {
		acc := u.regs(width)
		for _, a := range acc {
			VBROADCASTSS(Mem{Base: ends}, a)
		}
		p, at := GP64(), GP64()
		XORQ(p, p)
		Label(name + "Taps")
		CMPQ(p, k)
		JGE(LabelRef(name + "End"))
		MOVL(Mem{Base: off, Index: p, Scale: 4}, at.As32())
		weight := u.broadcast(Mem{Base: w, Index: p, Scale: 4})
		for i, a := range acc {
			m := Mem{Base: x, Index: at, Scale: 4, Disp: u.bytes() * i}
			if some != nil {
				VFMADD231PS(u.maskLoad(m, *some), weight, a)
			} else {
				VFMADD231PS(m, weight, a)
			}
		}
		INCQ(p)
		JMP(LabelRef(name + "Taps"))
		Label(name + "End")
		for i, a := range acc {
			u.clip(a, Mem{Base: ends, Disp: 4}, Mem{Base: ends, Disp: 8})
			m := Mem{Base: y, Disp: u.bytes() * i}
			if some != nil {
				u.maskStore(a, m, *some)
			} else {
				VMOVUPS(a, m)
			}
		}
		ADDQ(U32(u.bytes()*width), x)
		ADDQ(U32(u.bytes()*width), y)
	}
	loop := func(name string, width int, next string) {
		Label(name)
		CMPQ(n, U32(width*u.lanes))
		JLT(LabelRef(next))
		block(name, width, nil)
		SUBQ(U32(width*u.lanes), n)
		JMP(LabelRef(name))
	}
	loop("four", 4, "one")
	loop("one", 1, "rest")
	Label("rest")
	TESTQ(n, n)
	JZ(LabelRef("done"))
	some := u.tail(n)
	block("rest", 1, &some)
	Label("done")
	u.end()
}

// depthwise is a size x size convolution of channels with a stride of 1 or 2 in both directions. It walks down columns of the image as
// wide as a register, one or two side by side. Every row of the image is loaded once for each column of the kernel and meets all rows of
// the kernel at once, each with the sum of another row of the result.
type depthwise struct {
	unit
	size, stride, columns int
}

// last is the number of sums that are unfinished after a step, and the index of the one that is finished by it.
func (d depthwise) last() int { return (d.size - 1) / d.stride }

// kept is how many weights stay in registers.
func (d depthwise) kept() int {
	switch {
	case d.wide() && d.stride == 2:
		return min(d.size*d.size, 18)
	case d.wide():
		return min(d.size*d.size, 23)
	case d.stride == 1 && d.size == 3:
		return 6
	}
	return 0
}

// loads is the number of masked loads of a row of the image in a column.
func (d depthwise) loads() int {
	if d.stride == 1 || d.wide() {
		return d.size
	}
	return d.size + 1
}

func (d depthwise) write() {
	name := fmt.Sprintf("depthwise%ds%d", d.size, d.stride)
	what := "a column"
	if d.columns == 2 {
		name, what = name+"pair", "two columns side by side"
	}
	d.text(name,
		"channels, rows int, at *int, x, zero *float32, xstep, col int, w, bias *float32, bstep int, limits *float32, masks *uint32, full int, y *float32, ystep, ldy, ahead int",
		fmt.Sprintf("computes %s of results of a %d x %d convolution with stride %d: y[r*ldy+j] = clip(bias[0] + sum of", what, d.size, d.size, d.stride),
		fmt.Sprintf("w[p*%d+q] * row(%d*r+p)[col+%d*j+q]) for r < rows, where row(i) begins at[i] bytes after x, or at zero when at[i] is negative, and", d.size, d.stride, d.stride),
		"clip limits to limits[0] and limits[1]. The next channels follow with x, y and bias moved by xstep, ystep and bstep elements, and w by",
		fmt.Sprintf("a kernel. Elements of x that are ahead behind those in use are prefetched. at has %d more elements than rows*%d. masks are those of package", d.last()*d.stride, d.stride),
		"kernel's depthwiseMasks, a list for each column; the last mask says which j are stored, all of them when full is not 0. Of the first of",
		fmt.Sprintf("two columns only the first %d masks count, all other lanes are there. p and q ascend, with fused multiply-adds.", d.stride))
	x := Load(Param("x"), GP64())
	zero := Load(Param("zero"), GP64())
	col := Load(Param("col"), GP64())
	LEAQ(Mem{Base: x, Index: col, Scale: 4}, x)
	LEAQ(Mem{Base: zero, Index: col, Scale: 4}, zero)
	s := &steps{depthwise: d, x: x, zero: zero}
	s.ahead = Load(Param("ahead"), GP64())
	SHLQ(Imm(2), s.ahead)
	s.w = Load(Param("w"), GP64())
	s.bias = Load(Param("bias"), GP64())
	masks := Load(Param("masks"), GP64())
	for i := range d.columns {
		some := make([]mask, d.loads()) // none where all lanes are there
		for j := range some {
			if i+1 == d.columns || j < d.stride {
				some[j] = d.loadMask(masks, i*(d.loads()+1)+j)
			}
		}
		s.masks = append(s.masks, some)
	}
	var store mask
	storeAt := d.columns*(d.loads()+1) - 1
	if d.wide() {
		store = d.loadMask(masks, storeAt)
		limits := Load(Param("limits"), GP64())
		s.lo, s.hi = d.broadcast(Mem{Base: limits}), d.broadcast(Mem{Base: limits, Disp: 4})
		s.begin = d.reg()
		if d.stride == 2 {
			s.even, s.odd = d.load(evenLanes()), d.load(oddLanes())
		}
	}
	s.weights = d.regs(d.kept())
	s.at = GP64()
	rows, y := GP64(), GP64()
	ldy := Load(Param("ldy"), GP64())
	SHLQ(Imm(2), ldy)
	for _, name := range []string{"xstep", "ystep", "bstep"} {
		SHLQ(Imm(2), param(name)) // in bytes
	}
	for range d.columns {
		s.acc = append(s.acc, d.regs(d.last()+1))
	}
	Label("channel")
	for i, w := range s.weights {
		VBROADCASTSS(Mem{Base: s.w, Disp: 4 * i}, w)
	}
	if d.wide() {
		VBROADCASTSS(Mem{Base: s.bias}, s.begin)
	}
	Load(Param("at"), s.at)
	Load(Param("rows"), rows)
	Load(Param("y"), y)
	for i := range d.last() {
		s.step(i)
	}
	Label("row")
	s.step(d.last())
	for c, acc := range s.acc {
		done := acc[0] // the sums have moved by one
		s.limit(done)
		to := Mem{Base: y, Disp: c * d.bytes()}
		if c+1 < d.columns {
			VMOVUPS(done, to)
			continue
		}
		CMPQ(param("full"), Imm(0))
		JE(LabelRef("some"))
		VMOVUPS(done, to)
		JMP(LabelRef("stored"))
		Label("some")
		if !d.wide() {
			store = d.loadMask(Load(Param("masks"), GP64()), storeAt)
		}
		d.maskStore(done, to, store)
		Label("stored")
	}
	ADDQ(ldy, y)
	DECQ(rows)
	JNZ(LabelRef("row"))
	ADDQ(param("xstep"), x)
	ADDQ(Imm(uint64(4*d.size*d.size)), s.w)
	ADDQ(param("bstep"), s.bias)
	next := Load(Param("ystep"), GP64())
	ADDQ(next, param("y"))
	DECQ(param("channels"))
	JNZ(LabelRef("channel"))
	d.end()
}

// param is where an argument lies; it may be changed.
func param(name string) Mem {
	b, err := Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	return b.Addr
}

// steps are the steps down the image: one row of results each.
type steps struct {
	depthwise
	x, zero, at, w, bias, ahead reg.Register
	masks                       [][]mask // of each column
	weights                     []reg.VecVirtual
	even, odd, begin, lo, hi    reg.VecVirtual     // when registers are wide, and so there are more of them
	acc                         [][]reg.VecVirtual // in each column of the row of results that is begun, of the one above, ...
}

// limit ends a sum.
func (s *steps) limit(y reg.VecVirtual) {
	if s.wide() {
		VMAXPS(y, s.lo, y)
		VMINPS(y, s.hi, y)
		return
	}
	limits := Load(Param("limits"), GP64())
	s.clip(y, Mem{Base: limits}, Mem{Base: limits, Disp: 4})
}

// step takes the next rows of the image; before it only as many sums as known have begun. It ends with acc[i] moved to acc[i+1] and
// the last in acc[0].
func (s *steps) step(known int) {
	for _, acc := range s.acc {
		if s.wide() {
			VMOVAPS(s.begin, acc[0])
		} else {
			VBROADCASTSS(Mem{Base: s.bias}, acc[0])
		}
	}
	for t := range s.stride {
		off, p := GP64(), GP64()
		MOVQ(Mem{Base: s.at, Disp: 8 * t}, off)
		LEAQ(Mem{Base: s.x, Index: off, Scale: 1}, p)
		TESTQ(off, off)
		CMOVQLT(s.zero, p)
		for i := range s.stride * s.columns {
			PREFETCHT0(Mem{Base: p, Index: s.ahead, Scale: 1, Disp: 64 * i})
		}
		s.row(p, func(kw int, v reg.VecVirtual, acc []reg.VecVirtual) {
			for i := range known + 1 {
				if kh := t + s.stride*i; kh < s.size {
					s.multiply(kh*s.size+kw, v, acc[i])
				}
			}
		})
	}
	ADDQ(Imm(uint64(8*s.stride)), s.at)
	for _, acc := range s.acc {
		done := s.reg()
		n := len(acc)
		VMOVAPS(acc[n-1], done)
		for i := n - 1; i > 0; i-- {
			VMOVAPS(acc[i-1], acc[i])
		}
		VMOVAPS(done, acc[0])
	}
}

// part loads what a load of a column reads of a row.
func (s *steps) part(m Mem, column, load int) reg.VecVirtual {
	if k := s.masks[column][load]; k.r != nil {
		return s.maskLoad(m, k)
	}
	return s.load(m)
}

// row calls f with the columns of a row of the image that each column of the kernel meets, for each column of results.
func (s *steps) row(p reg.Register, f func(kw int, v reg.VecVirtual, acc []reg.VecVirtual)) {
	switch {
	case s.stride == 1:
		for kw := range s.size {
			for c, acc := range s.acc {
				f(kw, s.part(Mem{Base: p, Disp: 4*kw + c*s.bytes()}, c, kw), acc)
			}
		}
	case s.wide():
		s.halves(p, f)
	default:
		for kw := 0; kw < s.size; kw += 2 {
			a := s.part(Mem{Base: p, Disp: 4 * kw}, 0, kw)
			b := s.part(Mem{Base: p, Disp: 4*kw + s.bytes()}, 0, kw+1)
			e := s.reg()
			VSHUFPS(Imm(0x88), b, a, e)
			VPERMPD(Imm(0xd8), e, e) // the halves of 128 bits were shuffled apart
			f(kw, e, s.acc[0])
			if kw+1 < s.size {
				VSHUFPS(Imm(0xdd), b, a, a)
				VPERMPD(Imm(0xd8), a, a)
				f(kw+1, a, s.acc[0])
			}
		}
	}
}

// halves is row for a stride of 2: two registers from an odd column kw of the kernel on hold what it meets and what the next one meets.
// The first column meets the element before them and then what the third one meets.
func (s *steps) halves(p reg.Register, f func(kw int, v reg.VecVirtual, acc []reg.VecVirtual)) {
	var before reg.VecVirtual
	for c, acc := range s.acc {
		at := 2 * c * s.bytes()
		if c == 0 {
			before = s.reg()
			VBROADCASTSS_Z(Mem{Base: p}, s.masks[0][0].r, before)
		}
		for kw := 1; kw < s.size; kw += 2 {
			a := s.part(Mem{Base: p, Disp: at + 4*kw}, c, kw)
			b := s.part(Mem{Base: p, Disp: at + 4*kw + s.bytes()}, c, kw+1)
			next := s.reg()
			VMOVAPS(a, next)
			VPERMT2PS(b, s.odd, next)
			VPERMT2PS(b, s.even, a)
			if kw == 1 {
				first := s.reg()
				VALIGND(Imm(15), before, next, first)
				f(0, first, acc)
				before = next
			}
			f(kw, a, acc)
			f(kw+1, next, acc)
		}
	}
}

// multiply is acc += weight i * v.
func (s *steps) multiply(i int, v, acc reg.VecVirtual) {
	m := Mem{Base: s.w, Disp: 4 * i}
	switch {
	case i < len(s.weights):
		VFMADD231PS(s.weights[i], v, acc)
	case s.wide():
		VFMADD231PS_BCST(m, v, acc)
	default:
		VFMADD231PS(s.broadcast(m), v, acc)
	}
}

var evens, odds *Mem

func evenLanes() Mem { return lanesFrom(&evens, "evenLanes", 0) }
func oddLanes() Mem  { return lanesFrom(&odds, "oddLanes", 1) }

// lanesFrom is a table of the lanes first, first+2, ... of two registers of 16.
func lanesFrom(table **Mem, name string, first int) Mem {
	if *table == nil {
		m := GLOBL(name, RODATA|NOPTR)
		for i := range 16 {
			DATA(4*i, U32(first+2*i))
		}
		*table = &m
	}
	return **table
}
