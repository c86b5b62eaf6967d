// Package suite runs test cases in the layout of the ONNX backend test suite: a folder with model.onnx and folders test_data_set_0, _1, ...
// that hold the inputs and expected outputs as serialized TensorProto files, input_0.pb, output_0.pb and so on.
//
// Weights that a model keeps in files of their own are read from its folder; which links the folder follows is up to the fs.FS.
//
// It compares; it does not decide which cases matter. It reads any fs.FS: a folder on disk or an archive.
package suite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"slices"

	"idunno/models/engine"
	"idunno/models/onnx"
)

// Tolerance says how far a result may be from what is expected: Abs + Rel*|expected|.
type Tolerance struct {
	Rel, Abs float64
}

// DefaultTolerance is that of the ONNX project's own runner, with a smaller absolute part.
func DefaultTolerance() Tolerance { return Tolerance{Rel: 1e-3, Abs: 1e-6} }

// Limits of the files of a case.
const (
	maxModel  = 256 << 20
	maxTensor = 256 << 20
)

// Find returns the folders under root that hold a model.onnx, sorted.
func Find(fsys fs.FS, root string) ([]string, error) {
	var dirs []string
	err := fs.WalkDir(fsys, root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && path.Base(p) == "model.onnx" {
			dirs = append(dirs, path.Dir(p))
		}
		return err
	})
	slices.Sort(dirs)
	return dirs, err
}

// Report is what Verify found out about a case.
type Report struct {
	Model   *engine.Program // nil when the model could not be compiled
	Sets    int             // test sets compared
	Outputs int             // tensors compared
	MaxDiff float64         // largest difference between a number and what was expected
}

// Verify loads the model of a case, runs every test set and compares. A wrong result is an ErrMismatch that says where; an error of the
// model keeps its own kind, as engine.ErrUnsupported.
func Verify(ctx context.Context, fsys fs.FS, dir string, tol Tolerance) (Report, error) {
	var r Report
	raw, err := readFile(fsys, path.Join(dir, "model.onnx"), maxModel)
	if err != nil {
		return r, err
	}
	if onnx.HasExternal(raw) {
		folder, err := fs.Sub(fsys, dir)
		if err != nil {
			return r, err
		}
		if raw, err = onnx.Embed(raw, folder, maxModel); err != nil {
			return r, err
		}
	}
	g, err := onnx.Decode(raw, onnx.Limits{})
	if err != nil {
		return r, err
	}
	p, err := engine.Compile(g, engine.Limits{})
	if err != nil {
		return r, err
	}
	r.Model = p
	s := p.NewSession()
	for {
		set := path.Join(dir, fmt.Sprintf("test_data_set_%d", r.Sets))
		if _, err := fs.Stat(fsys, set); errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err := r.run(ctx, s, fsys, set, tol); err != nil {
			return r, fmt.Errorf("%s: %w", path.Base(set), err)
		}
		r.Sets++
	}
	if r.Sets == 0 {
		return r, fmt.Errorf("%s has no test_data_set_0 beside its model", dir)
	}
	return r, nil
}

func (r *Report) run(ctx context.Context, s *engine.Session, fsys fs.FS, set string, tol Tolerance) error {
	in, err := readTensors(fsys, set, "input")
	if err != nil {
		return err
	}
	want, err := readTensors(fsys, set, "output")
	if err != nil {
		return err
	}
	args := make([]*engine.Tensor, len(in))
	for i, t := range in {
		if declared := r.Model.Inputs(); i < len(declared) {
			t = brain(t, declared[i].DType)
		}
		args[i] = &engine.Tensor{DType: t.DType, Shape: t.Dims, F: t.Floats, I: t.Ints}
	}
	got, err := s.Run(ctx, args)
	if err != nil {
		return err
	}
	if len(got) != len(want) {
		return fmt.Errorf("%w: %d outputs, expected %d", ErrMismatch, len(got), len(want))
	}
	for i, t := range got {
		diff, err := compare(t, brain(want[i], t.DType), tol)
		if err != nil {
			return fmt.Errorf("output %d: %w", i, err)
		}
		r.MaxDiff = max(r.MaxDiff, diff)
		r.Outputs++
	}
	return nil
}

// brain reads a tensor as the bfloat16 numbers that are meant: NumPy has no such type, so the ONNX project writes them as their bits in uint16.
func brain(t *onnx.Tensor, meant onnx.DType) *onnx.Tensor {
	if meant != onnx.BFloat16 || t.DType != onnx.Uint16 {
		return t
	}
	out := &onnx.Tensor{Name: t.Name, DType: meant, Dims: t.Dims, Floats: make([]float32, len(t.Ints))}
	for i, v := range t.Ints {
		out.Floats[i] = math.Float32frombits(uint32(v) << 16)
	}
	return out
}

// compare returns the largest difference, or an error at the first element that is too far off.
func compare(got *engine.Tensor, want *onnx.Tensor, tol Tolerance) (float64, error) {
	if got.DType != want.DType || !slices.Equal(got.Shape, want.Dims) {
		return 0, fmt.Errorf("%w: %s%v, expected %s%v", ErrMismatch, got.DType, got.Shape, want.DType, want.Dims)
	}
	if !slices.Equal(got.I, want.Ints) {
		return 0, fmt.Errorf("%w: integers differ", ErrMismatch)
	}
	if len(got.F) != len(want.Floats) {
		return 0, fmt.Errorf("%w: %d elements, expected %d", ErrMismatch, len(got.F), len(want.Floats))
	}
	worst := 0.0
	for i, w := range want.Floats {
		x, y := float64(got.F[i]), float64(w)
		if x == y || math.IsNaN(x) && math.IsNaN(y) {
			continue
		}
		d := math.Abs(x - y)
		if math.IsInf(y, 0) || !(d <= tol.Abs+tol.Rel*math.Abs(y)) {
			return 0, fmt.Errorf("%w: element %d is %v, expected %v", ErrMismatch, i, x, y)
		}
		worst = max(worst, d)
	}
	return worst, nil
}

// readTensors reads kind_0.pb, kind_1.pb and so on.
func readTensors(fsys fs.FS, set, kind string) ([]*onnx.Tensor, error) {
	var out []*onnx.Tensor
	for {
		name := path.Join(set, fmt.Sprintf("%s_%d.pb", kind, len(out)))
		raw, err := readFile(fsys, name, maxTensor)
		if errors.Is(err, fs.ErrNotExist) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		t, err := onnx.ReadTensor(raw, 0)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path.Base(name), err)
		}
		out = append(out, t)
	}
}

// readFile reads a file whole unless it is larger than limit.
func readFile(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are read", name, info.Size(), limit)
	}
	var b bytes.Buffer
	b.Grow(int(info.Size()))
	if _, err := b.ReadFrom(io.LimitReader(f, limit)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
