package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// functionCases are the functions with their exact counterparts and the errors their documentation states: in ulp of the result, or
// relative to x.
func functionCases() []functionCase {
	half := func(x float64) float64 { return x / 2 }
	sig := func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
	return []functionCase{
		{act: Activation{Func: Relu}, exact: func(x float64) float64 { return max(x, 0) }},
		{act: Activation{Func: Clip, Alpha: -1, Beta: 6}, exact: func(x float64) float64 { return min(max(x, -1), 6) }},
		{act: Activation{Func: LeakyRelu, Alpha: 0.25}, exact: func(x float64) float64 { return max(x, x/4) }},
		{act: Activation{Func: Elu, Alpha: 1}, ulp: 3, exact: func(x float64) float64 { return max(x, 0) + math.Expm1(min(x, 0)) }},
		{act: Activation{Func: Linear, Alpha: 3, Beta: 0}, ulp: 0.51, exact: func(x float64) float64 { return 3 * x }},
		{act: Activation{Func: Standard, Alpha: 0, Beta: 3}, ulp: 0.51, exact: func(x float64) float64 { return 3 * x }},
		{act: Activation{Func: HardSigmoid, Alpha: 0.2, Beta: 0.5}, absolute: 2e-7, exact: func(x float64) float64 { return max(0, min(1, 0.2*x+0.5)) }},
		{act: Activation{Func: HardSwish}, byX: 2e-7, exact: func(x float64) float64 { return x * max(0, min(1, x/6+0.5)) }},
		{act: Activation{Func: Abs}, exact: math.Abs},
		{act: Activation{Func: Neg}, exact: func(x float64) float64 { return -x }},
		{act: Activation{Func: Sqrt}, ulp: 0.51, exact: math.Sqrt},
		{act: Activation{Func: Reciprocal}, ulp: 0.51, exact: func(x float64) float64 { return 1 / x }},
		{act: Activation{Func: Exp}, ulp: 1.5, exact: math.Exp},
		{act: Activation{Func: Sigmoid}, ulp: 3, exact: sig},
		{act: Activation{Func: Tanh}, ulp: 4, exact: math.Tanh},
		{act: Activation{Func: Erf}, ulp: 6, exact: math.Erf},
		{act: Activation{Func: Silu}, ulp: 4, absolute: 1e-43, exact: func(x float64) float64 { return x * sig(x) }},
		{act: Activation{Func: Gelu}, byX: 2e-7, exact: func(x float64) float64 { return half(x) * (1 + math.Erf(x/math.Sqrt2)) }},
		{act: Activation{Func: GeluTanh}, byX: 2e-6, exact: func(x float64) float64 {
			return x * sig(2*math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x))
		}},
	}
}

type functionCase struct {
	act                Activation
	exact              func(float64) float64
	ulp, absolute, byX float64
}

// manyNumbers are the special numbers and a good million of all bit patterns, evenly spread.
func manyNumbers() []float32 {
	list := []float32{0, 1, -1, float32(math.Copysign(0, -1)), float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN()),
		math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32, 0x1p-126, -0x1p-126,
		88.72283, 88.72284, -87.33655, -103.97208, -104, 9.010913, 3.9192059, 0.34657359, -0.34657359}
	for b := uint64(0); b < 1<<32; b += 3989 {
		list = append(list, math.Float32frombits(uint32(b)))
	}
	return list
}

// spacing is the distance of the single-precision numbers around y.
func spacing(y float64) float64 {
	_, e := math.Frexp(y)
	return math.Ldexp(1, max(e-24, -149))
}

func TestFunctionsOverTheWholeRange(t *testing.T) {
	list := manyNumbers()
	want, got := make([]float32, len(list)), make([]float32, len(list))
	for _, c := range functionCases() {
		w := Workspace{vector: portable{}}
		w.Apply(c.act, want, list)
		worst, where := 0.0, float32(0)
		for i, x := range list {
			exact := c.exact(float64(x))
			if exact != exact || want[i] != want[i] {
				if (exact != exact) != (want[i] != want[i]) {
					t.Fatalf("function %d of %v is %v, want %v", c.act.Func, x, want[i], exact)
				}
				continue
			}
			if float32(exact) == want[i] {
				continue
			}
			limit := c.ulp*spacing(exact) + c.absolute + c.byX*math.Abs(float64(x))
			d := math.Abs(float64(want[i]) - exact)
			if !(d <= limit) {
				t.Fatalf("function %d of %v is %v, want %v: %.2f ulp", c.act.Func, x, want[i], exact, d/spacing(exact))
			}
			if d /= spacing(exact); d > worst {
				worst, where = d, x
			}
		}
		t.Logf("function %d: at most %.2f ulp, at %v", c.act.Func, worst, where)
		for _, lv := range vectors() {
			w := Workspace{vector: lv}
			w.Apply(c.act, got, list)
			for i := range want {
				if !sameBits(got[i], want[i]) {
					t.Fatalf("level %s, function %d of %v is %v, want %v", lv.name(), c.act.Func, list[i], got[i], want[i])
				}
			}
		}
	}
}

// The results are part of what a cluster of unlike machines agrees on: these sums of bits are those of every processor.
func TestFunctionsAreTheSameEverywhere(t *testing.T) {
	var list []float32
	for b := uint64(0); b < 1<<32; b += 65521 {
		list = append(list, math.Float32frombits(uint32(b)))
	}
	want := []uint64{
		0xda4192692065657d, 0xe47b0afe6afb3a0d, 0x5de406d9cb5bfbb8, 0xe296d38561b02b40, 0xe0ac1903c9931d85,
		0xe0ac1903c9931d85, 0x581c9f2d1b1c8b87, 0x7bce7beef124afcc, 0x593bda70ce5b92f8, 0x647b4de7ce5b92f8,
		0xb3933142e090cfd3, 0x53ab1c43aa0d8e04, 0x7ddcb9726f704fc4, 0xc3d4d9266466b7f6, 0xa6d4db0bffa1d5da,
		0x6ef010ddf48c5d5c, 0xd442000f4d48080, 0x18f7379d40169bdb, 0xfa1c6457b5d51a77,
	}
	var w Workspace
	y := make([]float32, len(list))
	for i, c := range functionCases() {
		w.Apply(c.act, y, list)
		sum := uint64(14695981039346656037)
		for _, v := range y {
			b := math.Float32bits(v)
			if v != v {
				b = 0x7fc00000
			}
			sum = (sum ^ uint64(b)) * 1099511628211
		}
		if i >= len(want) || sum != want[i] {
			t.Errorf("function %d: %#x", c.act.Func, sum)
		}
	}
}

// sameBits compares bits; all NaN are alike.
func sameBits(x, y float32) bool {
	return math.Float32bits(x) == math.Float32bits(y) || x != x && y != y
}

// atEveryPlace calls f for lengths 0 to 100 and a few more, with vectors at different distances from the boundaries of registers.
func atEveryPlace(r *rand.Rand, f func(n int, vector func() (x []float32, check func(t *testing.T, name string)))) {
	for n := range 140 {
		if n > 100 {
			n = 100 + 37*(n-100)
		}
		for range 3 {
			f(n, func() ([]float32, func(t *testing.T, name string)) {
				shift := r.IntN(9)
				x, check := guarded(r, n+shift)
				before := append([]float32(nil), x[:shift]...)
				for i := range x[shift:] {
					if x[shift+i] *= 3; r.IntN(200) == 0 {
						x[shift+i] = float32(math.NaN())
					}
				}
				return x[shift:], func(t *testing.T, name string) {
					t.Helper()
					check(t, name)
					for i, v := range before {
						if x[i] != v {
							t.Errorf("%s: element %d before the vector was overwritten", name, i)
						}
					}
				}
			})
		}
	}
}

func equal(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if !sameBits(got[i], want[i]) {
			t.Fatalf("%s: element %d of %d is %v, want %v", what, i, len(want), got[i], want[i])
		}
	}
}

func TestFunctionsAtEveryLength(t *testing.T) {
	for _, lv := range vectors() {
		w, ref := Workspace{vector: lv}, Workspace{vector: portable{}}
		for _, c := range functionCases() {
			atEveryPlace(rand.New(rand.NewPCG(41, 42)), func(n int, vector func() ([]float32, func(*testing.T, string))) {
				if n > 1000 {
					return
				}
				what := fmt.Sprintf("level %s, function %d", lv.name(), c.act.Func)
				x, checkX := vector()
				y, checkY := vector()
				want := make([]float32, n)
				ref.Apply(c.act, want, x)
				w.Apply(c.act, y, x)
				equal(t, what, y, want)
				checkY(t, what)
				w.Apply(c.act, x, x)
				equal(t, what+" in place", x, want)
				checkX(t, what)
			})
		}
	}
}

func TestPairsAtEveryLength(t *testing.T) {
	for _, lv := range vectors() {
		w, ref := Workspace{vector: lv}, Workspace{vector: portable{}}
		for op := Add; op <= Min; op++ {
			atEveryPlace(rand.New(rand.NewPCG(43, 44)), func(n int, vector func() ([]float32, func(*testing.T, string))) {
				if n > 1000 {
					return
				}
				what := fmt.Sprintf("level %s, operation %d", lv.name(), op)
				x, checkX := vector()
				y, checkY := vector()
				z, checkZ := vector()
				want := make([]float32, n)
				for _, s := range []float32{1.5, -0.0, float32(math.NaN()), float32(math.Inf(-1))} {
					ref.ZipScalar(op, want, x, s)
					w.ZipScalar(op, z, x, s)
					equal(t, what, z, want)
					ref.ScalarZip(op, want, s, x)
					w.ScalarZip(op, z, s, x)
					equal(t, what, z, want)
				}
				ref.Zip(op, want, x, y)
				w.Zip(op, z, x, y)
				equal(t, what, z, want)
				w.Zip(op, z, x, y)
				copy(z, x)
				w.Zip(op, z, z, y)
				equal(t, what+" in place of the first", z, want)
				w.Zip(op, y, x, y)
				equal(t, what+" in place of the second", y, want)
				checkX(t, what)
				checkY(t, what)
				checkZ(t, what)
			})
		}
	}
}

func TestReductionsAtEveryLength(t *testing.T) {
	for _, lv := range vectors() {
		w, ref := Workspace{vector: lv}, Workspace{vector: portable{}}
		atEveryPlace(rand.New(rand.NewPCG(45, 46)), func(n int, vector func() ([]float32, func(*testing.T, string))) {
			what := "level " + lv.name()
			x, checkX := vector()
			y, checkY := vector()
			scale, checkScale := vector()
			want := make([]float32, n)
			same := func(name string, got, want float64) {
				if got != want && (got == got || want == want) {
					t.Fatalf("%s: %s of %d is %v, want %v", what, name, n, got, want)
				}
			}
			same("sum", w.Sum(x), ref.Sum(x))
			same("squares", w.Squares(x, 0.25), ref.Squares(x, 0.25))
			same("highest", float64(w.Highest(x)), float64(ref.Highest(x)))
			same("sum of exp", w.expSum(y, x, 2), ref.expSum(want, x, 2))
			equal(t, what+": exp", y, want)
			ref.Softmax(want, x)
			w.Softmax(y, x)
			equal(t, what+": softmax", y, want)
			ref.LogSoftmax(want, x)
			w.LogSoftmax(y, x)
			equal(t, what+": log softmax", y, want)
			copy(y, x)
			w.LogSoftmax(y, y)
			equal(t, what+": log softmax in place", y, want)
			for _, shift := range [][]float32{nil, x} {
				ref.Normalize(want, x, 0.5, 2, scale, shift)
				w.Normalize(y, x, 0.5, 2, scale, shift)
				equal(t, what+": normalize", y, want)
			}
			w.Normalize(x, x, 0.5, 2, scale, nil)
			ref.Unzip(want[:(n+1)/2], want[(n+1)/2:], y)
			even, checkEven := guarded(rand.New(rand.NewPCG(1, 1)), (n+1)/2)
			odd, checkOdd := guarded(rand.New(rand.NewPCG(1, 1)), n/2)
			w.Unzip(even, odd, y)
			equal(t, what+": even", even, want[:(n+1)/2])
			equal(t, what+": odd", odd, want[(n+1)/2:])
			for name, check := range map[string]func(*testing.T, string){"x": checkX, "y": checkY, "scale": checkScale, "even": checkEven, "odd": checkOdd} {
				check(t, what+" "+name)
			}
		})
	}
}

// The partial sums lose little: a sum in double precision is the judge.
func TestSumsAreAccurate(t *testing.T) {
	r := rand.New(rand.NewPCG(47, 48))
	var w Workspace
	for _, n := range []int{1, 49, 768, 100_000, 3_000_000} {
		x := make([]float32, n)
		sum, squares := 0.0, 0.0
		for i := range x {
			x[i] = r.Float32() + 1
			sum += float64(x[i])
			squares += (float64(x[i]) - 1.5) * (float64(x[i]) - 1.5)
		}
		if got := w.Sum(x); math.Abs(got/sum-1) > 3e-7 {
			t.Errorf("sum of %d is %v, want %v", n, got, sum)
		}
		if got := w.Squares(x, 1.5); math.Abs(got/squares-1) > 1e-6 {
			t.Errorf("squares of %d are %v, want %v", n, got, squares)
		}
	}
}

func TestTransposeMatchesReference(t *testing.T) {
	for _, lv := range vectors() {
		r := rand.New(rand.NewPCG(49, 50))
		w := Workspace{vector: lv}
		for range 1500 {
			rows, cols := r.IntN(40), r.IntN(40)
			if r.IntN(20) == 0 {
				rows, cols = r.IntN(200), r.IntN(200)
			}
			lds, ldd := cols+r.IntN(3), rows+r.IntN(3)
			src, checkSrc := guarded(r, max(0, (rows-1)*lds+cols))
			dst, checkDst := guarded(r, max(0, (cols-1)*ldd+rows))
			before := append([]float32(nil), dst...)
			w.Transpose(dst, ldd, src, lds, rows, cols)
			for i, v := range dst {
				want := before[i]
				if i%max(ldd, 1) < rows {
					want = src[i%ldd*lds+i/ldd]
				}
				if v != want {
					t.Fatalf("level %s: %d x %d, lds %d, ldd %d: element %d is %v, want %v", lv.name(), rows, cols, lds, ldd, i, v, want)
				}
			}
			checkSrc(t, "source")
			checkDst(t, "destination")
		}
	}
}

func FuzzVectorLevels(f *testing.F) {
	f.Add([]byte{0, 0, 128, 63, 0, 0, 128, 127}, uint8(3), uint8(1), float32(0.5))
	f.Fuzz(func(t *testing.T, raw []byte, fn, op uint8, s float32) {
		x := make([]float32, len(raw)/4)
		for i := range x {
			x[i] = math.Float32frombits(uint32(raw[4*i]) | uint32(raw[4*i+1])<<8 | uint32(raw[4*i+2])<<16 | uint32(raw[4*i+3])<<24)
		}
		act := Activation{Func: Func(fn) % (GeluTanh + 1), Alpha: s, Beta: 1}
		pair := BinaryOp(op) % (Min + 1)
		ref := Workspace{vector: portable{}}
		want, got := make([]float32, len(x)), make([]float32, len(x))
		for _, lv := range vectors() {
			w := Workspace{vector: lv}
			ref.Apply(act, want, x)
			w.Apply(act, got, x)
			equal(t, fmt.Sprintf("%s: function %d", lv.name(), act.Func), got, want)
			ref.ZipScalar(pair, want, x, s)
			w.ZipScalar(pair, got, x, s)
			equal(t, fmt.Sprintf("%s: operation %d", lv.name(), pair), got, want)
			ref.Softmax(want, x)
			w.Softmax(got, x)
			equal(t, lv.name()+": softmax", got, want)
		}
	})
}

func BenchmarkFunctions(b *testing.B) {
	for _, c := range functionCases() {
		for _, lv := range vectors() {
			b.Run(fmt.Sprintf("%d/%s", c.act.Func, lv.name()), func(b *testing.B) {
				r := rand.New(rand.NewPCG(1, 1))
				x, _ := guarded(r, 8192)
				y, w := make([]float32, len(x)), Workspace{vector: lv}
				for b.Loop() {
					w.Apply(c.act, y, x)
				}
				b.ReportMetric(float64(len(x))*float64(b.N)/b.Elapsed().Seconds()/1e9, "elements/ns")
			})
		}
	}
}

func BenchmarkRows(b *testing.B) {
	for _, lv := range vectors() {
		r := rand.New(rand.NewPCG(1, 1))
		x, _ := guarded(r, 768*64)
		scale, _ := guarded(r, 768)
		y, w := make([]float32, len(x)), Workspace{vector: lv}
		rows := func(name string, f func(y, x []float32)) {
			b.Run(name+"/"+lv.name(), func(b *testing.B) {
				for b.Loop() {
					for i := 0; i < len(x); i += 768 {
						f(y[i:i+768], x[i:i+768])
					}
				}
				b.ReportMetric(float64(len(x))*float64(b.N)/b.Elapsed().Seconds()/1e9, "elements/ns")
			})
		}
		rows("add", func(y, x []float32) { w.Zip(Add, y, x, scale) })
		rows("div", func(y, x []float32) { w.ZipScalar(Div, y, x, 3) })
		rows("sum", func(y, x []float32) { y[0] = float32(w.Sum(x)) })
		rows("softmax", func(y, x []float32) { w.Softmax(y, x) })
		rows("layerNorm", func(y, x []float32) {
			mean, inverse := w.Moments(x, 1e-5)
			w.Normalize(y, x, mean, inverse, scale, scale)
		})
		rows("unzip", func(y, x []float32) { w.Unzip(y[:384], y[384:], x) })
		b.Run("transpose/"+lv.name(), func(b *testing.B) {
			for b.Loop() {
				w.Transpose(y, 64, x, 768, 64, 768)
			}
			b.ReportMetric(float64(len(x))*float64(b.N)/b.Elapsed().Seconds()/1e9, "elements/ns")
		})
	}
}
