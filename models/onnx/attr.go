package onnx

import (
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// The numbers of AttributeProto.AttributeType.
const (
	wireFloat   = 1
	wireInt     = 2
	wireString  = 3
	wireTensor  = 4
	wireGraph   = 5
	wireFloats  = 6
	wireInts    = 7
	wireStrings = 8
)

// attrMessage is an AttributeProto. Lists are kept as Attr has them.
type attrMessage struct {
	name   string
	typ    int64
	guess  int64 // the type by the fields present, for models older than the type field
	tensor []byte
	graph  []byte
	Attr
}

// attribute reads one attribute. bone is its form for onnx-go; nil when onnx-go can't carry it, and the value is then in a.
func (s *scanner) attribute(p []byte) (name string, a Attr, bone []byte, err error) {
	var m attrMessage
	if err := fields(p, func(x field) error { return s.attrField(&m, x) }); err != nil {
		return "", a, nil, err
	}
	if m.name == "" {
		return "", a, nil, fmt.Errorf("%w: attribute without a name", ErrMalformed)
	}
	if m.typ == 0 {
		m.typ = m.guess
	}
	if s.nested {
		a, err = s.plainAttribute(&m)
		return m.name, a, nil, err
	}
	bone = appendText(nil, 1, m.name)
	bone = protowire.AppendVarint(protowire.AppendTag(bone, 20, protowire.VarintType), uint64(m.typ))
	switch m.typ {
	case wireFloat:
		bone = protowire.AppendFixed32(protowire.AppendTag(bone, 2, protowire.Fixed32Type), math.Float32bits(m.F))
	case wireInt:
		bone = protowire.AppendVarint(protowire.AppendTag(bone, 3, protowire.VarintType), uint64(m.I))
	case wireString:
		bone = appendText(bone, 4, m.S)
	case wireTensor:
		t, plain, err := s.tensor(m.tensor)
		if err != nil {
			return "", a, nil, fmt.Errorf("attribute %q: %w", m.name, err)
		}
		if !plain {
			return m.name, Attr{Kind: AttrTensor, T: t}, nil, nil
		}
		bone = appendMessage(bone, 5, m.tensor)
	case wireFloats:
		for _, f := range m.Floats {
			bone = protowire.AppendFixed32(protowire.AppendTag(bone, 7, protowire.Fixed32Type), math.Float32bits(f))
		}
	case wireInts:
		for _, i := range m.Ints {
			bone = protowire.AppendVarint(protowire.AppendTag(bone, 8, protowire.VarintType), uint64(i))
		}
	case wireStrings:
		for _, t := range m.Strings {
			bone = appendText(bone, 9, t)
		}
	default:
		a, err = s.plainAttribute(&m)
		return m.name, a, nil, err
	}
	return m.name, a, bone, nil
}

// plainAttribute gives the value of an attribute without onnx-go.
func (s *scanner) plainAttribute(m *attrMessage) (a Attr, err error) {
	kinds := map[int64]AttrKind{wireFloat: AttrFloat, wireInt: AttrInt, wireString: AttrString, wireFloats: AttrFloats, wireInts: AttrInts, wireStrings: AttrStrings}
	switch m.typ {
	case wireTensor:
		t, _, err := s.tensor(m.tensor)
		if err != nil {
			return a, fmt.Errorf("attribute %q: %w", m.name, err)
		}
		return Attr{Kind: AttrTensor, T: t}, nil
	case wireGraph:
		g, err := s.subgraph(m.graph)
		if err != nil {
			return a, fmt.Errorf("attribute %q: %w", m.name, err)
		}
		return Attr{Kind: AttrGraph, G: g}, nil
	}
	if kind, ok := kinds[m.typ]; ok {
		a, a.Kind = m.Attr, kind
	}
	return a, nil
}

func (s *scanner) attrField(m *attrMessage, x field) (err error) {
	grow := func(n int) error {
		s.bytes += n
		if int64(s.bytes) > s.memory {
			return fmt.Errorf("%w: attributes need more memory than is allowed", ErrTooLarge)
		}
		return nil
	}
	switch x.num {
	case 1:
		return x.set(&m.name)
	case 2:
		if x.typ != protowire.Fixed32Type {
			return fmt.Errorf("%w: float attribute with wire type %d", ErrMalformed, x.typ)
		}
		m.F, m.guess = math.Float32frombits(uint32(x.val)), wireFloat
	case 3:
		m.guess = wireInt
		return x.setInt(&m.I)
	case 4:
		m.guess = wireString
		b, err := x.bytes()
		if err != nil {
			return err
		}
		if len(b) > maxName*16 {
			return fmt.Errorf("%w: string attribute of %d bytes", ErrTooLarge, len(b))
		}
		m.S = string(b)
	case 5:
		m.guess = wireTensor
		m.tensor, err = x.bytes()
		return err
	case 6:
		m.guess = wireGraph
		m.graph, err = x.bytes()
		return err
	case 7:
		m.guess = wireFloats
		if err := grow(4 + len(x.raw)); err != nil {
			return err
		}
		m.Floats, err = x.floats(m.Floats)
		return err
	case 8:
		m.guess = wireInts
		if err := grow(8 + 8*len(x.raw)); err != nil {
			return err
		}
		return x.varints(func(v uint64) error {
			m.Ints = append(m.Ints, int64(v))
			return nil
		})
	case 9:
		m.guess = wireStrings
		t, err := x.text()
		m.Strings = append(m.Strings, t)
		if err != nil {
			return err
		}
		return grow(16 + len(t))
	case 20:
		return x.setInt(&m.typ)
	case 21:
		return fmt.Errorf("%w: an attribute of a function outside of one", ErrMalformed)
	}
	return nil
}
