// Package engine compiles ONNX graphs and runs them.
//
// Compile checks that every operator is known, folds what depends on constants only, rewrites what exporters write as several nodes
// (patterns.go, affine.go, operands.go), packs weights and lets products take over what follows them (fuse.go). A Program is immutable; any
// number of Sessions run it, each single-threaded with an arena of its own, in which a plan made once for each shape of the inputs places
// every value, so that sessions share no lock and a run allocates nothing.
//
// The package knows tensors, not images or classes; package models is the layer for these.
package engine

import (
	"fmt"
	"slices"

	"idunno/models/internal/ops"
	"idunno/models/onnx"
)

// Tensor is the type of inputs and outputs of a run.
type Tensor = ops.Tensor

// Limits bounds what a model may use.
type Limits struct {
	Memory   int64 // bytes of one session's buffers, and of folded constants; 0 means 1 GiB
	NoFusion bool  // run every node as it stands in the model; for tests that compare
}

// Program is a compiled graph.
type Program struct {
	inputs, outputs []onnx.Value
	steps           []step
	slots           int      // number of values
	consts          []Tensor // by slot; only those with isConst
	isConst         []bool
	last            []int // by slot: the last step that reads it; the number of steps for an output, -1 when none does
	inSlot, outSlot []int
	limits          Limits
	params          int64
	ops             []string
	opset           int64
}

// step runs one operator. Slots number the values; -1 is a left-out input.
type step struct {
	name    string // of the operator, with what it took over
	op      ops.Op
	title   string
	in, out []int
	alias   bool
	flat    ops.Elementwise // op, if it is one
}

// Inputs are the declared inputs, in the order Run takes them.
func (p *Program) Inputs() []onnx.Value { return p.inputs }

// Outputs are the declared outputs, in the order Run gives them.
func (p *Program) Outputs() []onnx.Value { return p.outputs }

// Parameters is the number of weights: the elements of all floating-point initializers that are used.
func (p *Program) Parameters() int64 { return p.params }

// Ops lists the operators of the graph, each once, sorted, before any fusion.
func (p *Program) Ops() []string { return slices.Clone(p.ops) }

// Opset is the version of ONNX's operator set that the model uses.
func (p *Program) Opset() int64 { return p.opset }

// compiler holds the state of Compile.
type compiler struct {
	*Program
	table  ops.Table
	opsets map[string]int64
	slot   map[string]int
	uses   []int // how many nodes and graph outputs read a slot
	nodes  []*node
	ranks  map[int]int
	maker  []int // node that gives a slot, -1 for none; while steps are built, the step
	budget int64 // bytes for folded constants
	work   int64 // arithmetic left for folding
	errs   []error

	inlined int // branches of If that took the place of their node
}

// Compile makes a program of a graph. It returns ErrUnsupported naming operator, domain, operator set and node when something is not
// implemented, and other errors for graphs that contradict themselves. The graph must not be changed afterwards.
func Compile(g *onnx.Graph, l Limits) (*Program, error) {
	if l.Memory <= 0 {
		l.Memory = 1 << 30
	}
	c := &compiler{
		Program: &Program{inputs: g.Inputs, outputs: g.Outputs, limits: l, opset: g.Opsets[""]},
		table:   ops.NewTable(), opsets: g.Opsets, slot: map[string]int{}, ranks: map[int]int{}, budget: l.Memory, work: maxFold,
	}
	for _, v := range g.Inputs {
		if err := ops.CheckInput(v); err != nil {
			return nil, err
		}
	}
	return c.compile(g)
}

// compile fills the program.
func (c *compiler) compile(g *onnx.Graph) (*Program, error) {
	nodes := reachable(g)
	for _, v := range c.inputs {
		c.inSlot = append(c.inSlot, c.slotOf(v.Name))
	}
	c.constants(g, nodes)
	for _, n := range nodes {
		for _, in := range n.Inputs {
			if in != "" {
				c.uses[c.slotOf(in)]++
			}
		}
	}
	for _, v := range g.Outputs {
		c.uses[c.slotOf(v.Name)]++
	}
	for _, n := range nodes {
		c.ops = append(c.ops, n.Op)
		if err := c.enter(n); err != nil {
			return nil, err
		}
	}
	for _, v := range g.Outputs {
		c.outSlot = append(c.outSlot, c.slot[v.Name])
	}
	if !c.limits.NoFusion && len(c.errs) == 0 {
		if err := c.rewrite(); err != nil {
			return nil, err
		}
	}
	if err := c.build(); err != nil {
		return nil, err
	}
	slices.Sort(c.ops)
	c.ops = slices.Compact(c.ops)
	c.release()
	c.lastReaders()
	return c.Program, nil
}

// reachable returns the nodes that the outputs need, in order.
func reachable(g *onnx.Graph) []*onnx.Node {
	need := map[string]bool{}
	for _, v := range g.Outputs {
		need[v.Name] = true
	}
	var out []*onnx.Node
	for i := len(g.Nodes) - 1; i >= 0; i-- {
		n := &g.Nodes[i]
		if !slices.ContainsFunc(n.Outputs, func(o string) bool { return o != "" && need[o] }) {
			continue
		}
		n = withCaptures(n)
		for _, in := range n.Inputs {
			if in != "" {
				need[in] = true
			}
		}
		out = append(out, n)
	}
	slices.Reverse(out)
	return out
}

func (c *compiler) slotOf(name string) int {
	s, ok := c.slot[name]
	if !ok {
		s = c.slots
		c.slot[name] = s
		c.slots++
		c.consts = append(c.consts, Tensor{})
		c.isConst = append(c.isConst, false)
		c.uses = append(c.uses, 0)
		c.maker = append(c.maker, -1)
	}
	return s
}

// newConst makes a slot for a constant that the model does not have.
func (c *compiler) newConst(t Tensor) int {
	s := c.slotOf(fmt.Sprintf("\x00const %d", c.slots)) // no name in a file can be this
	c.consts[s], c.isConst[s] = t, true
	return s
}

// constants enters the initializers that the nodes or outputs read.
func (c *compiler) constants(g *onnx.Graph, nodes []*onnx.Node) {
	use := func(name string) {
		t := g.Initializers[name]
		if t == nil || c.isConst[c.slotOf(name)] {
			return
		}
		s := c.slot[name]
		c.consts[s], c.isConst[s] = ops.FromONNX(t), true
		c.params += int64(len(t.Floats))
	}
	for _, n := range nodes {
		for _, in := range n.Inputs {
			use(in)
		}
	}
	for _, v := range g.Outputs {
		use(v.Name)
	}
}

// lastReaders finds for each value the last step that needs it.
func (c *compiler) lastReaders() {
	c.last = make([]int, c.slots)
	for i := range c.last {
		c.last[i] = -1
	}
	for i, st := range c.steps {
		for _, s := range slices.Concat(st.in, st.out) {
			if s >= 0 {
				c.last[s] = i
			}
		}
	}
	for _, s := range c.outSlot {
		c.last[s] = len(c.steps)
	}
}

// size prints a number of bytes, rounded up.
func size(n int64) string {
	if n < 10<<20 {
		return fmt.Sprintf("%d KiB", (n+1<<10-1)>>10)
	}
	return fmt.Sprintf("%d MiB", (n+1<<20-1)>>20)
}

// sizeOf is the memory of an output in bytes; an error when it is more than limit.
func sizeOf(sp ops.Spec, limit int64) (int64, error) {
	n := int64(8)
	if sp.DType.IsFloat() {
		n = 4
	}
	for _, d := range sp.Shape {
		if d < 0 {
			return 0, fmt.Errorf("dimension %d", d)
		}
		if d == 0 {
			return 0, nil
		}
	}
	for _, d := range sp.Shape {
		if n > limit/int64(d) {
			return 0, fmt.Errorf("%w: a tensor of shape %v, at most %s are allowed", ErrTooLarge, sp.Shape, size(limit))
		}
		n *= int64(d)
	}
	return n, nil
}
