package kernel

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// FuzzProducts compares every level with the reference on a product of any shape, packed and not, with zeros in A or without.
func FuzzProducts(f *testing.F) {
	f.Add(uint8(12), uint8(32), uint16(256), uint8(0), uint64(1))
	f.Add(uint8(1), uint8(10), uint16(784), uint8(7), uint64(2))
	f.Add(uint8(13), uint8(65), uint16(513), uint8(255), uint64(3))
	f.Fuzz(func(t *testing.T, rows, cols uint8, depth uint16, flags uint8, seed uint64) {
		m, n, k := int(rows)%40, int(cols)%100, int(depth)%1100
		r := rand.New(rand.NewPCG(seed, 1))
		bit := func(i int) bool { return flags>>i&1 != 0 }
		a, checkA := guarded(r, m*k)
		if bit(0) {
			zeros(r, m, k, a)
		}
		b, checkB := guarded(r, k*n)
		bias, _ := guarded(r, n)
		e := Epilogue{Relu: bit(2), Clip: bit(3), Lo: -1, Hi: 2}
		if bit(4) {
			e.Bias = bias
		}
		want := make([]float32, m*n)
		refGemm(false, bit(1), m, n, k, 1, a, k, b, pick(bit(1), k, n), 0, want, n)
		for i := range m {
			e.apply(want[i*n:][:n], i, 0)
		}
		for _, lv := range levels() {
			w := Workspace{level: lv}
			c, checkC := guarded(r, m*n)
			w.MulB(m, a, k, packB(lv, bit(1), k, n, b, pick(bit(1), k, n)), c, n, e)
			near(t, c, want, k)
			checkA(t, "A")
			checkB(t, "B")
			checkC(t, lv.name())
		}
	})
}

// FuzzConvolutions compares every way to compute a convolution with the reference, and that an image does not depend on the others.
func FuzzConvolutions(f *testing.F) {
	f.Add(uint8(3), uint8(8), uint8(14), uint8(13), uint8(2), uint8(2), uint8(0), uint8(0x11), uint64(1))
	f.Add(uint8(40), uint8(20), uint8(9), uint8(33), uint8(0), uint8(0), uint8(1), uint8(0), uint64(2))
	f.Add(uint8(2), uint8(2), uint8(30), uint8(40), uint8(6), uint8(6), uint8(1), uint8(0x33), uint64(3))
	f.Fuzz(func(t *testing.T, in, outs, height, width, kh, kw, stride, pads uint8, seed uint64) {
		g := Window{C: 1 + int(in)%48, H: 1 + int(height)%40, W: 1 + int(width)%70, KH: 1 + int(kh)%7, KW: 1 + int(kw)%7,
			StrideH: 1 + int(stride)%3, StrideW: 1 + int(stride)/3%3, DilationH: 1 + int(stride)/9%2, DilationW: 1 + int(stride)/18%2,
			PadTop: int(pads) & 3, PadLeft: int(pads) >> 2 & 3, PadBottom: int(pads) >> 4 & 3, PadRight: int(pads) >> 6}
		out := 1 + int(outs)%30
		k, size, area := g.C*g.KH*g.KW, g.C*g.H*g.W, g.OutH()*g.OutW()
		if area <= 0 || area*k*out > 4<<20 {
			return
		}
		r := rand.New(rand.NewPCG(seed, 2))
		const n = 2
		weights, _ := guarded(r, out*k)
		bias, _ := guarded(r, out)
		x, checkX := guarded(r, n*size)
		e := Epilogue{Bias: bias, Relu: seed&1 != 0, Halve: seed&2 != 0}
		results := area
		if e.Halve {
			results = g.OutH() / 2 * (g.OutW() / 2)
		}
		var want []float32
		for i := range n {
			want = append(want, wanted(&g, out, x[i*size:][:size], weights, &e)...)
		}
		for _, lv := range levels() {
			for tile := 0; tile <= 4 && (tile == 0 || suitsWinograd(lv, &g)); tile += 2 {
				depth := k
				if tile == 4 {
					depth *= 36 // see TestWinogradErrors
				}
				w, p := Workspace{level: lv}, packConv(lv, tile, g, out, weights)
				y, checkY := guarded(r, n*out*results)
				w.Conv(p, g, n, Images{x, size}, Images{y, out * results}, e)
				near(t, y, want, depth)
				one := make([]float32, out*results)
				w.Conv(p, g, 1, Images{x[size:], size}, Images{one, out * results}, e)
				if !slices.Equal(one, y[out*results:]) {
					t.Errorf("level %s, winograd %d: the second image differs when it is alone", lv.name(), tile)
				}
				checkX(t, "images")
				checkY(t, lv.name())
			}
		}
	})
}
