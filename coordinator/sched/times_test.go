package sched

import (
	"math/rand/v2"
	"testing"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The histogram is the library's in every place and quantile, and the library reads
// what it writes.
func TestTimesAreAnHdrHistogram(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{0, 1, 2, 3, 99, 100, 101, 5000} {
		var own times
		want := hdrhistogram.New(histMin, histMax, histDigits)
		add := func(v int64) {
			own.add(placeOf(v), 1)
			if err := want.RecordValue(min(max(v, histMin), histMax)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range n {
			add(rng.Int64N(int64(1) << (1 + i%45)))
		}
		for _, v := range []int64{0, histMin, 1 << 19, 1<<20 - 1, 1 << 20, 1<<20 + 1, 1<<30 - 1, histMax, histMax + 1}[:min(n, 9)] {
			add(v)
		}
		percents := []float64{0.01, 1, 25, 50, 90, 95, 99, 99.9, 100}
		for i, v := range own.quantiles(percents...) {
			if w := want.ValueAtQuantile(percents[i]); v != w {
				t.Errorf("%d values: %g %% lie below %d, the library says %d", n, percents[i], v, w)
			}
		}
		p, err := own.encode(new(packer))
		if err != nil {
			t.Fatal(err)
		}
		read, err := hdrhistogram.Decode(p)
		if err != nil {
			t.Fatal(err)
		}
		if !read.Equals(want) {
			t.Errorf("%d values: the library reads another histogram", n)
		}
	}
}

// A crafted histogram breaks nothing.
func TestTimesTakeNonsense(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		p := make([]byte, rng.IntN(40))
		for i := range p {
			p[i] = byte(rng.IntN(256))
		}
		var h times
		if err := h.take(p); err == nil {
			h.quantiles(1, 50, 99, 100)
		}
	}
}
