package sched

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"slices"
)

// times is a histogram of batch times: an HdrHistogram of range and precision as
// above, of which only the places that are in use take memory. A node's times lie in
// some hundred of the 32,768 places, and there may be thousands of nodes.
type times struct {
	counts map[uint16]int64
	total  int64
}

// placeOf is the place that a value in nanoseconds is counted in.
func placeOf(v int64) uint16 {
	u := uint64(min(max(v, histMin), histMax)) >> unitBits
	bucket := max(bits.Len64(u)-halfBits-1, 0)
	return uint16(bucket<<halfBits + int(u>>bucket))
}

// highestIn is the highest value that is counted in a place.
func highestIn(place uint16) int64 {
	bucket := max(int(place)>>halfBits-1, 0)
	return valueAt(int(place)) + 1<<(bucket+unitBits) - 1
}

func (h *times) add(place uint16, count int64) {
	if h.counts == nil {
		h.counts = make(map[uint16]int64)
	}
	h.counts[place] += count
	h.total += count
}

func (h *times) merge(o *times) {
	for place, count := range o.counts {
		h.add(place, count)
	}
}

// quantiles are the values below which so many percent lie, ascending; 0 of none.
func (h *times) quantiles(percent ...float64) []int64 {
	values := make([]int64, len(percent))
	if h.total == 0 {
		return values
	}
	places := slices.Sorted(maps.Keys(h.counts))
	at, seen := 0, h.counts[places[0]]
	for i, p := range percent {
		rank := min(max(int64(p/100*float64(h.total)+0.5), 1), h.total)
		for seen < rank && at+1 < len(places) {
			at++
			seen += h.counts[places[at]]
		}
		values[i] = highestIn(places[at])
	}
	return values
}

// appendCounts writes the counts as an HdrHistogram's V2 encoding does.
func (h *times) appendCounts(p []byte) []byte {
	next := 0
	for _, place := range slices.Sorted(maps.Keys(h.counts)) {
		if gap := int(place) - next; gap > 0 {
			p = appendLEB128(p, zigzag(int64(-gap)))
		}
		p = appendLEB128(p, zigzag(h.counts[place]))
		next = int(place) + 1
	}
	return p
}

func zigzag(v int64) uint64 { return uint64(v<<1) ^ uint64(v>>63) }

// appendLEB128 is the inverse of [leb128].
func appendLEB128(p []byte, v uint64) []byte {
	for range 8 {
		if v < 0x80 {
			return append(p, byte(v))
		}
		p = append(p, byte(v)|0x80)
		v >>= 7
	}
	return append(p, byte(v))
}

// take adds counts that appendCounts wrote.
func (h *times) take(p []byte) error {
	values, err := decodeCounts(p)
	if err != nil {
		return err
	}
	for _, v := range values {
		h.add(placeOf(v.value), v.count)
	}
	return nil
}

// encode writes the histogram as [decodeTimes] and HdrHistogram's libraries read it.
func (h *times) encode(pack *packer) ([]byte, error) {
	plain := h.appendCounts(make([]byte, headerSize))
	binary.BigEndian.PutUint32(plain, cookieV2)
	binary.BigEndian.PutUint32(plain[4:], uint32(len(plain)-headerSize))
	binary.BigEndian.PutUint32(plain[12:], histDigits)
	binary.BigEndian.PutUint64(plain[16:], uint64(histMin))
	binary.BigEndian.PutUint64(plain[24:], uint64(histMax))
	binary.BigEndian.PutUint64(plain[32:], math.Float64bits(1))
	packed, err := pack.zip(plain)
	if err != nil {
		return nil, fmt.Errorf("encode histogram: %w", err)
	}
	binary.BigEndian.PutUint32(packed, cookieCompressed)
	binary.BigEndian.PutUint32(packed[4:], uint32(len(packed)-8))
	return base64.StdEncoding.AppendEncode(nil, packed), nil
}

// packer compresses one thing after the other: what that needs takes a megabyte.
type packer struct{ z *zlib.Writer }

// zip compresses, and leaves eight bytes in front.
func (k *packer) zip(p []byte) ([]byte, error) {
	var out bytes.Buffer
	out.Write(make([]byte, 8))
	if k.z == nil {
		k.z = zlib.NewWriter(&out)
	} else {
		k.z.Reset(&out)
	}
	if _, err := k.z.Write(p); err != nil {
		return nil, err
	}
	if err := k.z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
