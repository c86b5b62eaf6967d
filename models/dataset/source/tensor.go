package source

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"idunno/models/dataset"
)

// element is the type of an array's elements.
type element struct {
	kind byte // u: unsigned, i: signed, f: floating point, b: brain float
	size int  // bytes
	big  bool // most significant byte first
}

func (e element) order() binary.ByteOrder {
	if e.big {
		return binary.BigEndian
	}
	return binary.LittleEndian
}

// native is the element type that images of the array are read in.
func (e element) native() string {
	if e.kind == 'u' && e.size == 1 {
		return dataset.U8
	}
	return dataset.F32
}

// value decodes one element.
func (e element) value(p []byte) float64 {
	o := e.order()
	switch e.size {
	case 1:
		if e.kind == 'i' {
			return float64(int8(p[0]))
		}
		return float64(p[0])
	case 2:
		v := o.Uint16(p)
		switch e.kind {
		case 'u':
			return float64(v)
		case 'i':
			return float64(int16(v))
		case 'b':
			return float64(math.Float32frombits(uint32(v) << 16))
		}
		return half(v)
	case 4:
		v := o.Uint32(p)
		switch e.kind {
		case 'u':
			return float64(v)
		case 'i':
			return float64(int32(v))
		}
		return float64(math.Float32frombits(v))
	}
	v := o.Uint64(p)
	switch e.kind {
	case 'u':
		return float64(v)
	case 'i':
		return float64(int64(v))
	}
	return math.Float64frombits(v)
}

// half decodes an IEEE 754 half-precision number.
func half(v uint16) float64 {
	sign := 1.0
	if v&0x8000 != 0 {
		sign = -1
	}
	exponent, fraction := int(v>>10&31), float64(v&1023)
	switch exponent {
	case 0:
		return sign * math.Ldexp(fraction, -24)
	case 31:
		if fraction != 0 {
			return math.NaN()
		}
		return sign * math.Inf(1)
	}
	return sign * math.Ldexp(1024+fraction, exponent-25)
}

// array is an array in a file: shape[0] records of the same shape.
type array struct {
	*stream
	shape []int
	element
	buf []byte
}

// record is the size in bytes of one record, -1 when it is beyond what an image may
// have.
func (a *array) record() int64 {
	n := product(a.shape[1:])
	if n < 1 || n > maxImageBytes/a.element.size {
		return -1
	}
	return int64(n * a.element.size)
}

// check compares what the shape announces with what is there.
func (a *array) check() error {
	if len(a.shape) == 0 {
		return fmt.Errorf("%s holds one number, not an array of images: %w", a.name, dataset.ErrFormat)
	}
	if a.shape[0] < 1 || a.shape[0] > maxImages {
		return fmt.Errorf("%s: shape %v: %w", a.name, a.shape, dataset.ErrFormat)
	}
	record := a.record()
	if record < 0 {
		return fmt.Errorf("%s: shape %v, one image has at most %d bytes: %w", a.name, a.shape, maxImageBytes, dataset.ErrTooLarge)
	}
	if have, want := a.stream.size(), record*int64(a.shape[0]); have >= 0 && have != want {
		return fmt.Errorf("%s: shape %v needs %d bytes, there are %d: %w", a.name, a.shape, want, have, dataset.ErrFormat)
	}
	return nil
}

// next reads n records.
func (a *array) next(n int) ([]byte, error) {
	size := int(a.record()) * n
	if cap(a.buf) < size {
		a.buf = make([]byte, size)
	}
	a.buf = a.buf[:size]
	return a.buf, a.full(a.buf)
}

// arrays are images and labels that lie in two arrays.
type arrays struct {
	images, labels *array // labels may be nil
	done           int
}

func (t *arrays) read(n int, b *block) error {
	p, err := t.images.next(n)
	if err != nil {
		return err
	}
	if t.images.native() == dataset.U8 {
		b.u8, t.images.buf = p, nil // the batch keeps it
	} else {
		size := t.images.element.size
		b.f32 = make([]float32, len(p)/size)
		for i := range b.f32 {
			b.f32[i] = float32(t.images.value(p[i*size:]))
		}
	}
	if t.labels != nil {
		if b.y, err = t.labels.classes(n, t.done); err != nil {
			return err
		}
	}
	t.done += n
	return nil
}

// classes reads n labels, the first of which is number from and 1.
func (a *array) classes(n, from int) ([]int32, error) {
	p, err := a.next(n)
	if err != nil {
		return nil, err
	}
	y := make([]int32, n)
	for i := range y {
		v := a.value(p[i*a.element.size:])
		if v < 0 || v >= maxClasses || v != math.Trunc(v) {
			return nil, fmt.Errorf("%s: label %d is %v; allowed: whole numbers from 0 to %d: %w", a.name, from+i+1, v, maxClasses-1, dataset.ErrFormat)
		}
		y[i] = int32(v)
	}
	return y, nil
}

func (t *arrays) skip(n int) error {
	t.done += n
	if t.labels != nil {
		if err := t.labels.stream.skip(t.labels.record() * int64(n)); err != nil {
			return err
		}
	}
	return t.images.stream.skip(t.images.record() * int64(n))
}

func (t *arrays) end() error {
	if t.labels != nil {
		if err := t.labels.stream.end(); err != nil {
			return err
		}
	}
	return t.images.stream.end()
}

func (t *arrays) Close() error {
	err := t.images.Close()
	if t.labels != nil {
		err = errors.Join(err, t.labels.Close())
	}
	return err
}

// pair makes a table of an array of images and one of labels. Labels are opened
// twice, because the classes have to be known before the first image is read; nil
// says that there are none.
func pair(images *array, labels func() (*array, error)) (*table, error) {
	t := &arrays{images: images}
	fail := func(err error) (*table, error) {
		t.Close()
		return nil, err
	}
	if err := images.check(); err != nil {
		return fail(err)
	}
	out := &table{rows: t, images: images.shape[0], shape: images.shape[1:], native: images.native()}
	if labels == nil {
		return out, nil
	}
	first, err := labels()
	if err != nil {
		return fail(err)
	}
	out.labels, err = highest(first, images)
	first.Close()
	if err != nil {
		return fail(err)
	}
	out.labelled = true
	if t.labels, err = labels(); err != nil {
		return fail(err)
	}
	return out, nil
}

// highest reads all labels and returns the number of classes.
func highest(labels, images *array) (int, error) {
	if err := labels.check(); err != nil {
		return 0, err
	}
	if product(labels.shape[1:]) != 1 {
		return 0, fmt.Errorf("%s: labels of shape %v, expected one number each (of one-hot labels take the argmax first): %w", labels.name, labels.shape, dataset.ErrFormat)
	}
	if labels.shape[0] != images.shape[0] {
		return 0, fmt.Errorf("%s has %d labels, %s has %d images: %w", labels.name, labels.shape[0], images.name, images.shape[0], dataset.ErrFormat)
	}
	top := int32(0)
	const step = 1 << 16
	for done := 0; done < labels.shape[0]; done += step {
		y, err := labels.classes(min(step, labels.shape[0]-done), done)
		if err != nil {
			return 0, err
		}
		for _, v := range y {
			top = max(top, v)
		}
	}
	return int(top) + 1, labels.stream.end()
}
