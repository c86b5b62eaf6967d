package train

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"go.uber.org/goleak"

	"idunno/models/dataset"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stripes is a set of n images of side x side in four classes: bright bars across
// or down, in one half or the other, on noise.
func stripes(n, side int) *dataset.Set {
	rng := rand.New(rand.NewPCG(1, 2))
	s := &dataset.Set{Name: "stripes", DType: dataset.U8, Shape: []int{1, side, side}, Classes: []string{"top", "bottom", "left", "right"}}
	for range n {
		class := rng.IntN(4)
		at := 1 + rng.IntN(side/2-2) + class%2*(side/2)
		for i := range side {
			for j := range side {
				v := rng.IntN(120)
				if class < 2 && i == at || class >= 2 && j == at {
					v = 255
				}
				s.X = append(s.X, byte(v))
			}
		}
		s.Y = append(s.Y, int32(class))
	}
	return s
}

func BenchmarkStep(b *testing.B) {
	for _, arch := range []string{"mlp", "cnn"} {
		b.Run(arch, func(b *testing.B) {
			r, err := newRun(stripes(128, 28), Config{Arch: arch, Threads: 1})
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := r.step(context.Background(), r.order); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)/128*1e6, "us/image")
		})
	}
}

var _ = bytes.Equal
var _ = errors.Is
