package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// depthwiseWindows are windows of every kind, for one channel.
func depthwiseWindows(r *rand.Rand) []Window {
	var list []Window
	for _, g := range windows(r) {
		g.C = 1
		list = append(list, g)
	}
	for _, k := range []int{3, 5} {
		for stride := 1; stride <= 2; stride++ {
			for w := 1; w <= 40; w++ {
				list = append(list, Window{C: 1, H: 1 + r.IntN(9), W: w, KH: k, KW: k, StrideH: stride, StrideW: stride,
					PadTop: r.IntN(k), PadLeft: r.IntN(k), PadBottom: r.IntN(k), PadRight: r.IntN(k)})
			}
			list = append(list, Window{C: 1, H: 56, W: 57, KH: k, KW: k, StrideH: stride, StrideW: stride,
				PadTop: k / 2, PadLeft: k / 2, PadBottom: k / 2, PadRight: k / 2})
		}
	}
	return append(list, Window{C: 1, H: 3, W: 5000, KH: 2, KW: 2, PadTop: 1}, Window{C: 1, H: 200, W: 70, KH: 7, KW: 7, PadLeft: 3})
}

func TestDepthwiseMatchesReference(t *testing.T) {
	for _, lv := range vectors() {
		r := rand.New(rand.NewPCG(31, 32))
		w := Workspace{vector: lv}
		for trial, g := range depthwiseWindows(r) {
			g.C = 1 + r.IntN(3)
			out, n, gap := g.C*(1+r.IntN(2)), 1+r.IntN(2), r.IntN(3)
			k, size, area := g.KH*g.KW, g.C*g.H*g.W, g.OutH()*g.OutW()
			weights, checkWeights := guarded(r, out*k)
			bias, checkBias := guarded(r, out)
			x, checkX := guarded(r, n*size+(n-1)*gap)
			y, checkY := guarded(r, n*out*area+(n-1)*gap)
			act := []Activation{{}, {Func: Relu}, {Func: Clip, Alpha: -0.5, Beta: 1.5}}[trial%3]
			if trial%2 == 0 {
				bias = nil
			}
			w.Depthwise(g, out, weights, n, Images{x, size + gap}, Images{y, out*area + gap}, bias, act)
			one := g
			one.C = 1
			want := make([]float32, area)
			for i := range n * out {
				image, o := i/out, i%out
				refConv(&one, 1, x[image*(size+gap)+o/(out/g.C)*g.H*g.W:], weights[o*k:], want)
				for j := range want {
					if bias != nil {
						want[j] += bias[o]
					}
					lo, hi := act.limits()
					want[j] = min(max(want[j], lo), hi)
				}
				near(t, y[image*(out*area+gap)+o*area:][:area], want, k)
			}
			checkX(t, "images")
			checkY(t, "result")
			checkWeights(t, "weights")
			checkBias(t, "bias")
			if t.Failed() {
				t.Fatalf("level %s: %d of %d images, %+v, %+v", lv.name(), n, out, g, act)
			}
		}
	}
}

// The ways to compute a depthwise convolution add up in one order: all levels in assembly give the same bits by columns as by lines, so
// that an element depends neither on its place in a register nor on the width of the image.
func TestDepthwiseAddsInOneOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(33, 34))
	for _, g := range depthwiseWindows(r) {
		if !g.columnwise() || len(vectors()) < 2 {
			continue
		}
		g.defaults()
		k, area := g.KH*g.KW, g.OutH()*g.OutW()
		x, _ := guarded(r, g.H*g.W)
		weights, _ := guarded(r, k)
		var want []float32
		for _, lv := range vectors()[1:] {
			w := Workspace{vector: lv}
			got := make([]float32, area)
			w.Depthwise(g, 1, weights, 1, Images{x, len(x)}, Images{got, area}, weights, Activation{})
			if want == nil {
				want = got
			}
			w.depth.plan(&w, &g, lined{lv})
			w.depth.end.bias = weights[0]
			line := make([]float32, area)
			if area > 0 {
				w.depthwiseLine(&g, lv, x, weights, line)
			}
			if !slices.Equal(got, want) || !slices.Equal(line, want) {
				t.Fatalf("level %s, %+v: columns %v, line %v, before %v", lv.name(), g, got, line, want)
			}
		}
	}
}

// lined is a level whose convolutions go along lines only.
type lined struct{ vectorLevel }

func (lined) lanes() int { return 0 }

func TestDepthwiseKeepsNaN(t *testing.T) {
	for _, lv := range vectors() {
		w := Workspace{vector: lv}
		x, y := []float32{1, float32(math.NaN()), 1, 1, 1}, make([]float32, 5)
		g := Window{C: 1, H: 1, W: 5, KH: 3, KW: 3, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1}
		w.Depthwise(g, 1, []float32{1, 1, 1, 1, 1, 1, 1, 1, 1}, 1, Images{x, 5}, Images{y, 5}, nil, Activation{Func: Clip, Beta: 2.5})
		for i, want := range []bool{true, true, true, false, false} {
			if (y[i] != y[i]) != want {
				t.Errorf("level %s: %v", lv.name(), y)
			}
		}
	}
}

func TestDepthwiseAllocatesNothing(t *testing.T) {
	for _, lv := range vectors() {
		r := rand.New(rand.NewPCG(35, 36))
		x, _ := guarded(r, 3*81)
		weights, _ := guarded(r, 3*49)
		y := make([]float32, 3*81)
		w := Workspace{vector: lv}
		run := func() {
			for _, k := range []int{3, 5, 7} {
				g := Window{C: 3, H: 9, W: 9, KH: k, KW: k, PadTop: k / 2, PadBottom: k / 2, PadLeft: k / 2, PadRight: k / 2}
				w.Depthwise(g, 3, weights, 1, Images{x, 243}, Images{y, 243}, weights, Activation{Func: Relu})
			}
		}
		run()
		if n := testing.AllocsPerRun(3, run); n > 0 {
			t.Errorf("level %s: %v allocations", lv.name(), n)
		}
	}
}

func BenchmarkDepthwise(b *testing.B) {
	for _, lv := range vectors() {
		for _, c := range [][4]int{{256, 112, 3, 1}, {768, 112, 3, 2}, {1152, 56, 3, 1}, {7680, 7, 3, 1}, {32, 112, 3, 1}, {96, 112, 3, 2}, {144, 56, 3, 1}, {144, 56, 5, 2}, {240, 28, 5, 1}, {384, 14, 3, 1}, {960, 7, 3, 1}, {32, 112, 7, 1}} {
			g := Window{C: c[0], H: c[1], W: c[1], KH: c[2], KW: c[2], StrideH: c[3], StrideW: c[3],
				PadTop: c[2] / 2, PadLeft: c[2] / 2, PadBottom: c[2] / 2, PadRight: c[2] / 2}
			b.Run(fmt.Sprintf("%s/%dx%dx%d/%d/%d", lv.name(), c[0], c[1], c[1], c[2], c[3]), func(b *testing.B) {
				r := rand.New(rand.NewPCG(1, 1))
				size, res := g.C*g.H*g.W, g.C*g.OutH()*g.OutW()
				x, _ := guarded(r, size)
				weights, _ := guarded(r, g.C*c[2]*c[2])
				y := make([]float32, res)
				w := Workspace{vector: lv}
				for b.Loop() {
					w.Depthwise(g, g.C, weights, 1, Images{x, size}, Images{y, res}, weights, Activation{Func: Clip, Beta: 6})
				}
				b.ReportMetric(2*float64(res*c[2]*c[2])*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
				b.ReportMetric(4*float64(size+res)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GB/s")
			})
		}
	}
}
