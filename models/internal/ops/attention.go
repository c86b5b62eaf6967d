package ops

import (
	"fmt"
	"math"

	"idunno/models/onnx"
)

func attentionTable() map[string]spec {
	return map[string]spec{"Attention": {since: 23, in: 3, max: 4, outs: 1, build: buildAttention}}
}

// attention is scaled dot-product attention (Vaswani et al. 2017): softmax(scale * Q * K^T + mask) * V for each image and head. With three
// dimensions the heads stand side by side in the last; fewer heads of keys than of queries serve several queries each. A cache of keys is
// not supported.
type attention struct {
	causal      bool
	qHeads      int // 0: four dimensions
	kvHeads     int
	scale, soft float32 // 0: 1/sqrt(size of a head), and no cap
}

func buildAttention(n *Node, a *attrs) (Op, error) {
	t := &attention{causal: a.int("is_causal", 0) != 0, scale: a.float("scale", 0), soft: a.float("softcap", 0)}
	q, kv := a.int("q_num_heads", 0), a.int("kv_num_heads", 0)
	if q < 0 || kv < 0 || q > maxWindow || kv > maxWindow || (q == 0) != (kv == 0) {
		return nil, fmt.Errorf("%d heads of queries and %d of keys", q, kv)
	}
	a.ignore("softmax_precision", "qk_matmul_output_mode") // sums are in double precision; the product is no output here
	t.qHeads, t.kvHeads = int(q), int(kv)
	return t, nil
}

// headPlan is how heads lie in a tensor: row r of head h of image b begins at b*image + h*head + r*row.
type headPlan struct {
	images, heads, rows, size int
	image, head, row          int
}

func (t *attention) plan(x *Tensor, heads int) (g headPlan, err error) {
	s := x.Shape
	switch {
	case len(s) == 4:
		g = headPlan{images: s[0], heads: s[1], rows: s[2], size: s[3], image: s[1] * s[2] * s[3], head: s[2] * s[3], row: s[3]}
	case len(s) == 3 && heads > 0 && s[2]%heads == 0:
		g = headPlan{images: s[0], heads: heads, rows: s[1], size: s[2] / heads, image: s[1] * s[2], head: s[2] / heads, row: s[2]}
	default:
		err = fmt.Errorf("a tensor of shape %v in %d heads", s, heads)
	}
	return g, err
}

func (t *attention) all(in []*Tensor) (q, k, v headPlan, err error) {
	if q, err = t.plan(in[0], t.qHeads); err != nil {
		return
	}
	if k, err = t.plan(in[1], t.kvHeads); err != nil {
		return
	}
	v, err = t.plan(in[2], t.kvHeads)
	return
}

func (t *attention) Shape(in []*Tensor, out []Spec) error {
	q, k, v, err := t.all(in)
	if err != nil {
		return err
	}
	if len(in[0].Shape) != len(in[1].Shape) || len(in[0].Shape) != len(in[2].Shape) || k.images != q.images || v.images != q.images ||
		k.heads != v.heads || k.rows != v.rows || k.size != q.size || k.heads == 0 || q.heads%k.heads != 0 || k.rows == 0 {
		return fmt.Errorf("queries of shape %v, keys of %v and values of %v", in[0].Shape, in[1].Shape, in[2].Shape)
	}
	out[0].set(in[0].DType, in[0].Shape...)
	out[0].Shape[len(out[0].Shape)-1] = v.size
	if len(in[0].Shape) == 3 {
		out[0].Shape[2] = v.size * q.heads
	}
	if len(in) > 3 && in[3] != nil {
		if d := in[3].DType; !d.IsFloat() && d != onnx.Bool {
			return fmt.Errorf("a mask of type %s", d)
		}
		full := []int{q.images, q.heads, q.rows, k.rows}
		s, err := broadcast(nil, full, in[3].Shape)
		if err != nil || len(s) != 4 || volume(s) != volume(full) {
			return fmt.Errorf("%w: a mask of shape %v for %v", ErrUnsupported, in[3].Shape, full)
		}
	}
	return needFloat(in, 0, 1, 2)
}

func (t *attention) Cost(in []*Tensor, _ []Spec) (int64, int64) {
	q, k, v, _ := t.all(in)
	return int64(q.images) * int64(q.heads) * int64(q.rows) * int64(k.rows) * int64(2*q.size+2*v.size+4), int64(q.rows) * int64(k.rows)
}

func (t *attention) Run(s *Scratch, in, out []*Tensor) {
	q, k, v, _ := t.all(in)
	o, _ := t.plan(out[0], q.heads)
	scale := t.scale
	if scale == 0 {
		scale = float32(1 / math.Sqrt(float64(q.size)))
	}
	var mask *Tensor
	step := s.ints(4)
	if len(in) > 3 && in[3] != nil {
		mask = in[3]
		strides(step, mask.Shape, []int{q.images, q.heads, q.rows, k.rows})
	}
	scores := s.floats(0, q.rows*k.rows)
	for b := range q.images {
		for h := range q.heads {
			kv := h / (q.heads / k.heads)
			s.Gemm.Gemm(false, true, q.rows, k.rows, q.size, scale, in[0].F[b*q.image+h*q.head:], q.row, in[1].F[b*k.image+kv*k.head:], k.row, 0, scores, k.rows)
			for i := range q.rows {
				line := scores[i*k.rows:][:k.rows]
				t.bias(line, mask, b*step[0]+h*step[1]+i*step[2], step[3], i)
				s.Gemm.Softmax(line, line)
			}
			s.Gemm.Gemm(false, false, q.rows, v.size, k.rows, 1, scores, k.rows, in[2].F[b*v.image+kv*v.head:], v.row, 0, out[0].F[b*o.image+h*o.head:], o.row)
		}
	}
}

// bias caps the scores of one query and hides the keys that it must not see.
func (t *attention) bias(line []float32, mask *Tensor, at, step, query int) {
	for j := range line {
		if t.soft > 0 {
			line[j] = t.soft * float32(math.Tanh(float64(line[j]/t.soft)))
		}
		switch {
		case t.causal && j > query:
			line[j] = float32(math.Inf(-1))
		case mask == nil:
		case mask.F != nil:
			line[j] += mask.F[at+j*step]
		case mask.I[at+j*step] == 0:
			line[j] = float32(math.Inf(-1))
		}
	}
}
