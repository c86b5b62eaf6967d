package engine

import (
	"fmt"
	"slices"

	"idunno/models/internal/ops"
	"idunno/models/onnx"
)

// control is an If, Loop or Scan: a node that runs graphs of its own. Their values are those of the graph around them as well; the node
// reads these as further inputs behind its own.
type control struct {
	kind   string
	own    int // inputs of the node itself
	bodies []body
	scan   scanPlan
}

// body is a compiled graph inside of a node. The inputs of its program are its own and then the values from around it.
type body struct {
	program  *Program
	inputs   int   // of its own
	captures []int // where the others stand in the inputs of the node
}

// Shape can't tell: a run of the graphs has to show it.
func (c *control) Shape([]*Tensor, []ops.Spec) error { return ops.ErrNeedsValues }

// Run is never called; dynamic.control does the work: a model with such a node has no plan.
func (c *control) Run(*ops.Scratch, []*Tensor, []*Tensor) {
	panic("a graph inside of a node outside of a run")
}

// isControl says whether a node runs graphs.
func isControl(n *onnx.Node) bool {
	return n.Domain == "" && (n.Op == "If" || n.Op == "Loop" || n.Op == "Scan")
}

// withCaptures gives a node that reads what the graphs inside of it read.
func withCaptures(n *onnx.Node) *onnx.Node {
	if len(n.Captures) == 0 {
		return n
	}
	wide := *n
	wide.Inputs = slices.Concat(n.Inputs, n.Captures)
	return &wide
}

// operator builds the operator of a node.
func (c *compiler) operator(n *ops.Node) (ops.Op, error) {
	if !isControl(n.Node) {
		return c.table.New(n)
	}
	op := &control{kind: n.Op, own: len(n.Inputs) - len(n.Captures)}
	graphs := []string{"body"}
	if n.Op == "If" {
		graphs = []string{"then_branch", "else_branch"}
	}
	known := graphs
	if n.Op == "Scan" {
		known = append(known, "num_scan_inputs", "scan_input_axes", "scan_input_directions", "scan_output_axes", "scan_output_directions")
	}
	for name := range n.Attrs {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("%w: attribute %q of %s", ErrUnsupported, name, n.Op)
		}
	}
	for _, name := range graphs {
		a := n.Attrs[name]
		if a.Kind != onnx.AttrGraph {
			return nil, fmt.Errorf("%s without the graph %q", n.Op, name)
		}
		b, err := c.body(n, a.G)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		op.bodies = append(op.bodies, b)
	}
	return op, op.check(n)
}

// check compares the inputs and outputs of the node with those of its graphs.
func (c *control) check(n *ops.Node) error {
	b := &c.bodies[0]
	given := len(b.program.outputs)
	switch c.kind {
	case "If":
		if c.own != 1 || n.Inputs[0] == "" {
			return fmt.Errorf("If takes the condition and nothing else, not %d inputs", c.own)
		}
		for i := range c.bodies {
			if b := &c.bodies[i]; b.inputs != 0 || len(b.program.outputs) < len(n.Outputs) {
				return fmt.Errorf("a branch with %d inputs and %d outputs, expected are none and %d", b.inputs, len(b.program.outputs), len(n.Outputs))
			}
		}
		return nil
	case "Loop":
		if c.own < 2 || b.inputs != c.own || given < c.own-1 || len(n.Outputs) > given-1 {
			return fmt.Errorf("Loop with %d inputs and %d outputs has a body with %d and %d", c.own, len(n.Outputs), b.inputs, given)
		}
	case "Scan":
		if err := c.scan.read(n, c.own, given); err != nil {
			return err
		}
		if b.inputs != c.own || given < c.scan.states || len(n.Outputs) > given {
			return fmt.Errorf("Scan with %d inputs and %d outputs has a body with %d and %d", c.own, len(n.Outputs), b.inputs, given)
		}
	}
	for i, in := range n.Inputs[:c.own] {
		if in == "" && (c.kind == "Scan" || i > 1) {
			return fmt.Errorf("input %d is left out, but %s needs it", i, c.kind)
		}
	}
	return nil
}

// body compiles a graph inside of a node. Constants from around it are constants in it too.
func (c *compiler) body(n *ops.Node, g *onnx.Graph) (body, error) {
	b := body{inputs: len(g.Inputs)}
	inner := &compiler{
		Program: &Program{inputs: slices.Clone(g.Inputs), outputs: g.Outputs, limits: c.limits, opset: c.opset},
		table:   c.table, opsets: c.opsets, slot: map[string]int{}, ranks: map[int]int{}, budget: c.budget, work: c.work, inlined: c.inlined,
	}
	for _, name := range g.Captures {
		i := slices.Index(n.Inputs, name)
		if i < 0 {
			return b, fmt.Errorf("%q is read, which nothing gives", name)
		}
		if k := n.Consts[i]; k != nil {
			s := inner.slotOf(name)
			inner.consts[s], inner.isConst[s] = *k, true
			continue
		}
		inner.inputs = append(inner.inputs, onnx.Value{Name: name})
		b.captures = append(b.captures, i)
	}
	p, err := inner.compile(g)
	c.budget, c.work, c.inlined = inner.budget, inner.work, inner.inlined
	if err != nil {
		return b, err
	}
	c.params += p.params
	c.ops = append(c.ops, p.ops...)
	b.program = p
	return b, nil
}

// scanPlan holds the attributes of Scan.
type scanPlan struct {
	states          int
	inAxes, outAxes []int64 // by scanned input and output
	inBack, outBack []bool  // from the last element to the first
}

func (p *scanPlan) read(n *ops.Node, own, given int) error {
	a := n.Attrs["num_scan_inputs"]
	if a.Kind != onnx.AttrInt || a.I < 1 || a.I > int64(own) {
		return fmt.Errorf("num_scan_inputs is %d of %d inputs", a.I, own)
	}
	p.states = own - int(a.I)
	outs := given - p.states
	if outs < 0 {
		return fmt.Errorf("the body gives %d values, there are %d states", given, p.states)
	}
	list := func(name string, n int, attr onnx.Attr) ([]int64, error) {
		if attr.Kind == onnx.AttrOther && attr.Ints == nil {
			return make([]int64, n), nil
		}
		if attr.Kind != onnx.AttrInts || len(attr.Ints) != n {
			return nil, fmt.Errorf("%s has %d elements for %d values", name, len(attr.Ints), n)
		}
		return attr.Ints, nil
	}
	var err error
	var back []int64
	for _, x := range []struct {
		side string
		n    int
		axes *[]int64
		back *[]bool
	}{{"scan_input", int(a.I), &p.inAxes, &p.inBack}, {"scan_output", outs, &p.outAxes, &p.outBack}} {
		if *x.axes, err = list(x.side+"_axes", x.n, n.Attrs[x.side+"_axes"]); err != nil {
			return err
		}
		if back, err = list(x.side+"_directions", x.n, n.Attrs[x.side+"_directions"]); err != nil {
			return err
		}
		for _, d := range back {
			if d != 0 && d != 1 {
				return fmt.Errorf("%s_directions has %d", x.side, d)
			}
			*x.back = append(*x.back, d == 1)
		}
	}
	return nil
}
