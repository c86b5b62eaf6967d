package models

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"testing"

	"idunno/models/dataset"
)

// Bytes with preprocessing give what the numbers that they become give without.
func TestPreprocess(t *testing.T) {
	for name, c := range map[string]struct {
		net tm
		pre Preprocess
		in  []int // shape of one image
		chs int
	}{
		"one number for all":   {mlp(), Preprocess{Scale: 1, Mean: []float64{100}, Std: []float64{-64}}, []int{784}, 1},
		"scale alone":          {cnn(), Preprocess{Scale: 0.5}, []int{1, 28, 28}, 1},
		"a number for channel": {rgb(), Preprocess{Scale: 1.0 / 255, Mean: []float64{0.5, 0.25, 0}, Std: []float64{0.5, 1, 2}}, []int{3, 4, 4}, 3},
	} {
		m, err := Load(c.net.Bytes(), Options{Preprocess: &c.pre})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		const n = 5
		per := product(c.in)
		bytes := &dataset.Batch{X: make([]byte, n*per), DType: dataset.U8, Shape: append([]int{n}, c.in...)}
		numbers := &dataset.Batch{DType: dataset.F32, Shape: bytes.Shape}
		at := func(v []float64, ch int, none float64) float64 {
			if len(v) == 0 {
				return none
			}
			return v[min(ch, len(v)-1)]
		}
		for i := range bytes.X {
			bytes.X[i] = byte(i * 29)
			ch := i % per / (per / c.chs)
			v := (float64(bytes.X[i])*c.pre.Scale - at(c.pre.Mean, ch, 0)) / at(c.pre.Std, ch, 1)
			numbers.X = binary.LittleEndian.AppendUint32(numbers.X, math.Float32bits(float32(v)))
		}
		got, err := m.NewSession().PredictWith(t.Context(), bytes, RawOutput)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want, err := load(t, c.net).NewSession().PredictWith(t.Context(), numbers, RawOutput)
		if err != nil || !slices.Equal(got.Values, want.Values) || !slices.Equal(got.Class, want.Class) {
			t.Errorf("%s: %v, want %v, %v", name, got.Values, want.Values, err)
		}
		// Images that are numbers already are fed as they are.
		if same, err := m.NewSession().PredictWith(t.Context(), numbers, RawOutput); err != nil || !slices.Equal(same.Values, want.Values) {
			t.Errorf("%s: numbers were changed, %v", name, err)
		}
		if c.chs > 1 {
			if err := m.Check([]int{48}, dataset.U8); !errors.Is(err, ErrInput) {
				t.Errorf("%s: images without channels: %v", name, err)
			}
		}
	}
	for name, p := range map[string]Preprocess{"two and three": {Scale: 1, Mean: []float64{1, 2}, Std: []float64{1, 2, 3}}, "by zero": {Scale: 1, Std: []float64{0}}} {
		if _, err := Load(rgb().Bytes(), Options{Preprocess: &p}); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// rgb is a model of images of 4 x 4 pixels in three channels, whose scores are its inputs.
func rgb() tm {
	return tm{In: []tv{{Name: "x", Dims: []any{"N", 3, 4, 4}}}, Out: []tv{{Name: "y", Dims: []any{"N", 48}}},
		Nodes: []tn{{Op: "Flatten", In: []string{"x"}, Out: []string{"y"}}}}
}
