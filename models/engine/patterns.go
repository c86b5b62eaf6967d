package engine

import (
	"math"
	"slices"
	"strings"
)

// rewriting is a pattern and the operator that stands for it.
type rewriting struct {
	from string
	op   string
	in   []string       // names of the pattern that become the inputs
	with map[string]any // attributes
	when func(m *match) bool
	make func(c *compiler, m *match) *node // instead of op, in and with
}

// opsetMade is a version in which all operators that rewriting makes exist.
const opsetMade = 20

// patternTable lists the activations and normalizations that exporters write as several nodes.
func patternTable() []rewriting {
	x := []string{"x"}
	list := []rewriting{
		{from: "Mul(x, Sigmoid(x))", op: "Silu", in: x},
		{from: "Mul(x, HardSigmoid(x))", op: "HardSwish", in: x, when: isHardSwish},
		{from: "Mul(x, Tanh(Softplus(x)))", op: "Mish", in: x},
	}
	for _, sixth := range []string{"Div(%, 6)", "Mul(%, 0.16666667)"} {
		list = append(list,
			rewriting{from: fill(sixth, "Clip(Add(x, 3), 0, 6)"), op: "HardSigmoid", in: x, with: map[string]any{"alpha": float32(1) / 6, "beta": float32(0.5)}},
			rewriting{from: fill(sixth, "Mul(x, Clip(Add(x, 3), 0, 6))"), op: "HardSwish", in: x})
	}
	for _, gate := range []string{"Erf(Div(x, 1.41421356))", "Erf(Mul(x, 0.70710678))"} {
		list = append(list, gelus(gate, "none")...)
	}
	for _, cube := range []string{"Pow(x, 3)", "Mul(Mul(x, x), x)"} {
		gate := fill("Tanh(Mul(Add(x, Mul(%, 0.044715)), 0.79788456))", cube)
		list = append(list, gelus(gate, "tanh")...)
	}
	for _, arg := range []string{"Mul(Mul(x, 0.79788456), Add(Mul(Mul(x, x), 0.044715), 1))", "Mul(Mul(x, 0.79788456), Add(Mul(Mul(x, 0.044715), x), 1))"} {
		list = append(list, gelus(fill("Tanh(%)", arg), "tanh")...)
	}
	const centered = "Sub(x, ReduceMean(x))"
	for _, square := range []string{"Pow(%, 2)", "Mul(%, %)"} {
		root := fill("Sqrt(Add(ReduceMean(%), $epsilon))", fill(square, centered))
		list = append(list, rewriting{from: "Mul(Div(" + centered + ", " + root + "), $scale)", make: makeLayerNorm})
	}
	return append(list, rewriting{from: "Add(LayerNormalization(x, $scale), $bias)", make: addLayerNormBias})
}

// gelus are the ways to write half of x times one plus a gate.
func gelus(gate, approximate string) []rewriting {
	var list []rewriting
	for _, form := range []string{
		"Mul(Mul(x, %), 0.5)", "Mul(Mul(x, 0.5), %)", "Mul(x, Mul(%, 0.5))", "Div(Mul(x, %), 2)", "Mul(Div(x, 2), %)", "Mul(x, Div(%, 2))",
	} {
		list = append(list, rewriting{from: fill(form, "Add("+gate+", 1)"), op: "Gelu", in: []string{"x"}, with: map[string]any{"approximate": approximate}})
	}
	return list
}

// fill puts text in the places of a form that are marked with %.
func fill(form, text string) string { return strings.ReplaceAll(form, "%", text) }

func patternRules() []rule {
	var rules []rule
	for _, r := range patternTable() {
		p := parse(r.from)
		rules = append(rules, func(c *compiler, n *node) bool { return r.apply(c, p, n) })
	}
	return rules
}

func (r *rewriting) apply(c *compiler, p *pattern, n *node) bool {
	m := c.find(p, n)
	if m == nil || r.when != nil && !r.when(m) {
		return false
	}
	var made *node
	if r.make != nil {
		made = r.make(c, m)
	} else {
		var in []int
		for _, name := range r.in {
			in = append(in, m.slot(name))
		}
		made = c.made(r.op, opsetMade, in, r.with)
	}
	if made == nil {
		return false
	}
	c.replace(n, m.nodes, made)
	return true
}

func isHardSwish(m *match) bool {
	n := m.node("HardSigmoid")
	alpha, beta := float32(0.2), float32(0.5)
	if v, ok := n.Attrs["alpha"]; ok {
		alpha = v.F
	}
	if v, ok := n.Attrs["beta"]; ok {
		beta = v.F
	}
	return math.Abs(float64(alpha)-1.0/6) < 1e-6 && beta == 0.5
}

// makeLayerNorm checks that both means are over the last axis, which the scale belongs to.
func makeLayerNorm(c *compiler, m *match) *node {
	rank := c.rankOf(m.slot("x"), 0)
	for _, n := range m.nodes {
		switch n.Op {
		case "ReduceMean":
			if !c.overLast(n, rank) {
				return nil
			}
		case "Pow", "Sub", "Div", "Add", "Mul", "Sqrt":
		default:
			return nil
		}
	}
	epsilon, ok := c.scalar(m.slot("$epsilon"))
	scale := c.consts[m.slot("$scale")]
	if !ok || len(scale.Shape) != 1 || !scale.DType.IsFloat() || scale.Len() == 1 {
		return nil
	}
	return c.made("LayerNormalization", opsetMade, []int{m.slot("x"), m.slot("$scale")}, map[string]any{"epsilon": float32(epsilon), "axis": int64(-1)})
}

// overLast says whether a reduction is over the last axis of a value of a rank (-1: unknown) and keeps it as one element.
func (c *compiler) overLast(n *node, rank int) bool {
	axes := n.Attrs["axes"].Ints
	if n.Opset >= 18 && len(n.in) > 1 && n.in[1] >= 0 {
		axes = c.consts[n.in[1]].I
	}
	if v, ok := n.Attrs["keepdims"]; ok && v.I != 1 {
		return false
	}
	return slices.Equal(axes, []int64{-1}) || rank > 0 && slices.Equal(axes, []int64{int64(rank - 1)})
}

func addLayerNormBias(c *compiler, m *match) *node {
	n := m.node("LayerNormalization")
	scale, bias := &c.consts[m.slot("$scale")], &c.consts[m.slot("$bias")]
	if len(n.in) > 2 || len(n.out) > 1 || !slices.Equal(scale.Shape, bias.Shape) || !bias.DType.IsFloat() {
		return nil
	}
	with := map[string]any{}
	for name, a := range n.Attrs {
		switch name {
		case "epsilon":
			with[name] = a.F
		case "axis":
			with[name] = a.I
		}
	}
	return c.made(n.Op, n.Opset, []int{n.in[0], n.in[1], m.slot("$bias")}, with)
}
