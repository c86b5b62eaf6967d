package engine

import (
	"fmt"

	"idunno/models/onnx"
)

// inline replaces an If whose condition is constant by the nodes of the branch that it takes, so that they are folded and fused like any
// others. It reports whether it did.
func (c *compiler) inline(n *onnx.Node) (bool, error) {
	if n.Domain != "" || n.Op != "If" || len(n.Inputs) != 1+len(n.Captures) || n.Inputs[0] == "" {
		return false, nil
	}
	s := c.slotOf(n.Inputs[0])
	if !c.isConst[s] || c.consts[s].DType != onnx.Bool || c.consts[s].Len() != 1 {
		return false, nil
	}
	name := "else_branch"
	if c.consts[s].I[0] != 0 {
		name = "then_branch"
	}
	g := n.Attrs[name].G
	if g == nil || len(g.Inputs) > 0 || len(g.Outputs) < len(n.Outputs) {
		return false, nil // the usual way says what is wrong
	}
	for _, in := range n.Inputs {
		c.uses[c.slotOf(in)]--
	}
	c.inlined++
	own := map[string]string{}
	prefix := fmt.Sprintf("\x00if %d/", c.inlined) // no name in a file can be this
	for name := range g.Initializers {
		own[name] = prefix + name
	}
	for i := range g.Nodes {
		for _, out := range g.Nodes[i].Outputs {
			own[out] = prefix + out
		}
	}
	flat := renamed(g, own)
	for i, out := range n.Outputs {
		if out != "" {
			flat.Nodes = append(flat.Nodes, onnx.Node{Op: "Identity", Inputs: []string{flat.Outputs[i].Name}, Outputs: []string{out}})
			flat.Outputs[i].Name = out
		}
	}
	flat.Outputs = flat.Outputs[:len(n.Outputs)]
	nodes := reachable(flat)
	c.constants(flat, nodes)
	for _, m := range nodes {
		for _, in := range m.Inputs {
			if in != "" {
				c.uses[c.slotOf(in)]++
			}
		}
	}
	for _, m := range nodes {
		if err := c.enter(m); err != nil {
			return false, fmt.Errorf("%s: %s: %w", n.Title(), name, err)
		}
	}
	return true, nil
}

// renamed copies a graph with other names for some of its values.
func renamed(g *onnx.Graph, names map[string]string) *onnx.Graph {
	to := func(list []string) []string {
		out := make([]string, len(list))
		for i, s := range list {
			out[i] = s
			if r, ok := names[s]; ok && s != "" {
				out[i] = r
			}
		}
		return out
	}
	out := &onnx.Graph{Name: g.Name, Opsets: g.Opsets, Inputs: g.Inputs, Initializers: map[string]*onnx.Tensor{}, Captures: to(g.Captures)}
	for name, t := range g.Initializers {
		out.Initializers[to([]string{name})[0]] = t
	}
	for _, v := range g.Outputs {
		v.Name = to([]string{v.Name})[0]
		out.Outputs = append(out.Outputs, v)
	}
	for _, n := range g.Nodes {
		n.Inputs, n.Outputs, n.Captures = to(n.Inputs), to(n.Outputs), to(n.Captures)
		attrs := make(map[string]onnx.Attr, len(n.Attrs))
		for k, a := range n.Attrs {
			if a.G != nil {
				a.G = renamed(a.G, without(names, a.G))
			}
			attrs[k] = a
		}
		n.Attrs = attrs
		out.Nodes = append(out.Nodes, n)
	}
	return out
}

// without leaves out the names that a graph inside gives itself.
func without(names map[string]string, g *onnx.Graph) map[string]string {
	out := map[string]string{}
	for _, name := range g.Captures {
		if r, ok := names[name]; ok {
			out[name] = r
		}
	}
	return out
}
