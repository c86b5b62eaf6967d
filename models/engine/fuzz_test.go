package engine

import (
	"archive/zip"
	"context"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"idunno/models/internal/onnxtest"
	"idunno/models/onnx"
	"idunno/models/onnx/encode"
)

// fuzzSeeds returns small models: those of the backend suite, and ones with graphs in nodes, functions and operators of other domains.
func fuzzSeeds(tb testing.TB) [][]byte {
	tb.Helper()
	call := tm{In: []tv{{Name: "x", Dims: []any{2, 3}}}, Out: outs("y"), Domains: map[string]int64{"f": 1},
		Nodes: []tn{{Op: "F", Domain: "f", In: []string{"x"}, Out: []string{"y"}, Attrs: map[string]any{"a": float32(0.5)}}},
		Functions: []encode.Function{{Name: "F", Domain: "f", In: []string{"i"}, Out: []string{"o"}, Attrs: []string{"a"}, Nodes: []tn{
			{Op: "Elu", In: []string{"i"}, Out: []string{"e"}, Attrs: map[string]any{"alpha": encode.Ref("a")}}, {Op: "Exp", In: []string{"e"}, Out: []string{"o"}}}}}}
	seeds := [][]byte{choice().Bytes(), loop(3, nil).Bytes(), loop(nil, float32(6)).Bytes(), scan(map[string]any{"scan_output_axes": []int{1, 0}}).Bytes(), call.Bytes()}
	for op, a := range map[string]attrs{
		"TreeEnsembleClassifier": forest("class", []int{0, 1, 2, 0, 1}, attrs{"classlabels_int64s": []int{5, 6, 7}}),
		"TreeEnsembleRegressor":  forest("target", []int{0, 0, 0, 0, 0}, attrs{"aggregate_function": "MIN"}),
		"LinearClassifier":       {"coefficients": []float32{1, 0, 0, 1}, "classlabels_ints": []int{0, 1}, "post_transform": "SOFTMAX"},
		"SVMClassifier": {"classlabels_ints": []int{1, 2, 3}, "vectors_per_class": []int{1, 1, 1}, "support_vectors": []float32{1, 0, 0, 1, 0, 0},
			"coefficients": []float32{1, -1, 0, 1, 1, 0}, "rho": []float32{0, -2, -2}, "prob_a": []float32{1, 1, 1}, "prob_b": []float32{1, 1, 1}},
		"LabelEncoder": {"keys_floats": []float32{1, 2}, "values_int64s": []int{3, 4}}, "Imputer": {"imputed_value_floats": []float32{8, 9}},
	} {
		seeds = append(seeds, tm{In: []tv{{Name: "x", Dims: []any{"N", 2}}}, Out: outs("y"), Domains: map[string]int64{"ai.onnx.ml": 3},
			Nodes: []tn{{Op: op, Domain: "ai.onnx.ml", In: []string{"x"}, Out: []string{"y", "z"}[:1+len(op)/22], Attrs: a}}}.Bytes())
	}
	for _, op := range []string{"FusedMatMul", "SkipLayerNormalization", "FastGelu"} {
		seeds = append(seeds, tm{In: []tv{{Name: "x", Dims: []any{2, 2}}}, Out: outs("y"), Domains: map[string]int64{"com.microsoft": 1},
			Init:  []tt{{Name: "w", Dims: []int64{2}, Floats: []float32{1, 2}}, {Name: "m", Dims: []int64{2, 2}, Floats: []float32{1, 2, 3, 4}}},
			Nodes: []tn{{Op: op, Domain: "com.microsoft", In: map[string][]string{"FusedMatMul": {"x", "m"}, "SkipLayerNormalization": {"x", "m", "w"}, "FastGelu": {"x", "w"}}[op], Out: []string{"y"}}}}.Bytes())
	}
	z, err := zip.OpenReader("../testdata/onnx-backend.zip")
	if err != nil {
		tb.Fatal(err)
	}
	defer z.Close()
	for _, f := range z.File {
		if f.FileInfo().Name() != "model.onnx" || f.UncompressedSize64 > 3000 {
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
		seeds = append(seeds, p)
	}
	return seeds
}

// words are names of operators and modes for mutations to put in.
func words() []string {
	list := []string{"", "ai.onnx.ml", "com.microsoft", "then_branch", "else_branch", "body", "axis", "axes", "linear", "cubic", "nearest", "reflect", "edge", "wrap",
		"SAME_UPPER", "align_corners", "pads", "strides", "dilations", "kernel_shape", "group", "reverse", "bidirectional", "mul", "LOGISTIC", "RBF"}
	for _, o := range Operators() {
		list = append(list, o.Op)
	}
	return list
}

// fuzzMemory is the memory that a model of the fuzzer may use.
const fuzzMemory = 16 << 20

// tryRun decodes, compiles, plans and runs a model. Whatever it is, that must end soon, without a panic that isn't caught, and within the
// memory; a plan must be right about the shapes.
func tryRun(t *testing.T, p []byte) {
	t.Helper()
	began := time.Now()
	defer func() {
		if d := time.Since(began); d > 20*time.Second {
			t.Errorf("took %v", d)
		}
	}()
	g, err := onnx.Decode(p, onnx.Limits{Bytes: 1 << 20, Memory: fuzzMemory})
	if err != nil {
		return
	}
	prog, err := Compile(g, Limits{Memory: fuzzMemory})
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("compiling took %v", d)
	}
	if err != nil {
		return
	}
	in := fuzzInputs(prog)
	if in == nil {
		return
	}
	var shapes []*Tensor
	for _, x := range in {
		shapes = append(shapes, &Tensor{DType: x.DType, Shape: x.Shape})
	}
	plan, planErr := prog.Plan(shapes)
	if plan != nil && plan.FLOPs > 1<<30 {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	s := prog.NewSession()
	out, err := s.Run(ctx, in)
	if err != nil || planErr != nil {
		return
	}
	for i, o := range out {
		if o.DType != plan.Outputs[i].DType || !slices.Equal(o.Shape, plan.Outputs[i].Shape) {
			t.Errorf("output %d is %s%v, planned was %s%v", i, o.DType, o.Shape, plan.Outputs[i].DType, plan.Outputs[i].Shape)
		}
		if o.Len() != len(o.F)+len(o.I) {
			t.Errorf("output %d has %d elements, its shape is %v", i, len(o.F)+len(o.I), o.Shape)
		}
	}
}

// fuzzInputs makes inputs of the declared shapes with 2 for what is open; nil when they would be large.
func fuzzInputs(p *Program) []*Tensor {
	in := []*Tensor{}
	for _, v := range p.Inputs() {
		x := &Tensor{DType: v.DType}
		size := 1
		for _, d := range v.Dims {
			n := d.Size
			if n < 0 {
				n = 2
			}
			if n > 1<<12 || size*n > 1<<12 {
				return nil
			}
			size *= n
			x.Shape = append(x.Shape, n)
		}
		for i := range size {
			if v.DType.IsFloat() {
				x.F = append(x.F, float32(i%7)-2.5)
			} else {
				x.I = append(x.I, v.DType.Wrap(int64(i%5)-1))
			}
		}
		in = append(in, x)
	}
	return in
}

// FuzzMutatedRun changes models in parts that stay a well-formed message, so that the changes reach the operators.
func FuzzMutatedRun(f *testing.F) {
	seeds, names := fuzzSeeds(f), words()
	for i := range seeds {
		f.Add(uint16(i), uint16(i*7), uint64(i), uint8(1+i%4))
	}
	f.Fuzz(func(t *testing.T, which, other uint16, seed uint64, n uint8) {
		r := rand.New(rand.NewPCG(seed, uint64(which)))
		tryRun(t, onnxtest.Mutate(r, seeds[int(which)%len(seeds)], 1+int(n%8), names, seeds[int(other)%len(seeds)]))
	})
}

// A sample of what the fuzzer does, always the same, in each test run: no model may take much memory or time.
func TestMutatedModels(t *testing.T) {
	seeds, names := fuzzSeeds(t), words()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := rand.New(rand.NewPCG(1, 2))
	for range 700 {
		tryRun(t, onnxtest.Mutate(r, seeds[r.IntN(len(seeds))], 1+r.IntN(5), names, seeds[r.IntN(len(seeds))]))
	}
	runtime.ReadMemStats(&after)
	if mib := (after.TotalAlloc - before.TotalAlloc) >> 20; mib > 700*64 {
		t.Errorf("%d MiB were allocated for 700 small models", mib)
	}
}
