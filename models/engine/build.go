package engine

import (
	"errors"
	"fmt"
	"slices"

	"idunno/models/internal/ops"
	"idunno/models/onnx"
)

// node is a node of the graph with slots instead of names. Rewriting replaces nodes; what is left becomes steps.
type node struct {
	ops.Node
	title   string
	in, out []int
	dead    bool
}

// enter turns a node of the graph into a constant, when all its inputs are constant, or queues it. An operator that is not implemented is
// noted in errs.
func (c *compiler) enter(n *onnx.Node) error {
	if done, err := c.inline(n); done || err != nil {
		return err
	}
	in := &node{Node: ops.Node{Opset: n.Opset}, title: n.Title()}
	if in.Opset == 0 {
		in.Opset = c.opsets[n.Domain]
	}
	constant := true
	for _, name := range n.Inputs {
		s := -1
		if name != "" {
			s = c.slotOf(name)
			constant = constant && c.isConst[s]
		}
		in.in = append(in.in, s)
	}
	wanted := len(n.Outputs)
	for !c.table.Variadic(n) && wanted > 1 && (n.Outputs[wanted-1] == "" || c.uses[c.slotOf(n.Outputs[wanted-1])] == 0) {
		wanted-- // an optional output that nobody reads
	}
	for i, name := range n.Outputs[:wanted] {
		if name == "" {
			name = fmt.Sprintf("\x00%d/%d", len(c.nodes), i) // no name in a file can be this
		}
		in.out = append(in.out, c.slotOf(name))
	}
	shown := *n
	shown.Outputs = n.Outputs[:wanted]
	in.Node.Node = &shown
	if err := c.table.Check(&in.Node); err != nil {
		return c.note(in.wrap(err))
	}
	if constant && !isControl(n) {
		st, err := c.step(in)
		if err != nil {
			return c.note(err)
		}
		if done, err := c.fold(st); done || err != nil {
			return err
		}
	}
	for _, s := range in.out {
		c.maker[s] = len(c.nodes)
	}
	c.nodes = append(c.nodes, in)
	return nil
}

func (n *node) wrap(err error) error { return fmt.Errorf("%s (opset %d): %w", n.title, n.Opset, err) }

// note keeps errors of operators that are not implemented, so that all can be named at once.
func (c *compiler) note(err error) error {
	if errors.Is(err, ErrUnsupported) {
		if len(c.errs) < 8 {
			c.errs = append(c.errs, err)
		}
		return nil
	}
	return err
}

// step builds the operator of a node.
func (c *compiler) step(n *node) (*step, error) {
	n.Consts = n.Consts[:0]
	for _, s := range n.in {
		k := (*Tensor)(nil)
		if s >= 0 && c.isConst[s] {
			k = &c.consts[s]
		}
		n.Consts = append(n.Consts, k)
	}
	op, err := c.operator(&n.Node)
	if err != nil {
		return nil, n.wrap(err)
	}
	_, alias := op.(ops.Aliaser)
	flat, _ := op.(ops.Elementwise)
	return &step{op: op, flat: flat, name: n.Op, title: n.title, in: n.in, out: n.out, alias: alias}, nil
}

// build turns the nodes that are left into steps.
func (c *compiler) build() error {
	for s := range c.maker {
		c.maker[s] = -1
	}
	for _, n := range c.nodes {
		if n.dead {
			continue
		}
		st, err := c.step(n)
		if err != nil {
			if err = c.note(err); err != nil {
				return err
			}
			continue
		}
		if !c.limits.NoFusion && c.fuse(n, st) {
			continue
		}
		c.push(*st)
	}
	if len(c.errs) > 0 {
		return errors.Join(c.errs...)
	}
	c.steps = slices.DeleteFunc(c.steps, func(st step) bool { return st.op == nil })
	return nil
}

func (c *compiler) push(st step) {
	for _, s := range st.out {
		c.maker[s] = len(c.steps)
	}
	c.steps = append(c.steps, st)
}

// release drops constants that no step reads: what was folded or rewritten, and weights of which the operator has a packed copy.
func (c *compiler) release() {
	needed := make([]bool, c.slots)
	for _, st := range c.steps {
		p, packs := st.op.(ops.Packer)
		for i, s := range st.in {
			if s >= 0 && !(packs && p.Packs(i)) {
				needed[s] = true
			}
		}
	}
	for _, s := range c.outSlot {
		needed[s] = true
	}
	for s := range c.consts {
		if c.isConst[s] && !needed[s] {
			c.consts[s].F, c.consts[s].I = nil, nil
		}
	}
}

// maxFold is the arithmetic that Compile does for all constants together; what costs more is left to the run.
const maxFold = 1 << 27

// fold computes a step whose inputs are all constant.
func (c *compiler) fold(st *step) (done bool, err error) {
	args := make([]*Tensor, len(st.in))
	work := int64(0)
	for i, s := range st.in {
		if s < 0 {
			continue
		}
		if !c.isConst[s] {
			return false, nil
		}
		args[i] = &c.consts[s]
		work += int64(args[i].Len())
	}
	specs := make([]ops.Spec, len(st.out))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: %v", st.title, r)
		}
	}()
	if err := st.op.Shape(args, specs); ops.NeedsValues(err) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("%s: %w", st.title, err)
	}
	size := int64(0)
	for _, sp := range specs {
		n, err := sizeOf(sp, c.budget)
		if err != nil {
			return false, fmt.Errorf("%s: %w", st.title, err)
		}
		size += n
	}
	scratch := int64(0)
	if k, ok := st.op.(ops.Coster); ok {
		f, s := k.Cost(args, specs)
		work, scratch = work+f, 4*s
	}
	if work+size > c.work || scratch > c.budget || size > c.budget {
		return false, nil
	}
	c.budget -= size
	c.work -= work + size
	out := make([]*Tensor, len(st.out))
	for i, s := range st.out {
		c.consts[s] = newTensor(specs[i])
		c.isConst[s] = true
		out[i] = &c.consts[s]
	}
	if st.alias {
		out[0].F, out[0].I = args[0].F, args[0].I
		return true, nil
	}
	if size > 0 {
		st.op.Run(&ops.Scratch{}, args, out)
	}
	return true, nil
}

func newTensor(sp ops.Spec) Tensor {
	t := Tensor{DType: sp.DType, Shape: slices.Clone(sp.Shape)}
	n := t.Len()
	if sp.DType.IsFloat() {
		t.F = make([]float32, n)
	} else {
		t.I = make([]int64, n)
	}
	return t
}
