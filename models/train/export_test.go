package train

import (
	"math"
	"reflect"
	"testing"

	"idunno/models"
	"idunno/models/dataset"
)

// TestExportedModel loads what the trainer wrote as a worker loads it and compares
// the probability of every class of every image with the trainer's own network.
func TestExportedModel(t *testing.T) {
	const n = 40
	for _, want := range []struct {
		arch       string
		info       models.Info
		parameters int64
	}{
		{"mlp", models.Info{
			Inputs:  []models.IO{{Name: "input", DType: "float", Shape: []int{-1, 196}}},
			Outputs: []models.IO{{Name: "logits", DType: "float", Shape: []int{-1, 4}}},
			Ops:     []string{"Gemm", "Relu"},
		}, 197*512 + 513*512 + 513*4},
		{"cnn", models.Info{
			Inputs:  []models.IO{{Name: "input", DType: "float", Shape: []int{-1, 1, 14, 14}}},
			Outputs: []models.IO{{Name: "logits", DType: "float", Shape: []int{-1, 4}}},
			Ops:     []string{"Conv", "Flatten", "Gemm", "MaxPool", "Relu"},
		}, 10*32 + 289*64 + (64*4+1)*128 + 129*4},
	} {
		t.Run(want.arch, func(t *testing.T) {
			set := stripes(n, 14)
			c := quick(want.arch)
			c.BatchSize = n
			r, err := newRun(set, c)
			if err != nil {
				t.Fatal(err)
			}
			for e := range 3 {
				if _, err := r.epoch(t.Context(), e+1); err != nil {
					t.Fatal(err)
				}
			}
			m, err := models.Load(export(r.nets[0], r.w, set.Shape, r.c), models.Options{})
			if err != nil {
				t.Fatal(err)
			}
			info := m.Info()
			if !reflect.DeepEqual(info.Inputs, want.info.Inputs) || !reflect.DeepEqual(info.Outputs, want.info.Outputs) ||
				!reflect.DeepEqual(info.Ops, want.info.Ops) || info.Opset != opset || info.Output != models.Logits ||
				info.Parameters != want.parameters || len(r.w) != int(want.parameters) {
				t.Errorf("info %+v, expected %+v with %d parameters", info, want.info, want.parameters)
			}
			compare(t, r, m)
		})
	}
}

// compare asks the loaded model for the loss of every label of every image, which
// is the logarithm of its probability.
func compare(t *testing.T, r *run, m *models.Model) {
	t.Helper()
	n, session := len(r.s.y), m.NewSession()
	b := &dataset.Batch{X: r.s.x, DType: dataset.U8, Shape: append([]int{n}, r.s.image...), Y: make([]int32, n)}
	seen := map[int32]bool{}
	for label := range r.classes {
		for i := range b.Y {
			b.Y[i] = int32(label)
		}
		p, err := session.Predict(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		for from := 0; from < n; from += r.rows {
			logits := r.logits(r.nets[0], from, min(r.rows, n-from))
			for i := range min(r.rows, n-from) {
				z := logits[i*r.classes : (i+1)*r.classes]
				s := crossEntropy(z, []int32{int32(label)}, r.classes, 1, nil)
				if math.Abs(s.loss-float64(p.Loss[from+i])) > 1e-4*(1+s.loss) {
					t.Errorf("image %d: loss of label %d is %v, the exported model's %v", from+i, label, s.loss, p.Loss[from+i])
				}
				if (s.correct == 1) != (p.Class[from+i] == int32(label)) {
					t.Errorf("image %d: the exported model sees class %d", from+i, p.Class[from+i])
				}
				seen[p.Class[from+i]] = true
			}
		}
	}
	if len(seen) < 2 {
		t.Error("every image is in one class: the test shows little")
	}
}
