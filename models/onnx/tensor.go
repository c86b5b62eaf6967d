package onnx

import (
	"encoding/binary"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// ReadTensor decodes one serialized TensorProto, the form of the inputs and outputs in the ONNX test suites. maxBytes bounds the memory of
// the elements; 0 means the size that the elements have in the message times eight.
func ReadTensor(p []byte, maxBytes int64) (*Tensor, error) {
	if maxBytes <= 0 {
		maxBytes = 8 * int64(len(p)+8)
	}
	s := scanner{budget: &budget{memory: maxBytes}}
	t, _, err := s.tensor(p)
	return t, err
}

// tensorMessage is a TensorProto before its elements are decoded. The data fields may come in several pieces.
type tensorMessage struct {
	Tensor
	raw       []byte
	hasRaw    bool
	lists     [5][]field // float_data, int32_data, int64_data, double_data, uint64_data
	hasString bool
}

const (
	listFloat = iota
	listInt32
	listInt64
	listDouble
	listUint64
)

// tensor decodes a TensorProto. plain says that onnx-go's own decoder reads this tensor correctly.
func (s *scanner) tensor(p []byte) (t *Tensor, plain bool, err error) {
	m, err := scanTensor(p)
	if err != nil {
		return nil, false, err
	}
	n, err := elements(m.Dims)
	if err != nil {
		return nil, false, fmt.Errorf("tensor %q: %w", m.Name, err)
	}
	if err := s.charge(m.DType, n); err != nil {
		return nil, false, fmt.Errorf("tensor %q: %w", m.Name, err)
	}
	switch {
	case m.DType.IsFloat():
		err = m.decodeFloats(n)
	case m.DType.IsInt():
		err = m.decodeInts(n)
	case m.DType == String || m.hasString:
		err = fmt.Errorf("%w: %w", ErrUnsupported, ErrStrings)
	default:
		err = fmt.Errorf("%w: element %s", ErrUnsupported, m.DType)
	}
	if err != nil {
		return nil, false, fmt.Errorf("tensor %q: %w", m.Name, err)
	}
	plain = n > 0 && (m.DType == Float || m.DType == Double || m.DType == Int32 || m.DType == Int64)
	out := m.Tensor
	return &out, plain, nil
}

// charge takes the memory of n elements from the budget before it is allocated.
func (s *scanner) charge(d DType, n int) error {
	size := int64(n) * 8
	if d.IsFloat() {
		size = int64(n) * 4
	}
	if size > s.memory {
		return fmt.Errorf("%w: %d elements need more memory than is allowed", ErrTooLarge, n)
	}
	s.memory -= size
	return nil
}

func scanTensor(p []byte) (*tensorMessage, error) {
	m := &tensorMessage{}
	external, parts := false, 0
	err := fields(p, func(x field) (err error) {
		if parts++; parts > maxParts {
			return fmt.Errorf("%w: tensor in more than %d pieces", ErrTooLarge, maxParts)
		}
		switch x.num {
		case 1:
			return x.varints(func(v uint64) error {
				if len(m.Dims) == maxRank {
					return fmt.Errorf("%w: tensor with more than %d dimensions", ErrTooLarge, maxRank)
				}
				if int64(v) < 0 || v > math.MaxInt32*64 {
					return fmt.Errorf("%w: tensor dimension %d", ErrMalformed, int64(v))
				}
				m.Dims = append(m.Dims, int(v))
				return nil
			})
		case 2:
			var d int64
			err = x.setInt(&d)
			m.DType = DType(d)
		case 3:
			return fmt.Errorf("%w: segmented tensor", ErrUnsupported)
		case 4:
			m.lists[listFloat] = append(m.lists[listFloat], x)
		case 5:
			m.lists[listInt32] = append(m.lists[listInt32], x)
		case 6:
			m.hasString = true
		case 7:
			m.lists[listInt64] = append(m.lists[listInt64], x)
		case 8:
			err = x.set(&m.Name)
		case 9:
			m.raw, err = x.bytes()
			m.hasRaw = true
		case 10:
			m.lists[listDouble] = append(m.lists[listDouble], x)
		case 11:
			m.lists[listUint64] = append(m.lists[listUint64], x)
		case 13, 14:
			external = external || x.num == 13 || x.val != 0
		}
		return err
	})
	if err == nil && external {
		err = fmt.Errorf("%w: tensor %q keeps its data in another file, which is read only when the model is given as a file; save it with its weights inside", ErrUnsupported, m.Name)
	}
	return m, err
}

func (m *tensorMessage) count(n, got int) error {
	if got != n {
		return fmt.Errorf("%w: dimensions %v need %d elements, there are %d", ErrMalformed, m.Dims, n, got)
	}
	return nil
}

func (m *tensorMessage) decodeFloats(n int) error {
	width := m.DType.width()
	if m.hasRaw {
		if len(m.raw)%width != 0 {
			return fmt.Errorf("%w: raw data of %d bytes", ErrMalformed, len(m.raw))
		}
		if err := m.count(n, len(m.raw)/width); err != nil {
			return err
		}
		m.Floats = make([]float32, n)
		for i := range m.Floats {
			m.Floats[i] = m.decodeFloat(m.raw[i*width:])
		}
		return nil
	}
	m.Floats = make([]float32, 0, min(n, len(m.lists[listFloat])*2))
	add := func(v float32) error {
		if len(m.Floats) == n {
			return fmt.Errorf("%w: more than the %d elements of dimensions %v", ErrMalformed, n, m.Dims)
		}
		m.Floats = append(m.Floats, v)
		return nil
	}
	var err error
	switch m.DType {
	case Float:
		err = m.fixed(listFloat, 4, n, func(b []byte) error { return add(m.decodeFloat(b)) })
	case Double:
		err = m.fixed(listDouble, 8, n, func(b []byte) error { return add(m.decodeFloat(b)) })
	default:
		err = m.each(listInt32, func(v uint64) error {
			return add(m.decodeFloat(binary.LittleEndian.AppendUint16(nil, uint16(v))))
		})
	}
	if err != nil {
		return err
	}
	return m.count(n, len(m.Floats))
}

func (m *tensorMessage) decodeFloat(b []byte) float32 {
	switch m.DType {
	case Double:
		return float32(math.Float64frombits(binary.LittleEndian.Uint64(b)))
	case Float16:
		return halfToFloat(binary.LittleEndian.Uint16(b))
	case BFloat16:
		return math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16)
	}
	return math.Float32frombits(binary.LittleEndian.Uint32(b))
}

// halfToFloat converts IEEE 754 binary16.
func halfToFloat(h uint16) float32 {
	sign, exp, frac := uint32(h>>15)<<31, uint32(h>>10&31), uint32(h&1023)
	switch exp {
	case 0:
		v := float32(frac) / (1 << 24)
		return math.Float32frombits(math.Float32bits(v) | sign)
	case 31:
		return math.Float32frombits(sign | 255<<23 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}

func (m *tensorMessage) decodeInts(n int) error {
	if m.hasRaw {
		width := m.DType.width()
		if len(m.raw)%width != 0 {
			return fmt.Errorf("%w: raw data of %d bytes", ErrMalformed, len(m.raw))
		}
		if err := m.count(n, len(m.raw)/width); err != nil {
			return err
		}
		m.Ints = make([]int64, n)
		for i := range m.Ints {
			var b [8]byte
			copy(b[:], m.raw[i*width:(i+1)*width])
			m.Ints[i] = m.DType.Wrap(int64(binary.LittleEndian.Uint64(b[:])))
		}
		return nil
	}
	list := listInt32
	switch m.DType {
	case Int64:
		list = listInt64
	case Uint32, Uint64:
		list = listUint64
	}
	m.Ints = make([]int64, 0, min(n, 16))
	err := m.each(list, func(v uint64) error {
		if len(m.Ints) == n {
			return fmt.Errorf("%w: more than the %d elements of dimensions %v", ErrMalformed, n, m.Dims)
		}
		m.Ints = append(m.Ints, m.DType.Wrap(int64(v)))
		return nil
	})
	if err != nil {
		return err
	}
	return m.count(n, len(m.Ints))
}

// Wrap reduces an integer to the width and sign of the type, as arithmetic in that type does. Truth values become 0 or 1.
func (d DType) Wrap(v int64) int64 {
	switch d {
	case Uint8:
		return int64(uint8(v))
	case Int8:
		return int64(int8(v))
	case Uint16:
		return int64(uint16(v))
	case Int16:
		return int64(int16(v))
	case Int32:
		return int64(int32(v))
	case Uint32:
		return int64(uint32(v))
	case Bool:
		if v != 0 {
			return 1
		}
	}
	return v
}

func (m *tensorMessage) each(list int, f func(uint64) error) error {
	for _, x := range m.lists[list] {
		if err := x.varints(f); err != nil {
			return err
		}
	}
	return nil
}

// fixed calls f with each number of a repeated field of fixed width, packed or not.
func (m *tensorMessage) fixed(list, width, n int, f func([]byte) error) error {
	for _, x := range m.lists[list] {
		p := x.raw
		switch {
		case x.typ == protowire.Fixed32Type && width == 4, x.typ == protowire.Fixed64Type && width == 8:
			p = binary.LittleEndian.AppendUint64(nil, x.val)[:width]
		case x.typ != protowire.BytesType || len(p)%width != 0 || len(p)/width > n:
			return fmt.Errorf("%w: numbers of tensor %q", ErrMalformed, m.Name)
		}
		for ; len(p) > 0; p = p[width:] {
			if err := f(p); err != nil {
				return err
			}
		}
	}
	return nil
}
