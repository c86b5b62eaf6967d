// Package onnx reads ONNX models: bytes in, a plain graph out.
//
// The bytes are not trusted. They are walked once with protowire under strict limits; that walk takes the tensors, the declared dimensions
// (symbolic ones kept), names, domains and operator set versions. What is left, the skeleton of the graph with its attributes, is decoded by
// github.com/owulveryck/onnx-go into a Backend of ours. onnx-go never sees a weight, a nested type or a subgraph, so a model costs no second
// copy of its weights and cannot exhaust memory or stack through it.
//
// What onnx-go can't carry is read here alone: graphs inside of nodes (the branches of If, the bodies of Loop and Scan), and functions that
// the model defines, whose calls are replaced by their nodes. Embed puts weights that stand in files of their own into the model.
//
// The package knows the file format only. Which operators exist and what they mean is the business of package engine. Models with sparse
// initializers or segments are refused.
package onnx

import (
	"fmt"
	"math"
	"strings"
)

// DType is an element type with the number that ONNX gives it (TensorProto.DataType).
type DType int32

// The element types of dense tensors.
const (
	Undefined DType = 0
	Float     DType = 1
	Uint8     DType = 2
	Int8      DType = 3
	Uint16    DType = 4
	Int16     DType = 5
	Int32     DType = 6
	Int64     DType = 7
	String    DType = 8
	Bool      DType = 9
	Float16   DType = 10
	Double    DType = 11
	Uint32    DType = 12
	Uint64    DType = 13
	BFloat16  DType = 16
)

// String returns ONNX's own name of the type, in lower case.
func (d DType) String() string {
	switch d {
	case Float:
		return "float"
	case Uint8:
		return "uint8"
	case Int8:
		return "int8"
	case Uint16:
		return "uint16"
	case Int16:
		return "int16"
	case Int32:
		return "int32"
	case Int64:
		return "int64"
	case String:
		return "string"
	case Bool:
		return "bool"
	case Float16:
		return "float16"
	case Double:
		return "double"
	case Uint32:
		return "uint32"
	case Uint64:
		return "uint64"
	case BFloat16:
		return "bfloat16"
	}
	return fmt.Sprintf("type %d", int32(d))
}

// IsFloat says whether tensors of the type keep their elements in Tensor.Floats.
func (d DType) IsFloat() bool { return d == Float || d == Double || d == Float16 || d == BFloat16 }

// IsInt says whether tensors of the type keep their elements in Tensor.Ints. Truth values count as 0 and 1.
func (d DType) IsInt() bool {
	switch d {
	case Uint8, Int8, Uint16, Int16, Int32, Int64, Bool, Uint32, Uint64:
		return true
	}
	return false
}

// width is the number of bytes that one element takes in a file; 0 for types that are not read.
func (d DType) width() int {
	switch d {
	case Uint8, Int8, Bool:
		return 1
	case Uint16, Int16, Float16, BFloat16:
		return 2
	case Float, Int32, Uint32:
		return 4
	case Double, Int64, Uint64:
		return 8
	}
	return 0
}

// Tensor is a constant of the model. Elements are row-major. Every floating-point type is held in single precision, every other type in 64
// bits (uint64 by its bit pattern).
type Tensor struct {
	Name   string
	DType  DType
	Dims   []int
	Floats []float32 // when DType.IsFloat
	Ints   []int64   // when DType.IsInt
}

// Len is the number of elements, the product of Dims.
func (t *Tensor) Len() int { return len(t.Floats) + len(t.Ints) }

// Dim is one declared dimension: a size, or a name, or neither when the model says nothing.
type Dim struct {
	Size  int    // -1 when the model does not fix it
	Param string // the symbol, as "N"
}

// String prints the size, the symbol or "?".
func (d Dim) String() string {
	switch {
	case d.Size >= 0:
		return fmt.Sprint(d.Size)
	case d.Param != "":
		return d.Param
	}
	return "?"
}

// Value is a declared input or output of the graph.
type Value struct {
	Name  string
	DType DType  // Undefined when it is not a dense tensor
	Other string // "sequence", "map", "optional value" or "sparse tensor" when it is one
	Dims  []Dim
	Shape bool // false when the model declares no shape; Dims is then empty without meaning a scalar
}

// String prints the value as "input float[N,1,28,28]".
func (v Value) String() string {
	if v.Other != "" {
		return v.Name + " " + v.Other
	}
	if !v.Shape {
		return v.Name + " " + v.DType.String()
	}
	s := make([]string, len(v.Dims))
	for i, d := range v.Dims {
		s[i] = d.String()
	}
	return v.Name + " " + v.DType.String() + "[" + strings.Join(s, ",") + "]"
}

// AttrKind says which field of an Attr holds.
type AttrKind int

// The kinds of attributes. AttrOther stands for lists of graphs or tensors, types and sparse tensors, whose content is dropped.
const (
	AttrOther AttrKind = iota
	AttrFloat
	AttrInt
	AttrString
	AttrTensor
	AttrFloats
	AttrInts
	AttrStrings
	AttrGraph
)

// Attr is an attribute of a node.
type Attr struct {
	Kind    AttrKind
	F       float32
	I       int64
	S       string
	T       *Tensor
	G       *Graph
	Floats  []float32
	Ints    []int64
	Strings []string
}

// Node is an application of an operator. A left-out optional input or output is the empty name.
type Node struct {
	Name    string
	Op      string
	Domain  string // "" for the operators of ONNX itself
	Inputs  []string
	Outputs []string
	Attrs   map[string]Attr
	// Opset is the version of the operator set of Domain; 0 means the version that the graph has for it. Only nodes of functions, which
	// have operator sets of their own, use it.
	Opset int64
	// Captures are the values that the graphs inside of the node read from around it, each once.
	Captures []string
}

// Title names the node for messages: operator and name, or its first output where it has no name.
func (n *Node) Title() string {
	op := n.Op
	if n.Domain != "" {
		op = n.Domain + "." + op
	}
	if n.Name != "" {
		return fmt.Sprintf("%s node %q", op, n.Name)
	}
	for _, o := range n.Outputs {
		if o != "" {
			return fmt.Sprintf("%s node that gives %q", op, o)
		}
	}
	return op + " node"
}

// Graph is a decoded model, or a graph inside of a node: that has no operator sets of its own, and reads values from around it.
type Graph struct {
	Name         string
	Opsets       map[string]int64 // version of each operator set by domain; "" is ONNX itself
	Inputs       []Value          // without those that are initializers
	Outputs      []Value
	Nodes        []Node // every node comes after the nodes it reads from
	Initializers map[string]*Tensor

	Captures []string // names that a graph inside of a node reads from around it, each once
}

// elements multiplies dimensions, refusing negative ones and products that no tensor in memory can have.
func elements(dims []int) (int, error) {
	n := 1
	for _, d := range dims {
		if d < 0 {
			return 0, fmt.Errorf("negative dimension %d", d)
		}
		if d != 0 && n > math.MaxInt32*64/d {
			return 0, fmt.Errorf("%w: dimensions %v", ErrTooLarge, dims)
		}
		n *= d
	}
	return n, nil
}
