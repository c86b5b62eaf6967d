// Package arch builds network architectures that people bring, as the ONNX files that PyTorch's tracing exporter makes of them: the same
// operators, opset 17, an open batch dimension "N", and shapes that are computed on the way.
//
// The weights are random but always the same for a seed, scaled as for training (He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", 2015),
// with batch statistics that fit what flows through the layers, so that the numbers stay of moderate size from the first layer to the last.
// The networks have learned nothing: they are for measuring and testing an engine, where what counts is shapes and operators. Networks that
// are trained are in package zoo.
package arch

import (
	"math"
	"math/rand/v2"
	"slices"

	"idunno/models/onnx/encode"
)

// Config chooses a variant of an architecture. The zero value is the published network.
type Config struct {
	// Width multiplies the numbers of channels or features; 0 means 1.
	Width float64 `json:"width,omitempty"`
	// Depth multiplies the numbers of blocks, at least one of a kind; 0 means 1.
	Depth float64 `json:"depth,omitempty"`
	// Size is the side of the images in pixels or the length of the sequence; default 224 for images, 128 tokens for bert, 28 rows for lstm.
	Size int `json:"size,omitempty"`
	// Classes is the number of outputs; default 1000 for images, 2 for bert, 10 for lstm.
	Classes int `json:"classes,omitempty"`
	// Seed chooses the weights and the samples.
	Seed uint64 `json:"seed,omitempty"`
	// Folded puts BatchNormalization into the weights of the convolution before it, as the exporter does for networks in evaluation mode.
	// Else the nodes are kept.
	Folded bool `json:"folded,omitempty"`
	// Decomposed writes LayerNormalization as the means, differences and roots that exporters made of it before opset 17.
	Decomposed bool `json:"decomposed,omitempty"`
}

// kind says what goes into an architecture.
type kind int

const (
	images kind = iota // "input" [N, 3, Size, Size]
	tokens             // "input_ids" and "attention_mask" int64 [N, "L"]
	lines              // "input" [N, Size, 28]: images of Size rows
)

type architecture struct {
	name          string
	kind          kind
	size, classes int
	build         func(*builder) string
}

func architectures() []architecture {
	return []architecture{
		{"resnet18", images, 224, 1000, (*builder).resnet18},
		{"resnet50", images, 224, 1000, (*builder).resnet50},
		{"mobilenetv2", images, 224, 1000, (*builder).mobileNetV2},
		{"squeezenet", images, 224, 1000, (*builder).squeezeNet},
		{"efficientnet-b0", images, 224, 1000, (*builder).efficientNetB0},
		{"vit-b16", images, 224, 1000, (*builder).vitB16},
		{"bert", tokens, 128, 2, (*builder).bert},
		{"lstm", lines, 28, 10, (*builder).lstm},
	}
}

// Names lists the architectures:
//
//   - resnet18, resnet50: He, Zhang, Ren, Sun, 2015; the stride of a bottleneck is at its 3 x 3 convolution
//   - mobilenetv2: Sandler and others, 2018
//   - squeezenet: version 1.1 of Iandola and others, 2016
//   - efficientnet-b0: Tan and Le, 2019
//   - vit-b16: Dosovitskiy and others, 2020
//   - bert: Devlin and others, 2018; four layers of 512 features (Turc and others, 2019) and a classifier over the first token
//   - lstm: two bidirectional layers of 128 cells (Hochreiter and Schmidhuber, 1997) that read an image row by row
func Names() []string {
	var names []string
	for _, a := range architectures() {
		names = append(names, a.name)
	}
	return names
}

func find(name string, c Config) (a architecture, full Config, ok bool) {
	list := architectures()
	i := slices.IndexFunc(list, func(a architecture) bool { return a.name == name })
	if i < 0 {
		return a, c, false
	}
	a = list[i]
	if c.Width <= 0 {
		c.Width = 1
	}
	if c.Depth <= 0 {
		c.Depth = 1
	}
	if c.Size <= 0 {
		c.Size = a.size
	}
	if c.Classes <= 0 {
		c.Classes = a.classes
	}
	return a, c, true
}

// Build returns the ONNX file of the architecture with one of the Names; ok says whether there is such an architecture. Its output "output"
// has the shape [N, Classes]. vit-b16 needs a Size that is a multiple of 16, and what is too small for an architecture's strides gives a
// model that no engine takes.
func Build(name string, c Config) (p []byte, ok bool) {
	a, c, ok := find(name, c)
	if !ok {
		return nil, false
	}
	return a.model(c).Bytes(), true
}

func (a *architecture) model(c Config) *encode.Model {
	b := &builder{c: c, rng: rand.NewPCG(c.Seed, 0x1d0), square: map[string]float64{}}
	b.m = encode.Model{IR: 8, Opset: 17, Producer: "iDunno", Name: "main_graph"}
	switch a.kind {
	case images:
		b.input("input", encode.Float, "N", 3, c.Size, c.Size)
	case tokens:
		b.input("input_ids", encode.Int64, "N", "L")
		b.input("attention_mask", encode.Int64, "N", "L")
	case lines:
		b.input("input", encode.Float, "N", c.Size, lineWidth)
	}
	a.build(b)
	b.m.Nodes[len(b.m.Nodes)-1].Out[0] = "output" // the layers are built in order
	b.m.Out = []encode.Value{{Name: "output", Dims: []any{"N", c.Classes}}}
	return &b.m
}

// Sample returns n examples for the architecture, a tensor an input in the order of the model's inputs: images of waves and noise with mean
// 0 and variance of about 1, or sequences of tokens of unequal length. They are a function of the arguments; example i doesn't depend on n.
func Sample(name string, c Config, n int) (inputs []encode.Tensor, ok bool) {
	a, c, ok := find(name, c)
	if !ok {
		return nil, false
	}
	if a.kind == tokens {
		return sentences(c, n), true
	}
	dims := []int64{int64(n), 3, int64(c.Size), int64(c.Size)}
	if a.kind == lines {
		dims = []int64{int64(n), int64(c.Size), lineWidth}
	}
	x := encode.Tensor{Name: "input", Dims: dims}
	for i := range n {
		rng := rand.New(rand.NewPCG(c.Seed, uint64(i)+1))
		if a.kind == lines {
			x.Floats = waves(rng, x.Floats, c.Size, lineWidth)
			continue
		}
		for range 3 {
			x.Floats = waves(rng, x.Floats, c.Size, c.Size)
		}
	}
	return []encode.Tensor{x}, true
}

// waves appends a plane of three waves with noise.
func waves(rng *rand.Rand, dst []float32, height, width int) []float32 {
	var fx, fy, phase [3]float64
	for i := range fx {
		fx[i], fy[i], phase[i] = 12*rng.Float64()/float64(width), 12*rng.Float64()/float64(height), 2*math.Pi*rng.Float64()
	}
	offset := rng.Float64() - 0.5
	for y := range height {
		for x := range width {
			v := offset + rng.Float64() - 0.5
			for i := range fx {
				v += 0.7 * math.Sin(fx[i]*float64(x)+fy[i]*float64(y)+phase[i])
			}
			dst = append(dst, float32(v))
		}
	}
	return dst
}

// sentences are rows of token numbers; the first is whole, later ones end earlier and are filled up with zeros.
func sentences(c Config, n int) []encode.Tensor {
	dims := []int64{int64(n), int64(c.Size)}
	ids := encode.Tensor{Name: "input_ids", Dims: dims, Ints: make([]int64, n*c.Size)}
	mask := encode.Tensor{Name: "attention_mask", Dims: dims, Ints: make([]int64, n*c.Size)}
	for i := range n {
		rng := rand.New(rand.NewPCG(c.Seed, uint64(i)+1))
		length := c.Size - i%(c.Size/2+1)
		for j := range length {
			ids.Ints[i*c.Size+j] = 1 + rng.Int64N(int64(vocabulary(c))-1)
			mask.Ints[i*c.Size+j] = 1
		}
	}
	return []encode.Tensor{ids, mask}
}
