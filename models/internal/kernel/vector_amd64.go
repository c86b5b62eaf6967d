//go:build amd64 && !noasm

package kernel

import "golang.org/x/sys/cpu"

// simdVectors lists the vector levels in assembly that this processor can run, the best last. GODEBUG=cpu.avx2=off and the like are
// honoured.
func simdVectors() []vectorLevel {
	var list []vectorLevel
	if cpu.X86.HasAVX2 && cpu.X86.HasFMA {
		list = append(list, vector8{})
		if cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL && cpu.X86.HasAVX512BW {
			list = append(list, vector16{})
		}
	}
	return list
}

// vector8 is the level for AVX2 and FMA.
type vector8 struct{}

// vector16 is the level for AVX-512.
type vector16 struct{}

func (vector8) name() string  { return "avx2" }
func (vector8) lanes() int    { return 8 }
func (vector16) name() string { return "avx512" }
func (vector16) lanes() int   { return 16 }

// check panics when a column reaches beyond its slices; what it reads of the image is limited by its rows and masks.
func (c *depthwiseColumn) check(size, stride, lanes, loads int) {
	words, width, list := 1, 1, loads+1
	if lanes == 8 {
		words = 8
	}
	if c.full {
		width = lanes
	}
	if c.pair {
		width, list = width+lanes, 2*list
	}
	_, _, _ = c.weights[c.channels*size*size-1], c.at[c.rows*stride+(size-1)/stride*stride-1], c.masks[list*words-1]
	_, _ = c.x[(c.channels-1)*c.xstep], c.zero[0]
	_ = c.y[(c.channels-1)*c.ystep+(c.rows-1)*c.ldy+width-1]
}

// depthwiseKernel is a kernel of _gen/vector.
type depthwiseKernel func(channels, rows int, at *int, x, zero *float32, xstep, col int, w, bias *float32, bstep int, limits *float32, masks *uint32, full int, y *float32, ystep, ldy, ahead int)

// run calls f for the column.
func (c *depthwiseColumn) run(f depthwiseKernel) {
	full, bias, step := 0, &zeroBias, 0
	if c.full {
		full = 1
	}
	if c.bias != nil {
		_, bias, step = c.bias[c.channels-1], &c.bias[0], 1
	}
	f(c.channels, c.rows, &c.at[0], &c.x[0], &c.zero[0], c.xstep, c.col, &c.weights[0], bias, step, &c.end.lo, &c.masks[0], full, &c.y[0], c.ystep, c.ldy, c.ahead)
}

var zeroBias float32

func (vector8) depthwise(size, stride int, c *depthwiseColumn) {
	c.check(size, stride, 8, size+stride-1)
	switch {
	case size == 3 && stride == 1:
		c.run(depthwise3s1x8)
	case size == 3:
		c.run(depthwise3s2x8)
	case stride == 1:
		c.run(depthwise5s1x8)
	default:
		c.run(depthwise5s2x8)
	}
}

func (vector16) depthwise(size, stride int, c *depthwiseColumn) {
	c.check(size, stride, 16, size)
	switch {
	case size == 3 && stride == 1 && c.pair:
		c.run(depthwise3s1pairx16)
	case size == 3 && c.pair:
		c.run(depthwise3s2pairx16)
	case size == 3 && stride == 1:
		c.run(depthwise3s1x16)
	case size == 3:
		c.run(depthwise3s2x16)
	case stride == 1:
		c.run(depthwise5s1x16)
	default:
		c.run(depthwise5s2x16)
	}
}

func (vector8) taps(off []uint32, weights []float32, n int, x, y []float32, end *depthwiseEnd) {
	if checkTaps(off, weights, n, x, y) {
		tapsx8(len(off), &off[0], &weights[0], n, &x[0], &y[0], &end.bias)
	}
}

func (vector16) taps(off []uint32, weights []float32, n int, x, y []float32, end *depthwiseEnd) {
	if checkTaps(off, weights, n, x, y) {
		tapsx16(len(off), &off[0], &weights[0], n, &x[0], &y[0], &end.bias)
	}
}

// checkTaps panics when a slice is too short and says whether there is anything to do.
func checkTaps(off []uint32, weights []float32, n int, x, y []float32) bool {
	if n == 0 {
		return false
	}
	reach := uint32(0)
	for _, o := range off {
		reach = max(reach, o)
	}
	_, _, _ = weights[len(off)-1], x[int(reach)+n-1], y[n-1]
	return true
}
