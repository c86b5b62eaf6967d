package onnx

import (
	"fmt"
	"slices"
)

// function is a FunctionProto: an operator that the model defines by nodes.
type function struct {
	name, domain, overload string
	inputs, outputs        []string
	attrs                  map[string][]byte // by name: the default as an AttributeProto, nil without one
	opsets                 map[string]int64
	nodes                  [][]byte
	size                   int  // bytes in the file
	active                 bool // a call of it is being expanded
}

// maxExpanded bounds the bytes that are read for all calls of functions, each of which reads the body again.
const maxExpanded = 128 << 20

// key identifies a function.
func key(domain, op, overload string) string { return domain + "\x00" + op + "\x00" + overload }

// function reads a function that the model defines.
func (s *scanner) function(x field) error {
	p, err := x.bytes()
	if err != nil {
		return err
	}
	f := &function{attrs: map[string][]byte{}, opsets: map[string]int64{}, size: len(p)}
	if err := fields(p, f.field); err != nil {
		return err
	}
	f.domain = plainDomain(f.domain)
	k := key(f.domain, f.name, f.overload)
	if f.name == "" || s.functions[k] != nil {
		return fmt.Errorf("%w: the name of function %q of domain %q is empty or used twice", ErrMalformed, f.name, f.domain)
	}
	for _, list := range [][]string{f.inputs, f.outputs} {
		for i, name := range list {
			if name == "" || slices.Contains(list[:i], name) {
				return fmt.Errorf("%w: %q stands twice in the inputs or outputs of function %q", ErrMalformed, name, f.name)
			}
		}
	}
	if len(s.functions) == maxPorts {
		return fmt.Errorf("%w: more than %d functions", ErrTooLarge, maxPorts)
	}
	if s.functions == nil {
		s.functions = map[string]*function{}
	}
	s.functions[k] = f
	return nil
}

func (f *function) field(x field) error {
	switch x.num {
	case 1:
		return x.set(&f.name)
	case 4, 5:
		to := &f.inputs
		if x.num == 5 {
			to = &f.outputs
		}
		if len(*to) == maxPorts/8 {
			return fmt.Errorf("%w: function with more than %d inputs or outputs", ErrTooLarge, maxPorts/8)
		}
		name, err := x.text()
		*to = append(*to, name)
		return err
	case 6:
		name, err := x.text()
		if f.attrs[name] == nil {
			f.attrs[name] = nil
		}
		return err
	case 7:
		p, err := x.bytes()
		if len(f.nodes) == maxNodes {
			return fmt.Errorf("%w: more than %d nodes", ErrTooLarge, maxNodes)
		}
		f.nodes = append(f.nodes, p)
		return err
	case 9:
		return opset(x, f.opsets)
	case 10:
		return x.set(&f.domain)
	case 11:
		p, err := x.bytes()
		if err != nil {
			return err
		}
		name, _, err := reference(p)
		f.attrs[name] = p
		return err
	case 13:
		return x.set(&f.overload)
	}
	return nil
}

// reference reads the name of an AttributeProto and the name of the function's attribute that it stands for, if any.
func reference(p []byte) (name, ref string, err error) {
	err = fields(p, func(x field) error {
		switch x.num {
		case 1:
			return x.set(&name)
		case 21:
			return x.set(&ref)
		}
		return nil
	})
	return name, ref, err
}

// scope is what the names in the body of a called function mean.
type scope struct {
	names  map[string]string // inputs and outputs of the function: the caller's values
	prefix string            // makes the other names this call's own
	attrs  map[string][]byte
	opsets map[string]int64
}

// name translates a name of the body that is being read.
func (s *scanner) name(name string) (string, error) {
	if s.scope == nil || name == "" {
		return name, nil
	}
	if to, ok := s.scope.names[name]; ok {
		return to, nil
	}
	name = s.scope.prefix + name
	return name, s.spend(len(name) + 16)
}

// spend takes memory for something small from the budget.
func (s *scanner) spend(n int) error {
	s.bytes += n
	if int64(s.bytes) > s.memory {
		return fmt.Errorf("%w: names and attributes need more memory than is allowed", ErrTooLarge)
	}
	return nil
}

// resolve replaces attributes that stand for one of the call by its value. One that neither the call nor the function gives is left out.
func (c *scope) resolve(attrs [][]byte) ([][]byte, error) {
	var out [][]byte
	for _, p := range attrs {
		name, ref, err := reference(p)
		if err != nil {
			return nil, err
		}
		if ref != "" {
			given := c.attrs[ref]
			if given == nil {
				continue
			}
			p = appendText(slices.Clone(given), 1, name) // the last name counts
		}
		out = append(out, p)
	}
	return out, nil
}

// call replaces the call n of a function by the nodes of its body.
func (s *scanner) call(f *function, n Node, attrs [][]byte) error {
	if f.active {
		return fmt.Errorf("%w: function %q of domain %q calls itself", ErrMalformed, f.name, f.domain)
	}
	if len(n.Inputs) > len(f.inputs) || len(n.Outputs) > len(f.outputs) {
		return fmt.Errorf("%w: %s has %d inputs and %d outputs, its function %d and %d", ErrMalformed, n.Title(), len(n.Inputs), len(n.Outputs),
			len(f.inputs), len(f.outputs))
	}
	if s.calls++; s.calls > maxNodes || s.depth == maxDepth {
		return fmt.Errorf("%w: more than %d calls of functions, or calls nested more than %d deep", ErrTooLarge, maxNodes, maxDepth)
	}
	if s.expanded += f.size; s.expanded > maxExpanded {
		return fmt.Errorf("%w: the bodies of all calls of functions together are more than %d MiB", ErrTooLarge, maxExpanded>>20)
	}
	inner := &scope{names: map[string]string{}, prefix: fmt.Sprintf("%s#%d/", f.name, s.calls), attrs: map[string][]byte{}, opsets: f.opsets}
	for i, name := range f.inputs {
		inner.names[name] = "" // left out by the call
		if i < len(n.Inputs) {
			inner.names[name] = n.Inputs[i]
		}
	}
	var copies []Node // an output that is an input
	for i, name := range f.outputs[:len(n.Outputs)] {
		if n.Outputs[i] == "" {
			continue
		}
		if from, ok := inner.names[name]; ok {
			copies = append(copies, Node{Op: "Identity", Inputs: []string{from}, Outputs: n.Outputs[i : i+1], Opset: f.opsets[""]})
			continue
		}
		inner.names[name] = n.Outputs[i]
	}
	for name, p := range f.attrs {
		inner.attrs[name] = p
	}
	for _, p := range attrs {
		name, _, err := reference(p)
		if err != nil {
			return err
		}
		if err := plainValue(p); err != nil {
			return fmt.Errorf("%s: attribute %q: %w", n.Title(), name, err)
		}
		inner.attrs[name] = p
	}
	return s.expand(f, inner, copies)
}

// plainValue refuses a graph as the attribute of a call: its names would mean something else inside of the function.
func plainValue(p []byte) error {
	return fields(p, func(x field) error {
		if x.num == 6 || x.num == 11 {
			return fmt.Errorf("%w: a graph given to a function", ErrUnsupported)
		}
		return nil
	})
}

func (s *scanner) expand(f *function, inner *scope, copies []Node) error {
	outer := s.scope
	f.active, s.scope = true, inner
	s.depth++
	defer func() {
		f.active, s.scope = false, outer
		s.depth--
	}()
	for _, p := range f.nodes {
		if err := s.node(p); err != nil {
			return fmt.Errorf("function %q: %w", f.name, err)
		}
	}
	for _, n := range copies {
		if err := s.keepNode(n, nil); err != nil {
			return err
		}
	}
	return nil
}
