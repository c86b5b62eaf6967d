package kernel

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// zeros clears most of the columns of a, m x k, in stretches as images have them.
func zeros(r *rand.Rand, m, k int, a []float32) {
	for p := 0; p < k; {
		n := 1 + r.IntN(20)
		for q := p; q < min(p+n, k); q++ {
			for i := range m {
				if n > 5 && r.IntN(200) > 0 {
					a[i*k+q] = 0
				}
			}
		}
		p += n
	}
}

func TestZerosLeftOutDoNotChangeABit(t *testing.T) {
	for _, lv := range levels() {
		r := rand.New(rand.NewPCG(31, 32))
		for _, d := range [][3]int{{1, 64, 17}, {2, 65, 784}, {3, 100, 600}, {5, 300, 1100}, {7, 96, 40}, {13, 64, 15}, {25, 512, 784}, {100, 128, 784}} {
			m, n, k := d[0], d[1], d[2]
			a, checkA := guarded(r, m*k)
			zeros(r, m, k, a)
			weights, _ := guarded(r, k*n)
			b := packB(lv, false, k, n, weights, n)
			e := Epilogue{Bias: weights, Relu: true}
			want := make([]float32, m*n)
			w := Workspace{level: lv}
			b.finite = false
			w.MulB(m, a, k, b, want, n, e)
			b.finite = true
			got, checkC := guarded(r, m*n)
			w.MulB(m, a, k, b, got, n, e)
			if !slices.Equal(got, want) {
				t.Errorf("level %s: %v: results differ", lv.name(), d)
			}
			checkA(t, "A")
			checkC(t, "C")
			if _, ok := lv.(sparser); ok && k > 100 && slices.Max(w.skip.used) < 0 {
				t.Errorf("level %s: %v: nothing was left out", lv.name(), d)
			}
		}
	}
}

func TestSqueezeMatchesReference(t *testing.T) {
	for _, lv := range levels() {
		s, ok := lv.(sparser)
		if !ok {
			continue
		}
		_, nr := lv.tile()
		mr, _ := lv.tile()
		r := rand.New(rand.NewPCG(33, 34))
		for k := range 70 {
			for h := 1; h <= mr; h++ {
				a, checkA := guarded(r, h*k)
				zeros(r, h, k, a)
				ld, most := k+sparseMargin, k-k/8
				got, checkGot := guarded(r, h*ld)
				want := make([]float32, h*ld)
				gotOff, wantOff := make([]uint32, ld), make([]uint32, ld)
				n := s.squeeze(h, k, a, k, got, ld, gotOff, most)
				if m := squeeze(h, k, a, k, want, ld, wantOff, nr, most); n != m {
					t.Fatalf("level %s: %d columns, want %d", lv.name(), n, m)
				}
				for i := range h {
					if n > 0 && (!slices.Equal(got[i*ld:][:n], want[i*ld:][:n]) || !slices.Equal(gotOff[:n], wantOff[:n])) {
						t.Fatalf("level %s: %d x %d: row %d or the places differ", lv.name(), h, k, i)
					}
				}
				checkA(t, "A")
				checkGot(t, "squeezed")
			}
		}
	}
}

// Infinite weights make NaN of zeros, and that must stay.
func TestZeroTimesInfinityIsNotLeftOut(t *testing.T) {
	for _, lv := range levels() {
		const n, k = 64, 32
		weights := make([]float32, k*n)
		weights[3*n+5] = float32(math.Inf(1))
		c := make([]float32, n)
		w := Workspace{level: lv}
		w.MulB(1, make([]float32, k), k, packB(lv, false, k, n, weights, n), c, n, Epilogue{})
		if c[5] == c[5] {
			t.Errorf("level %s: 0 times infinity gave %v", lv.name(), c[5])
		}
	}
}
