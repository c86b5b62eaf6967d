package engine

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"idunno/models/onnx"
)

// floats and ints make inputs.
func floats(shape []int, v ...float32) *Tensor { return &Tensor{DType: onnx.Float, Shape: shape, F: v} }
func ints(shape []int, v ...int64) *Tensor     { return &Tensor{DType: onnx.Int64, Shape: shape, I: v} }

// apply compiles one node and runs it.
func apply(t *testing.T, op string, opset int64, attrs map[string]any, outputs int, in ...*Tensor) ([]*Tensor, error) {
	t.Helper()
	return applyIn(t, "", op, opset, attrs, outputs, in...)
}

func near(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return x == y || math.Abs(float64(x-y)) <= 1e-5+1e-5*math.Abs(float64(y)) })
}

// What the ONNX backend suite has no case for.
func TestOperatorsByHand(t *testing.T) {
	type attrs = map[string]any
	for _, c := range []struct {
		name, op string
		opset    int64
		attrs    attrs
		in       []*Tensor
		shape    []int
		want     []float32
		ints     []int64
	}{
		{"gelu", "Gelu", 20, nil, []*Tensor{floats([]int{3}, -1, 0, 2)}, []int{3}, []float32{-0.15865526, 0, 1.9544997}, nil},
		{"gelu by tanh", "Gelu", 20, attrs{"approximate": "tanh"}, []*Tensor{floats([]int{2}, -1, 2)}, []int{2}, []float32{-0.158808, 1.954598}, nil},
		{"mish", "Mish", 18, nil, []*Tensor{floats([]int{2}, 0, 1)}, []int{2}, []float32{0, 0.86509836}, nil},
		{"and of bits", "BitwiseAnd", 18, nil, []*Tensor{ints([]int{2}, 6, 5), ints([]int{1}, 3)}, []int{2}, nil, []int64{2, 1}},
		{"or of bits", "BitwiseOr", 18, nil, []*Tensor{ints([]int{2}, 6, 5), ints([]int{1}, 3)}, []int{2}, nil, []int64{7, 7}},
		{"xor of bits", "BitwiseXor", 18, nil, []*Tensor{ints([]int{2}, 6, 5), ints([]int{1}, 3)}, []int{2}, nil, []int64{5, 6}},
		{"L1 norm", "LpNormalization", 1, attrs{"p": 1, "axis": 0}, []*Tensor{floats([]int{2, 2}, 1, 2, -3, 2)}, []int{2, 2}, []float32{0.25, 0.5, -0.75, 0.5}, nil},
		{"L2 norm", "LpNormalization", 1, nil, []*Tensor{floats([]int{2, 2}, 3, 4, 0, 0)}, []int{2, 2}, []float32{0.6, 0.8, 0, 0}, nil},
		{"norm of windows", "LpPool", 18, attrs{"kernel_shape": []int{2}, "p": 2}, []*Tensor{floats([]int{1, 1, 3}, 3, 4, 0)}, []int{1, 1, 2}, []float32{5, 4}, nil},
		{"norm of channels", "GlobalLpPool", 2, nil, []*Tensor{floats([]int{1, 2, 2}, 3, 4, 5, 12)}, []int{1, 2, 1}, []float32{5, 13}, nil},
		{"groups", "GroupNormalization", 21, attrs{"num_groups": 1, "epsilon": float32(0)},
			[]*Tensor{floats([]int{1, 2, 2}, 1, 1, 3, 3), floats([]int{2}, 1, 10), floats([]int{2}, 0, 5)}, []int{1, 2, 2}, []float32{-1, -1, 15, 15}, nil},
		{"wrapped pad", "Pad", 19, attrs{"mode": "wrap"}, []*Tensor{ints([]int{3}, 1, 2, 3), ints([]int{2}, 2, 4)}, []int{9}, nil, []int64{2, 3, 1, 2, 3, 1, 2, 3, 1}},
		{"pad of an axis", "Pad", 18, nil, []*Tensor{floats([]int{1, 2}, 1, 2), ints([]int{2}, 1, 0), floats(nil, 9), ints([]int{1}, -1)}, []int{1, 3}, []float32{9, 1, 2}, nil},
		{"negative pad", "Pad", 13, nil, []*Tensor{floats([]int{4}, 1, 2, 3, 4), ints([]int{2}, -1, -2)}, []int{1}, []float32{2}, nil},
		{"resize of opset 10", "Resize", 10, nil, []*Tensor{floats([]int{2}, 1, 2), floats([]int{1}, 2)}, []int{4}, []float32{1, 1, 2, 2}, nil},
		{"resize about the middle", "Resize", 19, attrs{"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"},
			[]*Tensor{floats([]int{2}, 1, 2), nil, floats([]int{1}, 1.5)}, []int{3}, []float32{1, 1.5, 2}, nil},
		{"groups of a transposed convolution", "ConvTranspose", 11, attrs{"group": 2, "strides": []int{2}},
			[]*Tensor{floats([]int{1, 2, 2}, 1, 2, 3, 4), floats([]int{2, 1, 2}, 1, 10, 1, 100)}, []int{1, 2, 4}, []float32{1, 10, 2, 20, 3, 300, 4, 400}, nil},
		{"scatter the larger", "ScatterND", 18, attrs{"reduction": "max"},
			[]*Tensor{floats([]int{3}, 1, 5, 1), ints([]int{3, 1}, 0, 1, 0), floats([]int{3}, 2, 2, 7)}, []int{3}, []float32{7, 5, 1}, nil},
		{"scatter the product", "ScatterElements", 16, attrs{"reduction": "mul"},
			[]*Tensor{ints([]int{3}, 2, 3, 4), ints([]int{2}, -1, 2), ints([]int{2}, 5, 2)}, []int{3}, nil, []int64{2, 3, 40}},
		{"whole product", "ReduceProd", 13, attrs{"axes": []int{0}, "keepdims": 0}, []*Tensor{ints([]int{2, 2}, 2, 3, 4, 5)}, []int{2}, nil, []int64{8, 15}},
		{"whole maximum", "ReduceMax", 18, nil, []*Tensor{ints([]int{2, 2}, -2, -3, -4, -5), ints([]int{1}, 1)}, []int{2, 1}, nil, []int64{-2, -4}},
		{"range down", "Range", 11, nil, []*Tensor{ints(nil, 5), ints(nil, 0), ints(nil, -2)}, []int{3}, nil, []int64{5, 3, 1}},
		{"implicit einsum", "Einsum", 12, attrs{"equation": "ba,bc"}, []*Tensor{floats([]int{2, 1}, 1, 2), floats([]int{2, 2}, 1, 2, 3, 4)}, []int{1, 2}, []float32{7, 10}, nil},
		{"three factors", "Einsum", 12, attrs{"equation": "i,i,i->"}, []*Tensor{floats([]int{2}, 1, 2), floats([]int{2}, 3, 4), floats([]int{2}, 5, 6)}, nil, []float32{63}, nil},
		{"round to half precision", "Cast", 13, attrs{"to": 10}, []*Tensor{floats([]int{5}, 1.0004883, 65519, 65520, 3e-8, -2049)}, []int{5},
			[]float32{1, 65504, float32(math.Inf(1)), 5.9604645e-8, -2048}, nil},
		{"cast to bytes", "Cast", 13, attrs{"to": 2}, []*Tensor{floats([]int{4}, 300, -1.9, float32(math.NaN()), 1e30)}, []int{4}, nil, []int64{44, 255, 0, 0}},
		{"cast to int64", "Cast", 13, attrs{"to": 7}, []*Tensor{floats([]int{3}, 1e30, -1e30, float32(math.NaN()))}, []int{3}, nil, []int64{math.MinInt64, math.MinInt64, math.MinInt64}},
		{"cast to uint64", "Cast", 13, attrs{"to": 13}, []*Tensor{floats([]int{2}, 1<<63, 5)}, []int{2}, nil, []int64{math.MinInt64, 5}},
		{"cast from uint64", "Cast", 13, attrs{"to": 1}, []*Tensor{{DType: onnx.Uint64, Shape: []int{1}, I: []int64{math.MinInt64}}}, []int{1}, []float32{1 << 63}, nil},
		{"bytes wrap around", "Add", 14, nil, []*Tensor{{DType: onnx.Uint8, Shape: []int{2}, I: []int64{200, 1}}, {DType: onnx.Uint8, Shape: []int{1}, I: []int64{100}}}, []int{2}, nil, []int64{44, 101}},
		{"int32 wraps around", "Mul", 14, nil, []*Tensor{{DType: onnx.Int32, Shape: []int{1}, I: []int64{1 << 30}}, {DType: onnx.Int32, Shape: []int{1}, I: []int64{2}}}, []int{1}, nil, []int64{-1 << 31}},
		{"sums wrap around", "ReduceSum", 13, attrs{"keepdims": 0}, []*Tensor{{DType: onnx.Int32, Shape: []int{2}, I: []int64{1 << 30, 1 << 30}}}, nil, nil, []int64{-1 << 31}},
		{"round to bfloat16", "Cast", 13, attrs{"to": 16}, []*Tensor{floats([]int{3}, 1.00390625, 1.01171875, 3.4e38)}, []int{3}, []float32{1, 1.015625, float32(math.Inf(1))}, nil},
		{"dequantize by channel", "DequantizeLinear", 13, attrs{"axis": 0},
			[]*Tensor{{DType: onnx.Int8, Shape: []int{2, 2}, I: []int64{-1, 2, 3, 4}}, floats([]int{2}, 0.5, 2)}, []int{2, 2}, []float32{-0.5, 1, 6, 8}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := apply(t, c.op, c.opset, c.attrs, 1, c.in...)
			if err != nil {
				t.Fatal(err)
			}
			y := out[0]
			if !slices.Equal(y.Shape, c.shape) || !near(y.F, c.want) || !slices.Equal(y.I, c.ints) {
				t.Errorf("%s%v %v%v, want %v %v%v", y.DType, y.Shape, y.F, y.I, c.shape, c.want, c.ints)
			}
		})
	}
}

// What can't be right is refused, before memory is taken for it.
func TestOperatorsRefuse(t *testing.T) {
	type attrs = map[string]any
	image := floats([]int{1, 1, 2, 2}, 1, 2, 3, 4)
	for _, c := range []struct {
		name, op string
		opset    int64
		attrs    attrs
		in       []*Tensor
		kind     error
		says     string
	}{
		{"huge resize", "Resize", 13, nil, []*Tensor{image, nil, floats([]int{4}, 1, 1, 30000, 30000)}, ErrTooLarge, "tensor of shape"},
		{"endless resize", "Resize", 13, nil, []*Tensor{image, nil, floats([]int{4}, 1, 1, float32(math.Inf(1)), 1)}, nil, "size of +Inf"},
		{"antialias", "Resize", 18, attrs{"antialias": 1}, []*Tensor{image, nil, floats([]int{4}, 1, 1, 1, 1)}, ErrUnsupported, `Resize node that gives "y0" (opset 18)`},
		{"huge one-hot", "OneHot", 11, nil, []*Tensor{ints([]int{4}, 0, 1, 2, 3), ints(nil, 1<<29), floats([]int{2}, 0, 1)}, ErrTooLarge, "tensor of shape"},
		{"huge range", "Range", 11, nil, []*Tensor{ints(nil, 0), ints(nil, 1<<40), ints(nil, 1)}, nil, "a range of"},
		{"standing range", "Range", 11, nil, []*Tensor{ints(nil, 0), ints(nil, 5), ints(nil, 0)}, nil, "a range of +Inf"},
		{"endless einsum", "Einsum", 12, attrs{"equation": strings.Repeat("...a,", 40) + "b->"}, nil, nil, "inputs"},
		{"index outside", "GatherElements", 13, nil, []*Tensor{floats([]int{2}, 1, 2), ints([]int{1}, 2)}, nil, "index 2 outside an axis of 2"},
		{"block outside", "ScatterND", 13, nil, []*Tensor{floats([]int{2}, 1, 2), ints([]int{1, 1}, -3), floats([]int{1}, 0)}, nil, "index -3 outside an axis of 2"},
		{"place outside", "MaxUnpool", 11, attrs{"kernel_shape": []int{1, 1}}, []*Tensor{image, ints([]int{1, 1, 2, 2}, 0, 1, 2, 4)}, nil, "index 4 outside"},
		{"no such class", "SoftmaxCrossEntropyLoss", 13, nil, []*Tensor{floats([]int{1, 2}, 1, 2), ints([]int{1}, 2)}, nil, "target 2 of 2 classes"},
		{"k too large", "TopK", 11, nil, []*Tensor{floats([]int{2}, 1, 2), ints([]int{1}, 3)}, nil, "for an axis of 2"},
		{"reflect too far", "Pad", 13, attrs{"mode": "reflect"}, []*Tensor{floats([]int{2}, 1, 2), ints([]int{2}, 2, 0)}, nil, "mode reflect"},
		{"blocks that do not divide", "DepthToSpace", 13, attrs{"blocksize": 2}, []*Tensor{image}, nil, "does not divide"},
		{"endless axis", "Unique", 11, attrs{"axis": 1}, []*Tensor{floats([]int{0, 1 << 30})}, nil, "nothing to compare"},
		{"wrong state", "LSTM", 14, nil, []*Tensor{floats([]int{1, 1, 1}, 1), floats([]int{1, 4, 1}, 1, 1, 1, 1), floats([]int{1, 3, 1}, 1, 1, 1)}, nil, "shape"},
		{"unknown activation", "RNN", 14, attrs{"direction": "upward"}, []*Tensor{floats([]int{1, 1, 1}, 1), floats([]int{1, 1, 1}, 1), floats([]int{1, 1, 1}, 1)}, nil, "direction"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := apply(t, c.op, c.opset, c.attrs, 1, c.in...)
			if err == nil || c.kind != nil && !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error is %v, want %v with %q", err, c.kind, c.says)
			}
		})
	}
}

// The operator set that a refusal names is that of the operator's own domain.
func TestRefusalNamesItsDomainsOpset(t *testing.T) {
	set := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "com.example")
	set = protowire.AppendVarint(protowire.AppendTag(set, 2, protowire.VarintType), 3)
	m := tm{In: []tv{{Name: "x"}}, Out: []tv{{Name: "y"}}, Nodes: []tn{{Op: "Fancy", Domain: "com.example", In: []string{"x"}, Out: []string{"y"}}}}
	m.Extra = protowire.AppendBytes(protowire.AppendTag(nil, 8, protowire.BytesType), set)
	_, err := compile(t, m, Limits{})
	const want = `com.example.Fancy node that gives "y" (opset 3): not supported: there is no "Fancy" of domain "com.example" here (opset 3)`
	if err == nil || err.Error() != want {
		t.Errorf("error is %v, want %s", err, want)
	}
}

// An empty tensor costs nothing, however long its other dimensions are.
func TestOperatorsOfNothing(t *testing.T) {
	nothing := floats([]int{1 << 30, 1 << 30, 0})
	for _, op := range []string{"Softmax", "Hardmax", "Relu", "MeanVarianceNormalization", "LpNormalization", "Transpose"} {
		attrs := map[string]any{}
		if op == "MeanVarianceNormalization" {
			attrs["axes"] = []int{2}
		}
		out, err := apply(t, op, 13, attrs, 1, nothing)
		if err != nil || out[0].Len() != 0 {
			t.Errorf("%s: %v", op, err)
		}
	}
	boxes, scores := floats([]int{0, 1 << 30, 4}), floats([]int{0, 1, 1 << 30})
	out, err := apply(t, "NonMaxSuppression", 11, nil, 1, boxes, scores, ints([]int{1}, 5))
	if err != nil || !slices.Equal(out[0].Shape, []int{0, 3}) {
		t.Errorf("NonMaxSuppression: %v", err)
	}
	out, err = apply(t, "TopK", 11, nil, 2, floats([]int{0, 1 << 30}), ints([]int{1}, 5))
	if err != nil || !slices.Equal(out[0].Shape, []int{0, 5}) {
		t.Errorf("TopK: %v", err)
	}
}

// A bidirectional layer is a forward layer beside a reverse one, and a reverse layer is a forward one on the reversed sequence.
func TestRecurrentDirections(t *testing.T) {
	const steps, batch, width, hidden = 5, 3, 4, 6
	for op, gates := range map[string]int64{"RNN": 1, "GRU": 3, "LSTM": 4} {
		r := rand.New(rand.NewPCG(1, uint64(gates)))
		x, w := input(noise(r, steps, batch, width)), input(noise(r, 2, gates*hidden, width))
		rec, bias := input(noise(r, 2, gates*hidden, hidden)), input(noise(r, 2, 2*gates*hidden))
		half := func(x *Tensor, d int) *Tensor {
			n := len(x.F) / 2
			return &Tensor{DType: x.DType, Shape: append([]int{1}, x.Shape[1:]...), F: x.F[d*n:][:n]}
		}
		reversed := &Tensor{DType: x.DType, Shape: x.Shape}
		for i := range steps {
			reversed.F = append(reversed.F, x.F[(steps-1-i)*batch*width:][:batch*width]...)
		}
		layer := func(direction string, in ...*Tensor) []float32 {
			out, err := apply(t, op, 14, map[string]any{"direction": direction, "hidden_size": hidden}, 2, in...)
			if err != nil {
				t.Fatal(err)
			}
			return out[0].F
		}
		both := layer("bidirectional", x, w, rec, bias)
		ahead := layer("forward", x, half(w, 0), half(rec, 0), half(bias, 0))
		back := layer("reverse", x, half(w, 1), half(rec, 1), half(bias, 1))
		mirror := layer("forward", reversed, half(w, 1), half(rec, 1), half(bias, 1))
		const n = batch * hidden
		for i := range steps {
			if !near(both[2*i*n:][:n], ahead[i*n:][:n]) || !near(both[(2*i+1)*n:][:n], back[i*n:][:n]) {
				t.Errorf("%s: step %d of both directions is not that of each", op, i)
			}
			if !near(back[i*n:][:n], mirror[(steps-1-i)*n:][:n]) {
				t.Errorf("%s: step %d backwards is not that of the reversed sequence", op, i)
			}
		}
	}
}

// Layers of image and sequence networks allocate nothing once they have run.
func TestOperatorsKeepTheirSpace(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 2))
	m := tm{
		Opset: 17,
		In:    []tv{{Name: "x", Dims: []any{2, 4, 6}}},
		Out:   []tv{{Name: "y"}, {Name: "z"}, {Name: "g"}, {Name: "p"}, {Name: "m"}},
		Init: []tt{
			named("w", noise(r, 1, 32, 6)), named("r", noise(r, 1, 32, 8)), named("s", noise(r, 6)), named("k", noise(r, 4, 3, 2)),
			{Name: "scales", Dims: []int64{3}, Floats: []float32{1, 1, 2}}, {Name: "pads", Dims: []int64{6}, Ints: []int64{0, 0, 1, 0, 0, 1}},
			{Name: "at", Dims: []int64{2, 4, 1}, Ints: make([]int64, 8)},
		},
		Nodes: []tn{
			{Op: "LayerNormalization", In: []string{"x", "s"}, Out: []string{"n"}},
			{Op: "LSTM", In: []string{"n", "w", "r"}, Out: []string{"y"}},
			{Op: "ConvTranspose", In: []string{"n", "k"}, Out: []string{"c"}},
			{Op: "Resize", In: []string{"c", "", "scales"}, Out: []string{"z"}, Attrs: map[string]any{"mode": "linear"}},
			{Op: "GatherElements", In: []string{"x", "at"}, Out: []string{"g"}, Attrs: map[string]any{"axis": 2}},
			{Op: "ReduceMean", In: []string{"x"}, Out: []string{"m"}, Attrs: map[string]any{"axes": []int{1}}},
			{Op: "Pad", In: []string{"x", "pads"}, Out: []string{"p"}, Attrs: map[string]any{"mode": "edge"}},
		},
	}
	s := mustCompile(t, m).NewSession()
	in := []*Tensor{input(noise(r, 2, 4, 6))}
	run(t, s, in...)
	allocs := testing.AllocsPerRun(5, func() {
		if _, err := s.Run(t.Context(), in); err != nil {
			t.Error(err)
		}
	})
	if allocs > 0 {
		t.Errorf("%v allocations for a run", allocs)
	}
}
