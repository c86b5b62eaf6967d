// Package onnxtest writes small ONNX models for tests. It writes whatever it is told, also models that contradict themselves; it is not an
// exporter.
package onnxtest

import (
	"encoding/binary"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// Value is an input or output of the graph. A dimension is an int or, for a symbol, a string.
type Value struct {
	Name  string
	DType int64 // 1 is float; 0 is written as float too
	Dims  []any
}

// Tensor is an initializer or an attribute; the type follows from the elements.
type Tensor struct {
	Name   string
	Dims   []int64
	Floats []float32
	Ints   []int64
	Extra  []byte // further fields of the message
}

// Node is an application of an operator. Attributes are int, float32, string, []int, []float32 or Tensor.
type Node struct {
	Name, Op, Domain string
	In, Out          []string
	Attrs            map[string]any
}

// Model describes a model.
type Model struct {
	Opset  int64 // 0 means 13
	In     []Value
	Out    []Value
	Init   []Tensor
	Nodes  []Node
	Extra  []byte // further fields of ModelProto
	GExtra []byte // further fields of GraphProto
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

// Bytes serializes the model.
func (m Model) Bytes() []byte {
	if m.Opset == 0 {
		m.Opset = 13
	}
	var g []byte
	for _, n := range m.Nodes {
		g = message(g, 1, n.bytes())
	}
	g = text(g, 2, "test")
	for _, t := range m.Init {
		g = message(g, 5, t.Bytes())
	}
	for _, v := range m.In {
		g = message(g, 11, v.bytes())
	}
	for _, v := range m.Out {
		g = message(g, 12, v.bytes())
	}
	g = append(g, m.GExtra...)
	b := message(number(nil, 1, 8), 7, g)
	b = message(b, 8, number(nil, 2, m.Opset))
	return append(b, m.Extra...)
}

// Bytes serializes the tensor as a TensorProto with raw data.
func (t Tensor) Bytes() []byte {
	var b, raw []byte
	for _, d := range t.Dims {
		b = number(b, 1, d)
	}
	dtype := int64(1)
	if t.Ints != nil {
		dtype = 7
	}
	for _, f := range t.Floats {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(f))
	}
	for _, i := range t.Ints {
		raw = binary.LittleEndian.AppendUint64(raw, uint64(i))
	}
	b = text(number(b, 2, dtype), 8, t.Name)
	return append(message(b, 9, raw), t.Extra...)
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
	dense := message(number(nil, 1, max(v.DType, 1)), 2, shape)
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
	for name, v := range n.Attrs {
		a := text(nil, 1, name)
		switch v := v.(type) {
		case int:
			a = number(number(a, 3, int64(v)), 20, 2)
		case float32:
			a = protowire.AppendFixed32(protowire.AppendTag(a, 2, protowire.Fixed32Type), math.Float32bits(v))
			a = number(a, 20, 1)
		case string:
			a = number(text(a, 4, v), 20, 3)
		case []int:
			for _, i := range v {
				a = number(a, 8, int64(i))
			}
			a = number(a, 20, 7)
		case []float32:
			for _, f := range v {
				a = protowire.AppendFixed32(protowire.AppendTag(a, 7, protowire.Fixed32Type), math.Float32bits(f))
			}
			a = number(a, 20, 6)
		case Tensor:
			a = number(message(a, 5, v.Bytes()), 20, 4)
		}
		b = message(b, 5, a)
	}
	if n.Domain != "" {
		b = text(b, 7, n.Domain)
	}
	return b
}
