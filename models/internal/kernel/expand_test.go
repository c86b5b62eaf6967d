package kernel

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// What Expand gives is to the bit what a convolution and then a depthwise one give, also when the image is worked on in strips.
func TestExpandIsTwoConvolutions(t *testing.T) {
	for _, lv := range levels() {
		r := rand.New(rand.NewPCG(41, 42))
		tried := 0
		for trial := range 60 {
			c, out := 1+r.IntN(40), 1+r.IntN(40)
			h, width := 12+r.IntN(30), 20+r.IntN(60)
			if trial%6 == 0 {
				c, h, width = 300, 60, 64 // several strips
			}
			if trial%3 == 1 {
				h, width = 1+r.IntN(20), 1+r.IntN(20) // images side by side
			}
			g := Window{C: c, H: h, W: width, KH: 1, KW: 1}
			size := 3 + 2*r.IntN(2)
			dg := Window{C: out, H: h, W: width, KH: size, KW: size, StrideH: 1 + r.IntN(2), PadTop: r.IntN(3), PadBottom: r.IntN(3),
				PadLeft: r.IntN(3), PadRight: r.IntN(3), DilationH: 1 + trial%7/6, DilationW: 1}
			dg.StrideW = dg.StrideH
			weights, _ := guarded(r, out*c)
			filters, _ := guarded(r, out*size*size)
			bias, _ := guarded(r, out)
			p := packConv(lv, 0, g, out, weights)
			if !p.SuitsExpand(g) {
				continue
			}
			tried++
			n := 1 + r.IntN(4)
			if trial%9 == 1 {
				n = 400 // several groups
			}
			x, checkX := guarded(r, n*c*h*width)
			area := dg.OutH() * dg.OutW()
			got, checkY := guarded(r, n*out*area)
			want, mid := make([]float32, n*out*area), make([]float32, n*out*h*width)
			e := Epilogue{Bias: bias, Clip: true, Lo: 0, Hi: 6}
			act, between := Activation{Func: Relu}, Activation{}
			if trial%3 == 0 {
				between.Func = Silu
			}
			w := Workspace{level: lv}
			from := Images{x, c * h * width}
			w.Conv(p, g, n, from, Images{mid, out * h * width}, e)
			w.Apply(between, mid, mid)
			w.Depthwise(dg, out, filters, n, Images{mid, out * h * width}, Images{want, out * area}, bias, act)
			w.Expand(p, g, e, between, dg, filters, n, from, Images{got, out * area}, bias, act)
			checkX(t, "images")
			checkY(t, "result")
			if !slices.Equal(got, want) {
				t.Fatalf("level %s: %d channels to %d, %+v: results differ", lv.name(), c, out, dg)
			}
		}
		if _, ok := lv.(shifter); ok && tried < 60 {
			t.Errorf("level %s: only %d tried", lv.name(), tried)
		}
	}
}
