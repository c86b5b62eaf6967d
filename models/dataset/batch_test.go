package dataset

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// raw is a safetensors file with the given header and data.
func raw(header, data string) []byte {
	p := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(p, header...), data...)
}

func TestBatchRoundTrip(t *testing.T) {
	for name, b := range map[string]*Batch{
		"bytes":              {X: []byte{1, 2, 3, 4, 5, 6}, DType: U8, Shape: []int{2, 1, 3, 1}, Y: []int32{7, 0}},
		"one odd image":      {X: []byte{9, 8, 7}, DType: U8, Shape: []int{1, 3}, Y: []int32{1 << 30}},
		"floats":             {X: make([]byte, 24), DType: F32, Shape: []int{3, 2}, Y: []int32{0, 1, 2}},
		"without labels":     {X: []byte{0, 255}, DType: U8, Shape: []int{2, 1}},
		"a single dimension": {X: []byte{0, 255}, DType: U8, Shape: []int{2}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := b.Check(); err != nil {
				t.Fatal(err)
			}
			p := b.Marshal()
			if binary.LittleEndian.Uint64(p)%8 != 0 {
				t.Error("the data does not start aligned")
			}
			got, err := UnmarshalBatch(p)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, b) {
				t.Errorf("read back %+v, wrote %+v", got, b)
			}
			if !bytes.Equal(got.Marshal(), p) {
				t.Error("writing it again gives other bytes")
			}
		})
	}
}

// TestBatchBytes pins the written form, because objects are named by its digest.
func TestBatchBytes(t *testing.T) {
	b := &Batch{X: []byte{1, 2}, DType: U8, Shape: []int{2, 1}, Y: []int32{3, 4}}
	want := raw(`{"y":{"dtype":"I32","shape":[2],"data_offsets":[0,8]},"x":{"dtype":"U8","shape":[2,1],"data_offsets":[8,10]}}`+
		strings.Repeat(" ", 3), "\x03\x00\x00\x00\x04\x00\x00\x00\x01\x02")
	if got := b.Marshal(); !bytes.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestBatchOfOtherWriters(t *testing.T) {
	for name, p := range map[string][]byte{
		"metadata, x first, 64-bit labels": raw(`{"__metadata__":{"format":"np"},"x":{"dtype":"U8","shape":[2,1],"data_offsets":[0,2]},`+
			`"y":{"dtype":"I64","shape":[2],"data_offsets":[2,18]}}`, "ab\x05\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00"),
		"byte labels": raw(`{"y":{"shape":[2],"dtype":"U8","data_offsets":[2,4]},"x":{"dtype":"U8","shape":[2,1],"data_offsets":[0,2]}}   `, "ab\x05\x01"),
	} {
		b, err := UnmarshalBatch(p)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if string(b.X) != "ab" || !reflect.DeepEqual(b.Y, []int32{5, 1}) {
			t.Errorf("%s: got %+v", name, b)
		}
	}
}

func TestBrokenBatches(t *testing.T) {
	const x = `"x":{"dtype":"U8","shape":[2,1],"data_offsets":[0,2]}`
	for name, p := range map[string][]byte{
		"empty":                nil,
		"no header":            {9, 0, 0, 0, 0, 0, 0, 0},
		"header of 2^64-1":     bytes.Repeat([]byte{255}, 20),
		"header of 64 KiB + 1": append(binary.LittleEndian.AppendUint64(nil, 64<<10+1), make([]byte, 64<<10+1)...),
		"not JSON":             raw(`x`, ""),
		"an array":             raw(`[]`, ""),
		"cut short":            raw(`{`+x, "ab"),
		"two objects":          raw(`{`+x+`}{}`, "ab"),
		"no images":            raw(`{}`, ""),
		"x twice":              raw(`{`+x+`,`+x+`}`, "ab"),
		"metadata twice":       raw(`{"__metadata__":{},"__metadata__":{},`+x+`}`, "ab"),
		"metadata not text":    raw(`{"__metadata__":{"a":1},`+x+`}`, "ab"),
		"another tensor":       raw(`{`+x+`,"z":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}`, "abc"),
		"an unknown field":     raw(`{"x":{"dtype":"U8","shape":[2,1],"data_offsets":[0,2],"more":1}}`, "ab"),
		"data missing":         raw(`{`+x+`}`, "a"),
		"data left over":       raw(`{`+x+`}`, "abc"),
		"unknown type":         raw(`{"x":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}`, "ab"),
		"images of integers":   raw(`{"x":{"dtype":"I32","shape":[1],"data_offsets":[0,4]},"y":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, "abcdefgh"),
		"no shape":             raw(`{"x":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}`, "a"),
		"no images in it":      raw(`{"x":{"dtype":"U8","shape":[0,4],"data_offsets":[0,0]}}`, ""),
		"negative dimension":   raw(`{"x":{"dtype":"U8","shape":[-1,-2],"data_offsets":[0,2]}}`, "ab"),
		"product overflows":    raw(`{"x":{"dtype":"U8","shape":[2147483647,2147483647,2147483647],"data_offsets":[0,2]}}`, "ab"),
		"offsets backwards":    raw(`{"x":{"dtype":"U8","shape":[2],"data_offsets":[2,0]}}`, "ab"),
		"one offset":           raw(`{"x":{"dtype":"U8","shape":[2],"data_offsets":[2]}}`, "ab"),
		"offsets negative":     raw(`{"x":{"dtype":"U8","shape":[2],"data_offsets":[-2,0]}}`, "ab"),
		"overlap":              raw(`{"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"y":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, "abc"),
		"three labels for two": raw(`{`+x+`,"y":{"dtype":"U8","shape":[3],"data_offsets":[2,5]}}`, "ababc"),
		"labels in two rows":   raw(`{`+x+`,"y":{"dtype":"U8","shape":[2,1],"data_offsets":[2,4]}}`, "abab"),
		"negative label":       raw(`{`+x+`,"y":{"dtype":"I32","shape":[2],"data_offsets":[2,10]}}`, "ab\x00\x00\x00\x00\xff\xff\xff\xff"),
		"label above 2^31":     raw(`{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"y":{"dtype":"I64","shape":[1],"data_offsets":[1,9]}}`, "a\x00\x00\x00\x00\x01\x00\x00\x00"),
	} {
		b, err := UnmarshalBatch(p)
		if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: got %+v, %v", name, b, err)
		}
		if err != nil && b != nil {
			t.Errorf("%s: both a batch and an error", name)
		}
	}
}

func FuzzUnmarshalBatch(f *testing.F) {
	f.Add((&Batch{X: []byte{1, 2, 3, 4}, DType: U8, Shape: []int{2, 2}, Y: []int32{0, 9}}).Marshal())
	f.Add((&Batch{X: make([]byte, 8), DType: F32, Shape: []int{1, 2}}).Marshal())
	f.Add(raw(`{"__metadata__":{},"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"y":{"dtype":"I64","shape":[1],"data_offsets":[1,9]}}`, "a12345678"))
	f.Fuzz(func(t *testing.T, p []byte) {
		b, err := UnmarshalBatch(p)
		if err != nil {
			return
		}
		if err := b.Check(); err != nil {
			t.Fatalf("accepted a batch that is wrong: %v", err)
		}
		again, err := UnmarshalBatch(b.Marshal())
		if err != nil {
			t.Fatalf("cannot read what it wrote: %v", err)
		}
		if !reflect.DeepEqual(again, b) {
			t.Fatalf("round trip: %+v became %+v", b, again)
		}
	})
}
