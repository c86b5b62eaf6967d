package onnx

import "fmt"

// given collects the names that the graph gives, and checks that every one is given once.
func (s *scanner) given() (map[string]bool, error) {
	given := map[string]bool{}
	for _, v := range s.inputs {
		if given[v.Name] {
			return nil, fmt.Errorf("%w: two inputs are named %q", ErrMalformed, v.Name)
		}
		given[v.Name] = true
	}
	for name := range s.graph.Initializers {
		given[name] = true
	}
	for i := range s.graph.Nodes {
		n := &s.graph.Nodes[i]
		for _, out := range n.Outputs {
			if out == "" {
				continue
			}
			if given[out] {
				return nil, fmt.Errorf("%w: %s gives %q, which something else gives already", ErrMalformed, n.Title(), out)
			}
			given[out] = true
		}
	}
	return given, nil
}

// order checks that every name is given once and that every input is given by something.
func (s *scanner) order() error {
	given, err := s.given()
	if err != nil {
		return err
	}
	for _, v := range s.inputs {
		if _, ok := s.graph.Initializers[v.Name]; !ok {
			s.graph.Inputs = append(s.graph.Inputs, v)
		}
	}
	for i := range s.graph.Nodes {
		n := &s.graph.Nodes[i]
		for in := range n.reads {
			if in != "" && !given[in] {
				return fmt.Errorf("%w: %s reads %q, which nothing gives", ErrMalformed, n.Title(), in)
			}
		}
	}
	for _, v := range s.graph.Outputs {
		if !given[v.Name] {
			return fmt.Errorf("%w: nothing gives output %q", ErrMalformed, v.Name)
		}
	}
	return nil
}

// sorted returns the graph with its nodes in topological order; nodes that are in order stay as they are (Kahn 1962).
func (s *scanner) sorted() (*Graph, error) {
	nodes := s.graph.Nodes
	maker := map[string]int{}
	for i := range nodes {
		for _, out := range nodes[i].Outputs {
			if out != "" {
				maker[out] = i
			}
		}
	}
	waits := make([]int, len(nodes))
	readers := make([][]int, len(nodes))
	var ready []int
	for i := range nodes {
		for in := range nodes[i].reads {
			if m, ok := maker[in]; ok && in != "" {
				waits[i]++
				readers[m] = append(readers[m], i)
			}
		}
		if waits[i] == 0 {
			ready = append(ready, i)
		}
	}
	out := make([]Node, 0, len(nodes))
	for len(ready) > 0 {
		i := ready[0]
		ready = ready[1:]
		out = append(out, nodes[i])
		for _, r := range readers[i] {
			if waits[r]--; waits[r] == 0 {
				ready = append(ready, r)
			}
		}
	}
	if len(out) != len(nodes) {
		return nil, fmt.Errorf("%w: the graph has a cycle", ErrMalformed)
	}
	s.graph.Nodes = out
	return &s.graph, nil
}
