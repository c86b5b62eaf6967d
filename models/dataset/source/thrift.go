package source

import (
	"encoding/binary"
	"errors"
	"fmt"

	"idunno/models/dataset"
)

// The headers of Parquet files are in Thrift's compact protocol
// (https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md).
// Their decoder allocates a list for as many elements as it announces, so they are
// walked through once before it sees them.

// Limits of a header.
const (
	maxThriftDepth   = 32
	maxThriftStructs = 500_000 // in lists; each takes up to about a kilobyte decoded
)

var errThrift = fmt.Errorf("a broken header: %w", dataset.ErrFormat)

// walker walks through a struct.
type walker struct {
	p       []byte
	at      int
	structs int
}

// thriftLen is the number of bytes that the struct at the beginning of p takes. The
// error wraps dataset.ErrFormat or ErrTooLarge.
func thriftLen(p []byte) (int, error) {
	t := &walker{p: p}
	err := t.object(0)
	return t.at, err
}

func (t *walker) byte() (byte, error) {
	if t.at >= len(t.p) {
		return 0, errThrift
	}
	t.at++
	return t.p[t.at-1], nil
}

func (t *walker) uvarint() (uint64, error) {
	v, n := binary.Uvarint(t.p[t.at:])
	if n <= 0 {
		return 0, errThrift
	}
	t.at += n
	return v, nil
}

// pass leaves n bytes out.
func (t *walker) pass(n uint64) error {
	if n > uint64(len(t.p)-t.at) {
		return errThrift
	}
	t.at += int(n)
	return nil
}

func (t *walker) object(depth int) error {
	if depth > maxThriftDepth {
		return fmt.Errorf("a header nested more than %d deep: %w", maxThriftDepth, dataset.ErrTooLarge)
	}
	for {
		head, err := t.byte()
		if err != nil {
			return err
		}
		if head == 0 {
			return nil
		}
		if head>>4 == 0 { // the field's number follows
			if _, err := t.uvarint(); err != nil {
				return err
			}
		}
		if kind := head & 15; kind == 1 || kind == 2 {
			continue // true and false are in the head
		} else if err := t.value(kind, depth); err != nil {
			return err
		}
	}
}

func (t *walker) value(kind byte, depth int) error {
	switch kind {
	case 1, 2, 3: // a byte; in lists also true and false
		return t.pass(1)
	case 4, 5, 6: // whole numbers
		_, err := t.uvarint()
		return err
	case 7: // double
		return t.pass(8)
	case 8: // bytes
		n, err := t.uvarint()
		return errors.Join(err, t.pass(n))
	case 9, 10: // list, set
		return t.list(depth)
	case 11:
		return t.pairs(depth)
	case 12:
		return t.object(depth + 1)
	}
	return errThrift
}

func (t *walker) list(depth int) error {
	head, err := t.byte()
	if err != nil {
		return err
	}
	n := uint64(head >> 4)
	if n == 15 {
		if n, err = t.uvarint(); err != nil {
			return err
		}
	}
	return t.elements(n, depth, head&15)
}

func (t *walker) pairs(depth int) error {
	n, err := t.uvarint()
	if err != nil || n == 0 {
		return err
	}
	head, err := t.byte()
	if err != nil {
		return err
	}
	return t.elements(n, depth, head>>4, head&15)
}

// elements passes n elements, each of which has values of the given kinds and takes
// a byte at least.
func (t *walker) elements(n uint64, depth int, kinds ...byte) error {
	if n > uint64(len(t.p)-t.at) {
		return errThrift
	}
	if kind := kinds[0]; kind >= 8 {
		if t.structs += int(n); t.structs > maxThriftStructs {
			return fmt.Errorf("a header of more than %d parts: %w", maxThriftStructs, dataset.ErrTooLarge)
		}
	}
	for range n {
		for _, kind := range kinds {
			if err := t.value(kind, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}
