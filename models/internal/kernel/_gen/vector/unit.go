package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// unit writes instructions for registers of 8 or 16 lanes, so that each kernel is described once.
type unit struct{ lanes int }

func (u unit) wide() bool { return u.lanes == 16 }

// bytes of a register.
func (u unit) bytes() int { return 4 * u.lanes }

// text begins the function name, to which the number of lanes is added.
func (u unit) text(name, params string, doc ...string) {
	name = u.name(name)
	TEXT(name, NOSPLIT, "func("+params+")")
	doc[0] = name + " " + doc[0]
	Doc(doc...)
	Pragma("noescape")
}

func (u unit) name(s string) string { return fmt.Sprintf("%sx%d", s, u.lanes) }

func (u unit) reg() reg.VecVirtual {
	if u.wide() {
		return ZMM()
	}
	return YMM()
}

func (u unit) regs(n int) []reg.VecVirtual {
	list := make([]reg.VecVirtual, n)
	for i := range list {
		list[i] = u.reg()
	}
	return list
}

func (u unit) load(m Mem) reg.VecVirtual {
	y := u.reg()
	VMOVUPS(m, y)
	return y
}

func (u unit) broadcast(m Mem) reg.VecVirtual {
	y := u.reg()
	VBROADCASTSS(m, y)
	return y
}

// mask is a mask register: one of the eight, or a vector of 32 bits a lane.
type mask struct{ r reg.Register }

// loadMask reads mask i of a list as package kernel's laneMask lays it out.
func (u unit) loadMask(list reg.Register, i int) mask {
	if u.wide() {
		k := K()
		KMOVW(Mem{Base: list, Disp: 4 * i}, k)
		return mask{k}
	}
	y := YMM()
	VMOVUPS(Mem{Base: list, Disp: u.bytes() * i}, y)
	return mask{y}
}

// maskLoad reads the lanes of m; the others become 0.
func (u unit) maskLoad(m Mem, k mask) reg.VecVirtual {
	y := u.reg()
	if u.wide() {
		VMOVUPS_Z(m, k.r, y)
	} else {
		VMASKMOVPS(m, k.r, y)
	}
	return y
}

// maskStore writes the lanes of m and leaves the others.
func (u unit) maskStore(y reg.Register, m Mem, k mask) {
	if u.wide() {
		VMOVUPS(y, k.r, m)
	} else {
		VMASKMOVPS(y, k.r, m)
	}
}

// tail makes a mask of the first n lanes; n is in 0..lanes. The table of 8 lanes slides over words of ones and zeros.
func (u unit) tail(n reg.GPVirtual) mask {
	if u.wide() {
		k, bits, cl := K(), GP64(), reg.ECX
		MOVL(n.As32(), cl)
		MOVL(U32(1), bits.As32())
		SHLL(reg.CL, bits.As32())
		DECL(bits.As32())
		KMOVW(bits.As32(), k)
		return mask{k}
	}
	y, p := YMM(), GP64()
	LEAQ(u.tailTable(), p)
	at := GP64()
	MOVQ(n, at)
	NEGQ(at)
	VMOVUPS(Mem{Base: p, Index: at, Scale: 4, Disp: 32}, y)
	return mask{y}
}

var tailTable *Mem

func (u unit) tailTable() Mem {
	if tailTable == nil {
		m := GLOBL("tailMask", RODATA|NOPTR)
		for i := range 16 {
			DATA(4*i, U32(map[bool]uint32{true: 0xffffffff}[i < 8]))
		}
		tailTable = &m
	}
	return *tailTable
}

// clip is y = min(max(y, lo), hi) with the limits in memory; NaN stays.
func (u unit) clip(y reg.Register, lo, hi Mem) {
	// The second operand, avo's first, is the answer when one is NaN.
	VMAXPS(y, u.broadcast(lo), y)
	VMINPS(y, u.broadcast(hi), y)
}

func (u unit) end() {
	VZEROUPPER()
	RET()
}
