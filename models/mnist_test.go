package models

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"idunno/models/dataset"
)

// random returns an initializer with the spread that keeps activations of a layer with fanIn inputs near one.
func random(r *rand.Rand, name string, fanIn int, dims ...int64) tt {
	n := int64(1)
	for _, d := range dims {
		n *= d
	}
	t := tt{Name: name, Dims: dims, Floats: make([]float32, n)}
	for i := range t.Floats {
		t.Floats[i] = float32(r.NormFloat64() * math.Sqrt(2/float64(fanIn)))
	}
	return t
}

// mlp is the shape of the project's multilayer perceptron, 784-512-512-10, with random weights.
func mlp() tm {
	r := rand.New(rand.NewPCG(1, 1))
	m := tm{In: []tv{{Name: "input", Dims: []any{"N", 784}}}, Out: []tv{{Name: "logits", Dims: []any{"N", 10}}}}
	dense(&m, r, "input", "h1", "1", 784, 512, true)
	dense(&m, r, "h1", "h2", "2", 512, 512, true)
	dense(&m, r, "h2", "logits", "3", 512, 10, false)
	return m
}

func dense(m *tm, r *rand.Rand, in, out, id string, from, to int, relu bool) {
	m.Init = append(m.Init, random(r, "w"+id, from, int64(from), int64(to)), random(r, "b"+id, 100, int64(to)))
	n := tn{Op: "Gemm", In: []string{in, "w" + id, "b" + id}, Out: []string{out}}
	if relu {
		n.Out = []string{"z" + id}
		m.Nodes = append(m.Nodes, n, tn{Op: "Relu", In: n.Out, Out: []string{out}})
		return
	}
	m.Nodes = append(m.Nodes, n)
}

// cnn is the shape of the project's convolutional network, conv3x3x32-pool-conv3x3x64-pool-dense128-10, with random weights.
func cnn() tm {
	r := rand.New(rand.NewPCG(2, 2))
	m := tm{In: []tv{{Name: "input", Dims: []any{"N", 1, 28, 28}}}, Out: []tv{{Name: "logits", Dims: []any{"N", 10}}}}
	pool := map[string]any{"kernel_shape": []int{2, 2}, "strides": []int{2, 2}}
	m.Init = []tt{random(r, "k1", 9, 32, 1, 3, 3), random(r, "c1", 100, 32), random(r, "k2", 288, 64, 32, 3, 3), random(r, "c2", 100, 64)}
	m.Nodes = []tn{
		{Op: "Conv", In: []string{"input", "k1", "c1"}, Out: []string{"a1"}},
		{Op: "Relu", In: []string{"a1"}, Out: []string{"r1"}},
		{Op: "MaxPool", In: []string{"r1"}, Out: []string{"p1"}, Attrs: pool},
		{Op: "Conv", In: []string{"p1", "k2", "c2"}, Out: []string{"a2"}},
		{Op: "Relu", In: []string{"a2"}, Out: []string{"r2"}},
		{Op: "MaxPool", In: []string{"r2"}, Out: []string{"p2"}, Attrs: pool},
		{Op: "Flatten", In: []string{"p2"}, Out: []string{"f"}},
	}
	dense(&m, r, "f", "h", "3", 1600, 128, true)
	dense(&m, r, "h", "logits", "4", 128, 10, false)
	return m
}

func digits(n int) *dataset.Batch {
	r := rand.New(rand.NewPCG(3, 3))
	b := &dataset.Batch{X: make([]byte, n*784), DType: dataset.U8, Shape: []int{n, 1, 28, 28}, Y: make([]int32, n)}
	for i := range b.X {
		b.X[i] = byte(r.Uint32())
	}
	for i := range b.Y {
		b.Y[i] = int32(r.IntN(10))
	}
	return b
}

// Predictions must be bit-equal in every session, and for an image in whatever batch it comes.
func TestPredictionsDoNotDependOnTheBatch(t *testing.T) {
	for name, m := range map[string]tm{"mlp": mlp(), "cnn": cnn()} {
		model := load(t, m)
		const n = 23
		b := digits(n)
		whole, err := model.NewSession().Predict(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		again, err := load(t, m).NewSession().Predict(t.Context(), b)
		if err != nil || !reflect.DeepEqual(whole, again) {
			t.Fatalf("%s: another process would get another prediction, error %v", name, err)
		}
		s := model.NewSession()
		for _, size := range []int{1, 2, 7} {
			for from := 0; from+size <= n; from += size {
				part := &dataset.Batch{X: b.X[from*784:][:size*784], DType: b.DType, Shape: []int{size, 1, 28, 28}, Y: b.Y[from:][:size]}
				p, err := s.Predict(t.Context(), part)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(p.Class, whole.Class[from:][:size]) || !slices.Equal(p.Prob, whole.Prob[from:][:size]) || !slices.Equal(p.Loss, whole.Loss[from:][:size]) {
					t.Fatalf("%s: images %d to %d differ in a batch of %d", name, from, from+size, size)
				}
			}
		}
	}
}

func TestFLOPsOfTheNetworks(t *testing.T) {
	if i := load(t, mlp()).Info(); i.FLOPsPerImage != 2*(784*512+512*512+512*10) || i.Parameters != 669706 {
		t.Errorf("mlp: %+v", i)
	}
	conv := int64(2 * (26*26*32*9 + 11*11*64*288 + 1600*128 + 128*10))
	if i := load(t, cnn()).Info(); i.FLOPsPerImage < conv || i.FLOPsPerImage > conv+conv/50 || i.Parameters != 225034 {
		t.Errorf("cnn: %+v, convolutions and products alone need %d", i, conv)
	}
}

// A batch larger than what a session computes at a time is cut, without a trace in the result.
func TestLargeBatchesAreCut(t *testing.T) {
	m := load(t, classifier("Softmax", nil))
	n := 2*maxGroup + 5
	b := &dataset.Batch{X: make([]byte, 4*n), DType: dataset.U8, Shape: []int{n, 4}}
	for i := range b.X {
		b.X[i] = byte(i * i)
	}
	p, err := m.NewSession().Predict(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	last := &dataset.Batch{X: b.X[4*(n-1):], DType: b.DType, Shape: []int{1, 4}}
	q, err := m.NewSession().Predict(t.Context(), last)
	if err != nil || q.Class[0] != p.Class[n-1] || q.Prob[0] != p.Prob[n-1] || len(p.Class) != n {
		t.Errorf("%+v, error %v", q, err)
	}
}

func BenchmarkPredict(b *testing.B) {
	for name, m := range map[string]tm{"mlp": mlp(), "cnn": cnn()} {
		for _, n := range []int{1, 8, 100} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				model, err := Load(m.Bytes(), Options{})
				if err != nil {
					b.Fatal(err)
				}
				s, batch := model.NewSession(), digits(n)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := s.Predict(context.Background(), batch); err != nil {
						b.Fatal(err)
					}
				}
				perSecond := float64(n) * float64(b.N) / b.Elapsed().Seconds()
				b.ReportMetric(perSecond, "img/s")
				b.ReportMetric(perSecond*float64(model.Info().FLOPsPerImage)/1e9, "GFLOP/s")
			})
		}
	}
}
