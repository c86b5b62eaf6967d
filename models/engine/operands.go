package engine

import "idunno/models/internal/ops"

// viewOperands lets a product of two computed values read operands that are transposed in between where they are.
func viewOperands(c *compiler, n *node) bool {
	if n.Domain != "" || n.Op != "MatMul" && n.Op != "ViewsMatMul" || c.isConst[n.in[0]] || c.isConst[n.in[1]] {
		return false
	}
	for i, name := range []string{"a", "b"} {
		t := c.alone(n.in[i])
		if t == nil || t.Op != "Transpose" || n.Attrs[name].Ints != nil || !ops.Viewable(t.Attrs["perm"].Ints, false) {
			continue
		}
		if other := c.rankOf(n.in[1-i], 0); other < 2 {
			continue // a vector is completed to a matrix, which the operator with views does not do
		}
		made := c.views(n)
		made.in[i] = t.in[0]
		made.Attrs[name] = attrInts(t.Attrs["perm"].Ints)
		c.replace(n, []*node{t}, made)
		return true
	}
	return false
}

// viewResult lets such a product write its result in the order that a Transpose behind it asks for.
func viewResult(c *compiler, n *node) bool {
	if n.Domain != "" || n.Op != "Transpose" || len(n.out) != 1 || !ops.Viewable(n.Attrs["perm"].Ints, true) {
		return false
	}
	p := c.alone(n.in[0])
	if p == nil || p.Op != "MatMul" && p.Op != "ViewsMatMul" || c.isConst[p.in[0]] || c.isConst[p.in[1]] || p.Attrs["y"].Ints != nil {
		return false
	}
	if p.Op == "MatMul" && (c.rankOf(p.in[0], 0) < 2 || c.rankOf(p.in[1], 0) < 2) {
		return false
	}
	made := c.views(p)
	made.Attrs["y"] = attrInts(n.Attrs["perm"].Ints)
	c.replace(n, []*node{p}, made)
	return true
}

// foldScale takes the multiplication of a product of two computed values by a number into it, as attention divides by the root of its
// width.
func foldScale(c *compiler, n *node) bool {
	if n.Op != "Mul" && n.Op != "Div" || len(n.in) != 2 || len(n.out) != 1 {
		return false
	}
	from, a, ok := c.affineOf(n)
	if !ok || len(a.scale) != 1 || a.shift[0] != 0 || a.rank > 1 {
		return false
	}
	p := c.alone(from)
	if p == nil || p.Op != "MatMul" && p.Op != "ViewsMatMul" || c.isConst[p.in[0]] || c.isConst[p.in[1]] {
		return false
	}
	if p.Op == "MatMul" && (c.rankOf(p.in[0], 0) < 2 || c.rankOf(p.in[1], 0) < 2) {
		return false
	}
	made := c.views(p)
	made.Attrs["alpha"] = attrFloat(alphaOf(p) * float32(a.scale[0]))
	c.replace(n, []*node{p}, made)
	return true
}

// scaledOperands takes a multiplication of an operand by a number into a product of two computed values.
func scaledOperands(c *compiler, n *node) bool {
	if n.Domain != "" || n.Op != "MatMul" && n.Op != "ViewsMatMul" || c.isConst[n.in[0]] || c.isConst[n.in[1]] {
		return false
	}
	if n.Op == "MatMul" && (c.rankOf(n.in[0], 0) < 2 || c.rankOf(n.in[1], 0) < 2) {
		return false
	}
	for i, s := range n.in {
		m := c.alone(s)
		if m == nil || m.Op != "Mul" && m.Op != "Div" {
			continue
		}
		from, a, ok := c.affineOf(m)
		if !ok || len(a.scale) != 1 || a.shift[0] != 0 || a.rank > 1 {
			continue
		}
		made := c.views(n)
		made.in[i] = from
		made.Attrs["alpha"] = attrFloat(alphaOf(n) * float32(a.scale[0]))
		c.replace(n, []*node{m}, made)
		return true
	}
	return false
}

func alphaOf(n *node) float32 {
	if v, ok := n.Attrs["alpha"]; ok {
		return v.F
	}
	return 1
}

// views copies a product as the operator that has orders of its operands and result, and a factor.
func (c *compiler) views(n *node) *node {
	made := c.made("ViewsMatMul", opsetMade, []int{n.in[0], n.in[1]}, nil)
	for name, v := range n.Attrs {
		made.Attrs[name] = v
	}
	return made
}
