package suite

import (
	"archive/zip"
	"context"
	"errors"
	"io/fs"
	"testing"
	"testing/fstest"

	"idunno/models/engine"
	"idunno/models/onnx"
)

const archive = "../testdata/onnx-backend.zip"

// cases is the number in the archive. A smaller archive must be a decision, not an accident.
const cases = 961

func open(t *testing.T) fs.FS {
	t.Helper()
	z, err := zip.OpenReader(archive)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { z.Close() })
	return z
}

func TestONNXBackendSuite(t *testing.T) {
	fsys := open(t)
	dirs, err := Find(fsys, ".")
	if err != nil {
		t.Fatal(err)
	}
	passed, tensors := 0, 0
	for _, dir := range dirs {
		r, err := Verify(t.Context(), fsys, dir, DefaultTolerance())
		if err != nil {
			t.Errorf("%s: %v", dir, err)
			continue
		}
		passed++
		tensors += r.Outputs
	}
	if passed != cases {
		t.Errorf("%d cases passed, %d are expected", passed, cases)
	}
	t.Logf("%d cases, %d tensors compared", passed, tensors)
}

// change returns a copy of one case with a file replaced.
func change(t *testing.T, dir, file string, edit func([]byte) []byte) fs.FS {
	t.Helper()
	fsys := open(t)
	out := fstest.MapFS{}
	err := fs.WalkDir(fsys, dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(fsys, p)
		if p == dir+"/"+file {
			b = edit(b)
		}
		if b != nil {
			out[p] = &fstest.MapFile{Data: b}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// The suite must be able to fail.
func TestVerifyFindsFaults(t *testing.T) {
	flip := func(b []byte) []byte { b[len(b)-1] ^= 0x40; return b }
	cut := func(b []byte) []byte { return b[:len(b)/2] }
	drop := func([]byte) []byte { return nil }
	for _, c := range []struct {
		name, dir, file string
		edit            func([]byte) []byte
		want            error
	}{
		{"wrong number", "node/test_relu", "test_data_set_0/output_0.pb", flip, ErrMismatch},
		{"wrong integer", "node/test_argmax_keepdims_example", "test_data_set_0/output_0.pb", func(b []byte) []byte { b[len(b)-1]++; return b }, ErrMismatch},
		{"missing output", "node/test_relu", "test_data_set_0/output_0.pb", drop, ErrMismatch},
		{"cut tensor", "node/test_relu", "test_data_set_0/input_0.pb", cut, onnx.ErrMalformed},
		{"cut model", "node/test_relu", "model.onnx", cut, onnx.ErrMalformed},
		{"no model", "node/test_relu", "model.onnx", drop, fs.ErrNotExist},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Verify(t.Context(), change(t, c.dir, c.file, c.edit), c.dir, DefaultTolerance())
			if !errors.Is(err, c.want) {
				t.Errorf("error is %v, want %v", err, c.want)
			}
		})
	}
	if _, err := Verify(t.Context(), fstest.MapFS{}, "x", DefaultTolerance()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that does not exist gives %v", err)
	}
}

func TestVerifyNamesWhatIsMissing(t *testing.T) {
	rename := func(b []byte) []byte { // the operator Relu becomes Rulu
		for i := range b {
			if string(b[i:min(i+4, len(b))]) == "Relu" {
				b[i+1] = 'u'
			}
		}
		return b
	}
	_, err := Verify(t.Context(), change(t, "node/test_relu", "model.onnx", rename), "node/test_relu", DefaultTolerance())
	if !errors.Is(err, engine.ErrUnsupported) {
		t.Fatalf("error is %v", err)
	}
	const want = `Rulu node that gives "y" (opset 14): not supported: there is no "Rulu" of domain "ai.onnx" here (opset 14)`
	if err.Error() != want {
		t.Errorf("error is %q, want %q", err, want)
	}
}

func TestVerifyStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Verify(ctx, open(t), "node/test_relu", DefaultTolerance()); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}
