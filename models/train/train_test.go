package train

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
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

// quick is a run of a second or less.
func quick(arch string) Config {
	return Config{Arch: arch, Epochs: 4, Seed: 5, BatchSize: 50, LearningRate: 0.002, Shift: 1, Dropout: 0.1, Threads: 2}
}

func TestRunLearns(t *testing.T) {
	set := stripes(600, 12)
	for _, arch := range []string{"mlp", "cnn"} {
		t.Run(arch, func(t *testing.T) {
			c, steps := quick(arch), 0
			var told []Epoch
			c.HoldOut = 150
			c.Progress = func(e Epoch) { told = append(told, e) }
			last := 0.0
			c.Step = func(epoch int, done float64) {
				if steps++; epoch != len(told)+1 || done <= 0 || done > 1 || done < last {
					t.Errorf("step %d: epoch %d, done %v after %v", steps, epoch, done, last)
				}
				if last = done; done == 1 {
					last = 0
				}
			}
			res, err := Run(t.Context(), set, c)
			if err != nil {
				t.Fatal(err)
			}
			if len(res.Epochs) != 4 || len(told) != 4 || steps != 4*9 || res.Arch != arch || res.Seed != 5 || len(res.ONNX) == 0 {
				t.Fatalf("%d epochs, told of %d, %d steps, %s seed %d", len(res.Epochs), len(told), steps, res.Arch, res.Seed)
			}
			first, end := res.Epochs[0], res.Epochs[3]
			if end.Loss > first.Loss/2 || end.Accuracy < 0.9 || end.HeldOut < 0.9 || end.Epoch != 4 || end.Seconds <= 0 || told[3] != end {
				t.Errorf("from %+v to %+v", first, end)
			}
		})
	}
}

func TestRunIsDeterministic(t *testing.T) {
	set := stripes(47, 12) // the last batch is short and does not divide by eight
	for _, arch := range []string{"mlp", "cnn"} {
		t.Run(arch, func(t *testing.T) {
			train := func(change func(*Config)) []byte {
				c := quick(arch)
				c.Epochs, c.BatchSize = 1, 20
				change(&c)
				res, err := Run(t.Context(), set, c)
				if err != nil {
					t.Fatal(err)
				}
				return res.ONNX
			}
			want := train(func(c *Config) { c.Threads = 1 })
			for _, threads := range []int{2, 3, 20} {
				if !bytes.Equal(train(func(c *Config) { c.Threads = threads }), want) {
					t.Errorf("%d threads give another model than one", threads)
				}
			}
			if bytes.Equal(train(func(c *Config) { c.Seed = 6 }), want) {
				t.Error("another seed gives the same model")
			}
		})
	}
}

// TestFloatImages trains on the same images as bytes and as the floats that the
// bytes become.
func TestFloatImages(t *testing.T) {
	set := stripes(64, 12)
	floats := *set
	floats.DType, floats.X = dataset.F32, nil
	for _, v := range set.X {
		floats.X = binary.LittleEndian.AppendUint32(floats.X, math.Float32bits(float32(v)*(1.0/255)))
	}
	c := quick("mlp")
	c.Epochs = 1
	a, err := Run(t.Context(), set, c)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Run(t.Context(), &floats, c)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.ONNX, b.ONNX) {
		t.Error("bytes and floats give different models")
	}
}

func TestRunStopsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := quick("cnn")
	steps := 0
	c.Step = func(int, float64) { steps++; cancel() }
	c.Progress = func(e Epoch) { t.Errorf("epoch %d was finished", e.Epoch) }
	if res, err := Run(ctx, stripes(600, 12), c); !errors.Is(err, context.Canceled) || res != nil {
		t.Errorf("got %v, %v", res, err)
	}
	if steps != 1 {
		t.Errorf("%d steps after the end of the context", steps-1)
	}
	if _, err := Run(ctx, stripes(600, 12), c); !errors.Is(err, context.Canceled) || steps != 1 {
		t.Errorf("started with an ended context: %d steps, %v", steps-1, err)
	}
}

func TestRunErrors(t *testing.T) {
	good := stripes(20, 12)
	change := func(f func(s *dataset.Set)) *dataset.Set {
		s := *good
		f(&s)
		return &s
	}
	for name, c := range map[string]struct {
		set  *dataset.Set
		c    Config
		want error
		text string
	}{
		"no network":          {good, Config{}, ErrConfig, "choose mlp or cnn"},
		"unknown network":     {good, Config{Arch: "resnet"}, ErrConfig, `"resnet"`},
		"epochs":              {good, Config{Arch: "mlp", Epochs: -1}, ErrConfig, "epochs"},
		"batch size":          {good, Config{Arch: "mlp", BatchSize: 1 << 30}, ErrConfig, "batch size"},
		"learning rate":       {good, Config{Arch: "mlp", LearningRate: math.NaN()}, ErrConfig, "learning rate"},
		"shift":               {good, Config{Arch: "mlp", Shift: -2}, ErrConfig, "shift"},
		"dropout":             {good, Config{Arch: "mlp", Dropout: 1}, ErrConfig, "dropout"},
		"threads":             {good, Config{Arch: "mlp", Threads: -1}, ErrConfig, "threads"},
		"negative hold-out":   {good, Config{Arch: "mlp", HoldOut: -1}, ErrConfig, "hold out"},
		"everything held out": {good, Config{Arch: "mlp", HoldOut: 20}, ErrConfig, "none is left"},
		"no set":              {nil, Config{Arch: "mlp"}, ErrData, "no images"},
		"empty set":           {&dataset.Set{}, Config{Arch: "mlp"}, ErrData, "no images"},
		"no labels":           {change(func(s *dataset.Set) { s.Y = nil }), Config{Arch: "mlp"}, ErrData, "no labels"},
		"too few labels":      {change(func(s *dataset.Set) { s.Y = s.Y[:19] }), Config{Arch: "mlp"}, ErrData, "19 labels"},
		"half an image":       {change(func(s *dataset.Set) { s.X = s.X[:len(s.X)-1] }), Config{Arch: "mlp"}, ErrData, "whole number"},
		"one class":           {change(func(s *dataset.Set) { s.Classes = s.Classes[:1] }), Config{Arch: "mlp"}, ErrData, "1 classes"},
		"label out of range":  {change(func(s *dataset.Set) { s.Classes = s.Classes[:2] }), Config{Arch: "mlp"}, ErrData, "but 2 classes"},
		"small images":        {stripes(20, 8), Config{Arch: "cnn"}, ErrData, "10x10"},
		"flat images":         {change(func(s *dataset.Set) { s.Shape = []int{144} }), Config{Arch: "cnn"}, ErrData, "[channels rows columns]"},
		"large images":        {stripes(20, 130), Config{Arch: "mlp"}, ErrData, "at most 16384"},
		"diverging":           {change(infinite), Config{Arch: "mlp", Epochs: 1}, ErrDiverged, "learning rate"},
	} {
		_, err := Run(t.Context(), c.set, c.c)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// infinite turns the images of a set into floats too large to compute with.
func infinite(s *dataset.Set) {
	s.DType, s.X = dataset.F32, bytes.Repeat([]byte{0xff, 0xff, 0x7f, 0x7f}, len(s.X))
}

// TestOtherShapes trains the mlp on flat images and both networks on colour.
func TestOtherShapes(t *testing.T) {
	flat := stripes(40, 12)
	flat.Shape, flat.Classes = []int{144}, nil
	colour := &dataset.Set{Name: "colour", DType: dataset.U8, Shape: []int{3, 10, 13}, X: make([]byte, 40*390), Y: make([]int32, 40)}
	colour.Y[7] = 2
	for _, c := range []struct {
		arch string
		set  *dataset.Set
	}{{"mlp", flat}, {"mlp", colour}, {"cnn", colour}} {
		cfg := quick(c.arch)
		cfg.Epochs = 1
		if _, err := Run(t.Context(), c.set, cfg); err != nil {
			t.Errorf("%s on %s: %v", c.arch, c.set.Name, err)
		}
	}
}

func TestShift(t *testing.T) {
	s := &samples{x: []byte{0, 0, 0, 0, 0, 0, 255, 51, 102, 153, 204, 0}, image: []int{1, 2, 3}, n: 6}
	for _, c := range []struct {
		dx, dy int
		want   [6]float32
	}{
		{0, 0, [6]float32{1, .2, .4, .6, .8, 0}},
		{1, 0, [6]float32{0, 1, .2, 0, .6, .8}},
		{-1, 0, [6]float32{.2, .4, 0, .8, 0, 0}},
		{0, 1, [6]float32{0, 0, 0, 1, .2, .4}},
		{-2, -1, [6]float32{0, 0, 0, 0, 0, 0}},
		{-1, -1, [6]float32{.8, 0, 0, 0, 0, 0}},
		{3, 2, [6]float32{}},
		{-5, 0, [6]float32{}},
	} {
		got := [6]float32{9, 9, 9, 9, 9, 9}
		s.put(1, got[:], c.dx, c.dy)
		for i := range got {
			if math.Abs(float64(got[i]-c.want[i])) > 1e-6 {
				t.Errorf("moved by %d, %d: %v, expected %v", c.dx, c.dy, got, c.want)
				break
			}
		}
	}
}

func TestDropoutShare(t *testing.T) {
	const n = 20000
	l, x, y := newDropout(n, 0.3, 1), make([]float32, n), make([]float32, n)
	for i := range x {
		x[i] = 1
	}
	l.forward(mode{dropout: random(1, streamDropout, 0)}, nil, x, y, 1)
	zeros, sum := 0, 0.0
	for _, v := range y {
		if v == 0 {
			zeros++
		}
		sum += float64(v)
	}
	if share, mean := float64(zeros)/n, sum/n; math.Abs(share-0.3) > 0.02 || math.Abs(mean-1) > 0.03 {
		t.Errorf("%v left out, mean %v", share, mean)
	}
	if l.forward(mode{}, nil, x, y, 1); !slices.Equal(x, y) {
		t.Error("dropout outside training changes something")
	}
}

// TestAdam follows one parameter through the formulas of the paper, in float64 and
// with the bias corrections written out.
func TestAdam(t *testing.T) {
	const rate = 0.01
	w, want := []float32{5, 0.5, 7}, 0.5
	a, m, v := newAdam(3), 0.0, 0.0
	for step := 1; step <= 50; step++ {
		g := math.Sin(float64(step)) * 3
		m, v = beta1*m+(1-beta1)*g, beta2*v+(1-beta2)*g*g
		mh, vh := m/(1-math.Pow(beta1, float64(step))), v/(1-math.Pow(beta2, float64(step)))
		want -= rate * mh / (math.Sqrt(vh) + epsilon)
		shards := [][]float32{{9, float32(g - 2), 9}, {9, 2.5, 9}, {9, -0.5, 9}}
		a.update(w, shards, 1, 2, a.begin(rate))
		if math.Abs(float64(w[1])-want) > 1e-5 {
			t.Fatalf("step %d: %v, expected %v", step, w[1], want)
		}
	}
	if w[0] != 5 || w[2] != 7 {
		t.Error("parameters outside the range moved")
	}
}

func TestCrossEntropy(t *testing.T) {
	d := make([]float32, 6)
	s := crossEntropy([]float32{1000, 0, -1000, 0, 0, 0}, []int32{1, 0}, 3, 0.5, d)
	if want := 1000 + math.Log(3); math.Abs(s.loss-want) > 1e-9 || s.correct != 1 {
		t.Errorf("loss %v, expected %v; %d correct", s.loss, want, s.correct)
	}
	for i, want := range []float64{0.5, -0.5, 0, -1. / 3, 1. / 6, 1. / 6} {
		if math.Abs(float64(d[i])-want) > 1e-6 {
			t.Errorf("gradient %d is %v, expected %v", i, d[i], want)
		}
	}
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
