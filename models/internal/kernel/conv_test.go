package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// convWindows adds to windows what only Conv has to care for: more output rows than it computes at a time, rows longer than a tile.
func convWindows(r *rand.Rand) []Window {
	list := append(windows(r),
		Window{C: 2, H: 70, W: 65, KH: 3, KW: 3},
		Window{C: 2, H: 69, W: 64, KH: 3, KW: 3, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1},
		Window{C: 1, H: 5, W: 600, KH: 2, KW: 3, StrideW: 2},
		Window{C: 300, H: 9, W: 40, KH: 1, KW: 1},
		Window{C: 20, H: 7, W: 7, KH: 1, KW: 1},
		Window{C: 2100, H: 8, W: 8, KH: 1, KW: 1},
		Window{C: 3, H: 3, W: 5, KH: 1, KW: 1},
		Window{C: 1, H: 1, W: 1, KH: 1, KW: 1},
		Window{C: 16, H: 28, W: 28, KH: 3, KW: 3, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1},
		Window{C: 32, H: 13, W: 13, KH: 3, KW: 3},
		Window{C: 3, H: 33, W: 31, KH: 7, KW: 7, StrideH: 2, StrideW: 2, PadTop: 3, PadLeft: 3, PadBottom: 3, PadRight: 3})
	for range 100 {
		list = append(list, Window{C: 16 + r.IntN(20), H: 1 + r.IntN(12), W: 1 + r.IntN(12), KH: 3, KW: 3,
			PadTop: r.IntN(3), PadLeft: r.IntN(3), PadBottom: r.IntN(3), PadRight: r.IntN(3)})
	}
	return list
}

func refHalve(src []float32, h, w int) []float32 {
	dst := make([]float32, h/2*(w/2))
	for i := range dst {
		at := i/(w/2)*2*w + i%(w/2)*2
		dst[i] = max(src[at], src[at+1], src[at+w], src[at+w+1])
	}
	return dst
}

// wanted is the result of Conv for one image by the reference.
func wanted(g *Window, out int, img, weights []float32, e *Epilogue) []float32 {
	oh, ow := g.OutH(), g.OutW()
	full := make([]float32, out*oh*ow)
	refConv(g, out, img, weights, full)
	var half []float32
	for c := range out {
		plane := full[c*oh*ow:][:oh*ow]
		for i := range plane {
			if e.Bias != nil {
				plane[i] += e.Bias[c]
			}
			if e.Relu {
				plane[i] = max(plane[i], 0)
			}
			if e.Clip {
				plane[i] = min(max(plane[i], e.Lo), e.Hi)
			}
		}
		half = append(half, refHalve(plane, oh, ow)...)
	}
	if e.Halve {
		return half
	}
	return full
}

func TestConvMatchesReference(t *testing.T) {
	for _, lv := range levels() {
		r := rand.New(rand.NewPCG(21, 22))
		w := Workspace{level: lv}
		for trial, g := range convWindows(r) {
			out, n, gap := 1+r.IntN(30), 1+r.IntN(3), r.IntN(3)
			k, size := g.C*g.KH*g.KW, g.C*g.H*g.W
			weights, checkWeights := guarded(r, out*k)
			bias, checkBias := guarded(r, out)
			e := Epilogue{Relu: trial&1 != 0, Halve: trial&2 != 0}
			if trial&4 != 0 {
				e.Bias = bias
			}
			if trial&8 != 0 {
				e.Clip, e.Lo, e.Hi = true, -0.5, 1
			}
			area := g.OutH() * g.OutW()
			if e.Halve {
				area = g.OutH() / 2 * (g.OutW() / 2)
			}
			x, checkX := guarded(r, n*size+(n-1)*gap)
			y, checkY := guarded(r, n*out*area+(n-1)*gap)
			before := slices.Clone(y)
			results := 0
			if suitsWinograd(lv, &g) {
				results = trial % 3 * 2 // each way in turn
			}
			p := packConv(lv, results, g, out, weights)
			w.Conv(p, g, n, Images{x, size + gap}, Images{y, out*area + gap}, e)
			depth := k
			if results == 4 {
				depth *= 36 // its rounding errors are about six times as large, see TestWinogradErrors
			}
			for i := range n {
				from := i * (out*area + gap)
				near(t, y[from:][:out*area], wanted(&g, out, x[i*(size+gap):][:size], weights, &e), depth)
				if end := from + out*area; i+1 < n && !slices.Equal(y[end:end+gap], before[end:end+gap]) {
					t.Error("elements between the images were overwritten")
				}
			}
			checkX(t, "images")
			checkY(t, "result")
			checkWeights(t, "weights")
			checkBias(t, "bias")
			if t.Failed() {
				t.Fatalf("level %s: %d of %d images, %+v, %+v, winograd %d", lv.name(), n, out, g, e, results)
			}
		}
	}
}

// An image must be bit-equal whatever else is in the batch.
func TestImagesDoNotDependOnTheirNumber(t *testing.T) {
	for _, lv := range levels() {
		for size := 0; size <= 4; size += 2 {
			imagesAlone(t, lv, size)
		}
	}
}

func imagesAlone(t *testing.T, lv level, size int) {
	g := Window{C: 5, H: 14, W: 13, KH: 3, KW: 3, PadTop: 1, PadLeft: 1}
	if size > 0 && !suitsWinograd(lv, &g) {
		return
	}
	r := rand.New(rand.NewPCG(23, 24))
	const n, out = 7, 11
	each, res := g.C*g.H*g.W, out*g.OutH()*g.OutW()
	x, _ := guarded(r, n*each)
	weights, _ := guarded(r, out*45)
	p := packConv(lv, size, g, out, weights)
	w := Workspace{level: lv}
	whole, one := make([]float32, n*res), make([]float32, res)
	w.Conv(p, g, n, Images{x, each}, Images{whole, res}, Epilogue{})
	for i := range n {
		w.Conv(p, g, 1, Images{x[i*each:], each}, Images{one, res}, Epilogue{})
		if !slices.Equal(one, whole[i*res:][:res]) {
			t.Fatalf("level %s, winograd %d: image %d differs", lv.name(), size, i)
		}
	}
}

// The root mean square of the rounding errors, relative to that of the results: a plain sum over 64 channels has about 3e-7.
func TestWinogradErrors(t *testing.T) {
	limits := map[int]float64{0: 5e-7, 2: 5e-7, 4: 3e-6}
	g := Window{C: 64, H: 18, W: 18, KH: 3, KW: 3}
	const out = 32
	r := rand.New(rand.NewPCG(29, 30))
	x, _ := guarded(r, g.C*g.H*g.W)
	weights, _ := guarded(r, out*g.C*9)
	want := wanted(&g, out, x, weights, &Epilogue{})
	got := make([]float32, len(want))
	for _, lv := range levels() {
		for size, limit := range limits {
			if size > 0 && !suitsWinograd(lv, &g) {
				continue
			}
			w := Workspace{level: lv}
			w.Conv(packConv(lv, size, g, out, weights), g, 1, Images{x, len(x)}, Images{got, len(got)}, Epilogue{})
			var errors, squares float64
			for i, v := range want {
				d := float64(got[i]) - float64(v)
				errors, squares = errors+d*d, squares+float64(v)*float64(v)
			}
			e := math.Sqrt(errors / squares)
			t.Logf("level %s, winograd %d: %.2g", lv.name(), size, e)
			if e > limit {
				t.Errorf("level %s, winograd %d: relative error %g, at most %g expected", lv.name(), size, e, limit)
			}
		}
	}
}

func TestHalveMatchesReference(t *testing.T) {
	nan := float32(math.NaN())
	for _, lv := range levels() {
		r := rand.New(rand.NewPCG(25, 26))
		w := Workspace{level: lv}
		for range 2000 {
			rows, cols := r.IntN(6), r.IntN(40)
			ld := 2*cols + r.IntN(3)
			src, checkSrc := guarded(r, max(2*rows*ld-(ld-2*cols), 0))
			dst, checkDst := guarded(r, rows*cols)
			if len(src) > 0 && r.IntN(2) == 0 {
				src[r.IntN(len(src))] = nan
			}
			w.Halve(dst, src, ld, rows, cols)
			checkSrc(t, "source")
			checkDst(t, "result")
			for i := range dst {
				at := i/cols*2*ld + i%cols*2
				want := max(src[at], src[at+1], src[at+ld], src[at+ld+1])
				if math.Float32bits(dst[i]) != math.Float32bits(want) && want == want || (dst[i] != dst[i]) != (want != want) {
					t.Fatalf("level %s: %d x %d, rows of %d: element %d is %v, want %v", lv.name(), rows, cols, ld, i, dst[i], want)
				}
			}
			if t.Failed() {
				t.FailNow()
			}
		}
	}
}

func TestConvAllocatesNothing(t *testing.T) {
	for _, lv := range levels() {
		r := rand.New(rand.NewPCG(27, 28))
		g := Window{C: 3, H: 9, W: 9, KH: 3, KW: 3, PadTop: 1}
		x, _ := guarded(r, 243)
		weights, _ := guarded(r, 4*27)
		y := make([]float32, 4*8*7)
		p, w := packConv(lv, 0, g, 4, weights), Workspace{level: lv}
		run := func() {
			w.Conv(p, g, 1, Images{x, len(x)}, Images{y, len(y)}, Epilogue{Bias: weights})
			w.Halve(y, x, 18, 6, 9)
		}
		run()
		if n := testing.AllocsPerRun(3, run); n > 0 {
			t.Errorf("level %s: %v allocations", lv.name(), n)
		}
	}
}

func BenchmarkConv(b *testing.B) {
	for _, lv := range levels() {
		for _, g := range []Window{{C: 1, H: 28, W: 28, KH: 3, KW: 3}, {C: 32, H: 13, W: 13, KH: 3, KW: 3},
			{C: 64, H: 56, W: 56, KH: 3, KW: 3, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1},
			{C: 256, H: 14, W: 14, KH: 3, KW: 3, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1}} {
			out := min(max(2*g.C, 32), 256)
			b.Run(fmt.Sprintf("%s/%dx%dx%d", lv.name(), g.C, g.H, g.W), func(b *testing.B) {
				r := rand.New(rand.NewPCG(1, 1))
				k, n := g.C*g.KH*g.KW, g.OutH()*g.OutW()
				x, _ := guarded(r, g.C*g.H*g.W)
				weights, _ := guarded(r, out*k)
				y := make([]float32, out*n)
				p, w := packConv(lv, winogradSize(lv, &g, out), g, out, weights), Workspace{level: lv}
				for b.Loop() {
					w.Conv(p, g, 1, Images{x, len(x)}, Images{y, out * (g.OutH() / 2) * (g.OutW() / 2)}, Epilogue{Relu: true, Halve: true})
				}
				b.ReportMetric(2*float64(out*n*k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
}
