package engine

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// pattern is an expression that nodes are compared with: an operator with arguments, a number, a name for any value, or a name with "$" in
// front for a constant. A name that comes twice stands for one value.
type pattern struct {
	op     string
	args   []*pattern
	name   string
	value  float64
	number bool
}

// parse reads a pattern as "Mul(x, Add(Erf(Div(x, 1.4142135)), 1))". Patterns stand in this package, so a wrong one panics.
func parse(s string) *pattern {
	p, rest := parseTerm(s)
	if strings.TrimSpace(rest) != "" {
		panic(fmt.Sprintf("engine: pattern %q ends with %q", s, rest))
	}
	return p
}

func parseTerm(s string) (*pattern, string) {
	s = strings.TrimSpace(s)
	end := strings.IndexAny(s, "(,)")
	if end < 0 {
		end = len(s)
	}
	word, rest := strings.TrimSpace(s[:end]), s[end:]
	if word == "" {
		panic(fmt.Sprintf("engine: pattern %q", s))
	}
	if v, err := strconv.ParseFloat(word, 64); err == nil {
		return &pattern{value: v, number: true}, rest
	}
	if !strings.HasPrefix(rest, "(") {
		return &pattern{name: word}, rest
	}
	p := &pattern{op: word}
	for {
		var arg *pattern
		arg, rest = parseTerm(rest[1:])
		p.args = append(p.args, arg)
		if rest == "" {
			panic(fmt.Sprintf("engine: pattern %q is open", s))
		}
		if rest[0] == ')' {
			return p, rest[1:]
		}
	}
}

// match is what a pattern was found to stand for.
type match struct {
	c     *compiler
	names []string
	slots []int
	nodes []*node // of the pattern's operators, the outermost first
}

// slot is the value of a name.
func (m *match) slot(name string) int {
	if i := slices.Index(m.names, name); i >= 0 {
		return m.slots[i]
	}
	return -1
}

// node is the first matched node of an operator, in the order of the pattern.
func (m *match) node(op string) *node {
	for _, n := range m.nodes {
		if n.Op == op {
			return n
		}
	}
	return nil
}

// find compares a node with a pattern. All nodes but n must be needed for nothing else, since they go away.
func (c *compiler) find(p *pattern, n *node) *match {
	if n.Op != p.op {
		return nil
	}
	m := &match{c: c}
	if !m.operator(p, n) {
		return nil
	}
	read := map[int]int{}
	seen := map[*node]bool{}
	for _, k := range m.nodes {
		if seen[k] {
			continue
		}
		seen[k] = true
		for _, s := range k.in {
			read[s]++
		}
	}
	for k := range seen {
		for _, s := range k.out {
			if k != n && c.uses[s] != read[s] {
				return nil
			}
		}
	}
	return m
}

// value compares a value with a pattern.
func (m *match) value(p *pattern, s int) bool {
	c := m.c
	switch {
	case s < 0:
		return false
	case p.number:
		v, ok := c.scalar(s)
		return ok && math.Abs(v-p.value) <= 1e-4*math.Abs(p.value)
	case p.op == "":
		if i := slices.Index(m.names, p.name); i >= 0 {
			return m.slots[i] == s
		}
		if strings.HasPrefix(p.name, "$") && !c.isConst[s] {
			return false
		}
		m.names, m.slots = append(m.names, p.name), append(m.slots, s)
		return true
	}
	if c.isConst[s] || c.maker[s] < 0 {
		return false
	}
	return m.operator(p, c.nodes[c.maker[s]])
}

// operator compares a node with an operator and its arguments. Inputs beyond the pattern's must be constant; rules look at them.
func (m *match) operator(p *pattern, n *node) bool {
	if n.dead || n.Op != p.op || n.Domain != "" || len(n.in) == 0 || len(m.nodes) > 64 {
		return false
	}
	m.nodes = append(m.nodes, n)
	if p.op == "Clip" {
		lo, hi, ok := m.c.bounds(n)
		return ok && lo == p.args[1].value && hi == p.args[2].value && m.value(p.args[0], n.in[0])
	}
	if len(n.in) < len(p.args) {
		return false
	}
	for _, s := range n.in[len(p.args):] {
		if s >= 0 && !m.c.isConst[s] {
			return false
		}
	}
	if arithmetic(p.op) && len(n.Attrs) > 0 {
		return false // the broadcasting of old operator sets
	}
	before := *m
	if m.all(p.args, n.in) {
		return true
	}
	if p.op != "Add" && p.op != "Mul" {
		return false
	}
	*m = before
	return m.all(p.args, []int{n.in[1], n.in[0]})
}

func arithmetic(op string) bool {
	return op == "Add" || op == "Mul" || op == "Sub" || op == "Div" || op == "Pow"
}

func (m *match) all(args []*pattern, in []int) bool {
	for i, a := range args {
		if !m.value(a, in[i]) {
			return false
		}
	}
	return true
}

// scalar is the number that a constant is.
func (c *compiler) scalar(s int) (float64, bool) {
	if s < 0 || !c.isConst[s] || c.consts[s].Len() != 1 || len(c.consts[s].F)+len(c.consts[s].I) != 1 {
		return 0, false
	}
	if c.consts[s].F != nil {
		return float64(c.consts[s].F[0]), true
	}
	return float64(c.consts[s].I[0]), true
}

// bounds are those of a Clip with constant ones.
func (c *compiler) bounds(n *node) (lo, hi float64, ok bool) {
	lo, hi = -math.MaxFloat32, math.MaxFloat32
	if n.Opset < 11 {
		if v, ok := n.Attrs["min"]; ok {
			lo = float64(v.F)
		}
		if v, ok := n.Attrs["max"]; ok {
			hi = float64(v.F)
		}
		return lo, hi, true
	}
	for i, v := range []*float64{&lo, &hi} {
		if len(n.in) <= i+1 || n.in[i+1] < 0 {
			continue
		}
		if *v, ok = c.scalar(n.in[i+1]); !ok {
			return 0, 0, false
		}
	}
	return lo, hi, true
}
