package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// refPool is the specification of Pool for one plane.
func refPool(g *Pool, src, dst []float32) {
	p := *g
	p.defaults()
	for i := range dst {
		y, x := i/p.OW, i%p.OW
		best, sum := float32(math.Inf(-1)), 0.0
		for kh := range p.KH {
			for kw := range p.KW {
				ih, iw := y*p.StrideH-p.PadTop+kh*p.DilationH, x*p.StrideW-p.PadLeft+kw*p.DilationW
				if ih >= 0 && ih < p.H && iw >= 0 && iw < p.W {
					best = max(best, src[ih*p.W+iw])
					sum += float64(src[ih*p.W+iw])
				}
			}
		}
		if dst[i] = best; p.RowCounts != nil {
			dst[i] = float32(sum / float64(p.RowCounts[y]*p.ColCounts[x]))
		}
	}
}

func TestPoolMatchesReference(t *testing.T) {
	for _, lv := range vectors() {
		r := rand.New(rand.NewPCG(51, 52))
		w := Workspace{vector: lv}
		list := append(depthwiseWindows(r), Window{H: 7, W: 7, KH: 7, KW: 7}, Window{H: 112, W: 112, KH: 3, KW: 3, StrideH: 2, StrideW: 2, PadTop: 1, PadLeft: 1})
		for trial, g := range list {
			g.defaults()
			p := Pool{Window: g, OH: g.OutH(), OW: g.OutW()}
			if trial%3 == 0 { // as with rounding up
				p.OH, p.OW = p.OH+1, p.OW+1
			}
			n, area := 1+r.IntN(3), p.OH*p.OW
			src, checkSrc := guarded(r, n*g.H*g.W)
			dst, checkDst := guarded(r, n*area)
			if trial%2 == 0 {
				p.RowCounts, _ = guarded(r, p.OH)
				p.ColCounts, _ = guarded(r, p.OW)
				for _, list := range [][]float32{p.RowCounts, p.ColCounts} {
					for i := range list {
						list[i] = float32(1 + r.IntN(1+trial%4))
					}
				}
			} else if r.IntN(3) == 0 {
				src[r.IntN(len(src))] = float32(math.NaN())
			}
			w.Pool(&p, n, src, dst)
			want := make([]float32, area)
			for i := range n {
				refPool(&p, src[i*g.H*g.W:][:g.H*g.W], want)
				for j, v := range dst[i*area:][:area] {
					if v != want[j] && !(math.Abs(float64(v-want[j])) < 1e-5) && (v == v || want[j] == want[j]) {
						t.Fatalf("level %s, %+v: result %d is %v, want %v", lv.name(), p, j, v, want[j])
					}
				}
			}
			checkSrc(t, "images")
			checkDst(t, "result")
			if t.Failed() {
				t.Fatalf("level %s, %+v", lv.name(), p)
			}
		}
	}
}

func BenchmarkPool(b *testing.B) {
	for _, lv := range vectors() {
		for _, g := range []Window{{C: 64, H: 112, W: 112, KH: 3, KW: 3, StrideH: 2, StrideW: 2, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1},
			{C: 64, H: 56, W: 56, KH: 2, KW: 2, StrideH: 2, StrideW: 2}, {C: 64, H: 14, W: 14, KH: 3, KW: 3, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1},
			{C: 1280, H: 7, W: 7, KH: 7, KW: 7}} {
			b.Run(fmt.Sprintf("%s/%dx%dx%d/%d", lv.name(), g.C, g.H, g.W, g.KH), func(b *testing.B) {
				p := Pool{Window: g, OH: g.OutH(), OW: g.OutW()}
				r := rand.New(rand.NewPCG(1, 1))
				src, _ := guarded(r, g.C*g.H*g.W)
				dst := make([]float32, g.C*p.OH*p.OW)
				w := Workspace{vector: lv}
				for b.Loop() {
					w.Pool(&p, g.C, src, dst)
				}
				b.ReportMetric(float64(len(src))*float64(b.N)/b.Elapsed().Seconds()/1e9, "elements/ns")
			})
		}
	}
}
