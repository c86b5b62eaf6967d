// Package encode writes ONNX models: a description in, the bytes of a ModelProto out. The same description always gives the same bytes.
//
// It writes whatever it is told, also models that contradict themselves, so that tests can; what a graph means is its caller's business.
package encode

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// Element types of values (TensorProto.DataType).
const (
	Float = 1
	Int64 = 7
)

// Value is an input or output of the graph. A dimension is an int or, for a symbol, a string; anything else is a dimension of which nothing
// is said.
type Value struct {
	Name  string
	DType int64 // 0 is written as Float
	Dims  []any
}

// Tensor is an initializer or an attribute; the type follows from the elements, floats or 64-bit integers.
type Tensor struct {
	Name   string
	Dims   []int64
	Floats []float32
	Ints   []int64
	DType  int64 // 0: Float or, with Ints, Int64; any other takes its elements from Raw
	Raw    []byte
	Extra  []byte // further fields of the message
	// External is the content of external_data, pairs of key and value; the message then has no elements.
	External [][2]string
}

// Attrs are the attributes of a node: int, float32, string, []int, []float32, []string, Tensor, Graph or Ref.
type Attrs = map[string]any

// Ref is an attribute of a function's node that stands for the attribute of this name of the call.
type Ref string

// Node is an application of an operator. Its attributes are written in the order of their names.
type Node struct {
	Name, Op, Domain string
	In, Out          []string
	Attrs            Attrs
}

// Graph is a graph inside of a node.
type Graph struct {
	In, Out []Value
	Init    []Tensor
	Nodes   []Node
}

// Function is an operator that the model defines.
type Function struct {
	Name, Domain string
	In, Out      []string
	Attrs        []string // without default
	Defaults     Attrs    // with default
	Opset        int64    // below 13 means 13
	Nodes        []Node
}

// Model describes a model.
type Model struct {
	IR        int64       // version of the format; 0 means 8
	Opset     int64       // 0 means 13
	Producer  string      // "" leaves it out
	Name      string      // of the graph; "" means "test"
	Metadata  [][2]string // keys with their values
	In        []Value
	Out       []Value
	Init      []Tensor
	Nodes     []Node
	Domains   map[string]int64 // further operator sets with their versions
	Functions []Function
	Extra     []byte // further fields of ModelProto
	GExtra    []byte // further fields of GraphProto
}

func text(b []byte, num protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
}

func message(b []byte, num protowire.Number, m []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), m)
}

func number(b []byte, num protowire.Number, v int64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), uint64(v))
}

// field is the size of a field of n bytes.
func field(num protowire.Number, n int) int { return protowire.SizeTag(num) + protowire.SizeBytes(n) }

// Bytes serializes the model. Weights are copied once.
func (m Model) Bytes() []byte {
	if m.Opset == 0 {
		m.Opset = 13
	}
	if m.IR == 0 {
		m.IR = 8
	}
	if m.Name == "" {
		m.Name = "test"
	}
	inner := Graph{m.In, m.Out, m.Init, m.Nodes}
	nodes, values := inner.nodes(m.Name), append(inner.values(), m.GExtra...)
	graph := len(nodes) + inner.weights() + len(values)
	head := number(nil, 1, m.IR)
	if m.Producer != "" {
		head = text(head, 2, m.Producer)
	}
	tail := message(nil, 8, number(nil, 2, m.Opset))
	for _, domain := range slices.Sorted(maps.Keys(m.Domains)) {
		tail = message(tail, 8, number(text(nil, 1, domain), 2, m.Domains[domain]))
	}
	for _, e := range m.Metadata {
		tail = message(tail, 14, text(text(nil, 1, e[0]), 2, e[1]))
	}
	for _, f := range m.Functions {
		tail = message(tail, 25, f.bytes())
	}
	tail = append(tail, m.Extra...)

	b := append(make([]byte, 0, len(head)+field(7, graph)+len(tail)), head...)
	b = protowire.AppendVarint(protowire.AppendTag(b, 7, protowire.BytesType), uint64(graph))
	b = append(inner.appendWeights(append(b, nodes...)), values...)
	return append(b, tail...)
}

// nodes are the graph's nodes and its name.
func (g *Graph) nodes(name string) []byte {
	var b []byte
	for _, n := range g.Nodes {
		b = message(b, 1, n.bytes())
	}
	return text(b, 2, name)
}

// weights is the size of the initializers.
func (g *Graph) weights() int {
	n := 0
	for _, t := range g.Init {
		n += field(5, t.size())
	}
	return n
}

func (g *Graph) appendWeights(b []byte) []byte {
	for _, t := range g.Init {
		b = protowire.AppendVarint(protowire.AppendTag(b, 5, protowire.BytesType), uint64(t.size()))
		b = t.append(b)
	}
	return b
}

// values are the graph's inputs and outputs.
func (g *Graph) values() []byte {
	var b []byte
	for _, v := range g.In {
		b = message(b, 11, v.bytes())
	}
	for _, v := range g.Out {
		b = message(b, 12, v.bytes())
	}
	return b
}

func (f *Function) bytes() []byte {
	b := text(nil, 1, f.Name)
	for _, s := range f.In {
		b = text(b, 4, s)
	}
	for _, s := range f.Out {
		b = text(b, 5, s)
	}
	for _, s := range f.Attrs {
		b = text(b, 6, s)
	}
	for _, n := range f.Nodes {
		b = message(b, 7, n.bytes())
	}
	b = message(b, 9, number(nil, 2, max(f.Opset, 13)))
	b = text(b, 10, f.Domain)
	for _, name := range slices.Sorted(maps.Keys(f.Defaults)) {
		b = message(b, 11, attr(name, f.Defaults[name]))
	}
	return b
}

// Bytes serializes the tensor as a TensorProto with raw data.
func (t Tensor) Bytes() []byte { return t.append(make([]byte, 0, t.size())) }

// head is what stands before the elements.
func (t *Tensor) head() []byte {
	var b []byte
	for _, d := range t.Dims {
		b = number(b, 1, d)
	}
	dtype := t.DType
	if dtype == 0 {
		dtype = Float
		if t.Ints != nil {
			dtype = Int64
		}
	}
	b = text(number(b, 2, dtype), 8, t.Name)
	if t.External == nil {
		return b
	}
	for _, e := range t.External {
		b = message(b, 13, text(text(nil, 1, e[0]), 2, e[1]))
	}
	return number(b, 14, 1)
}

// elements is the size of the elements.
func (t *Tensor) elements() int {
	if t.DType != 0 {
		return len(t.Raw)
	}
	return 4*len(t.Floats) + 8*len(t.Ints)
}

func (t *Tensor) size() int {
	n := len(t.head()) + len(t.Extra)
	if t.External == nil {
		n += field(9, t.elements())
	}
	return n
}

func (t *Tensor) append(b []byte) []byte {
	b = append(b, t.head()...)
	if t.External == nil {
		b = protowire.AppendVarint(protowire.AppendTag(b, 9, protowire.BytesType), uint64(t.elements()))
		b = t.appendElements(b)
	}
	return append(b, t.Extra...)
}

func (t *Tensor) appendElements(b []byte) []byte {
	if t.DType != 0 {
		return append(b, t.Raw...)
	}
	for _, f := range t.Floats {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
	}
	for _, i := range t.Ints {
		b = binary.LittleEndian.AppendUint64(b, uint64(i))
	}
	return b
}

func (v Value) bytes() []byte {
	var shape []byte
	for _, d := range v.Dims {
		switch d := d.(type) {
		case int:
			shape = message(shape, 1, number(nil, 1, int64(d)))
		case string:
			shape = message(shape, 1, text(nil, 2, d))
		default:
			shape = message(shape, 1, nil)
		}
	}
	dense := message(number(nil, 1, max(v.DType, Float)), 2, shape)
	return message(text(nil, 1, v.Name), 2, message(nil, 1, dense))
}

func (n Node) bytes() []byte {
	var b []byte
	for _, s := range n.In {
		b = text(b, 1, s)
	}
	for _, s := range n.Out {
		b = text(b, 2, s)
	}
	b = text(text(b, 3, n.Name), 4, n.Op)
	for _, name := range slices.Sorted(maps.Keys(n.Attrs)) {
		b = message(b, 5, attr(name, n.Attrs[name]))
	}
	if n.Domain != "" {
		b = text(b, 7, n.Domain)
	}
	return b
}

// attr serializes an attribute; it panics for a type that [Attrs] doesn't name.
func attr(name string, v any) []byte {
	a := text(nil, 1, name)
	switch v := v.(type) {
	case int:
		return number(number(a, 3, int64(v)), 20, 2)
	case float32:
		a = protowire.AppendFixed32(protowire.AppendTag(a, 2, protowire.Fixed32Type), math.Float32bits(v))
		return number(a, 20, 1)
	case string:
		return number(text(a, 4, v), 20, 3)
	case []int:
		for _, i := range v {
			a = number(a, 8, int64(i))
		}
		return number(a, 20, 7)
	case []float32:
		for _, f := range v {
			a = protowire.AppendFixed32(protowire.AppendTag(a, 7, protowire.Fixed32Type), math.Float32bits(f))
		}
		return number(a, 20, 6)
	case []string:
		for _, s := range v {
			a = text(a, 9, s)
		}
		return number(a, 20, 8)
	case Tensor:
		return number(message(a, 5, v.Bytes()), 20, 4)
	case Graph:
		return number(message(a, 6, append(v.appendWeights(v.nodes("test")), v.values()...)), 20, 5)
	case Ref:
		return text(a, 21, string(v))
	}
	panic(fmt.Sprintf("encode: attribute %q has the type %T", name, v))
}
