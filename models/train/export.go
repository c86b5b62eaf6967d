package train

import (
	"fmt"
	"strconv"

	"idunno/models/onnx/encode"
)

// What exported models declare: ONNX 1.8.
const (
	irVersion = 7
	opset     = 13
)

// chain collects a network as ONNX nodes, each fed by the one before.
type chain struct {
	encode.Model
	last string // output of the node before
}

// node appends an operator; the model's output is named by the last call.
func (g *chain) node(op, output string, params []string, attrs encode.Attrs) {
	g.Nodes = append(g.Nodes, encode.Node{
		Name: fmt.Sprintf("%s_%d", op, len(g.Nodes)), Op: op,
		In: append([]string{g.last}, params...), Out: []string{output}, Attrs: attrs,
	})
	g.last = output
}

// parameters appends a layer's weights, of the given shape, and its biases, one for each of the first dimension.
func (g *chain) parameters(w []float32, n int, dims ...int64) []string {
	size := 1
	for _, d := range dims {
		size *= int(d)
	}
	weight, bias := fmt.Sprintf("w%d", n), fmt.Sprintf("b%d", n)
	g.Init = append(g.Init, encode.Tensor{Name: weight, Dims: dims, Floats: w[:size]},
		encode.Tensor{Name: bias, Dims: dims[:1], Floats: w[size:]})
	return []string{weight, bias}
}

// export writes the network with parameters w for images of the given shape. The
// bytes are a function of the arguments alone.
func export(t *net, w []float32, image []int, c Config) []byte {
	g := &chain{Model: encode.Model{IR: irVersion, Opset: opset, Producer: "iDunno", Name: c.Arch, Metadata: metadata(c)}, last: "input"}
	if c.Arch != "cnn" {
		image = []int{t.in}
	}
	last, flat, named := len(t.layers)-1, c.Arch != "cnn", 0
	for i, l := range t.layers {
		output := func() string {
			if i == last {
				return "logits"
			}
			return fmt.Sprintf("t%d", len(g.Nodes))
		}
		p := w[t.at[i]:t.at[i+1]]
		switch l := l.(type) {
		case *dense:
			if !flat {
				g.node("Flatten", fmt.Sprintf("t%d", len(g.Nodes)), nil, encode.Attrs{"axis": 1})
				flat = true
			}
			named++
			g.node("Gemm", output(), g.parameters(p, named, int64(l.out), int64(l.in)), encode.Attrs{"transB": 1})
		case *conv:
			named++
			weights := g.parameters(p, named, int64(l.out), int64(l.geo.C), int64(l.geo.KH), int64(l.geo.KW))
			g.node("Conv", output(), weights, encode.Attrs{"kernel_shape": []int{l.geo.KH, l.geo.KW}})
		case *relu:
			g.node("Relu", output(), nil, nil)
		case *pool:
			g.node("MaxPool", output(), nil, encode.Attrs{"kernel_shape": []int{2, 2}, "strides": []int{2, 2}})
		}
	}
	dims := []any{"N"}
	for _, d := range image {
		dims = append(dims, d)
	}
	g.In = []encode.Value{{Name: "input", Dims: dims}}
	g.Out = []encode.Value{{Name: "logits", Dims: []any{"N", t.layers[last].size()}}}
	return g.Bytes()
}

// metadata notes how a model came about.
func metadata(c Config) [][2]string {
	return [][2]string{
		{"arch", c.Arch},
		{"seed", strconv.FormatUint(c.Seed, 10)},
		{"epochs", strconv.Itoa(c.Epochs)},
		{"batch_size", strconv.Itoa(c.BatchSize)},
		{"learning_rate", strconv.FormatFloat(c.LearningRate, 'g', -1, 64)},
		{"shift", strconv.Itoa(c.Shift)},
		{"dropout", strconv.FormatFloat(c.Dropout, 'g', -1, 64)},
	}
}
