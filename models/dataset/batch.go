package dataset

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
)

// Element types of images, named as safetensors names them.
const (
	U8  = "U8"  // one byte, 0..255
	F32 = "F32" // IEEE 754 single precision, little-endian
)

// Bounds of what UnmarshalBatch accepts.
const (
	maxHeader = 64 << 10 // bytes of the safetensors header; ours has about 150
	maxRank   = 8        // dimensions of x
)

// Batch is one batch of images: what a worker loads, computes on and counts.
type Batch struct {
	X     []byte  // images, raw little-endian row-major; product(Shape) elements of DType
	DType string  // U8 or F32
	Shape []int   // [N, ...], for example [100, 1, 28, 28]
	Y     []int32 // N class labels, each >= 0; nil when the data has no labels
}

// Len is the number of images, 0 for a batch without a shape.
func (b *Batch) Len() int {
	if len(b.Shape) == 0 {
		return 0
	}
	return b.Shape[0]
}

// Check says whether the fields agree with each other; the error wraps ErrFormat.
func (b *Batch) Check() error {
	n, err := byteSize(b.Shape, b.DType)
	if err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	if b.DType != U8 && b.DType != F32 {
		return fmt.Errorf("batch: images of type %.20q, expected U8 or F32: %w", b.DType, ErrFormat)
	}
	if n != len(b.X) {
		return fmt.Errorf("batch: shape %v of %s needs %d bytes, x has %d: %w", b.Shape, b.DType, n, len(b.X), ErrFormat)
	}
	if b.Y != nil && len(b.Y) != b.Shape[0] {
		return fmt.Errorf("batch: %d images but %d labels: %w", b.Shape[0], len(b.Y), ErrFormat)
	}
	for i, y := range b.Y {
		if y < 0 {
			return fmt.Errorf("batch: label %d of image %d is negative: %w", y, i, ErrFormat)
		}
	}
	return nil
}

// Marshal writes the batch in the safetensors format
// (https://github.com/huggingface/safetensors#format): tensors "y" (I32, only
// when Y is not nil) and "x". Equal batches give equal bytes, so a batch can be
// named by its digest. The labels come first because that keeps both tensors
// aligned whatever the images' size. Marshal does not check the batch; reading
// it back does.
func (b *Batch) Marshal() []byte {
	head := []byte{'{'}
	ylen := 4 * len(b.Y)
	if b.Y != nil {
		head = fmt.Appendf(head, `"y":{"dtype":"I32","shape":[%d],"data_offsets":[0,%d]},`, len(b.Y), ylen)
	}
	shape, _ := json.Marshal(b.Shape) // a slice of ints always marshals
	head = fmt.Appendf(head, `"x":{"dtype":%q,"shape":%s,"data_offsets":[%d,%d]}}`, b.DType, shape, ylen, ylen+len(b.X))
	for len(head)%8 != 0 {
		head = append(head, ' ')
	}
	out := make([]byte, 0, 8+len(head)+ylen+len(b.X))
	out = binary.LittleEndian.AppendUint64(out, uint64(len(head)))
	out = append(out, head...)
	for _, y := range b.Y {
		out = binary.LittleEndian.AppendUint32(out, uint32(y))
	}
	return append(out, b.X...)
}

// tensor is one entry of a safetensors header.
type tensor struct {
	DType   string  `json:"dtype"`
	Shape   []int   `json:"shape"`
	Offsets []int64 `json:"data_offsets"`
}

// UnmarshalBatch reads a batch that Marshal or another safetensors writer wrote:
// "x" as U8 or F32, labels "y" as I32, I64 or U8 if there are any, nothing else
// but "__metadata__". X aliases p. The error wraps ErrFormat or ErrTooLarge. No
// input makes it allocate more than a small multiple of len(p).
func UnmarshalBatch(p []byte) (*Batch, error) {
	b, err := unmarshalBatch(p)
	if err != nil {
		return nil, fmt.Errorf("read batch: %w", err)
	}
	return b, nil
}

func unmarshalBatch(p []byte) (*Batch, error) {
	if len(p) < 8 {
		return nil, fmt.Errorf("%d bytes are too short for safetensors: %w", len(p), ErrFormat)
	}
	n := binary.LittleEndian.Uint64(p)
	if n > maxHeader {
		return nil, fmt.Errorf("safetensors header of %d bytes, at most %d are read: %w", n, maxHeader, ErrTooLarge)
	}
	if n > uint64(len(p)-8) {
		return nil, fmt.Errorf("safetensors header of %d bytes in a file of %d: %w", n, len(p), ErrFormat)
	}
	tensors, err := parseHeader(p[8 : 8+n])
	if err != nil {
		return nil, err
	}
	data := p[8+n:]
	x, ok := tensors["x"]
	if !ok {
		return nil, fmt.Errorf(`no tensor "x" (the images): %w`, ErrFormat)
	}
	y, labelled := tensors["y"]
	if err := checkLayout(tensors, int64(len(data))); err != nil {
		return nil, err
	}
	b := &Batch{X: data[x.Offsets[0]:x.Offsets[1]:x.Offsets[1]], DType: x.DType, Shape: x.Shape}
	if labelled {
		if b.Y, err = labels(y, data[y.Offsets[0]:y.Offsets[1]]); err != nil {
			return nil, err
		}
	}
	return b, b.Check()
}

// parseHeader reads the JSON header token by token, because encoding/json would
// let the last of two equal names win in silence.
func parseHeader(p []byte) (map[string]tensor, error) {
	d := json.NewDecoder(bytes.NewReader(p))
	d.DisallowUnknownFields()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("safetensors header is no JSON object: %w", ErrFormat)
	}
	out := map[string]tensor{}
	meta := false
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("safetensors header: %w: %w", err, ErrFormat)
		}
		name, _ := t.(string)
		switch _, dup := out[name]; {
		case name == "__metadata__" && !meta:
			var m map[string]string
			if err := d.Decode(&m); err != nil {
				return nil, fmt.Errorf("safetensors metadata: %w: %w", err, ErrFormat)
			}
			meta = true
		case (name == "x" || name == "y") && !dup:
			var v tensor
			if err := d.Decode(&v); err != nil {
				return nil, fmt.Errorf("safetensors tensor %q: %w: %w", name, err, ErrFormat)
			}
			out[name] = v
		default:
			return nil, fmt.Errorf(`safetensors tensor %.40q: a batch has "x" and at most "y", each once: %w`, name, ErrFormat)
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("safetensors header ends early: %w", ErrFormat)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("safetensors header goes on after its end: %w", ErrFormat)
	}
	return out, nil
}

// checkLayout demands what the format demands: every tensor has as many bytes as
// its shape says, and together they cover the data without hole or overlap.
func checkLayout(tensors map[string]tensor, size int64) error {
	for name, t := range tensors {
		n, err := byteSize(t.Shape, t.DType)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		if len(t.Offsets) != 2 || t.Offsets[0] < 0 || t.Offsets[1] < t.Offsets[0] || t.Offsets[1] > size {
			return fmt.Errorf("tensor %q: offsets %v in %d bytes of data: %w", name, t.Offsets, size, ErrFormat)
		}
		if t.Offsets[1]-t.Offsets[0] != int64(n) {
			return fmt.Errorf("tensor %q: shape %v of %s needs %d bytes, offsets %v: %w", name, t.Shape, t.DType, n, t.Offsets, ErrFormat)
		}
	}
	x, y := tensors["x"].Offsets, tensors["y"].Offsets
	var covered bool
	if y == nil {
		covered = x[0] == 0 && x[1] == size
	} else {
		covered = x[0] == 0 && x[1] == y[0] && y[1] == size || y[0] == 0 && y[1] == x[0] && x[1] == size
	}
	if !covered {
		return fmt.Errorf("tensors do not cover the %d bytes of data exactly: %w", size, ErrFormat)
	}
	return nil
}

// labels converts y to int32, whatever integer type its writer chose.
func labels(t tensor, p []byte) ([]int32, error) {
	if len(t.Shape) != 1 {
		return nil, fmt.Errorf("labels of shape %v, expected one dimension: %w", t.Shape, ErrFormat)
	}
	out := make([]int32, t.Shape[0])
	for i := range out {
		switch t.DType {
		case "I32":
			out[i] = int32(binary.LittleEndian.Uint32(p[4*i:]))
		case "I64":
			v := int64(binary.LittleEndian.Uint64(p[8*i:]))
			if v < 0 || v > math.MaxInt32 {
				return nil, fmt.Errorf("label %d of image %d: %w", v, i, ErrFormat)
			}
			out[i] = int32(v)
		case U8:
			out[i] = int32(p[i])
		default:
			return nil, fmt.Errorf("labels of type %s, expected I32, I64 or U8: %w", t.DType, ErrFormat)
		}
	}
	return out, nil
}

// elementSize is the width of a dtype in bytes, 0 for one that no batch uses.
func elementSize(dtype string) int {
	switch dtype {
	case U8:
		return 1
	case F32, "I32":
		return 4
	case "I64":
		return 8
	}
	return 0
}

// byteSize is product(shape) times the width of dtype. It refuses unknown types,
// dimensions below 1 and products that overflow an int32's worth of bytes.
func byteSize(shape []int, dtype string) (int, error) {
	size := elementSize(dtype)
	if size == 0 {
		return 0, fmt.Errorf("type %.20q, expected U8 or F32: %w", dtype, ErrFormat)
	}
	if len(shape) == 0 || len(shape) > maxRank {
		return 0, fmt.Errorf("%d dimensions, expected 1 to %d: %w", len(shape), maxRank, ErrFormat)
	}
	n := int64(size)
	for _, d := range shape {
		if d < 1 || int64(d) > math.MaxInt32 {
			return 0, fmt.Errorf("dimension %d in shape %v: %w", d, shape, ErrFormat)
		}
		if n *= int64(d); n > math.MaxInt32 {
			return 0, fmt.Errorf("shape %v of %s has more than %d bytes: %w", shape, dtype, math.MaxInt32, ErrTooLarge)
		}
	}
	return int(n), nil
}
