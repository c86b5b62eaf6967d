package onnx

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// Limits of the parts of a model. They are far above real models and keep a hostile one from costing more than its own size.
const (
	maxName  = 4096
	maxNodes = 1 << 16
	maxPorts = 1 << 12 // inputs or outputs of one node, inputs or outputs of the graph
	maxRank  = 16
	maxEdges = 1 << 18
	maxParts = 1 << 18 // pieces in which the elements of one tensor may come
)

// field is one field of a protobuf message: num holds varints and fixed numbers, raw the length-delimited ones.
type field struct {
	num protowire.Number
	typ protowire.Type
	val uint64
	raw []byte
}

// fields calls f for each field of a message.
func fields(p []byte, f func(field) error) error {
	for len(p) > 0 {
		num, typ, n := protowire.ConsumeTag(p)
		if n < 0 {
			return fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(n))
		}
		p = p[n:]
		x := field{num: num, typ: typ}
		switch typ {
		case protowire.VarintType:
			x.val, n = protowire.ConsumeVarint(p)
		case protowire.Fixed32Type:
			var v uint32
			v, n = protowire.ConsumeFixed32(p)
			x.val = uint64(v)
		case protowire.Fixed64Type:
			x.val, n = protowire.ConsumeFixed64(p)
		case protowire.BytesType:
			x.raw, n = protowire.ConsumeBytes(p)
		default:
			return fmt.Errorf("%w: field %d is a group", ErrMalformed, num)
		}
		if n < 0 {
			return fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(n))
		}
		p = p[n:]
		if err := f(x); err != nil {
			return err
		}
	}
	return nil
}

func (x field) bytes() ([]byte, error) {
	if x.typ != protowire.BytesType {
		return nil, fmt.Errorf("%w: field %d has wire type %d", ErrMalformed, x.num, x.typ)
	}
	return x.raw, nil
}

func (x field) text() (string, error) {
	b, err := x.bytes()
	if err != nil {
		return "", err
	}
	if len(b) > maxName {
		return "", fmt.Errorf("%w: a name of %d bytes", ErrTooLarge, len(b))
	}
	if !utf8.Valid(b) {
		return "", fmt.Errorf("%w: a name is not UTF-8", ErrMalformed)
	}
	return string(b), nil
}

func (x field) integer() (int64, error) {
	if x.typ != protowire.VarintType {
		return 0, fmt.Errorf("%w: field %d has wire type %d", ErrMalformed, x.num, x.typ)
	}
	return int64(x.val), nil
}

// set stores a text field in dst.
func (x field) set(dst *string) (err error) {
	*dst, err = x.text()
	return err
}

// setInt stores an integer field in dst.
func (x field) setInt(dst *int64) (err error) {
	*dst, err = x.integer()
	return err
}

// varints calls f for the numbers of a repeated integer field, packed or not.
func (x field) varints(f func(uint64) error) error {
	if x.typ == protowire.VarintType {
		return f(x.val)
	}
	p, err := x.bytes()
	if err != nil {
		return err
	}
	for len(p) > 0 {
		v, n := protowire.ConsumeVarint(p)
		if n < 0 {
			return fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(n))
		}
		p = p[n:]
		if err := f(v); err != nil {
			return err
		}
	}
	return nil
}

// floats appends the numbers of a repeated float field, packed or not.
func (x field) floats(dst []float32) ([]float32, error) {
	if x.typ == protowire.Fixed32Type {
		return append(dst, math.Float32frombits(uint32(x.val))), nil
	}
	p, err := x.bytes()
	if err != nil {
		return nil, err
	}
	if len(p)%4 != 0 {
		return nil, fmt.Errorf("%w: packed floats of %d bytes", ErrMalformed, len(p))
	}
	for ; len(p) > 0; p = p[4:] {
		dst = append(dst, math.Float32frombits(binary.LittleEndian.Uint32(p)))
	}
	return dst, nil
}
