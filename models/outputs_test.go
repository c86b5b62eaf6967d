package models

import (
	"errors"
	"math"
	"slices"
	"testing"

	"idunno/models/dataset"
)

// Every class's probability comes out, and that of the predicted class is the same
// number as without them, to the bit.
func TestAllProbabilities(t *testing.T) {
	b := floats([]int32{0, 1}, []int{2, 4}, 2, 1, 0, 9, -1, 0, 3, 9)
	for _, last := range []string{"Identity", "Softmax", "LogSoftmax"} {
		s := load(t, classifier(last, nil)).NewSession()
		want, err := s.Predict(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.PredictWith(t.Context(), b, AllProbs)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Class, want.Class) || !slices.Equal(got.Prob, want.Prob) || got.LossSum != want.LossSum || !slices.Equal(got.Shape, []int{3}) {
			t.Errorf("%s: %+v, want %+v", last, got, want)
		}
		for i, class := range got.Class {
			row := got.Values[3*i:][:3]
			if row[class] != want.Prob[i] {
				t.Errorf("%s: image %d has %v for class %d and in the list %v", last, i, want.Prob[i], class, row)
			}
			if sum := row[0] + row[1] + row[2]; math.Abs(float64(sum)-1) > 1e-6 {
				t.Errorf("%s: probabilities %v add up to %v", last, row, sum)
			}
		}
		if want.Values != nil || want.Shape != nil {
			t.Errorf("%s: outputs that nobody asked for: %+v", last, want)
		}
	}
	s := load(t, classifier("Sigmoid", nil)).NewSession()
	if _, err := s.PredictWith(t.Context(), b, AllProbs); !errors.Is(err, ErrNoProbabilities) {
		t.Errorf("sigmoids as probabilities: %v", err)
	}
}

// outputs loads a model of any output and returns its raw outputs for a batch.
func outputs(t *testing.T, m tm, b *dataset.Batch) (*Prediction, error) {
	t.Helper()
	if m.Nodes == nil {
		t.Fatal("no model")
	}
	model, err := Load(m.Bytes(), Options{AnyOutput: true})
	if err != nil {
		t.Fatal(err)
	}
	return model.NewSession().PredictWith(t.Context(), b, RawOutput)
}

func TestRawOutputs(t *testing.T) {
	b := floats([]int32{0, 1}, []int{2, 4}, 2, 1, 0, 9, -1, 0, 3, 9)
	// Of a classifier: its scores, and what they make of the classes.
	p, err := outputs(t, classifier("Identity", nil), b)
	if err != nil || p.Unscored || !slices.Equal(p.Class, []int32{0, 2}) || !slices.Equal(p.Values, []float32{2, 1, 0, -1, 0, 3}) || !slices.Equal(p.Shape, []int{3}) {
		t.Errorf("scores: %+v, %v", p, err)
	}
	// Labels that no class belongs to: the numbers are no scores of them.
	unscored := func(what string, p *Prediction, err error, shape []int, values ...float32) {
		t.Helper()
		if err != nil || !p.Unscored || p.Class != nil || p.Prob != nil || p.Correct != 0 || p.LossSum != 0 || !slices.Equal(p.Shape, shape) || !slices.Equal(p.Values, values) {
			t.Errorf("%s: %+v, %v", what, p, err)
		}
	}
	p, err = outputs(t, classifier("Identity", nil), floats([]int32{0, 9}, []int{2, 4}, 2, 1, 0, 9, -1, 0, 3, 9))
	unscored("foreign labels", p, err, []int{3}, 2, 1, 0, -1, 0, 3)

	// One number for each image.
	one := classifier("Identity", nil)
	one.Init[0].Dims, one.Init[0].Floats, one.Out[0].Dims = []int64{4, 1}, []float32{1, 1, 1, 1}, []any{"N", 1}
	p, err = outputs(t, one, b)
	unscored("a regression", p, err, []int{1}, 12, 11)
	if _, err := Load(one.Bytes(), Options{}); !errors.Is(err, ErrNotClassifier) {
		t.Errorf("a regression as a classifier: %v", err)
	}
	m, err := Load(one.Bytes(), Options{AnyOutput: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.NewSession().Predict(t.Context(), b); !errors.Is(err, ErrNotClassifier) {
		t.Errorf("a regression's classes: %v", err)
	}

	// Not one row for each image.
	sum := tm{In: []tv{{Name: "x", Dims: []any{"N", 4}}}, Out: []tv{{Name: "y", Dims: []any{1, 1}}},
		Nodes: []tn{{Op: "ReduceSum", In: []string{"x"}, Out: []string{"y"}}}}
	if _, err := outputs(t, sum, b); !errors.Is(err, ErrResult) {
		t.Errorf("a sum over the batch: %v", err)
	}
}

// Batches are cut into groups; outputs are as if they were not, and NaN is a number
// like others.
func TestRawOutputsOfLargeBatches(t *testing.T) {
	const n = 700
	var x []float32
	for i := range 4 * n {
		x = append(x, float32(i))
	}
	x[4*600] = float32(math.NaN())
	p, err := outputs(t, classifier("Identity", nil), floats(nil, []int{n, 4}, x...))
	if err != nil || !p.Unscored || len(p.Values) != 3*n {
		t.Fatalf("%d values, %v", len(p.Values), err)
	}
	for i := range n {
		for j, v := range p.Values[3*i:][:3] {
			if want := x[4*i+j]; v != want && !(v != v && want != want) && !(i == 600 && v != v) {
				t.Fatalf("image %d has %v, want %v", i, v, want)
			}
		}
	}
}

// Outputs may take as much memory as a model may, and no more.
func TestRawOutputsAreBounded(t *testing.T) {
	m, err := Load(classifier("Identity", nil).Bytes(), Options{AnyOutput: true, MaxMemory: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	b := floats(nil, []int{1500, 4}, make([]float32, 6000)...)
	if _, err := m.NewSession().PredictWith(t.Context(), b, NoOutputs); err != nil {
		t.Fatal(err)
	}
	b = floats(nil, []int{6000, 4}, make([]float32, 24000)...)
	if _, err := m.NewSession().PredictWith(t.Context(), b, RawOutput); !errors.Is(err, ErrTooLarge) {
		t.Errorf("72,000 bytes of outputs: %v", err)
	}
}
