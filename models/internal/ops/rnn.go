package ops

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"idunno/models/internal/kernel"
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
	linearReset bool       // GRU: linear_before_reset
	f           []cellFunc // per direction the activations of the cell
	each        int        // activations a direction

	inputs, states, hiddens []*kernel.PackedB // constant weights a direction: W, R, and apart those of R that a GRU's state does not meet
}

// cellFunc is an activation of a cell: one of package kernel's or else a function.
type cellFunc struct {
	act kernel.Activation
	f   func(float64) float64
}

// apply replaces x by its function values.
func (c *cellFunc) apply(s *Scratch, x []float32) {
	if c.f == nil {
		s.Gemm.Apply(c.act, x, x)
		return
	}
	for i, v := range x {
		x[i] = float32(c.f(float64(v)))
	}
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
			f, ok := activation(name)
			if !ok {
				return nil, fmt.Errorf("%w: activation %q", ErrUnsupported, name)
			}
			r.f = append(r.f, f)
		}
		r.pack(n)
		return r, nil
	}
}

// pack packs constant weights, whose shapes Shape checks later.
func (r *recurrent) pack(n *Node) {
	matrices := func(t *Tensor, first, last int) (list []*kernel.PackedB) {
		if t == nil || !t.DType.IsFloat() || len(t.Shape) != 3 || t.Shape[0] != r.dirs || t.Shape[1]%r.gates != 0 {
			return nil
		}
		rows, k := t.Shape[1], t.Shape[2]
		from, to := rows/r.gates*first, rows/r.gates*last
		for d := range r.dirs {
			list = append(list, kernel.PackB(true, k, to-from, t.F[(d*rows+from)*k:(d*rows+to)*k], k))
		}
		return list
	}
	r.inputs = matrices(n.constant(1), 0, r.gates)
	if r.kind == gruCell && !r.linearReset {
		r.states, r.hiddens = matrices(n.constant(2), 0, 2), matrices(n.constant(2), 2, 3)
		return
	}
	r.states = matrices(n.constant(2), 0, r.gates)
}

// activation returns a function of one number without parameters.
func activation(name string) (c cellFunc, ok bool) {
	switch strings.ToLower(name) {
	case "tanh":
		c.act.Func = kernel.Tanh
	case "sigmoid":
		c.act.Func = kernel.Sigmoid
	case "relu":
		c.act.Func = kernel.Relu
	case "softsign":
		c.f = func(x float64) float64 { return x / (1 + math.Abs(x)) }
	default:
		return c, false
	}
	return c, true
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
	return flops, satMul(rows, wide) + satMul(int64(n), 2*wide+3*h) + wide + h
}

// pass is one direction of one call.
type pass struct {
	*recurrent
	f          []cellFunc
	d, n, h    int
	pre, rec   []float32 // products of X with W (all steps), with the biases; products of H with R (one step): [.., gates*H]
	state, mem []float32 // H and C: [N, H]
	part       []float32 // GRU: r * H
	bias       []float32 // of all gates
	inner      []float32 // GRU: the bias that the reset gate applies to; nil for none
	temp       []float32 // H numbers
	peep       []float32
	recurrence []float32
}

func (r *recurrent) Run(s *Scratch, in, out []*Tensor) {
	t, n, width := r.lengths(in[0].Shape)
	h := in[2].Shape[2]
	wide := r.gates * h
	space := s.floats(0, t*n*wide+n*wide+3*n*h+wide+h)
	cut := func(size int) []float32 {
		part := space[:size:size]
		space = space[size:]
		return part
	}
	p := pass{recurrent: r, n: n, h: h, pre: cut(t * n * wide), rec: cut(n * wide), state: cut(n * h), mem: cut(n * h), part: cut(n * h),
		bias: cut(wide), temp: cut(h)}
	clear(out[0].F)
	for d := range r.dirs {
		p.d, p.f, p.inner = d, r.f[d*r.each:][:r.each], nil
		p.recurrence = in[2].F[d*wide*h:][:wide*h]
		p.biases(s, input(in, 3))
		if b := input(in, 7); b != nil {
			p.peep = b.F[3*d*h:][:3*h]
		}
		r.load(p.state, input(in, 5), d, n, h)
		r.load(p.mem, input(in, 6), d, n, h)
		if r.inputs != nil && width > 0 {
			s.Gemm.MulB(t*n, in[0].F, width, r.inputs[d], p.pre, wide, kernel.Epilogue{Bias: p.bias})
		} else {
			s.Gemm.Gemm(false, true, t*n, wide, width, 1, in[0].F, width, in[1].F[d*wide*width:], width, 0, p.pre, wide)
			for i := 0; i < len(p.pre); i += wide {
				s.Gemm.Zip(kernel.Add, p.pre[i:][:wide], p.pre[i:][:wide], p.bias)
			}
		}
		p.sequence(s, t, input(in, 4), out[0].F)
		if len(out) > 1 {
			r.store(out[1].F, p.state, d, n, h)
		}
		if len(out) > 2 {
			r.store(out[2].F, p.mem, d, n, h)
		}
	}
}

// biases adds up the biases of the two products, but for the one that a GRU's reset gate applies to.
func (p *pass) biases(s *Scratch, b *Tensor) {
	clear(p.bias)
	if b == nil {
		return
	}
	wide := p.gates * p.h
	bw, br := b.F[2*p.d*wide:][:wide], b.F[(2*p.d+1)*wide:][:wide]
	copy(p.bias, bw)
	if p.linearReset {
		p.inner = br[2*p.h:]
		br = br[:2*p.h]
	}
	s.Gemm.Zip(kernel.Add, p.bias[:len(br)], p.bias[:len(br)], br)
}

// sequence runs the cells of all sequences over their steps and fills in y.
func (p *pass) sequence(s *Scratch, t int, lengths *Tensor, y []float32) {
	n, h, wide := p.n, p.h, p.gates*p.h
	// place is where sequence b is after a number of steps: its row of pre, and its place in y. Not ok when it has ended.
	place := func(b, step int) (row, to int, ok bool) {
		length := t
		if lengths != nil {
			length = int(min(max(lengths.I[b], 0), int64(t)))
		}
		at := step
		if p.reverse || p.d == 1 {
			at = length - 1 - step
		}
		if p.batchFirst {
			return b*t + at, ((b*t+at)*p.dirs + p.d) * h, step < length
		}
		return at*n + b, ((at*p.dirs+p.d)*n + b) * h, step < length
	}
	for step := range t {
		gates := p.gates
		if p.kind == gruCell && !p.linearReset {
			gates = 2
		}
		p.multiply(s, p.state, 0, gates)
		if gates < p.gates {
			for b := range n {
				if row, _, ok := place(b, step); ok {
					p.reset(s, b, p.pre[row*wide:][:wide])
				}
			}
			p.multiply(s, p.part, 2, 1)
		}
		for b := range n {
			if row, to, ok := place(b, step); ok {
				p.cell(s, b, p.pre[row*wide:][:wide])
				copy(y[to:to+h], p.state[b*h:])
			}
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
	to := p.rec[gate*p.h:]
	switch {
	case p.states != nil && gate == 0:
		s.Gemm.MulB(p.n, x, p.h, p.states[p.d], to, p.gates*p.h, kernel.Epilogue{})
	case p.hiddens != nil && gate == 2:
		s.Gemm.MulB(p.n, x, p.h, p.hiddens[p.d], to, p.gates*p.h, kernel.Epilogue{})
	default:
		s.Gemm.Gemm(false, true, p.n, gates*p.h, p.h, 1, x, p.h, p.recurrence[gate*p.h*p.h:], p.h, 0, to, p.gates*p.h)
	}
}

// cell moves the state of sequence b one step on. The equations are those of the ONNX operators.
func (p *pass) cell(s *Scratch, b int, pre []float32) {
	h, w := p.h, &s.Gemm
	rec, state, mem := p.rec[b*len(pre):][:len(pre)], p.state[b*h:][:h], p.mem[b*h:][:h]
	switch p.kind {
	case rnnCell:
		w.Zip(kernel.Add, state, rec, pre)
		p.f[0].apply(s, state)
	case lstmCell: // gates in the order i, o, f, c
		w.Zip(kernel.Add, rec, rec, pre)
		i, o, f, c := rec[:h], rec[h:2*h], rec[2*h:3*h], rec[3*h:]
		p.peek(s, i, 0, mem)
		p.peek(s, f, 2, mem)
		p.f[0].apply(s, i)
		p.f[0].apply(s, f)
		p.f[1].apply(s, c)
		w.Zip(kernel.Mul, mem, mem, f)
		w.Zip(kernel.Mul, i, i, c)
		w.Zip(kernel.Add, mem, mem, i)
		p.peek(s, o, 1, mem)
		p.f[0].apply(s, o)
		copy(c, mem)
		p.f[2].apply(s, c)
		w.Zip(kernel.Mul, state, o, c)
	case gruCell: // gates in the order z, r, h
		gates, inner := rec[:2*h], rec[2*h:]
		if p.linearReset { // else reset has done this
			w.Zip(kernel.Add, gates, gates, pre[:2*h])
			p.f[0].apply(s, gates)
			if p.inner != nil {
				w.Zip(kernel.Add, inner, inner, p.inner)
			}
			w.Zip(kernel.Mul, inner, inner, gates[h:])
		}
		w.Zip(kernel.Add, inner, inner, pre[2*h:])
		p.f[1].apply(s, inner)
		// (1-z)*inner + z*state
		w.Zip(kernel.Sub, state, state, inner)
		w.Zip(kernel.Mul, state, state, gates[:h])
		w.Zip(kernel.Add, state, state, inner)
	}
}

// peek adds the memory, seen through peephole i, to a gate.
func (p *pass) peek(s *Scratch, gate []float32, i int, mem []float32) {
	if p.peep != nil {
		s.Gemm.Zip(kernel.Mul, p.temp, p.peep[i*p.h:][:p.h], mem)
		s.Gemm.Zip(kernel.Add, gate, gate, p.temp)
	}
}

// reset computes the gates z and r of a GRU and multiplies its state by the reset gate, before the product with the weights of the hidden
// gate.
func (p *pass) reset(s *Scratch, b int, pre []float32) {
	h := p.h
	gates := p.rec[b*len(pre):][:2*h]
	s.Gemm.Zip(kernel.Add, gates, gates, pre[:2*h])
	p.f[0].apply(s, gates)
	s.Gemm.Zip(kernel.Mul, p.part[b*h:][:h], gates[h:], p.state[b*h:][:h])
}
