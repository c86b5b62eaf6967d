package models

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"idunno/models/dataset"
	"idunno/models/engine"
	"idunno/models/onnx"
)

// Options bounds what a model may cost. The zero value means the defaults.
type Options struct {
	MaxModelBytes int64       // size of the ONNX file; default 512 MiB
	MaxMemory     int64       // decoded weights, and apart from them the buffers of each session; default 1 GiB
	Preprocess    *Preprocess // what becomes of bytes; nil for x/255
	// AnyOutput accepts a model whose output is no scores of classes. Its raw outputs can be computed, predictions fail with
	// ErrNotClassifier.
	AnyOutput bool
}

// The defaults of Options.
const (
	DefaultMaxModelBytes = 512 << 20 // ViT-B/16 has 330 MiB
	DefaultMaxMemory     = 1 << 30
)

// Kind says what the numbers are that a model gives for each class.
type Kind = string

// The kinds of output, told from the last operator of the model.
const (
	Logits           Kind = "logits"            // unbounded scores; softmax makes them probabilities
	Probabilities    Kind = "probabilities"     // the model ends in Softmax
	LogProbabilities Kind = "log-probabilities" // the model ends in LogSoftmax
	Raw              Kind = "raw"               // anything else, as Sigmoid or ArgMax: classes, but no probabilities and no loss
)

// IO describes an input or output of a model.
type IO struct {
	Name  string `json:"name"`
	DType string `json:"dtype"` // as ONNX names it: "float", "uint8", "int64"
	Shape []int  `json:"shape"` // -1 where the model leaves a dimension open
}

// Info is what is known about a model without running it.
type Info struct {
	Inputs        []IO     `json:"inputs"`
	Outputs       []IO     `json:"outputs"`
	Ops           []string `json:"ops"` // operators, each once, sorted
	Opset         int64    `json:"opset"`
	Parameters    int64    `json:"parameters"`
	Classes       int      `json:"classes"`         // 0 when only a run can tell
	FLOPsPerImage int64    `json:"flops_per_image"` // additions and multiplications, estimated; 0 when only a run can tell
	PeakBytes     int64    `json:"peak_bytes"`      // buffers for one image, without weights; 0 when only a run can tell
	Output        Kind     `json:"output"`
}

// Model is a loaded classifier. It is immutable and safe for concurrent use.
type Model struct {
	program *engine.Program
	info    Info
	input   onnx.Value
	image   []int          // shape of one image; -1 for an open dimension; nil when the model declares no shape
	fixed   int            // the batch size the model is built for; 0 for any
	output  int            // index of the output with the classes
	group   int            // images computed at a time
	memory  int64          // Options.MaxMemory
	tables  [][256]float32 // what becomes of a byte, for all channels or for each; nil for x/255
}

// Load reads a serialized ONNX model, checks that everything in it is supported, and prepares it for running. It returns ErrMalformed,
// ErrUnsupported, ErrTooLarge or ErrNotClassifier with the reason.
func Load(onnxBytes []byte, o Options) (*Model, error) {
	if o.MaxModelBytes <= 0 {
		o.MaxModelBytes = DefaultMaxModelBytes
	}
	if o.MaxMemory <= 0 {
		o.MaxMemory = DefaultMaxMemory
	}
	g, err := onnx.Decode(onnxBytes, onnx.Limits{Bytes: o.MaxModelBytes, Memory: o.MaxMemory})
	if err != nil {
		return nil, classify(err)
	}
	p, err := engine.Compile(g, engine.Limits{Memory: o.MaxMemory})
	if err != nil {
		return nil, classify(err)
	}
	m := &Model{program: p, memory: o.MaxMemory}
	if err := m.chooseInput(); err != nil {
		return nil, err
	}
	if o.Preprocess != nil {
		if !m.input.DType.IsFloat() {
			return nil, fmt.Errorf("%w: preprocessing gives floating-point numbers, the model takes %s", ErrInput, m.input)
		}
		if m.tables, err = o.Preprocess.tables(); err != nil {
			return nil, err
		}
	}
	m.chooseOutput(g)
	m.info.Ops, m.info.Opset, m.info.Parameters = p.Ops(), p.Opset(), p.Parameters()
	m.info.Inputs, m.info.Outputs = describe(g.Inputs), describe(g.Outputs)
	if err := m.probe(o.AnyOutput); err != nil {
		return nil, err
	}
	return m, nil
}

// classify gives the errors of the parts this package's names.
func classify(err error) error {
	switch {
	case errors.Is(err, onnx.ErrTooLarge), errors.Is(err, engine.ErrTooLarge):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case errors.Is(err, onnx.ErrUnsupported) && !errors.Is(err, ErrUnsupported):
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	case errors.Is(err, ErrUnsupported), errors.Is(err, ErrMalformed):
		return err
	}
	return fmt.Errorf("%w: %w", ErrMalformed, err)
}

func describe(values []onnx.Value) []IO {
	out := make([]IO, len(values))
	for i, v := range values {
		out[i] = IO{Name: v.Name, DType: v.DType.String(), Shape: []int{}}
		for _, d := range v.Dims {
			out[i].Shape = append(out[i].Shape, d.Size)
		}
	}
	return out
}

// chooseInput finds where images go in and which shape they must have.
func (m *Model) chooseInput() error {
	in := m.program.Inputs()
	if len(in) != 1 {
		return fmt.Errorf("%w: it has %d inputs, one for the images is needed", ErrNotClassifier, len(in))
	}
	m.input = in[0]
	if !m.input.DType.IsFloat() && !m.input.DType.IsInt() {
		return fmt.Errorf("%w: its input %s is not a tensor of numbers", ErrNotClassifier, m.input)
	}
	if !m.input.Shape {
		return nil
	}
	if len(m.input.Dims) < 2 {
		return fmt.Errorf("%w: its input %s has no batch dimension in front of the image", ErrNotClassifier, m.input)
	}
	m.fixed = max(m.input.Dims[0].Size, 0)
	m.image = []int{}
	for _, d := range m.input.Dims[1:] {
		m.image = append(m.image, d.Size)
	}
	return nil
}

// chooseOutput takes the first floating-point output, or the first at all, and tells from its origin what the numbers are.
func (m *Model) chooseOutput(g *onnx.Graph) {
	outs := m.program.Outputs()
	m.output = max(slices.IndexFunc(outs, func(v onnx.Value) bool { return v.DType.IsFloat() }), 0)
	name := outs[m.output].Name
	m.info.Output = Logits
	for i := len(g.Nodes) - 1; i >= 0; i-- {
		n := &g.Nodes[i]
		if !slices.Contains(n.Outputs, name) {
			continue
		}
		if n.Domain == "ai.onnx.ml" {
			m.info.Output = learned(n)
			break
		}
		switch n.Op {
		case "Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout", "Cast":
			name = n.Inputs[0] // the numbers come from before it
			continue
		case "Softmax":
			m.info.Output = Probabilities
		case "LogSoftmax":
			m.info.Output = LogProbabilities
		case "Sigmoid", "ArgMax", "ArgMin", "HardSigmoid", "Tanh":
			m.info.Output = Raw
		}
		break
	}
	if outs[m.output].DType.IsInt() {
		m.info.Output = Raw
	}
}

// A session computes some images of a batch at a time: so many that their values stay in the second-level cache, but enough to use each
// weight several times; and its memory does not grow with the batch.
const (
	maxGroup   = 256
	minGroup   = 8
	cacheBytes = 1 << 20
	groupBytes = 256 << 20
)

// probe plans a run with one image, which finds contradictions in the model, and fills in what the plan tells. With anyOutput set
// the output need not be classes.
func (m *Model) probe(anyOutput bool) error {
	m.group = maxGroup
	if m.fixed > 0 {
		m.group = m.fixed
	}
	if m.open() {
		if err := m.tryShapes(); err != nil {
			return fmt.Errorf("a run with one image of whatever size: %w", classify(err))
		}
	}
	if m.image == nil || m.open() {
		return nil
	}
	n := max(m.fixed, 1)
	plan, err := m.program.Plan([]*engine.Tensor{{DType: m.input.DType, Shape: append([]int{n}, m.image...)}})
	if errors.Is(err, engine.ErrShapeUnknown) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("a run with one image: %w", classify(err))
	}
	out := plan.Outputs[m.output]
	classes, err := m.classes(&out, n)
	if err != nil && !anyOutput {
		return err
	}
	m.info.Classes = classes
	m.info.FLOPsPerImage, m.info.PeakBytes = plan.FLOPs/int64(n), plan.Peak/int64(n)
	if m.fixed == 0 && m.info.PeakBytes > 0 {
		m.group = int(min(max(groupBytes/m.info.PeakBytes, 1), maxGroup))
		m.group = min(m.group, m.cached())
	}
	return nil
}

// cached is how many images can be computed at a time with their values in the second-level cache.
func (m *Model) cached() int {
	plan, err := m.program.Plan([]*engine.Tensor{{DType: m.input.DType, Shape: append([]int{1 + minGroup}, m.image...)}})
	if err != nil {
		return minGroup
	}
	// What one more image takes, without the space that does not grow.
	each := max((plan.Peak-m.info.PeakBytes)/minGroup, 1)
	return int(max(cacheBytes/each, minGroup))
}

// classes returns how many numbers the output t holds for each of n images.
func (m *Model) classes(t *engine.Tensor, n int) (int, error) {
	c := t.Len() / max(n, 1)
	least := 2
	if t.DType.IsInt() {
		least = 1 // the class itself
	}
	if len(t.Shape) == 0 || t.Shape[0] != n || c < least || least == 1 && c != 1 {
		return 0, fmt.Errorf("%w: its output %q has the shape %v for %d images; expected one row of class scores for each",
			ErrNotClassifier, m.program.Outputs()[m.output].Name, t.Shape, n)
	}
	return c, nil
}

// Info describes the model.
func (m *Model) Info() Info {
	i := m.info
	i.Ops = slices.Clone(i.Ops)
	return i
}

// Image is the shape of one image as the model declares it, -1 for an open dimension; nil when it declares none.
func (m *Model) Image() []int { return slices.Clone(m.image) }

// Takes lists the element types of images that the model can be fed with, of "U8" and "F32".
func (m *Model) Takes() []string {
	var out []string
	if m.input.DType != onnx.Int8 {
		out = append(out, dataset.U8)
	}
	if m.input.DType.IsFloat() {
		out = append(out, dataset.F32)
	}
	return out
}

// Check says whether images of a shape (one image, as [1,28,28]) and type ("U8" or "F32") can be fed: the error, an ErrInput, names both
// what the model expects and what was given. Bytes are scaled to 0..1 for models that take floating-point numbers.
func (m *Model) Check(shape []int, dtype string) error {
	_, err := m.fit(shape, dtype)
	return err
}

// fit returns the shape in which the model takes such images.
func (m *Model) fit(shape []int, dtype string) ([]int, error) {
	given := dtype + dimString(shape)
	if n := len(m.tables); n > 1 && dtype == dataset.U8 && (len(shape) < 2 || shape[0] != n) {
		return nil, fmt.Errorf("%w: the preprocessing is for %d channels, given are %s", ErrInput, n, given)
	}
	switch {
	case dtype != dataset.U8 && dtype != dataset.F32:
		return nil, fmt.Errorf("%w: elements are %q, expected U8 or F32", ErrInput, dtype)
	case dtype == dataset.F32 && !m.input.DType.IsFloat(), dtype == dataset.U8 && m.input.DType == onnx.Int8:
		return nil, fmt.Errorf("%w: the model takes %s, given are %s", ErrInput, m.input, given)
	}
	for _, d := range shape {
		if d < 1 {
			return nil, fmt.Errorf("%w: image shape %s", ErrInput, dimString(shape))
		}
	}
	if m.image == nil {
		return shape, nil
	}
	open := slices.Contains(m.image, -1)
	if !open && product(shape) == product(m.image) {
		return m.image, nil
	}
	if open && len(shape) == len(m.image) {
		same := true
		for i, d := range m.image {
			same = same && (d == -1 || d == shape[i])
		}
		if same {
			return shape, nil
		}
	}
	return nil, fmt.Errorf("%w: the model takes %s, the first dimension being the batch; given are images %s", ErrInput, m.input, given)
}

func dimString(shape []int) string {
	s := make([]string, len(shape))
	for i, d := range shape {
		s[i] = strconv.Itoa(d)
	}
	return "[" + strings.Join(s, ",") + "]"
}

// product multiplies dimensions; -1 when it overflows what an image may have.
func product(shape []int) int {
	n := 1
	for _, d := range shape {
		if d < 0 || d > 0 && n > (1<<40)/d {
			return -1
		}
		n *= d
	}
	return n
}
