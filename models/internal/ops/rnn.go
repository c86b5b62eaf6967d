package ops

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"idunno/models/onnx"
)

// rnnTable lists the recurrent layers.
func rnnTable() map[string]spec {
	return map[string]spec{
		"RNN":  {since: 7, in: 3, max: 6, outs: 2, build: buildRecurrent(rnnCell, 1, "Tanh")},
		"GRU":  {since: 7, in: 3, max: 6, outs: 2, build: buildRecurrent(gruCell, 3, "Sigmoid", "Tanh")},
		"LSTM": {since: 7, in: 3, max: 8, outs: 3, build: buildRecurrent(lstmCell, 4, "Sigmoid", "Tanh", "Tanh")},
	}
}

type cellKind int

const (
	rnnCell cellKind = iota
	gruCell
	lstmCell
)

// recurrent is a layer of cells that run over a sequence in one or both directions. The products of the inputs with their weights are
// computed for the whole sequence at once.
//
// Inputs: X [T, N, I], W [D, G*H, I], R [D, G*H, H], B [D, 2*G*H], lengths [N], H0 [D, N, H], and for an LSTM C0 [D, N, H] and the
// peepholes P [D, 3*H]. Outputs: Y [T, D, N, H], the last H [D, N, H], the last C. With batchFirst (layout 1) N comes first everywhere.
type recurrent struct {
	kind        cellKind
	gates       int
	hidden      int // 0: what the weights say
	dirs        int
	reverse     bool
	batchFirst  bool
	linearReset bool                    // GRU: linear_before_reset
	f           []func(float64) float64 // per direction the activations of the cell
	each        int                     // activations a direction
}

func buildRecurrent(kind cellKind, gates int, defaults ...string) func(*Node, *attrs) (Op, error) {
	return func(n *Node, a *attrs) (Op, error) {
		r := &recurrent{kind: kind, gates: gates, dirs: 1, each: len(defaults)}
		h := a.int("hidden_size", 0)
		if h < 0 || h > maxWindow {
			return nil, fmt.Errorf("hidden_size is %d", h)
		}
		r.hidden = int(h)
		switch d := a.string("direction", "forward"); d {
		case "forward":
		case "reverse":
			r.reverse = true
		case "bidirectional":
			r.dirs = 2
		default:
			return nil, fmt.Errorf("direction is %q", d)
		}
		if n.Opset >= 14 {
			r.batchFirst = a.int("layout", 0) != 0
		}
		if kind == gruCell {
			r.linearReset = a.int("linear_before_reset", 0) != 0
		}
		names := slices.Repeat(defaults, r.dirs)
		if v, ok := a.get("activations", onnx.AttrStrings); ok {
			if len(v.Strings) != len(names) {
				return nil, fmt.Errorf("%d activations, %s needs %d", len(v.Strings), n.Op, len(names))
			}
			names = v.Strings
		}
		for _, name := range names {
			f := activation(name)
			if f == nil {
				return nil, fmt.Errorf("%w: activation %q", ErrUnsupported, name)
			}
			r.f = append(r.f, f)
		}
		return r, nil
	}
}

// activation returns a function of one number without parameters.
func activation(name string) func(float64) float64 {
	switch strings.ToLower(name) {
	case "tanh":
		return math.Tanh
	case "sigmoid":
		return sigmoid
	case "relu":
		return func(x float64) float64 { return max(x, 0) }
	case "softsign":
		return func(x float64) float64 { return x / (1 + math.Abs(x)) }
	}
	return nil
}

// lengths returns steps, batch and inputs of X.
func (r *recurrent) lengths(x []int) (t, n, i int) {
	if r.batchFirst {
		return x[1], x[0], x[2]
	}
	return x[0], x[1], x[2]
}

func (r *recurrent) Shape(in []*Tensor, out []Spec) error {
	if len(in[0].Shape) != 3 || len(in[2].Shape) != 3 || in[2].Shape[2] == 0 {
		return fmt.Errorf("input of shape %v and recurrent weights of shape %v", in[0].Shape, in[2].Shape)
	}
	t, n, width := r.lengths(in[0].Shape)
	h := in[2].Shape[2]
	if r.hidden != 0 && h != r.hidden || h > maxWindow {
		return fmt.Errorf("hidden_size is %d, the recurrent weights have the shape %v", r.hidden, in[2].Shape)
	}
	state := [3]int{r.dirs, n, h}
	if r.batchFirst {
		state = [3]int{n, r.dirs, h}
	}
	for i, x := range in {
		want := state
		rank := 3
		switch i {
		case 0:
			continue
		case 1:
			want = [3]int{r.dirs, r.gates * h, width}
		case 2:
			want = [3]int{r.dirs, r.gates * h, h}
		case 3:
			want, rank = [3]int{r.dirs, 2 * r.gates * h}, 2
		case 4:
			want, rank = [3]int{n}, 1
		case 7:
			want, rank = [3]int{r.dirs, 3 * h}, 2
		}
		if x != nil && !slices.Equal(x.Shape, want[:rank]) {
			return fmt.Errorf("input %d has shape %v, expected %v", i, x.Shape, slices.Clone(want[:rank]))
		}
	}
	if len(in) > 4 && in[4] != nil && !in[4].DType.IsInt() {
		return fmt.Errorf("lengths are %s", in[4].DType)
	}
	for i := range out {
		out[i].set(in[0].DType, state[:]...)
	}
	if r.batchFirst {
		out[0].set(in[0].DType, n, t, r.dirs, h)
	} else {
		out[0].set(in[0].DType, t, r.dirs, n, h)
	}
	return needFloat(in, 0, 1, 2, 3, 5, 6, 7)
}

func (r *recurrent) Cost(in []*Tensor, _ []Spec) (flops, scratch int64) {
	t, n, i := r.lengths(in[0].Shape)
	h := int64(in[2].Shape[2])
	rows, wide := satMul(int64(t), int64(n)), int64(r.gates)*h
	flops = satMul(satMul(2*int64(r.dirs)*wide, rows), int64(i)+h)
	return flops, satMul(rows, wide) + satMul(int64(n), 2*wide+3*h)
}

// pass is one direction of one call.
type pass struct {
	*recurrent
	f          []func(float64) float64
	n, h       int
	pre, rec   []float32 // products of X with W (all steps) and of H with R (one step): [.., gates*H]
	state, mem []float32 // H and C: [N, H]
	part       []float32 // GRU: r * H
	bw, br     []float32 // biases; nil for none
	peep       []float32
	recurrence []float32
}

func (r *recurrent) Run(s *Scratch, in, out []*Tensor) {
	t, n, width := r.lengths(in[0].Shape)
	h := in[2].Shape[2]
	wide := r.gates * h
	space := s.floats(0, t*n*wide+2*n*wide+3*n*h)
	cut := func(size int) []float32 {
		part := space[:size:size]
		space = space[size:]
		return part
	}
	p := pass{recurrent: r, n: n, h: h, pre: cut(t * n * wide), rec: cut(n * wide), state: cut(n * h), mem: cut(n * h), part: cut(n * h)}
	clear(out[0].F)
	for d := range r.dirs {
		p.f = r.f[d*r.each:][:r.each]
		p.recurrence = in[2].F[d*wide*h:][:wide*h]
		if b := input(in, 3); b != nil {
			p.bw, p.br = b.F[2*d*wide:][:wide], b.F[(2*d+1)*wide:][:wide]
		}
		if b := input(in, 7); b != nil {
			p.peep = b.F[3*d*h:][:3*h]
		}
		r.load(p.state, input(in, 5), d, n, h)
		r.load(p.mem, input(in, 6), d, n, h)
		s.Gemm.Gemm(false, true, t*n, wide, width, 1, in[0].F, width, in[1].F[d*wide*width:], width, 0, p.pre, wide)
		for step := range t {
			p.multiply(s, p.state, 0, r.gates)
			for b := range n {
				length := t
				if l := input(in, 4); l != nil {
					length = int(min(max(l.I[b], 0), int64(t)))
				}
				if step >= length {
					continue
				}
				at := step
				if r.reverse || d == 1 {
					at = length - 1 - step
				}
				row, to := at*n+b, ((at*r.dirs+d)*n+b)*h
				if r.batchFirst {
					row, to = b*t+at, ((b*t+at)*r.dirs+d)*h
				}
				p.cell(s, b, p.pre[row*wide:][:wide])
				copy(out[0].F[to:to+h], p.state[b*h:])
			}
		}
		if len(out) > 1 {
			r.store(out[1].F, p.state, d, n, h)
		}
		if len(out) > 2 {
			r.store(out[2].F, p.mem, d, n, h)
		}
	}
}

func input(in []*Tensor, i int) *Tensor {
	if i < len(in) {
		return in[i]
	}
	return nil
}

// offset is where the state of one sequence is in a tensor of states.
func (r *recurrent) offset(d, b, n, h int) int {
	if r.batchFirst {
		return (b*r.dirs + d) * h
	}
	return (d*n + b) * h
}

func (r *recurrent) load(dst []float32, from *Tensor, d, n, h int) {
	clear(dst)
	for b := range n {
		if from != nil {
			copy(dst[b*h:][:h], from.F[r.offset(d, b, n, h):])
		}
	}
}

func (r *recurrent) store(dst, src []float32, d, n, h int) {
	for b := range n {
		copy(dst[r.offset(d, b, n, h):][:h], src[b*h:])
	}
}

// multiply computes the products of x [N, H] with the recurrent weights of some gates.
func (p *pass) multiply(s *Scratch, x []float32, gate, gates int) {
	s.Gemm.Gemm(false, true, p.n, gates*p.h, p.h, 1, x, p.h, p.recurrence[gate*p.h*p.h:], p.h, 0, p.rec[gate*p.h:], p.gates*p.h)
}

// gate is the sum that the activation of gate g, element j, is taken of.
func (p *pass) gate(pre, rec []float32, g, j int) float64 {
	i := g*p.h + j
	sum := float64(pre[i]) + float64(rec[i])
	if p.bw != nil {
		sum += float64(p.bw[i]) + float64(p.br[i])
	}
	return sum
}

// cell moves the state of sequence b one step on. The equations are those of the ONNX operators.
func (p *pass) cell(s *Scratch, b int, pre []float32) {
	h, wide := p.h, p.gates*p.h
	rec, state, mem := p.rec[b*wide:][:wide], p.state[b*h:][:h], p.mem[b*h:][:h]
	switch p.kind {
	case rnnCell:
		for j := range h {
			state[j] = float32(p.f[0](p.gate(pre, rec, 0, j)))
		}
	case lstmCell: // gates in the order i, o, f, c
		for j := range h {
			var pi, po, pf float64
			if p.peep != nil {
				pi, po, pf = float64(p.peep[j]), float64(p.peep[h+j]), float64(p.peep[2*h+j])
			}
			old := float64(mem[j])
			c := p.f[0](p.gate(pre, rec, 2, j)+pf*old)*old + p.f[0](p.gate(pre, rec, 0, j)+pi*old)*p.f[1](p.gate(pre, rec, 3, j))
			mem[j] = float32(c)
			state[j] = float32(p.f[0](p.gate(pre, rec, 1, j)+po*c) * p.f[2](c))
		}
	case gruCell: // gates in the order z, r, h
		if !p.linearReset {
			p.reset(s, b, pre, rec)
		}
		for j := range h {
			z := p.f[0](p.gate(pre, rec, 0, j))
			i := 2*h + j
			inner := float64(rec[i])
			if p.br != nil {
				inner += float64(p.br[i])
			}
			if p.linearReset {
				inner *= p.f[0](p.gate(pre, rec, 1, j))
			}
			inner += float64(pre[i])
			if p.bw != nil {
				inner += float64(p.bw[i])
			}
			state[j] = float32((1-z)*p.f[1](inner) + z*float64(state[j]))
		}
	}
}

// reset multiplies the state of a GRU by its reset gate before the product with the weights of the hidden gate.
func (p *pass) reset(s *Scratch, b int, pre, rec []float32) {
	h := p.h
	part := p.part[b*h:][:h]
	for j := range h {
		part[j] = float32(p.f[0](p.gate(pre, rec, 1, j)) * float64(p.state[b*h+j]))
	}
	s.Gemm.Gemm(false, true, 1, h, h, 1, part, h, p.recurrence[2*h*h:], h, 0, rec[2*h:], h)
}
