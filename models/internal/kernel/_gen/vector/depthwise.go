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

// depthwise is a size x size convolution of one channel with a stride of 1 or 2 in both directions. It walks down a column of the image
// as wide as a register. Every row of the image is loaded once for each column of the kernel and meets all rows of the kernel at once,
// each with the sum of another row of the result.
type depthwise struct {
	unit
	size, stride int
}

// last is the number of sums that are unfinished after a step, and the index of the one that is finished by it.
func (d depthwise) last() int { return (d.size - 1) / d.stride }

// kept is how many weights stay in registers.
func (d depthwise) kept() int {
	switch {
	case d.wide() && d.stride == 2:
		return min(d.size*d.size, 20)
	case d.wide():
		return d.size * d.size
	case d.stride == 1 && d.size == 3:
		return 6
	}
	return 0
}

func (d depthwise) write() {
	d.text(fmt.Sprintf("depthwise%ds%d", d.size, d.stride),
		"rows int, at *int, x, zero *float32, col int, w, ends *float32, masks *uint32, full int, y *float32, ldy, ahead int",
		fmt.Sprintf("computes a column of results of a %d x %d convolution with stride %d: y[r*ldy+j] = clip(ends[0] + sum of", d.size, d.size, d.stride),
		fmt.Sprintf("w[p*%d+q] * row(%d*r+p)[col+%d*j+q]) for r < rows, where row(i) begins at[i] bytes after x, or at zero when at[i] is negative, and", d.size, d.stride, d.stride),
		fmt.Sprintf("clip limits to ends[1] and ends[2]. Elements of x that are ahead behind those in use are prefetched. at has %d more elements than rows*%d. masks are those of package kernel's", d.last()*d.stride, d.stride),
		"depthwiseMasks; the last says which j are stored, all of them when full is not 0. p and q ascend, with fused multiply-adds.")
	x := Load(Param("x"), GP64())
	zero := Load(Param("zero"), GP64())
	col := Load(Param("col"), GP64())
	LEAQ(Mem{Base: x, Index: col, Scale: 4}, x)
	LEAQ(Mem{Base: zero, Index: col, Scale: 4}, zero)
	s := &steps{depthwise: d, x: x, zero: zero}
	s.ahead = Load(Param("ahead"), GP64())
	SHLQ(Imm(2), s.ahead)
	s.at = Load(Param("at"), GP64())
	s.w = Load(Param("w"), GP64())
	s.ends = Load(Param("ends"), GP64())
	masks := Load(Param("masks"), GP64())
	for i := range d.loads() {
		s.masks = append(s.masks, d.loadMask(masks, i))
	}
	var store mask
	if d.wide() {
		store = d.loadMask(masks, d.loads())
	}
	for i := range d.kept() {
		s.weights = append(s.weights, d.broadcast(Mem{Base: s.w, Disp: 4 * i}))
	}
	if d.wide() && d.stride == 2 {
		s.even, s.odd = d.load(evenLanes()), d.load(oddLanes())
	}
	rows := Load(Param("rows"), GP64())
	y := Load(Param("y"), GP64())
	ldy := Load(Param("ldy"), GP64())
	SHLQ(Imm(2), ldy) // in bytes
	s.acc = d.regs(d.last() + 1)
	for i := range d.last() {
		s.step(i)
	}
	Label("row")
	s.step(d.last())
	done := s.acc[0] // the sums have moved by one
	d.clip(done, Mem{Base: s.ends, Disp: 4}, Mem{Base: s.ends, Disp: 8})
	{
		full := Load(Param("full"), GP64())
		TESTQ(full, full)
		JZ(LabelRef("some"))
		VMOVUPS(done, Mem{Base: y})
		JMP(LabelRef("stored"))
		Label("some")
		if !d.wide() {
			store = d.loadMask(masks, d.loads())
		}
		d.maskStore(done, Mem{Base: y}, store)
		Label("stored")
	}
	ADDQ(ldy, y)
	DECQ(rows)
	JNZ(LabelRef("row"))
	d.end()
}

// loads is the number of registers that are loaded of a row of the image.
func (d depthwise) loads() int {
	if d.stride == 1 {
		return d.size
	}
	return d.size + 1
}

// steps are the steps down the image: one row of results each.
type steps struct {
	depthwise
	x, zero, at, w, ends, ahead reg.Register
	masks                       []mask
	weights                     []reg.VecVirtual
	even, odd                   reg.VecVirtual
	acc                         []reg.VecVirtual // of the row of results that is begun, of the one above, ...
}

// step takes the next rows of the image; before it only as many sums as known have begun. It ends with acc[i] moved to acc[i+1] and
// the last in acc[0].
func (s *steps) step(known int) {
	VBROADCASTSS(Mem{Base: s.ends}, s.acc[0])
	for t := range s.stride {
		off, p := GP64(), GP64()
		MOVQ(Mem{Base: s.at, Disp: 8 * t}, off)
		LEAQ(Mem{Base: s.x, Index: off, Scale: 1}, p)
		TESTQ(off, off)
		CMOVQLT(s.zero, p)
		for i := range s.stride {
			PREFETCHT0(Mem{Base: p, Index: s.ahead, Scale: 1, Disp: 64 * i})
		}
		s.row(p, func(kw int, v reg.VecVirtual) {
			for i := range known + 1 {
				if kh := t + s.stride*i; kh < s.size {
					s.multiply(kh*s.size+kw, v, s.acc[i])
				}
			}
		})
	}
	ADDQ(Imm(uint64(8*s.stride)), s.at)
	done := s.reg()
	n := len(s.acc)
	VMOVAPS(s.acc[n-1], done)
	for i := n - 1; i > 0; i-- {
		VMOVAPS(s.acc[i-1], s.acc[i])
	}
	VMOVAPS(done, s.acc[0])
}

// row calls f with the columns of a row of the image that each column of the kernel meets.
func (s *steps) row(p reg.Register, f func(kw int, v reg.VecVirtual)) {
	if s.stride == 1 {
		for kw := range s.size {
			f(kw, s.maskLoad(Mem{Base: p, Disp: 4 * kw}, s.masks[kw]))
		}
		return
	}
	for kw := 0; kw < s.size; kw += 2 {
		a := s.maskLoad(Mem{Base: p, Disp: 4 * kw}, s.masks[kw])
		b := s.maskLoad(Mem{Base: p, Disp: 4*kw + s.bytes()}, s.masks[kw+1])
		e := s.reg()
		if s.wide() {
			VMOVAPS(a, e)
			VPERMT2PS(b, s.even, e)
			f(kw, e)
			if kw+1 < s.size {
				VPERMT2PS(b, s.odd, a)
				f(kw+1, a)
			}
			continue
		}
		VSHUFPS(Imm(0x88), b, a, e)
		VPERMPD(Imm(0xd8), e, e) // the halves of 128 bits were shuffled apart
		f(kw, e)
		if kw+1 < s.size {
			VSHUFPS(Imm(0xdd), b, a, a)
			VPERMPD(Imm(0xd8), a, a)
			f(kw+1, a)
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
