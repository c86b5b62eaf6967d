package onnx

import (
	"errors"
	"fmt"
	"slices"

	onnxgo "github.com/owulveryck/onnx-go"
	"gonum.org/v1/gonum/graph"
	"gonum.org/v1/gonum/graph/simple"
	"google.golang.org/protobuf/encoding/protowire"
	"gorgonia.org/tensor"
)

// Limits bounds what Decode spends.
type Limits struct {
	Bytes  int64 // of the model; 0 means 256 MiB
	Memory int64 // of decoded tensors in bytes; 0 means 1 GiB
}

// Decode reads a serialized ModelProto. The result shares no memory with p. It returns ErrMalformed, ErrTooLarge or ErrUnsupported with the
// reason; it does not panic.
func Decode(p []byte, l Limits) (g *Graph, err error) {
	if l.Bytes <= 0 {
		l.Bytes = 256 << 20
	}
	if l.Memory <= 0 {
		l.Memory = 1 << 30
	}
	if int64(len(p)) > l.Bytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", ErrTooLarge, len(p), l.Bytes)
	}
	s := &scanner{budget: &budget{memory: l.Memory}}
	if err := s.model(p); err != nil {
		return nil, err
	}
	if err := s.order(); err != nil {
		return nil, err
	}
	b := &builder{WeightedDirectedGraph: simple.NewWeightedDirectedGraph(0, 0), scan: s}
	if err := b.decode(); err != nil {
		return nil, err
	}
	return s.sorted()
}

// builder is the onnx-go Backend that takes the graph over node by node.
type builder struct {
	*simple.WeightedDirectedGraph
	scan  *scanner
	edges []string // inputs named since the last operation, once per output
	next  int      // index of the node whose operation comes next
}

var _ onnxgo.Backend = (*builder)(nil)

// value is a named tensor of the graph. It is no DataCarrier: tensors do not pass through onnx-go.
type value struct {
	id   int64
	name string
}

func (v *value) ID() int64        { return v.id }
func (v *value) SetName(s string) { v.name = s }
func (v *value) GetName() string  { return v.name }

// decode hands the skeleton to onnx-go, which trusts its input, and turns whatever goes wrong into an error.
func (b *builder) decode() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: onnx-go: %v", ErrMalformed, r)
		}
	}()
	m := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 7)
	m = appendMessage(m, 7, b.scan.skeleton)
	b.scan.skeleton = nil
	if err := onnxgo.NewModel(b).UnmarshalBinary(m); err != nil {
		if errors.Is(err, ErrMalformed) || errors.Is(err, ErrUnsupported) {
			return err
		}
		return fmt.Errorf("%w: onnx-go: %w", ErrMalformed, err)
	}
	if b.next != len(b.scan.graph.Nodes) {
		return fmt.Errorf("%w: onnx-go read %d of %d nodes", ErrMalformed, b.next, len(b.scan.graph.Nodes))
	}
	return nil
}

// NewNode returns a new value; onnx-go names it.
func (b *builder) NewNode() graph.Node {
	return &value{id: b.WeightedDirectedGraph.NewNode().ID()}
}

// SetWeightedEdge is called once per input in order, also for a value that is an input twice; the order is what counts here.
func (b *builder) SetWeightedEdge(e graph.WeightedEdge) {
	b.edges = append(b.edges, e.To().(*value).name)
	if e.From().ID() != e.To().ID() { // a left-out input and a left-out output are the same value ""
		b.WeightedDirectedGraph.SetWeightedEdge(e)
	}
}

// ApplyOperation takes over one node. onnx-go walks them in the order of the file.
func (b *builder) ApplyOperation(op onnxgo.Operation, outs ...graph.Node) error {
	if b.next >= len(b.scan.graph.Nodes) {
		return fmt.Errorf("%w: more operations than nodes", ErrMalformed)
	}
	n := &b.scan.graph.Nodes[b.next]
	inputs := b.edges[:len(b.edges)/len(outs)]
	if len(n.Inputs) == 0 {
		inputs = nil // onnx-go gives a node without inputs a made-up one
	}
	if n.Op != op.Name || !slices.Equal(n.Inputs, inputs) || len(outs) != len(n.Outputs) {
		return fmt.Errorf("%w: onnx-go reads %s as %s of %q", ErrMalformed, n.Title(), op.Name, inputs)
	}
	n.Attrs = b.scan.tensors[b.next]
	for name, v := range op.Attributes {
		a, err := attrOf(v)
		if err != nil {
			return fmt.Errorf("%s: attribute %q: %w", n.Title(), name, err)
		}
		n.Attrs[name] = a
	}
	b.edges = b.edges[:0]
	b.next++
	return nil
}

// attrOf converts an attribute as onnx-go delivers it.
func attrOf(v any) (Attr, error) {
	switch v := v.(type) {
	case float32:
		return Attr{Kind: AttrFloat, F: v}, nil
	case int64:
		return Attr{Kind: AttrInt, I: v}, nil
	case string:
		return Attr{Kind: AttrString, S: v}, nil
	case []float32:
		return Attr{Kind: AttrFloats, Floats: v}, nil
	case []int64:
		return Attr{Kind: AttrInts, Ints: v}, nil
	case []string:
		return Attr{Kind: AttrStrings, Strings: v}, nil
	case tensor.Tensor:
		t, err := tensorOf(v)
		return Attr{Kind: AttrTensor, T: t}, err
	}
	return Attr{}, fmt.Errorf("%w: value of type %T", ErrUnsupported, v)
}

// tensorOf converts a tensor as onnx-go delivers it.
func tensorOf(t tensor.Tensor) (*Tensor, error) {
	out := &Tensor{Dims: slices.Clone([]int(t.Shape()))}
	switch d := t.Data().(type) {
	case []float32:
		out.DType, out.Floats = Float, d
	case float32:
		out.DType, out.Floats = Float, []float32{d}
	case []float64:
		out.DType = Double
		for _, v := range d {
			out.Floats = append(out.Floats, float32(v))
		}
	case float64:
		out.DType, out.Floats = Double, []float32{float32(d)}
	case []int64:
		out.DType, out.Ints = Int64, d
	case int64:
		out.DType, out.Ints = Int64, []int64{d}
	case []int32:
		out.DType = Int32
		for _, v := range d {
			out.Ints = append(out.Ints, int64(v))
		}
	case int32:
		out.DType, out.Ints = Int32, []int64{int64(d)}
	default:
		return nil, fmt.Errorf("%w: tensor of %T", ErrUnsupported, d)
	}
	return out, nil
}
