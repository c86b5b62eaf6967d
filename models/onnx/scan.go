package onnx

import (
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// budget is what a model and all the graphs in it may still cost.
type budget struct {
	memory   int64 // that decoded tensors may still take
	bytes    int   // of attribute lists and made names, counted against memory
	edges    int   // pairs of input and output over all nodes, each of which onnx-go makes an edge of
	nodes    int   // over all graphs
	values   int   // initializers, inputs and outputs of graphs inside of nodes
	calls    int   // of functions
	expanded int   // bytes of the bodies of all calls
}

// scanner walks a graph once and keeps what onnx-go does not carry. Graphs inside of nodes have scanners of their own.
type scanner struct {
	*budget
	functions map[string]*function
	scope     *scope // of the function whose body is read; nil outside
	nested    bool   // a graph inside of a node: onnx-go doesn't see it
	depth     int

	hasGraph bool
	graph    Graph
	inputs   []Value
	skeleton []byte // GraphProto with inputs and outputs by name and nodes with plain attributes
	tensors  []map[string]Attr
}

func (s *scanner) model(p []byte) error {
	s.graph.Opsets = map[string]int64{}
	s.graph.Initializers = map[string]*Tensor{}
	var graph []byte
	err := fields(p, func(x field) (err error) {
		switch x.num {
		case 7:
			if s.hasGraph {
				return fmt.Errorf("%w: two graphs", ErrMalformed)
			}
			s.hasGraph = true
			graph, err = x.bytes()
		case 8:
			return opset(x, s.graph.Opsets)
		case 25: // behind the graph, as exporters write it
			return s.function(x)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := s.scanGraph(graph); err != nil {
		return err
	}
	if !s.hasGraph || len(s.graph.Nodes) == 0 || len(s.graph.Outputs) == 0 {
		return fmt.Errorf("%w: no graph with nodes and outputs in it", ErrMalformed)
	}
	if len(s.graph.Opsets) == 0 {
		s.graph.Opsets[""] = 1
	}
	return nil
}

// opset enters an OperatorSetIdProto.
func opset(x field, to map[string]int64) error {
	b, err := x.bytes()
	if err != nil {
		return err
	}
	var domain string
	var version int64
	err = fields(b, func(x field) error {
		switch x.num {
		case 1:
			return x.set(&domain)
		case 2:
			return x.setInt(&version)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(to) == maxPorts {
		return fmt.Errorf("%w: more than %d operator sets", ErrTooLarge, maxPorts)
	}
	to[plainDomain(domain)] = version
	return nil
}

// plainDomain maps both spellings of ONNX's own domain to "".
func plainDomain(d string) string {
	if d == "ai.onnx" {
		return ""
	}
	return d
}

func (s *scanner) scanGraph(p []byte) error {
	return fields(p, func(x field) error {
		switch x.num {
		case 1, 5, 11, 12:
		case 2:
			return x.set(&s.graph.Name)
		case 15:
			return fmt.Errorf("%w: sparse initializer", ErrUnsupported)
		default:
			return nil
		}
		b, err := x.bytes()
		if err != nil {
			return err
		}
		switch x.num {
		case 1:
			return s.node(b)
		case 5:
			t, _, err := s.tensor(b)
			if err != nil {
				return err
			}
			if t.Name, err = s.name(t.Name); err != nil {
				return err
			}
			if _, ok := s.graph.Initializers[t.Name]; ok || t.Name == "" {
				return fmt.Errorf("%w: initializer name %q is empty or used twice", ErrMalformed, t.Name)
			}
			if s.values++; s.values > 2*maxNodes || len(s.graph.Initializers) == maxNodes {
				return fmt.Errorf("%w: more than %d initializers", ErrTooLarge, maxNodes)
			}
			s.graph.Initializers[t.Name] = t
			return nil
		}
		v, err := scanValue(b)
		if err == nil {
			v.Name, err = s.name(v.Name)
		}
		if err != nil {
			return err
		}
		to := &s.inputs
		if x.num == 12 {
			to = &s.graph.Outputs
		}
		if s.values++; s.values > 2*maxNodes || len(*to) == maxNodes {
			return fmt.Errorf("%w: more than %d inputs or outputs", ErrTooLarge, maxNodes)
		}
		*to = append(*to, v)
		if !s.nested {
			s.skeleton = appendMessage(s.skeleton, x.num, appendText(nil, 1, v.Name))
		}
		return nil
	})
}

// descend goes down into nested messages: the last field with each number.
func descend(p []byte, nums ...protowire.Number) (out []byte, ok bool, err error) {
	for _, num := range nums {
		ok = false
		err = fields(p, func(x field) (err error) {
			if x.num == num {
				out, err = x.bytes()
				ok = true
			}
			return err
		})
		if err != nil || !ok {
			return nil, false, err
		}
		p = out
	}
	return out, ok, nil
}

// scanValue reads a ValueInfoProto. Types other than dense tensors leave DType Undefined.
func scanValue(p []byte) (Value, error) {
	var v Value
	err := fields(p, func(x field) error {
		if x.num == 1 {
			return x.set(&v.Name)
		}
		return nil
	})
	if err != nil {
		return v, err
	}
	if v.Name == "" {
		return v, fmt.Errorf("%w: input or output without a name", ErrMalformed)
	}
	dense, ok, err := descend(p, 2, 1)
	if err == nil && !ok {
		v.Other, err = otherType(p)
	}
	if err != nil || !ok {
		return v, err
	}
	err = fields(dense, func(x field) error {
		if x.num == 1 {
			d, err := x.integer()
			v.DType = DType(d)
			return err
		}
		return nil
	})
	if err != nil {
		return v, err
	}
	shape, ok, err := descend(dense, 2)
	if err != nil || !ok {
		return v, err
	}
	v.Shape = true
	err = fields(shape, func(x field) error {
		if x.num != 1 {
			return nil
		}
		b, err := x.bytes()
		if err != nil {
			return err
		}
		if len(v.Dims) == maxRank {
			return fmt.Errorf("%w: %q has more than %d dimensions", ErrTooLarge, v.Name, maxRank)
		}
		d := Dim{Size: -1}
		err = fields(b, func(x field) error {
			switch x.num {
			case 1:
				n, err := x.integer()
				if err != nil || n > math.MaxInt32 {
					return fmt.Errorf("%w: dimension %d of %q", ErrMalformed, n, v.Name)
				}
				d.Size = int(max(n, -1))
			case 2:
				return x.set(&d.Param)
			}
			return nil
		})
		v.Dims = append(v.Dims, d)
		return err
	})
	return v, err
}

// otherType names the type of a ValueInfoProto that is no dense tensor; "" for one without a type.
func otherType(p []byte) (name string, err error) {
	t, ok, err := descend(p, 2)
	if err != nil || !ok {
		return "", err
	}
	err = fields(t, func(x field) error {
		switch x.num {
		case 4:
			name = "sequence"
		case 5:
			name = "map"
		case 8:
			name = "sparse tensor"
		case 9:
			name = "optional value"
		}
		return nil
	})
	return name, err
}

func (s *scanner) node(p []byte) error {
	if s.nodes++; s.nodes > maxNodes {
		return fmt.Errorf("%w: more than %d nodes", ErrTooLarge, maxNodes)
	}
	var n Node
	var overload string
	var attrs [][]byte
	err := fields(p, func(x field) error {
		switch x.num {
		case 1, 2:
			to := &n.Inputs
			if x.num == 2 {
				to = &n.Outputs
			}
			if len(*to) == maxPorts {
				return fmt.Errorf("%w: node with more than %d inputs or outputs", ErrTooLarge, maxPorts)
			}
			name, err := x.text()
			if err == nil {
				name, err = s.name(name)
			}
			*to = append(*to, name)
			return err
		case 3:
			return x.set(&n.Name)
		case 4:
			return x.set(&n.Op)
		case 5:
			if len(attrs) == maxPorts {
				return fmt.Errorf("%w: node with more than %d attributes", ErrTooLarge, maxPorts)
			}
			b, err := x.bytes()
			attrs = append(attrs, b)
			return err
		case 7:
			return x.set(&n.Domain)
		case 8:
			return x.set(&overload)
		}
		return nil
	})
	if err != nil {
		return err
	}
	n.Domain = plainDomain(n.Domain)
	if n.Op == "" || len(n.Outputs) == 0 {
		return fmt.Errorf("%w: node %q has no operator or no output", ErrMalformed, n.Name)
	}
	if s.edges += len(n.Inputs) * len(n.Outputs); s.edges > maxEdges {
		return fmt.Errorf("%w: more than %d connections", ErrTooLarge, maxEdges)
	}
	if s.scope != nil {
		n.Opset = s.scope.opsets[n.Domain]
		if attrs, err = s.scope.resolve(attrs); err != nil {
			return fmt.Errorf("%s: %w", n.Title(), err)
		}
	}
	if f := s.functions[key(n.Domain, n.Op, overload)]; f != nil {
		return s.call(f, n, attrs)
	}
	return s.keepNode(n, attrs)
}

// keepNode records the node and appends its skeleton.
func (s *scanner) keepNode(n Node, attrs [][]byte) error {
	var b []byte
	for _, in := range n.Inputs {
		b = appendText(b, 1, in)
	}
	for _, out := range n.Outputs {
		b = appendText(b, 2, out)
	}
	b = appendText(appendText(b, 3, n.Name), 4, n.Op)
	own := map[string]Attr{}
	seen := map[string]bool{}
	for _, p := range attrs {
		name, a, bone, err := s.attribute(p)
		if err != nil {
			return fmt.Errorf("%s: %w", n.Title(), err)
		}
		if seen[name] {
			return fmt.Errorf("%w: %s has attribute %q twice", ErrMalformed, n.Title(), name)
		}
		seen[name] = true
		if a.G != nil {
			n.capture(a.G)
		}
		if bone == nil {
			own[name] = a
			continue
		}
		b = appendMessage(b, 5, bone)
	}
	if s.nested {
		n.Attrs = own
		s.graph.Nodes = append(s.graph.Nodes, n)
		return nil
	}
	s.skeleton = appendMessage(s.skeleton, 1, b)
	s.graph.Nodes = append(s.graph.Nodes, n)
	s.tensors = append(s.tensors, own)
	return nil
}

func appendText(b []byte, num protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
}

func appendMessage(b []byte, num protowire.Number, m []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), m)
}
