package arch_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"idunno/models/arch"
	"idunno/models/engine"
	"idunno/models/onnx"
	"idunno/models/onnx/encode"
)

// tolerance is relative to the largest output of an image.
const tolerance = 1e-4

// cases reads the variants with ONNX Runtime's outputs; testdata/README.md says how they were made.
func cases(t *testing.T) map[string]arch.Case {
	t.Helper()
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]arch.Case{}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var c arch.Case
		if err := json.Unmarshal(raw, &c); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		if len(c.Outputs) != c.Batch || c.Batch < 2 {
			t.Fatalf("%s: %d outputs for a batch of %d", f, len(c.Outputs), c.Batch)
		}
		all[filepath.Base(f)] = c
	}
	return all
}

func compile(t *testing.T, name string, c arch.Config) *engine.Program {
	t.Helper()
	p, ok := arch.Build(name, c)
	if !ok {
		t.Fatalf("there is no %q", name)
	}
	g, err := onnx.Decode(p, onnx.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	program, err := engine.Compile(g, engine.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// inputs are n samples as the engine takes them.
func inputs(t *testing.T, c arch.Case, n int) []*engine.Tensor {
	t.Helper()
	list, ok := arch.Sample(c.Network, c.Config, n)
	if !ok {
		t.Fatalf("there is no %q", c.Network)
	}
	out := make([]*engine.Tensor, len(list))
	for i, x := range list {
		out[i] = tensorOf(x)
	}
	return out
}

func tensorOf(x encode.Tensor) *engine.Tensor {
	t := &engine.Tensor{DType: onnx.Float, F: x.Floats, I: x.Ints}
	if x.Ints != nil {
		t.DType = onnx.Int64
	}
	for _, d := range x.Dims {
		t.Shape = append(t.Shape, int(d))
	}
	return t
}

// check runs n samples and compares each with its reference.
func check(t *testing.T, s *engine.Session, c arch.Case, n int) {
	t.Helper()
	out, err := s.Run(context.Background(), inputs(t, c, n))
	if err != nil {
		t.Fatalf("batch of %d: %v", n, err)
	}
	classes := len(c.Outputs[0])
	if want := []int{n, classes}; len(out) != 1 || !slices.Equal(out[0].Shape, want) {
		t.Fatalf("batch of %d: %d outputs, the first %v; expected one %v", n, len(out), out[0].Shape, want)
	}
	for i := range n {
		if d := difference(out[0].F[i*classes:][:classes], c.Outputs[i]); d > tolerance {
			t.Errorf("batch of %d, image %d: relative difference %.2g\ngot  %v\nwant %v", n, i, d, out[0].F[i*classes:][:classes], c.Outputs[i])
		}
	}
}

// difference is the largest difference between two rows over the largest number of the second.
func difference(got, want []float32) float64 {
	worst, scale := 0.0, 0.0
	for i, w := range want {
		d := math.Abs(float64(got[i]) - float64(w))
		if math.IsNaN(d) {
			return math.Inf(1)
		}
		worst, scale = max(worst, d), max(scale, math.Abs(float64(w)))
	}
	return worst / scale
}

// Every architecture gives what ONNX Runtime gives, in batches of any size.
func TestAgainstONNXRuntime(t *testing.T) {
	for file, c := range cases(t) {
		t.Run(file, func(t *testing.T) {
			s := compile(t, c.Network, c.Config).NewSession()
			for _, n := range []int{c.Batch, 1, 2, c.Batch} {
				check(t, s, c, n)
			}
			for i, row := range c.Outputs[1:] {
				if difference(row, c.Outputs[0]) < 100*tolerance {
					t.Errorf("samples 0 and %d have the same outputs: the comparison shows little", i+1)
				}
			}
		})
	}
}

// There is a reference for every architecture, and where it has normalizations for both ways to write them.
func TestCasesCover(t *testing.T) {
	type way struct {
		network            string
		folded, decomposed bool
	}
	seen := map[way]bool{}
	for _, c := range cases(t) {
		seen[way{c.Network, c.Config.Folded, c.Config.Decomposed}] = true
	}
	for _, name := range arch.Names() {
		ways := []way{{network: name}}
		switch name {
		case "resnet18", "resnet50", "mobilenetv2", "efficientnet-b0":
			ways = append(ways, way{network: name, folded: true})
		case "vit-b16", "bert":
			ways = append(ways, way{network: name, decomposed: true})
		}
		for _, w := range ways {
			if !seen[w] {
				t.Errorf("no reference for %+v", w)
			}
		}
	}
}

// A model is written in two ways; both give the same.
func TestWaysAgree(t *testing.T) {
	for file, c := range cases(t) {
		other := c.Config
		other.Folded, other.Decomposed = !c.Config.Folded, !c.Config.Decomposed
		t.Run(file, func(t *testing.T) {
			check(t, compile(t, c.Network, other).NewSession(), c, 2)
		})
	}
}

// What the compiler makes of a model gives what the model gives node by node.
func TestFusedAsUnfused(t *testing.T) {
	for file, c := range cases(t) {
		t.Run(file, func(t *testing.T) {
			model, _ := arch.Build(c.Network, c.Config)
			g, err := onnx.Decode(model, onnx.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			plain, err := engine.Compile(g, engine.Limits{NoFusion: true})
			if err != nil {
				t.Fatal(err)
			}
			in := inputs(t, c, 2)
			want, err := plain.NewSession().Run(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := compile(t, c.Network, c.Config).NewSession().Run(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			if d := difference(got[0].F, want[0].F); d > tolerance || !slices.Equal(got[0].Shape, want[0].Shape) {
				t.Errorf("shapes %v and %v, relative difference %.2g", got[0].Shape, want[0].Shape, d)
			}
		})
	}
}

// Bytes and samples are functions of the arguments.
func TestSameBytes(t *testing.T) {
	for _, name := range arch.Names() {
		c := arch.Config{Width: 0.125, Depth: 0.2, Size: 32, Seed: 3}
		a, _ := arch.Build(name, c)
		b, _ := arch.Build(name, c)
		if !bytes.Equal(a, b) {
			t.Errorf("%s: the same configuration gave other bytes", name)
		}
		c.Seed++
		if b, _ = arch.Build(name, c); bytes.Equal(a, b) {
			t.Errorf("%s: another seed gave the same bytes", name)
		}
		few, _ := arch.Sample(name, c, 2)
		more, _ := arch.Sample(name, c, 5)
		for i := range few {
			if !slices.Equal(few[i].Floats, more[i].Floats[:len(few[i].Floats)]) || !slices.Equal(few[i].Ints, more[i].Ints[:len(few[i].Ints)]) {
				t.Errorf("%s: the first samples depend on their number", name)
			}
		}
	}
	if _, ok := arch.Build("alexnet", arch.Config{}); ok {
		t.Error("there is an alexnet")
	}
}

// ExampleBuild loads a small ResNet-18.
func ExampleBuild() {
	p, _ := arch.Build("resnet18", arch.Config{Width: 0.125, Size: 32, Classes: 10})
	g, _ := onnx.Decode(p, onnx.Limits{})
	program, _ := engine.Compile(g, engine.Limits{})
	fmt.Println(program.Inputs()[0], program.Outputs()[0])
	fmt.Println(program.Ops())
	// Output:
	// input float[N,3,32,32] output float[N,10]
	// [Add BatchNormalization Conv Flatten Gemm GlobalAveragePool MaxPool Relu]
}
