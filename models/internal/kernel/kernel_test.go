package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

const guard = float32(-12345.5)

// guarded returns n random values with guard words on both sides, and a check that the guards still stand.
func guarded(r *rand.Rand, n int) (x []float32, check func(t *testing.T, name string)) {
	margin := 40 + r.IntN(16) // so that every alignment comes
	all := make([]float32, n+2*margin)
	for i := range all {
		all[i] = guard
	}
	x = all[margin : margin+n : margin+n]
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x, func(t *testing.T, name string) {
		t.Helper()
		for i, v := range all {
			if (i < margin || i >= margin+n) && v != guard {
				t.Errorf("%s: word %d outside the matrix was overwritten with %v", name, i-margin, v)
			}
		}
	}
}

// near fails when got differs from want by more than the rounding of k additions allows.
func near(t *testing.T, got, want []float32, k int) {
	t.Helper()
	for i := range want {
		limit := 4e-7 * (4 + math.Sqrt(float64(k))) * (4 + math.Abs(float64(want[i])) + math.Sqrt(float64(k)))
		if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= limit) {
			t.Fatalf("element %d is %v, want %v (difference %g, limit %g)", i, got[i], want[i], d, limit)
		}
	}
}

func TestGemmMatchesReference(t *testing.T) {
	dims := []int{1, 2, 3, 4, 5, 7, 8, 9, 17, 33, 66}
	depths := []int{0, 1, 2, 7, 8, 9, 31, 256, 257, 300}
	scales := [][2]float32{{1, 0}, {1, 1}, {0.5, -2}, {-1, 0}, {0, 1}}
	for _, lv := range levels() {
		r := rand.New(rand.NewPCG(1, 2))
		for trial := range 1500 {
			m, n, k := dims[r.IntN(len(dims))], dims[r.IntN(len(dims))], depths[r.IntN(len(depths))]
			ta, tb, s := trial&1 != 0, trial&2 != 0, scales[r.IntN(len(scales))]
			extra := r.IntN(3)
			lda, ldb, ldc := pick(ta, m, k)+extra, pick(tb, k, n)+extra, n+extra
			a, checkA := guarded(r, pick(ta, k, m)*lda)
			b, checkB := guarded(r, pick(tb, n, k)*ldb)
			c, checkC := guarded(r, m*ldc)
			want := slices.Clone(c)
			refGemm(ta, tb, m, n, k, s[0], a, lda, b, ldb, s[1], want, ldc)
			w := Workspace{level: lv}
			w.Gemm(ta, tb, m, n, k, s[0], a, lda, b, ldb, s[1], c, ldc)
			near(t, c, want, k)
			checkA(t, "A")
			checkB(t, "B")
			checkC(t, "C")
			if t.Failed() {
				t.Fatalf("level %s: transA %v transB %v m %d n %d k %d lda %d ldb %d ldc %d", lv.name(), ta, tb, m, n, k, lda, ldb, ldc)
			}
		}
	}
}

func TestGemmOverSeveralBlocks(t *testing.T) {
	for _, lv := range levels() {
		r := rand.New(rand.NewPCG(3, 4))
		mr, nr := lv.tile()
		rows, cols := lv.blocks()
		m, n, k := mr*rows+3, nr*cols+5, 2*blockK+1
		a, _ := guarded(r, m*k)
		b, _ := guarded(r, k*n)
		c, check := guarded(r, m*n)
		want := make([]float32, m*n)
		refGemm(false, false, m, n, k, 1, a, k, b, n, 0, want, n)
		w := Workspace{level: lv}
		w.Gemm(false, false, m, n, k, 1, a, k, b, n, 0, c, n)
		near(t, c, want, k)
		check(t, lv.name())
	}
}

func TestZeroBetaDoesNotReadC(t *testing.T) {
	nan := float32(math.NaN())
	c := []float32{nan, nan, nan}
	Gemm(false, false, 1, 3, 1, 1, []float32{2}, 1, []float32{1, 2, 3}, 3, 0, c, 3)
	if !slices.Equal(c, []float32{2, 4, 6}) {
		t.Errorf("got %v", c)
	}
}

func TestNaNAndInfinityPass(t *testing.T) {
	inf, nan := float32(math.Inf(1)), math.Float32frombits(0x7fc00000)
	c := make([]float32, 2)
	Gemm(false, false, 1, 2, 2, 1, []float32{0, 1}, 2, []float32{inf, 1, 1, inf}, 2, 0, c, 2)
	if !math.IsNaN(float64(c[0])) || c[1] != inf {
		t.Errorf("0*inf+1 and 1*inf gave %v", c)
	}
	var w Workspace
	w.MulB(1, []float32{nan}, 1, PackB(false, 1, 1, []float32{1}, 1), c, 1, Epilogue{Relu: true})
	if !math.IsNaN(float64(c[0])) {
		t.Errorf("ReLU turned NaN into %v", c[0])
	}
}

// A row must be bit-equal whatever else is in the batch, in every form of the call.
func TestRowsDoNotDependOnTheirNumber(t *testing.T) {
	for _, lv := range levels() {
		r := rand.New(rand.NewPCG(5, 6))
		const m, n, k = 101, 37, 600
		a, _ := guarded(r, m*k)
		b, _ := guarded(r, k*n)
		bias, _ := guarded(r, n)
		packed := packB(lv, false, k, n, b, n)
		e := Epilogue{Bias: bias, Relu: true}
		whole := make([]float32, m*n)
		w := Workspace{level: lv}
		w.MulB(m, a, k, packed, whole, n, e)
		for _, rows := range []int{1, 2, 3, 13, 100} {
			part := make([]float32, rows*n)
			for from := 0; from+rows <= m; from += rows {
				w.MulB(rows, a[from*k:], k, packed, part, n, e)
				if !slices.Equal(part, whole[from*n:][:rows*n]) {
					t.Fatalf("level %s: rows %d to %d differ between batches of %d and %d", lv.name(), from, from+rows, rows, m)
				}
			}
		}
		plain := make([]float32, m*n)
		w.Gemm(false, false, m, n, k, 1, a, k, b, n, 0, plain, n)
		for i := range plain {
			if want := max(plain[i]+bias[i%n], 0); want != whole[i] {
				t.Fatalf("level %s: element %d: packed %v, plain %v", lv.name(), i, whole[i], want)
			}
		}
	}
}

func TestPackedFormsMatchReference(t *testing.T) {
	for _, lv := range levels() {
		r := rand.New(rand.NewPCG(7, 8))
		for _, d := range [][3]int{{1, 1, 1}, {3, 5, 9}, {32, 676, 9}, {64, 121, 288}, {65, 10, 257}, {100, 10, 512}, {2, 3, 0}} {
			m, n, k := d[0], d[1], d[2]
			for _, trans := range []bool{false, true} {
				a, _ := guarded(r, m*k)
				b, _ := guarded(r, k*n)
				bias, _ := guarded(r, max(m, n))
				want := make([]float32, m*n)
				w := Workspace{level: lv}

				refGemm(trans, false, m, n, k, 1, a, pick(trans, m, k), b, n, 0, want, n)
				for i := range want {
					want[i] = max(want[i]+bias[i/n], 0)
				}
				pa := packA(lv, trans, m, k, a, pick(trans, m, k))
				c, check := guarded(r, m*n)
				w.MulA(pa, n, b, n, c, n, Epilogue{Bias: bias, PerRow: true, Relu: true})
				near(t, c, want, k)
				check(t, "MulA")

				refGemm(false, trans, m, n, k, 1, a, k, b, pick(trans, k, n), 0, want, n)
				for i := range want {
					want[i] = min(max(want[i]+bias[i%n], -1), 2)
				}
				pb := packB(lv, trans, k, n, b, pick(trans, k, n))
				c, check = guarded(r, m*n)
				w.MulB(m, a, k, pb, c, n, Epilogue{Bias: bias, Clip: true, Lo: -1, Hi: 2})
				near(t, c, want, k)
				check(t, "MulB")
			}
		}
	}
}

func TestShortSlicesAreRefused(t *testing.T) {
	x := make([]float32, 6)
	for name, call := range map[string]func(){
		"A":    func() { Gemm(false, false, 3, 1, 3, 1, x, 3, x, 1, 0, x, 1) },
		"B":    func() { Gemm(false, false, 1, 3, 3, 1, x, 3, x, 3, 0, x, 3) },
		"C":    func() { Gemm(false, false, 3, 3, 1, 1, x, 1, x, 3, 0, x, 3) },
		"lda":  func() { Gemm(false, false, 2, 2, 3, 1, x, 2, x, 2, 0, x, 2) },
		"bias": func() { new(Workspace).MulB(1, x, 2, PackB(false, 2, 3, x, 3), x, 3, Epilogue{Bias: x[:2]}) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("the call went through")
				}
			}()
			call()
		})
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	a, _ := guarded(r, 100*300)
	b, _ := guarded(r, 300*40)
	c := make([]float32, 100*40)
	pb, pa := PackB(false, 300, 40, b, 40), PackA(false, 100, 300, a, 300)
	var w Workspace
	run := func() {
		w.MulB(100, a, 300, pb, c, 40, Epilogue{})
		w.MulA(pa, 40, b, 40, c, 40, Epilogue{})
		w.Gemm(true, true, 40, 100, 300, 1, b, 40, a, 300, 0, c, 100)
	}
	run()
	if n := testing.AllocsPerRun(3, run); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func windows(r *rand.Rand) []Window {
	list := []Window{
		{C: 1, H: 28, W: 28, KH: 3, KW: 3},
		{C: 3, H: 5, W: 7, KH: 1, KW: 1},
		{C: 1, H: 2, W: 2, KH: 3, KW: 3},
		{C: 2, H: 1, W: 1, KH: 3, KW: 3, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1},
		{C: 1, H: 3, W: 3, KH: 1, KW: 1, PadLeft: 5, PadRight: 5, StrideW: 3},
	}
	for range 300 {
		list = append(list, Window{C: 1 + r.IntN(3), H: 1 + r.IntN(9), W: 1 + r.IntN(9), KH: 1 + r.IntN(4), KW: 1 + r.IntN(4),
			StrideH: r.IntN(4), StrideW: r.IntN(4), DilationH: r.IntN(3), DilationW: r.IntN(3),
			PadTop: r.IntN(4), PadLeft: r.IntN(4), PadBottom: r.IntN(4), PadRight: r.IntN(4)})
	}
	return list
}

func TestConvolutionByIm2col(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	for _, g := range windows(r) {
		const out = 5
		k, n := g.C*g.KH*g.KW, g.OutH()*g.OutW()
		x, checkX := guarded(r, g.C*g.H*g.W)
		weights, _ := guarded(r, out*k)
		col, checkCol := guarded(r, k*n)
		got, want := make([]float32, out*n), make([]float32, out*n)
		Im2col(g, x, col)
		Gemm(false, false, out, n, k, 1, weights, k, col, n, 0, got, n)
		refConv(&g, out, x, weights, want)
		near(t, got, want, k)
		checkX(t, "image")
		checkCol(t, "columns")
		if t.Failed() {
			t.Fatalf("%+v", g)
		}
	}
}

// Col2im is the transpose: <Im2col(x), y> equals <x, Col2im(y)> for all x and y.
func TestCol2imIsTheTranspose(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	for _, g := range windows(r) {
		k, n := g.C*g.KH*g.KW, g.OutH()*g.OutW()
		x, _ := guarded(r, g.C*g.H*g.W)
		y, _ := guarded(r, k*n)
		col := make([]float32, k*n)
		back, check := guarded(r, len(x))
		clear(back)
		Im2col(g, x, col)
		Col2im(g, y, back)
		check(t, "image")
		var left, right float64
		for i := range col {
			left += float64(col[i]) * float64(y[i])
		}
		for i := range x {
			right += float64(x[i]) * float64(back[i])
		}
		if math.Abs(left-right) > 1e-4*(1+math.Abs(left)) {
			t.Fatalf("%+v: %v and %v", g, left, right)
		}
	}
}

func BenchmarkMulB(b *testing.B) {
	for _, lv := range levels() {
		for _, d := range [][3]int{{100, 512, 784}, {100, 512, 512}, {100, 10, 512}, {512, 512, 512}} {
			m, n, k := d[0], d[1], d[2]
			b.Run(fmt.Sprintf("%s/%dx%dx%d", lv.name(), m, n, k), func(b *testing.B) {
				r := rand.New(rand.NewPCG(1, 1))
				x, _ := guarded(r, m*k)
				weights, _ := guarded(r, k*n)
				bias, _ := guarded(r, n)
				c := make([]float32, m*n)
				packed := packB(lv, false, k, n, weights, n)
				w := Workspace{level: lv}
				for b.Loop() {
					w.MulB(m, x, k, packed, c, n, Epilogue{Bias: bias, Relu: true})
				}
				b.ReportMetric(2*float64(m*n*k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
}

func BenchmarkConvolution(b *testing.B) {
	for _, g := range []Window{{C: 1, H: 28, W: 28, KH: 3, KW: 3}, {C: 32, H: 13, W: 13, KH: 3, KW: 3}} {
		out := 32 * (1 + g.C/32)
		b.Run(fmt.Sprintf("%dx%dx%d", g.C, g.H, g.W), func(b *testing.B) {
			r := rand.New(rand.NewPCG(1, 1))
			k, n := g.C*g.KH*g.KW, g.OutH()*g.OutW()
			x, _ := guarded(r, g.C*g.H*g.W)
			weights, _ := guarded(r, out*k)
			col, c := make([]float32, k*n), make([]float32, out*n)
			packed := PackA(false, out, k, weights, k)
			var w Workspace
			for b.Loop() {
				Im2col(g, x, col)
				w.MulA(packed, n, col, n, c, n, Epilogue{Relu: true})
			}
			b.ReportMetric(2*float64(out*n*k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
		})
	}
}

// The limit: one tile, operands in the first-level cache.
func BenchmarkTile(b *testing.B) {
	for _, lv := range levels() {
		b.Run(lv.name(), func(b *testing.B) {
			mr, nr := lv.tile()
			const k = 256
			left, right, c := make([]float32, mr*k), make([]float32, nr*k), make([]float32, mr*nr)
			st := &store{c: c, ldc: nr, alpha: 1, first: true, rows: even(mr, mr), cols: padded(nr, nr)}
			for b.Loop() {
				lv.block(k, left, 0, right, st)
			}
			b.ReportMetric(2*float64(mr*nr*k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			b.ReportMetric(fmaLimit(lv, 50*time.Millisecond), "limit-GFLOP/s")
		})
	}
}
