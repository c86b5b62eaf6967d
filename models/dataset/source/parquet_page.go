package source

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"slices"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go/format"

	"idunno/models/dataset"
)

// errPage is an error about the contents of a page.
func errPage(text string, args ...any) error {
	return fmt.Errorf("a page %s: %w", fmt.Sprintf(text, args...), dataset.ErrFormat)
}

// pageInfo is what both versions of a page's header say.
type pageInfo struct {
	values     int // of the page, those that are missing included
	encoding   format.Encoding
	repetition int // bytes of the levels; -1 when they stand before them
	definition int
	plain      bool // not packed, whatever the column is
}

// infoOf reads a page's header. It refuses encodings that no header bounds.
func infoOf(h *format.PageHeader) (pageInfo, error) {
	p := pageInfo{repetition: -1, definition: -1}
	switch {
	case h.Type == format.DictionaryPage && h.DictionaryPageHeader.Valid:
		p.values, p.encoding = int(h.DictionaryPageHeader.V.NumValues), h.DictionaryPageHeader.V.Encoding
	case h.Type == format.DataPage && h.DataPageHeader.Valid:
		v := &h.DataPageHeader.V
		p.values, p.encoding = int(v.NumValues), v.Encoding
		if v.DefinitionLevelEncoding != format.RLE || v.RepetitionLevelEncoding != format.RLE {
			return p, errPage("has levels encoded as %v and %v: write the file with a newer program", v.DefinitionLevelEncoding, v.RepetitionLevelEncoding)
		}
	case h.Type == format.DataPageV2 && h.DataPageHeaderV2.Valid:
		v := &h.DataPageHeaderV2.V
		p.values, p.encoding = int(v.NumValues), v.Encoding
		p.repetition, p.definition = int(v.RepetitionLevelsByteLength), int(v.DefinitionLevelsByteLength)
		p.plain = v.IsCompressed.Valid && !v.IsCompressed.V
		if p.repetition < 0 || p.definition < 0 || int64(p.repetition)+int64(p.definition) > int64(min(h.CompressedPageSize, h.UncompressedPageSize)) ||
			v.NumNulls < 0 || v.NumNulls > v.NumValues || v.NumRows < 0 || v.NumRows > v.NumValues {
			return p, errPage("has a broken header")
		}
	default:
		return p, errPage("of type %v has a broken header", h.Type)
	}
	if p.values < 0 || p.values > maxPageRows {
		return p, fmt.Errorf("a page of %d values, at most %d: %w", p.values, maxPageRows, dataset.ErrTooLarge)
	}
	if !slices.Contains([]format.Encoding{format.Plain, format.PlainDictionary, format.RLE, format.RLEDictionary, format.ByteStreamSplit}, p.encoding) {
		return p, errPage("has values encoded as %v: write the file with plain or dictionary encoding, which is what most programs do by default", p.encoding)
	}
	return p, nil
}

// checkPage unpacks a page within the size that its header says and walks through
// the runs in it, whose lengths the library believes.
func checkPage(codec format.CompressionCodec, h *format.PageHeader, packed []byte, maxRepetition, maxDefinition int) error {
	p, err := infoOf(h)
	if err != nil {
		return err
	}
	var levels []byte
	if p.repetition >= 0 {
		levels, packed = packed[:p.repetition+p.definition], packed[p.repetition+p.definition:]
	}
	if p.plain {
		codec = format.Uncompressed
	}
	values, err := unpack(codec, packed, int(h.UncompressedPageSize)-len(levels))
	if err != nil || h.Type == format.DictionaryPage {
		return err
	}
	for _, l := range []struct{ most, size int }{{maxRepetition, p.repetition}, {maxDefinition, p.definition}} {
		runs := levels
		if l.size >= 0 {
			runs, levels = levels[:l.size], levels[l.size:]
		} else if l.most == 0 {
			continue
		} else if runs, values, err = prefixed(values); err != nil {
			return err
		}
		if err := walkRuns(runs, bits.Len(uint(l.most)), p.values); err != nil {
			return err
		}
	}
	switch {
	case p.encoding == format.RLE: // of true and false
		if values, _, err = prefixed(values); err != nil {
			return err
		}
		return walkRuns(values, 1, p.values)
	case p.encoding == format.PlainDictionary || p.encoding == format.RLEDictionary:
		if len(values) == 0 {
			return nil
		}
		if values[0] > 32 {
			return errPage("has places in its dictionary of %d bits", values[0])
		}
		return walkRuns(values[1:], int(values[0]), p.values)
	}
	return nil
}

// prefixed splits bytes off whose number stands before them.
func prefixed(p []byte) (part, rest []byte, err error) {
	if len(p) < 4 || uint64(binary.LittleEndian.Uint32(p)) > uint64(len(p)-4) {
		return nil, nil, errPage("ends in its levels")
	}
	n := 4 + int(binary.LittleEndian.Uint32(p))
	return p[4:n], p[n:], nil
}

// walkRuns goes through runs of values of so many bits in Parquet's hybrid encoding
// (https://parquet.apache.org/docs/file-format/data-pages/encodings/) and refuses
// those that hold more values than the page; the last ones may be filled up.
func walkRuns(p []byte, width, values int) error {
	const filling = 512
	left := uint64(values + filling)
	for len(p) > 0 {
		head, n := binary.Uvarint(p)
		if n <= 0 {
			return errPage("has a broken run")
		}
		p = p[n:]
		count, size := head>>1, uint64(width+7)/8
		if head&1 == 1 { // groups of eight, packed
			if count > left/8 {
				return errPage("has more values than the %d announced", values)
			}
			count, size = 8*count, count*uint64(width)
		}
		if count > left {
			return errPage("has more values than the %d announced", values)
		}
		left -= count
		p = p[min(size, uint64(len(p))):]
	}
	return nil
}

// unpack unpacks a page that must have want bytes then.
func unpack(codec format.CompressionCodec, packed []byte, want int) ([]byte, error) {
	if want < 0 {
		return nil, errPage("has a broken header")
	}
	if len(packed) == 0 && want == 0 {
		return nil, nil
	}
	var out []byte
	var err error
	switch codec {
	case format.Uncompressed:
		out = packed
	case format.Snappy:
		var n int
		if n, err = snappy.DecodedLen(packed); err == nil && n == want {
			out, err = snappy.Decode(nil, packed)
		}
	case format.Gzip:
		var z *gzip.Reader
		if z, err = gzip.NewReader(bytes.NewReader(packed)); err == nil {
			out, err = io.ReadAll(io.LimitReader(z, int64(want)+1))
		}
	case format.Zstd:
		var z *zstd.Decoder
		if z, err = zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(2*maxPage)); err == nil {
			out, err = io.ReadAll(io.LimitReader(z, int64(want)+1))
			z.Close()
		}
	default:
		return nil, errPage("is packed with %v: write the file with snappy, gzip or zstd", codec)
	}
	if err != nil || len(out) != want {
		return nil, errPage("unpacks to another size than the %d bytes announced", want)
	}
	return out, nil
}
