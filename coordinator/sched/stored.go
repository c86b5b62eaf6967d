package sched

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"idunno/broker/wire"
)

// MergeRaw adds a stored tally. It adds the histogram's values one by one, without the
// histogram: a coordinator that starts adds up all jobs there have ever been, and each
// has some twenty values in as many thousand places.
func (t *Tally) MergeRaw(raw *wire.RawStats) error {
	values, err := decodeTimes(raw.Times)
	if err != nil {
		return fmt.Errorf("decode histogram: %w", err)
	}
	for _, v := range values {
		t.times.add(placeOf(v.value), v.count)
	}
	t.mergeSums(raw)
	return nil
}

// counted is a value of a histogram and how often it was recorded.
type counted struct{ value, count int64 }

// Layout of a histogram's V2 encoding, compressed, as HdrHistogram describes it:
// base64 of a cookie, a length and a zlib stream of a header and of the counts, which
// are zigzag LEB128; a negative one stands for so many zeros.
const (
	cookieCompressed = 0x1c849314
	cookieV2         = 0x1c849313
	headerSize       = 40
	// unitBits and halfBits are what the range and the precision of ours make of
	// it: values are told apart by 512 ns, and there are 1,024 places for each power of two.
	unitBits = 9
	halfBits = 10
	places   = 1 << 15
	// maxPlain bounds the memory that a stored histogram takes.
	maxPlain = headerSize + 9*places
)

var errTimes = errors.New("not a histogram of this program")

func decodeTimes(p []byte) ([]counted, error) {
	packed := make([]byte, base64.StdEncoding.DecodedLen(len(p)))
	n, err := base64.StdEncoding.Decode(packed, p)
	if err != nil {
		return nil, err
	}
	if packed = packed[:n]; n < 8 || binary.BigEndian.Uint32(packed) != cookieCompressed {
		return nil, errTimes
	}
	z, err := zlib.NewReader(bytes.NewReader(packed[8:]))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	plain, err := io.ReadAll(io.LimitReader(z, maxPlain+1))
	if err != nil {
		return nil, err
	}
	if len(plain) < headerSize || len(plain) > maxPlain {
		return nil, errTimes
	}
	head, counts := plain[:headerSize], plain[headerSize:]
	field := func(at int) uint32 { return binary.BigEndian.Uint32(head[at:]) }
	long := func(at int) int64 { return int64(binary.BigEndian.Uint64(head[at:])) }
	if field(0) != cookieV2 || int(field(4)) != len(counts) || field(8) != 0 || field(12) != histDigits || long(16) != histMin || long(24) != histMax {
		return nil, errTimes
	}
	return decodeCounts(counts)
}

func decodeCounts(p []byte) (values []counted, err error) {
	for place := 0; len(p) > 0; {
		zigzag, n := leb128(p)
		if n == 0 {
			return nil, errTimes
		}
		p = p[n:]
		count := int64(zigzag>>1) ^ -int64(zigzag&1)
		switch {
		case count < -places:
			return nil, errTimes
		case count < 0:
			place += int(-count)
		default:
			if count > 0 {
				values = append(values, counted{valueAt(place), count})
			}
			place++
		}
		if place > places {
			return nil, errTimes
		}
	}
	return values, nil
}

// leb128 decodes a number of at most nine bytes, the last of which has eight bits of
// it. It returns 0 bytes for one that is cut off.
func leb128(p []byte) (v uint64, n int) {
	for i := range min(len(p), 8) {
		v |= uint64(p[i]&0x7f) << (7 * i)
		if p[i] < 0x80 {
			return v, i + 1
		}
	}
	if len(p) < 9 {
		return 0, 0
	}
	return v | uint64(p[8])<<56, 9
}

// valueAt is the lowest value that is counted in a place.
func valueAt(place int) int64 {
	bucket, sub := place>>halfBits-1, place&(1<<halfBits-1)+1<<halfBits
	if bucket < 0 {
		bucket, sub = 0, place
	}
	return int64(sub) << (bucket + unitBits)
}
