package engine

import (
	"slices"

	"idunno/models/internal/ops"
)

// fuse lets an earlier step take over a node, as the following do. It reports whether one did.
func (c *compiler) fuse(n *node, st *step) bool {
	if n.Domain != "" || len(st.out) != 1 || len(st.in) == 0 {
		return false
	}
	return c.fuseInStore(n, st) || c.fuseDepthwise(n, st) || c.fuseJoin(n, st) || c.fuseStage(n, st) || c.fuseResidual(n, st)
}

// before returns the step that gives a value which nobody but one reader needs, or nil.
func (c *compiler) before(s int) *step {
	if s < 0 || c.isConst[s] || c.uses[s] != 1 || c.maker[s] < 0 {
		return nil
	}
	prev := &c.steps[c.maker[s]]
	if prev.op == nil || len(prev.out) != 1 {
		return nil
	}
	return prev
}

// takeOver gives prev the result of st.
func (c *compiler) takeOver(prev, st *step) {
	c.maker[st.out[0]] = c.maker[prev.out[0]]
	prev.out = st.out
	prev.name += "+" + st.name
}

// fuseInStore: what a product does while it stores, an addition of a constant vector, ReLU, or a pooling.
func (c *compiler) fuseInStore(n *node, st *step) bool {
	from := st.in[0]
	switch n.Op {
	case "Relu":
		prev := c.before(from)
		if prev == nil {
			return false
		}
		f, ok := prev.op.(ops.Fuser)
		if !ok {
			return false
		}
		f.FuseRelu()
		c.takeOver(prev, st)
		return true
	case "Clip":
		prev := c.before(from)
		lo, hi, ok := c.bounds(n)
		if prev == nil || !ok {
			return false
		}
		f, ok := prev.op.(ops.Fuser)
		if !ok || !f.FuseClip(float32(lo), float32(hi)) {
			return false
		}
		c.takeOver(prev, st)
		return true
	case "MaxPool":
		prev := c.before(from)
		if prev == nil {
			return false
		}
		f, ok := prev.op.(ops.PoolFuser)
		if !ok || !f.FusePool(st.op) {
			return false
		}
		c.takeOver(prev, st)
		return true
	case "Add":
		bias := st.in[1]
		if c.isConst[from] {
			from, bias = bias, from
		}
		prev := c.before(from)
		if prev == nil || !c.isConst[bias] || len(n.Attrs) > 0 {
			return false
		}
		f, ok := prev.op.(ops.Fuser)
		if !ok || !f.FuseBias(&c.consts[bias]) {
			return false
		}
		c.takeOver(prev, st)
		return true
	}
	return false
}

// fuseDepthwise: a depthwise convolution goes into the convolution of 1 x 1 before it.
func (c *compiler) fuseDepthwise(n *node, st *step) bool {
	if n.Op != "Conv" {
		return false
	}
	prev := c.before(st.in[0])
	if prev == nil {
		return false
	}
	op := ops.NewExpansion(prev.op, len(prev.in), st.op)
	if op == nil {
		return false
	}
	prev.op, prev.in = op, append(slices.Clone(prev.in), st.in[1:]...)
	c.takeOver(prev, st)
	return true
}

// fuseJoin: convolutions write right where a Concat puts their channels. They move here, so their other inputs live until then.
func (c *compiler) fuseJoin(n *node, st *step) bool {
	if n.Op != "Concat" {
		return false
	}
	merged := step{title: st.title, out: st.out}
	var parts []ops.Op
	var inputs, makers []int
	for _, s := range st.in {
		prev := c.before(s)
		if prev == nil {
			return false
		}
		parts, inputs, makers = append(parts, prev.op), append(inputs, len(prev.in)), append(makers, c.maker[s])
		merged.in = append(merged.in, prev.in...)
		merged.name += prev.name + "+"
	}
	if merged.op = ops.NewJoin(parts, inputs, st.op); merged.op == nil {
		return false
	}
	merged.name += st.name
	for _, m := range makers {
		c.steps[m].op = nil
	}
	c.push(merged)
	return true
}

// fuseStage: an element-wise operator with constants goes behind a product, to be applied to blocks of its results.
func (c *compiler) fuseStage(n *node, st *step) bool {
	prev := c.before(st.in[0])
	if prev == nil {
		return false
	}
	var consts []*Tensor
	for _, s := range st.in[1:] {
		switch {
		case s < 0:
			consts = append(consts, nil)
		case c.isConst[s]:
			k := c.consts[s] // a copy: what stands in the program may be released
			consts = append(consts, &k)
		default:
			return false
		}
	}
	t := ops.NewTailed(prev.op, len(prev.in))
	if t == nil || !t.Append(st.op, consts) {
		return false
	}
	prev.op = t
	c.takeOver(prev, st)
	return true
}

// fuseResidual: the sum of a product with packed weights and another value goes into the later of the two steps.
func (c *compiler) fuseResidual(n *node, st *step) bool {
	if n.Op != "Add" || len(n.Attrs) > 0 || st.in[0] == st.in[1] || c.isConst[st.in[0]] || c.isConst[st.in[1]] {
		return false
	}
	best, operand := -1, -1
	for i, s := range st.in {
		if prev := c.before(s); prev != nil && c.maker[s] > best {
			if p, ok := prev.op.(ops.Packer); ok && p.Packs(1) && ops.NewTailed(prev.op, len(prev.in)) != nil {
				best, operand = c.maker[s], 1-i
			}
		}
	}
	if best < 0 {
		return false
	}
	prev := c.steps[best]
	t := ops.NewTailed(prev.op, len(prev.in))
	if !t.AppendOperand(st.op, len(prev.in), operand == 0) {
		return false
	}
	c.steps[best].op = nil // the other value may be made later, so the step moves here
	prev.op, prev.out, prev.name = t, st.out, prev.name+"+"+st.name
	prev.in = append(slices.Clone(prev.in), st.in[operand])
	c.push(prev)
	return true
}
