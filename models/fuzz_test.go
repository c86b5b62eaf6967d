package models

import (
	"archive/zip"
	"errors"
	"io"
	"testing"
	"time"

	"idunno/models/dataset"
)

// seeds returns small models: one of each node case of the backend suite that fits, and classifiers.
func seeds(tb testing.TB) [][]byte {
	tb.Helper()
	out := [][]byte{classifier("Identity", nil).Bytes(), classifier("Softmax", nil).Bytes(), classifier("ArgMax", map[string]any{"axis": 1}).Bytes()}
	z, err := zip.OpenReader("testdata/onnx-backend.zip")
	if err != nil {
		tb.Fatal(err)
	}
	defer z.Close()
	for i, f := range z.File {
		if f.FileInfo().Name() != "model.onnx" || f.UncompressedSize64 > 1500 || i%4 != 0 {
			continue
		}
		r, err := f.Open()
		if err != nil {
			tb.Fatal(err)
		}
		p, err := io.ReadAll(r)
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

// tryLoad loads a model under small limits and, when it is a classifier of cheap images, runs it. Whatever the bytes are, this must end soon
// without a panic, and an error must be of a known kind.
func tryLoad(t *testing.T, p []byte) {
	t.Helper()
	began := time.Now()
	m, err := Load(p, Options{MaxModelBytes: 1 << 20, MaxMemory: 16 << 20})
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("loading took %v", d)
	}
	if err != nil {
		for _, kind := range []error{ErrMalformed, ErrUnsupported, ErrTooLarge, ErrNotClassifier} {
			if errors.Is(err, kind) {
				return
			}
		}
		t.Fatalf("error of no kind: %v", err)
	}
	size := product(m.image)
	if m.image == nil || size < 0 || size > 1<<16 || m.info.FLOPsPerImage == 0 || m.info.FLOPsPerImage > 1<<24 || m.fixed > 16 {
		return
	}
	b := &dataset.Batch{X: make([]byte, 2*size), DType: dataset.U8, Shape: append([]int{2}, m.image...), Y: []int32{0, 1}}
	for i := range b.X {
		b.X[i] = byte(i * 37)
	}
	pred, err := m.NewSession().Predict(t.Context(), b)
	if err == nil && len(pred.Class) != 2 {
		t.Errorf("%d predictions for 2 images", len(pred.Class))
	}
}

func FuzzLoad(f *testing.F) {
	for _, p := range seeds(f) {
		f.Add(p)
	}
	f.Fuzz(tryLoad)
}

// Every truncation of a valid model, and every byte of it changed in some ways.
func TestLoadSurvivesMutations(t *testing.T) {
	whole := classifier("Softmax", nil).Bytes()
	for n := range whole {
		tryLoad(t, whole[:n])
	}
	for i := range whole {
		for _, x := range []byte{1, 2, 8, 0x40, 0x80, 0xff} {
			p := append([]byte(nil), whole...)
			p[i] ^= x
			tryLoad(t, p)
		}
	}
}
