package engine

import (
	"fmt"
	"slices"
	"strings"

	"idunno/models/internal/ops"
	"idunno/models/onnx"
)

// rule replaces nodes by fewer or cheaper ones. It looks at a node and those before it and reports whether it changed anything.
type rule func(c *compiler, n *node) bool

// rewrite applies the rules to every node, in order, until none applies. A rule never adds nodes, so this ends.
func (c *compiler) rewrite() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the graph can't be simplified: %v", r)
		}
	}()
	rules := slices.Concat([]rule{dropIdentity, foldAffine}, patternRules(), []rule{viewOperands, scaledOperands, viewResult, foldScale})
	for i := 0; i < len(c.nodes); i++ {
		for again := true; again && !c.nodes[i].dead; {
			again = false
			for _, r := range rules {
				if r(c, c.nodes[i]) {
					again = true
					break
				}
			}
		}
	}
	return nil
}

// replace puts a node in the place of another and of those that are not needed any more; its output is that of old.
func (c *compiler) replace(old *node, gone []*node, made *node) {
	for _, s := range made.in {
		if s >= 0 {
			c.uses[s]++
		}
	}
	at := c.maker[old.out[0]]
	for _, n := range append([]*node{old}, gone...) {
		if n.dead {
			continue
		}
		n.dead = true
		for _, s := range n.in {
			if s >= 0 {
				c.uses[s]--
			}
		}
	}
	made.out, made.title = old.out, old.title
	c.nodes[at] = made
}

// made is a new node of an operator that is named in this package; attrs are int64, float32 or string.
func (c *compiler) made(op string, opset int64, in []int, attrs map[string]any) *node {
	o := &onnx.Node{Op: op, Outputs: []string{"y"}, Attrs: map[string]onnx.Attr{}}
	for _, s := range in {
		name := ""
		if s >= 0 {
			name = fmt.Sprint(s)
		}
		o.Inputs = append(o.Inputs, name)
	}
	for name, v := range attrs {
		switch v := v.(type) {
		case int64:
			o.Attrs[name] = onnx.Attr{Kind: onnx.AttrInt, I: v}
		case float32:
			o.Attrs[name] = attrFloat(v)
		case string:
			o.Attrs[name] = onnx.Attr{Kind: onnx.AttrString, S: v}
		}
	}
	return &node{Node: ops.Node{Node: o, Opset: opset, Made: ops.IsMade(op)}, in: in}
}

func attrInts(v []int64) onnx.Attr  { return onnx.Attr{Kind: onnx.AttrInts, Ints: v} }
func attrFloat(v float32) onnx.Attr { return onnx.Attr{Kind: onnx.AttrFloat, F: v} }

// alone returns the node that gives a value which nobody but one node reads, or nil.
func (c *compiler) alone(s int) *node {
	if s < 0 || c.isConst[s] || c.uses[s] != 1 || c.maker[s] < 0 {
		return nil
	}
	n := c.nodes[c.maker[s]]
	if n.dead || n.Domain != "" || len(n.out) != 1 {
		return nil
	}
	return n
}

// dropIdentity lets the reader of an Identity, or of a Dropout without mask, read what stands before it.
func dropIdentity(c *compiler, n *node) bool {
	changed := false
	for i, s := range n.in {
		p := c.alone(s)
		if p == nil || p.Op != "Identity" && (p.Op != "Dropout" || len(p.in) > 1) {
			continue
		}
		p.dead = true
		n.in[i] = p.in[0]
		c.uses[s] = 0
		changed = true
	}
	return changed
}

// rankOf is the number of dimensions of a value, or -1 when the graph does not tell. Rewriting never changes it.
func (c *compiler) rankOf(s int, depth int) int {
	if s < 0 || depth > 64 {
		return -1
	}
	r, ok := c.ranks[s]
	if !ok {
		r = c.findRank(s, depth)
		c.ranks[s] = r
	}
	return r
}

func (c *compiler) findRank(s int, depth int) int {
	if c.isConst[s] {
		return len(c.consts[s].Shape)
	}
	if i := slices.Index(c.inSlot, s); i >= 0 {
		if c.inputs[i].Shape {
			return len(c.inputs[i].Dims)
		}
		return -1
	}
	if c.maker[s] < 0 {
		return -1
	}
	n := c.nodes[c.maker[s]]
	if n.Domain != "" || len(n.in) == 0 {
		return -1
	}
	switch n.Op {
	case "Gemm", "Flatten":
		return 2
	case "Conv", "ConvTranspose":
		return c.rankOf(n.in[1], depth+1)
	case "Transpose":
		if p := n.Attrs["perm"].Ints; p != nil {
			return len(p)
		}
		return c.rankOf(n.in[0], depth+1)
	case "Reshape":
		if len(n.in) > 1 {
			return c.lengthOf(n.in[1], true)
		}
		return -1
	case "MatMul", "ViewsMatMul":
		a, b := c.rankOf(n.in[0], depth+1), c.rankOf(n.in[1], depth+1)
		if a >= 2 && b >= 2 {
			return max(a, b)
		}
		return -1
	case "Add", "Mul", "Sub", "Div", "Pow":
		a, b := c.rankOf(n.in[0], depth+1), c.rankOf(n.in[1], depth+1)
		if a < 0 || b < 0 {
			return -1
		}
		return max(a, b)
	}
	if strings.HasSuffix(n.Op, "Normalization") || sameRank[n.Op] {
		return c.rankOf(n.in[0], depth+1)
	}
	return -1
}

// lengthOf is the number of elements of a list of dimensions as exporters put it together, of parts when joined is true, or -1.
func (c *compiler) lengthOf(s int, joined bool) int {
	switch {
	case s < 0:
		return -1
	case c.isConst[s]:
		return len(c.consts[s].I)
	case c.maker[s] < 0:
		return -1
	}
	n := c.nodes[c.maker[s]]
	switch {
	case n.Domain != "":
		return -1
	case n.Op == "Unsqueeze" && c.isScalar(n.in[0], 0):
		return 1
	case n.Op == "Concat" && joined:
		total := 0
		for _, in := range n.in {
			k := c.lengthOf(in, false)
			if k < 0 {
				return -1
			}
			total += k
		}
		return total
	}
	return -1
}

// isScalar says that a value is one number: a dimension picked from a shape, or what is computed from such.
func (c *compiler) isScalar(s, depth int) bool {
	if s < 0 || depth > 8 || c.isConst[s] || c.maker[s] < 0 {
		return s >= 0 && c.isConst[s] && len(c.consts[s].Shape) == 0
	}
	n := c.nodes[c.maker[s]]
	if n.Domain == "" && n.Op == "Gather" {
		shape := c.maker[n.in[0]]
		return shape >= 0 && c.nodes[shape].Op == "Shape" && c.isConst[n.in[1]] && len(c.consts[n.in[1]].Shape) == 0
	}
	return n.Domain == "" && (n.Op == "Mul" || n.Op == "Div" || n.Op == "Add") && c.isConst[n.in[1]] && len(c.consts[n.in[1]].Shape) == 0 && c.isScalar(n.in[0], depth+1)
}

// sameRank lists operators whose output has as many dimensions as their first input.
var sameRank = map[string]bool{
	"Relu": true, "Clip": true, "Sigmoid": true, "Tanh": true, "Gelu": true, "Erf": true, "Sqrt": true, "LeakyRelu": true, "HardSwish": true,
	"HardSigmoid": true, "Elu": true, "Silu": true, "Softmax": true, "Identity": true, "Dropout": true, "Cast": true, "MaxPool": true,
	"AveragePool": true, "GlobalAveragePool": true, "Pad": true, "Slice": true, "Concat": true,
}
