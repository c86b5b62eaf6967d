package onnx

import (
	"fmt"
	"slices"
)

// maxDepth bounds graphs in graphs and calls in functions.
const maxDepth = 24

// subgraph reads a graph inside of a node. Its nodes come sorted; its names may be those of values around it.
func (s *scanner) subgraph(p []byte) (*Graph, error) {
	if s.depth == maxDepth {
		return nil, fmt.Errorf("%w: graphs nested more than %d deep", ErrTooLarge, maxDepth)
	}
	in := &scanner{budget: s.budget, functions: s.functions, scope: s.scope, nested: true, depth: s.depth + 1}
	in.graph.Initializers = map[string]*Tensor{}
	if err := in.scanGraph(p); err != nil {
		return nil, err
	}
	if len(in.graph.Outputs) == 0 {
		return nil, fmt.Errorf("%w: a graph without outputs", ErrMalformed)
	}
	given, err := in.given()
	if err != nil {
		return nil, err
	}
	for _, v := range in.inputs {
		if in.graph.Initializers[v.Name] != nil {
			return nil, fmt.Errorf("%w: %q is an input and an initializer", ErrMalformed, v.Name)
		}
	}
	in.graph.Inputs = in.inputs
	g, err := in.sorted()
	if err != nil {
		return nil, err
	}
	g.Captures = free(g, given)
	return g, nil
}

// free lists the names that a graph reads and does not give, each once, in the order in which they are read.
func free(g *Graph, given map[string]bool) []string {
	var out []string
	seen := map[string]bool{}
	add := func(name string) {
		if name != "" && !given[name] && !seen[name] {
			seen[name] = true
			out = append(out, name)
		}
	}
	for i := range g.Nodes {
		for name := range g.Nodes[i].reads {
			add(name)
		}
	}
	for _, v := range g.Outputs {
		add(v.Name)
	}
	return out
}

// capture adds what a graph inside of the node reads from around it.
func (n *Node) capture(g *Graph) {
	for _, name := range g.Captures {
		if !slices.Contains(n.Captures, name) {
			n.Captures = append(n.Captures, name)
		}
	}
}

// reads yields the names of all values that the node or a graph inside of it reads; left-out inputs are empty.
func (n *Node) reads(yield func(string) bool) {
	for _, list := range [][]string{n.Inputs, n.Captures} {
		for _, name := range list {
			if !yield(name) {
				return
			}
		}
	}
}
