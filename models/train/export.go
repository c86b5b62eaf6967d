package train

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers and constants of onnx.proto (ONNX 1.8, IR version 7).
const (
	irVersion = 7
	opset     = 13

	modelIRVersion = 1
	modelProducer  = 2
	modelGraph     = 7
	modelOpset     = 8
	modelMetadata  = 14

	opsetVersion = 2

	entryKey   = 1
	entryValue = 2

	graphNode        = 1
	graphName        = 2
	graphInitializer = 5
	graphInput       = 11
	graphOutput      = 12

	nodeInput     = 1
	nodeOutput    = 2
	nodeName      = 3
	nodeOp        = 4
	nodeAttribute = 5

	attrName = 1
	attrInt  = 3
	attrInts = 8
	attrType = 20

	attrTypeInt  = 2
	attrTypeInts = 7

	tensorDims = 1
	tensorType = 2
	tensorName = 8
	tensorRaw  = 9

	typeFloat = 1

	valueName   = 1
	valueType   = 2
	typeTensor  = 1
	tensorElem  = 1
	tensorShape = 2
	shapeDim    = 1
	dimValue    = 1
	dimParam    = 2
)

// message is a protobuf message under construction.
type message []byte

func (m *message) int(field protowire.Number, v int64) {
	*m = protowire.AppendVarint(protowire.AppendTag(*m, field, protowire.VarintType), uint64(v))
}

func (m *message) bytes(field protowire.Number, v []byte) {
	*m = protowire.AppendBytes(protowire.AppendTag(*m, field, protowire.BytesType), v)
}

func (m *message) string(field protowire.Number, v string) { m.bytes(field, []byte(v)) }

// graph collects a network as ONNX nodes, each fed by the one before.
type graph struct {
	msg  message
	last string // output of the node before
	n    int    // nodes so far
}

// attr is an attribute of a node: one number, or several.
type attr struct {
	name string
	int  int64
	ints []int64
}

// node appends an operator; the model's output is named by the last call.
func (g *graph) node(op, output string, params []string, attrs ...attr) {
	var m message
	m.string(nodeInput, g.last)
	for _, p := range params {
		m.string(nodeInput, p)
	}
	m.string(nodeOutput, output)
	m.string(nodeName, fmt.Sprintf("%s_%d", op, g.n))
	m.string(nodeOp, op)
	for _, a := range attrs {
		var am message
		am.string(attrName, a.name)
		if a.ints == nil {
			am.int(attrInt, a.int)
			am.int(attrType, attrTypeInt)
		} else {
			for _, v := range a.ints {
				am.int(attrInts, v)
			}
			am.int(attrType, attrTypeInts)
		}
		m.bytes(nodeAttribute, am)
	}
	g.msg.bytes(graphNode, m)
	g.last = output
	g.n++
}

// initializer appends a parameter tensor.
func (g *graph) initializer(name string, w []float32, dims ...int) {
	var m message
	for _, d := range dims {
		m.int(tensorDims, int64(d))
	}
	m.int(tensorType, typeFloat)
	m.string(tensorName, name)
	raw := make([]byte, 0, 4*len(w))
	for _, v := range w {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
	}
	m.bytes(tensorRaw, raw)
	g.msg.bytes(graphInitializer, m)
}

// value is a graph's input or output: floats of shape [N, dims...].
func value(name string, dims ...int) message {
	var shape, dim, tensor, typ, m message
	dim.string(dimParam, "N")
	shape.bytes(shapeDim, dim)
	for _, d := range dims {
		dim = nil
		dim.int(dimValue, int64(d))
		shape.bytes(shapeDim, dim)
	}
	tensor.int(tensorElem, typeFloat)
	tensor.bytes(tensorShape, shape)
	typ.bytes(typeTensor, tensor)
	m.string(valueName, name)
	m.bytes(valueType, typ)
	return m
}

// export writes the network with parameters w for images of the given shape. The
// bytes are a function of the arguments alone.
func export(t *net, w []float32, image []int, c Config) []byte {
	g := &graph{last: "input"}
	if c.Arch != "cnn" {
		image = []int{t.in}
	}
	last, flat, named := len(t.layers)-1, c.Arch != "cnn", 0
	for i, l := range t.layers {
		output := fmt.Sprintf("t%d", g.n)
		if i == last {
			output = "logits"
		}
		p := w[t.at[i]:t.at[i+1]]
		weight, bias := fmt.Sprintf("w%d", named+1), fmt.Sprintf("b%d", named+1)
		switch l := l.(type) {
		case *dense:
			if !flat {
				g.node("Flatten", output, nil, attr{name: "axis", int: 1})
				flat = true
				if i != last {
					output = fmt.Sprintf("t%d", g.n)
				}
			}
			g.initializer(weight, p[:l.out*l.in], l.out, l.in)
			g.initializer(bias, p[l.out*l.in:], l.out)
			g.node("Gemm", output, []string{weight, bias}, attr{name: "transB", int: 1})
			named++
		case *conv:
			k := l.k()
			g.initializer(weight, p[:l.out*k], l.out, l.geo.C, l.geo.KH, l.geo.KW)
			g.initializer(bias, p[l.out*k:], l.out)
			g.node("Conv", output, []string{weight, bias}, attr{name: "kernel_shape", ints: []int64{int64(l.geo.KH), int64(l.geo.KW)}})
			named++
		case *relu:
			g.node("Relu", output, nil)
		case *pool:
			g.node("MaxPool", output, nil, attr{name: "kernel_shape", ints: []int64{2, 2}}, attr{name: "strides", ints: []int64{2, 2}})
		}
	}
	g.msg.string(graphName, c.Arch)
	g.msg.bytes(graphInput, value("input", image...))
	g.msg.bytes(graphOutput, value("logits", t.layers[last].size()))
	return model(g.msg, c)
}

// model wraps a graph and notes how it came about.
func model(g message, c Config) []byte {
	var m, set message
	m.int(modelIRVersion, irVersion)
	m.string(modelProducer, "iDunno")
	m.bytes(modelGraph, g)
	set.int(opsetVersion, opset)
	m.bytes(modelOpset, set)
	for _, e := range [][2]string{
		{"arch", c.Arch},
		{"seed", strconv.FormatUint(c.Seed, 10)},
		{"epochs", strconv.Itoa(c.Epochs)},
		{"batch_size", strconv.Itoa(c.BatchSize)},
		{"learning_rate", strconv.FormatFloat(c.LearningRate, 'g', -1, 64)},
		{"shift", strconv.Itoa(c.Shift)},
		{"dropout", strconv.FormatFloat(c.Dropout, 'g', -1, 64)},
	} {
		var entry message
		entry.string(entryKey, e[0])
		entry.string(entryValue, e[1])
		m.bytes(modelMetadata, entry)
	}
	return m
}
