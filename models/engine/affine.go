package engine

import (
	"maps"
	"math"

	"idunno/models/internal/ops"
	"idunno/models/onnx"
)

// affine is y = scale*x + shift, for each channel or, with one element, for all.
type affine struct {
	scale, shift []float64
	axis         int // of the channels, counted from the front; -1 for the last, 0 when the numbers hold for all
	rank         int // that the value must have at least, so that this is the right axis
}

// affineOf reads a node as an affine function of one of its inputs.
func (c *compiler) affineOf(n *node) (from int, a affine, ok bool) {
	if n.Op == "BatchNormalization" {
		return c.affineNorm(n)
	}
	if !arithmetic(n.Op) || n.Op == "Pow" || len(n.Attrs) > 0 || len(n.in) != 2 {
		return 0, a, false
	}
	from, k, reversed := n.in[0], n.in[1], false
	if from >= 0 && c.isConst[from] {
		from, k, reversed = k, from, true
	}
	if from < 0 || k < 0 || !c.isConst[k] || c.isConst[from] || !c.consts[k].DType.IsFloat() || c.consts[k].F == nil {
		return 0, a, false
	}
	t := &c.consts[k]
	axis, vector := channelAxis(t.Shape)
	if !vector {
		return 0, a, false
	}
	a.axis, a.rank = axis, len(t.Shape)
	for _, v := range t.F {
		scale, shift, ok := affineWith(n.Op, float64(v), reversed)
		if !ok {
			return 0, a, false
		}
		a.scale, a.shift = append(a.scale, scale), append(a.shift, shift)
	}
	return from, a, true
}

// affineWith is an operator with a constant operand, which stands first when reversed.
func affineWith(op string, v float64, reversed bool) (scale, shift float64, ok bool) {
	switch {
	case op == "Add":
		return 1, v, true
	case op == "Mul":
		return v, 0, true
	case op == "Sub" && reversed:
		return -1, v, true
	case op == "Sub":
		return 1, -v, true
	case op == "Div" && !reversed && v != 0:
		return 1 / v, 0, true
	}
	return 0, 0, false
}

// channelAxis tells which dimension of a shape is not 1, counted from the back as -1, -2...; 0 for none, and no vector when there are several.
func channelAxis(shape []int) (axis int, vector bool) {
	for i, d := range shape {
		if d == 1 {
			continue
		}
		if axis != 0 || d == 0 {
			return 0, false
		}
		axis = i - len(shape)
	}
	return axis, true
}

func (c *compiler) affineNorm(n *node) (from int, a affine, ok bool) {
	epsilon := 1e-5
	if v, ok := n.Attrs["epsilon"]; ok {
		epsilon = float64(v.F)
	}
	if len(n.in) != 5 || len(n.out) != 1 || n.Opset < 7 || n.Attrs["training_mode"].I != 0 || n.in[0] < 0 || c.isConst[n.in[0]] {
		return 0, a, false
	}
	if v, ok := n.Attrs["spatial"]; ok && v.I != 1 {
		return 0, a, false
	}
	var p [4][]float32
	for i, s := range n.in[1:] {
		if s < 0 || !c.isConst[s] || !c.consts[s].DType.IsFloat() || len(c.consts[s].Shape) != 1 {
			return 0, a, false
		}
		p[i] = c.consts[s].F
		if len(p[i]) == 0 || len(p[i]) != len(p[0]) {
			return 0, a, false
		}
	}
	for i := range p[0] {
		scale := float64(p[0][i]) / math.Sqrt(float64(p[3][i])+epsilon)
		a.scale = append(a.scale, scale)
		a.shift = append(a.shift, float64(p[1][i])-float64(p[2][i])*scale)
	}
	a.axis = 1
	return n.in[0], a, true
}

// foldAffine puts a normalization, or an addition or multiplication by constants of each channel, into the weights of the product before.
func foldAffine(c *compiler, n *node) bool {
	if len(n.out) != 1 || n.Domain != "" {
		return false
	}
	from, a, ok := c.affineOf(n)
	if !ok {
		return false
	}
	p := c.alone(from)
	if p == nil || len(p.in) < 2 || p.in[1] < 0 || !c.isConst[p.in[1]] || !c.consts[p.in[1]].DType.IsFloat() {
		return false
	}
	w := &c.consts[p.in[1]]
	if int64(4*w.Len()) > c.budget {
		return false
	}
	switch p.Op {
	case "Conv", "ConvTranspose":
		return c.affineConv(n, p, a, w)
	case "Gemm":
		return c.affineGemm(n, p, a, w)
	case "MatMul":
		return c.affineMatMul(n, p, a, w)
	}
	return false
}

// spread gives every one of n channels its numbers; nil when they are not n or not finite.
func (a *affine) spread(n int) *affine {
	if len(a.scale) != n && len(a.scale) != 1 {
		return nil
	}
	out := &affine{scale: make([]float64, n), shift: make([]float64, n)}
	for i := range n {
		s, t := a.scale[i%len(a.scale)], a.shift[i%len(a.scale)]
		if math.Abs(s) > math.MaxFloat32 || math.Abs(t) > math.MaxFloat32 || s != s || t != t {
			return nil
		}
		out.scale[i], out.shift[i] = s, t
	}
	return out
}

// bias is shift + scale*k for the constant k in slot s, or for 0 when s is -1; nil when it is not one number a channel.
func (c *compiler) bias(a *affine, s int, beta float64) []float32 {
	out := make([]float32, len(a.scale))
	for i := range out {
		k := 0.0
		if s >= 0 {
			t := &c.consts[s]
			axis, vector := channelAxis(t.Shape)
			if !c.isConst[s] || !t.DType.IsFloat() || !vector || axis < -1 || len(t.F) != 1 && len(t.F) != len(out) || len(t.Shape) > 2 {
				return nil
			}
			k = float64(t.F[i%len(t.F)])
		}
		out[i] = float32(a.shift[i] + a.scale[i]*beta*k)
	}
	return out
}

// with copies a node with other weights and another bias (nil for none).
func (c *compiler) with(p *node, w, bias []float32) *node {
	o := *p.Node.Node
	made := *p
	made.Node.Node = &o
	k := c.consts[p.in[1]]
	c.budget -= 4 * int64(len(w)+len(bias))
	made.in = []int{p.in[0], c.newConst(Tensor{DType: k.DType, Shape: k.Shape, F: w})}
	o.Inputs = []string{"x", "w"}
	if bias != nil {
		made.in = append(made.in, c.newConst(Tensor{DType: k.DType, Shape: []int{len(bias)}, F: bias}))
		o.Inputs = append(o.Inputs, "b")
	}
	return &made
}

func (c *compiler) affineConv(n, p *node, a affine, w *Tensor) bool {
	rank := len(w.Shape)
	if rank < 3 || a.rank > rank || len(w.F) == 0 || a.axis < 0 && rank+a.axis != 1 {
		return false
	}
	groups := 1
	if v, ok := p.Attrs["group"]; ok {
		groups = int(v.I)
	}
	channels, per := w.Shape[0], w.Len()/w.Shape[0] // weights of one output channel of Conv
	if p.Op == "ConvTranspose" {
		if groups < 1 || groups > w.Shape[0] || w.Shape[0]%groups != 0 {
			return false
		}
		channels, per = w.Shape[1]*groups, volume(w.Shape[2:])
	}
	f := a.spread(channels)
	if f == nil {
		return false
	}
	old := -1
	if len(p.in) > 2 {
		old = p.in[2]
	}
	bias := c.bias(f, old, 1)
	if bias == nil {
		return false
	}
	out := make([]float32, len(w.F))
	for i, v := range w.F {
		channel := i / per
		if p.Op == "ConvTranspose" { // weights are [in, out of the group, ...]
			channel = i/(per*w.Shape[1])/(w.Shape[0]/groups)*w.Shape[1] + i/per%w.Shape[1]
		}
		out[i] = float32(float64(v) * f.scale[channel])
	}
	c.replace(n, []*node{p}, c.with(p, out, bias))
	return true
}

func (c *compiler) affineGemm(n, p *node, a affine, w *Tensor) bool {
	if a.axis < -1 || a.rank > 2 || len(w.Shape) != 2 || len(w.F) == 0 || p.Opset < 7 {
		return false
	}
	transB := p.Attrs["transB"].I != 0
	f := a.spread(w.Shape[pickIndex(transB, 0, 1)])
	if f == nil {
		return false
	}
	beta, old := 1.0, -1
	if v, ok := p.Attrs["beta"]; ok {
		beta = float64(v.F)
	}
	if len(p.in) > 2 {
		old = p.in[2]
	}
	bias := c.bias(f, old, beta)
	if bias == nil {
		return false
	}
	made := c.with(p, scaledColumns(w, f, transB), bias)
	made.Attrs = maps.Clone(p.Attrs)
	delete(made.Attrs, "beta")
	c.replace(n, []*node{p}, made)
	return true
}

// affineMatMul takes the scale into the weights and leaves an addition, which the product does while it stores.
func (c *compiler) affineMatMul(n, p *node, a affine, w *Tensor) bool {
	if len(w.Shape) != 2 || len(w.F) == 0 || a.axis < -1 || a.axis == 1 && c.rankOf(p.out[0], 0) != 2 || a.rank > 1 && c.rankOf(p.out[0], 0) < a.rank {
		return false
	}
	f := a.spread(w.Shape[1])
	if f == nil {
		return false
	}
	scales, shifts := false, false
	for i := range f.scale {
		scales, shifts = scales || f.scale[i] != 1, shifts || f.shift[i] != 0
	}
	if !scales {
		return false // MatMul takes an addition by itself
	}
	made := c.with(p, scaledColumns(w, f, false), nil)
	if !shifts {
		c.replace(n, []*node{p}, made)
		return true
	}
	bias := make([]float32, len(f.shift))
	for i, v := range f.shift {
		bias[i] = float32(v)
	}
	c.replace(p, nil, made)
	k := c.newConst(Tensor{DType: onnx.Float, Shape: []int{len(bias)}, F: bias})
	c.consts[k].DType = w.DType
	c.replace(n, nil, c.made("Add", opsetMade, []int{made.out[0], k}, nil))
	return true
}

// scaledColumns multiplies the columns of a matrix, which are stored as rows when trans.
func scaledColumns(w *Tensor, f *affine, trans bool) []float32 {
	out := make([]float32, len(w.F))
	for i, v := range w.F {
		out[i] = float32(float64(v) * f.scale[pickIndex(trans, i/w.Shape[1], i%w.Shape[1])])
	}
	return out
}

func pickIndex(t bool, yes, no int) int {
	if t {
		return yes
	}
	return no
}

func volume(shape []int) int { return (&ops.Tensor{Shape: shape}).Len() }
