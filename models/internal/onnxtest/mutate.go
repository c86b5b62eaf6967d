// Package onnxtest changes ONNX models for tests: what a fuzzer of bytes would not find in years. It knows the messages of the format, not
// what models mean.
package onnxtest

import (
	"encoding/binary"
	"math"
	"math/rand/v2"

	"google.golang.org/protobuf/encoding/protowire"
)

// Mutate returns a model with n random changes to its parts: a number becomes an extreme one, a name another one of the model, a field is
// left out, doubled or exchanged with another of its kind, elements of tensors change. The result is a protobuf message of the same
// structure, so that the changes reach far behind the decoder. words are further names to put in place of others, as of operators; donor is
// a model to take parts from, or nil. The same random numbers give the same result.
func Mutate(r *rand.Rand, model []byte, n int, words []string, donor []byte) []byte {
	m := &mutator{Rand: r, words: words}
	root := m.parse(model, kindModel, 0)
	if root == nil {
		return model
	}
	if d := m.parse(donor, kindModel, 0); d != nil {
		m.donor = d.all(nil)
	}
	for range n {
		m.change(root)
	}
	return root.bytes()
}

// kind is a message type of ONNX.
type kind int

const (
	kindNone kind = iota
	kindModel
	kindGraph
	kindNode
	kindAttribute
	kindTensor
	kindValue
	kindType
	kindTensorType
	kindShape
	kindDim
	kindOpset
	kindFunction
)

// inner gives the message type of a field, kindNone for one that is none.
func inner(k kind, num protowire.Number) kind {
	return map[kind]map[protowire.Number]kind{
		kindModel:      {7: kindGraph, 8: kindOpset, 25: kindFunction},
		kindGraph:      {1: kindNode, 5: kindTensor, 11: kindValue, 12: kindValue},
		kindNode:       {5: kindAttribute},
		kindAttribute:  {5: kindTensor, 6: kindGraph},
		kindFunction:   {7: kindNode, 9: kindOpset, 11: kindAttribute},
		kindValue:      {2: kindType},
		kindType:       {1: kindTensorType},
		kindTensorType: {2: kindShape},
		kindShape:      {1: kindDim},
	}[k][num]
}

type tree struct {
	kind   kind
	fields []*part
}

// part is a field.
type part struct {
	of  kind // the message it belongs to
	num protowire.Number
	typ protowire.Type
	val uint64
	raw []byte
	sub *tree
}

type mutator struct {
	*rand.Rand
	words []string
	donor []*part
}

func (m *mutator) parse(p []byte, k kind, depth int) *tree {
	if p == nil || depth > 64 {
		return nil
	}
	out := &tree{kind: k}
	for len(p) > 0 {
		num, typ, n := protowire.ConsumeTag(p)
		if n < 0 {
			return nil
		}
		f := &part{of: k, num: num, typ: typ}
		size := protowire.ConsumeFieldValue(num, typ, p[n:])
		if size < 0 {
			return nil
		}
		switch v := p[n : n+size]; typ {
		case protowire.VarintType:
			f.val, _ = protowire.ConsumeVarint(v)
		case protowire.Fixed32Type:
			x, _ := protowire.ConsumeFixed32(v)
			f.val = uint64(x)
		case protowire.Fixed64Type:
			f.val, _ = protowire.ConsumeFixed64(v)
		case protowire.BytesType:
			b, _ := protowire.ConsumeBytes(v)
			f.raw = append([]byte{}, b...)
			if in := inner(k, num); in != kindNone {
				f.sub = m.parse(f.raw, in, depth+1)
			}
		}
		out.fields = append(out.fields, f)
		p = p[n+size:]
	}
	return out
}

func (m *tree) bytes() []byte {
	var b []byte
	for _, f := range m.fields {
		b = protowire.AppendTag(b, f.num, f.typ)
		switch f.typ {
		case protowire.VarintType:
			b = protowire.AppendVarint(b, f.val)
		case protowire.Fixed32Type:
			b = protowire.AppendFixed32(b, uint32(f.val))
		case protowire.Fixed64Type:
			b = protowire.AppendFixed64(b, f.val)
		case protowire.BytesType:
			if f.sub != nil {
				f.raw = f.sub.bytes()
			}
			b = protowire.AppendBytes(b, f.raw)
		}
	}
	return b
}

// all lists every field below a message.
func (m *tree) all(to []*part) []*part {
	for _, f := range m.fields {
		to = append(to, f)
		if f.sub != nil {
			to = f.sub.all(to)
		}
	}
	return to
}

// messages lists a message and every one below it.
func (m *tree) messages(to []*tree) []*tree {
	to = append(to, m)
	for _, f := range m.fields {
		if f.sub != nil {
			to = f.sub.messages(to)
		}
	}
	return to
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// change makes one change somewhere.
func (m *mutator) change(root *tree) {
	all := root.all(nil)
	if len(all) == 0 {
		return
	}
	if m.IntN(3) == 0 {
		m.arrange(root, all)
		return
	}
	f := pick(m.Rand, all)
	switch {
	case f.sub != nil:
	case f.typ == protowire.VarintType:
		f.val = m.integer(f.val)
	case f.typ == protowire.Fixed32Type:
		f.val = uint64(math.Float32bits(pick(m.Rand, []float32{0, -1, 1, 2, 1e-30, 3e38, float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)), 0.5, 1 << 20})))
	case f.typ == protowire.BytesType:
		m.content(f, all)
	}
}

// integer gives a number at a limit or near the old one.
func (m *mutator) integer(old uint64) uint64 {
	return pick(m.Rand, []uint64{0, 1, 2, 3, old + 1, old - 1, old * 2, ^uint64(0), ^uint64(1), 1 << 31, 1<<31 - 1, 1 << 33, 1 << 62, 1<<63 - 1, 1 << 63, 17, 1 << 16, uint64(m.IntN(64))})
}

// content changes the bytes of a field: a name, a list of numbers or elements.
func (m *mutator) content(f *part, all []*part) {
	switch {
	case f.of == kindTensor && f.num == 9 || f.of == kindAttribute && f.num == 7: // elements, packed floats
		m.elements(f)
	case f.of == kindTensor && (f.num == 1 || f.num == 5 || f.num == 7) || f.of == kindAttribute && f.num == 8: // packed integers
		f.raw = m.varints(f.raw)
	case m.IntN(4) == 0 && len(m.words) > 0:
		f.raw = []byte(pick(m.Rand, m.words))
	case m.IntN(8) == 0:
		f.raw = f.raw[:m.IntN(len(f.raw)+1)]
	default: // the content of another field of this message type, as the name of another value
		for range 20 {
			if g := pick(m.Rand, all); g.of == f.of && g.typ == f.typ && g.sub == nil {
				f.raw = append([]byte{}, g.raw...)
				return
			}
		}
	}
}

func (m *mutator) elements(f *part) {
	switch n := len(f.raw); {
	case m.IntN(5) == 0:
		f.raw = f.raw[:m.IntN(n+1)]
	case n >= 8 && m.IntN(2) == 0:
		at := m.IntN(n/8) * 8
		binary.LittleEndian.PutUint64(f.raw[at:], m.integer(binary.LittleEndian.Uint64(f.raw[at:])))
	case n >= 4:
		at := m.IntN(n/4) * 4
		binary.LittleEndian.PutUint32(f.raw[at:], pick(m.Rand, []uint32{0, 1, ^uint32(0), math.Float32bits(3e38), math.Float32bits(float32(math.NaN())), 0x7f800000, m.Uint32()}))
	case n > 0:
		f.raw[m.IntN(n)] ^= 1 << m.IntN(8)
	}
}

func (m *mutator) varints(p []byte) []byte {
	var list []uint64
	for len(p) > 0 {
		v, n := protowire.ConsumeVarint(p)
		if n < 0 {
			break
		}
		list = append(list, v)
		p = p[n:]
	}
	switch {
	case len(list) == 0 || m.IntN(6) == 0:
		list = append(list, m.integer(1))
	case m.IntN(6) == 0:
		list = list[:len(list)-1]
	default:
		i := m.IntN(len(list))
		list[i] = m.integer(list[i])
	}
	var out []byte
	for _, v := range list {
		out = protowire.AppendVarint(out, v)
	}
	return out
}

// arrange leaves out, doubles or exchanges fields, or takes one from the donor.
func (m *mutator) arrange(root *tree, all []*part) {
	in := pick(m.Rand, root.messages(nil))
	if len(in.fields) == 0 {
		return
	}
	i := m.IntN(len(in.fields))
	switch m.IntN(4) {
	case 0:
		in.fields = append(append([]*part{}, in.fields[:i]...), in.fields[i+1:]...)
	case 1:
		in.fields = append(in.fields, m.copied(in.fields[i]))
	case 2:
		j := m.IntN(len(in.fields))
		in.fields[i], in.fields[j] = in.fields[j], in.fields[i]
	default:
		from := all
		if len(m.donor) > 0 && m.IntN(2) == 0 {
			from = m.donor
		}
		for range 20 {
			if g := pick(m.Rand, from); g.of == in.kind {
				in.fields = append(in.fields, m.copied(g))
				return
			}
		}
	}
}

func (m *mutator) copied(f *part) *part {
	c := *f
	c.raw = append([]byte{}, f.raw...)
	if f.sub != nil {
		c.sub = m.parse(f.sub.bytes(), f.sub.kind, 0)
	}
	return &c
}
