package source

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"

	"idunno/models/dataset"
)

// Limits of Parquet files. The library that decodes them believes their headers, so
// every header is compared with these before the library sees the part behind it.
const (
	maxFooter     = 16 << 20
	maxPageHeader = 256 << 10
	maxPage       = 256 << 20 // bytes of a page, unpacked
	maxOpenPages  = 1 << 30   // of the pages that are read at a time, one a column
	maxPageRows   = 1 << 24
	maxLeaves     = 20_000
)

// parquetFile is an open file.
type parquetFile struct {
	path string
	file *os.File
	size int64
	meta *format.FileMetaData
	tree *parquet.File
}

func openParquetFile(path string) (*parquetFile, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	p := &parquetFile{path: path, file: f}
	if err := guard(p.open); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

func (p *parquetFile) open() error {
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	p.size = info.Size()
	var head [4]byte
	var tail [8]byte
	if p.size < 12 {
		return fmt.Errorf("%d bytes are no Parquet file: %w", p.size, dataset.ErrFormat)
	}
	if _, err := p.file.ReadAt(head[:], 0); err != nil {
		return broken(err)
	}
	if _, err := p.file.ReadAt(tail[:], p.size-8); err != nil {
		return broken(err)
	}
	if string(head[:]) != "PAR1" || string(tail[4:]) != "PAR1" {
		return fmt.Errorf("no Parquet file, or one that is cut short or encrypted: %w", dataset.ErrFormat)
	}
	n := int64(binary.LittleEndian.Uint32(tail[:4]))
	if n > maxFooter {
		return fmt.Errorf("a footer of %d bytes, at most %d: %w", n, maxFooter, dataset.ErrTooLarge)
	}
	if n > p.size-12 {
		return fmt.Errorf("a footer of %d bytes in a file of %d: %w", n, p.size, dataset.ErrFormat)
	}
	footer := make([]byte, n)
	if _, err := p.file.ReadAt(footer, p.size-8-n); err != nil {
		return broken(err)
	}
	p.meta = new(format.FileMetaData)
	if _, err := decodeThrift(footer, p.meta); err != nil {
		return err
	}
	if err := p.checkMeta(); err != nil {
		return err
	}
	p.tree, err = parquet.OpenFile(p.file, p.size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return fmt.Errorf("%w: %w", err, dataset.ErrFormat)
	}
	return nil
}

// decodeThrift decodes the struct at the beginning of p, once it is known to be
// sound, and returns its length.
func decodeThrift(p []byte, v any) (int, error) {
	n, err := thriftLen(p)
	if err != nil {
		return 0, err
	}
	protocol := new(thrift.CompactProtocol)
	if err := thrift.NewDecoder(protocol.NewReaderFromBytes(bytes.Clone(p[:n]))).Decode(v); err != nil {
		return 0, fmt.Errorf("%w: %w", err, dataset.ErrFormat)
	}
	return n, nil
}

// checkMeta checks what the library relies on when it opens the file.
func (p *parquetFile) checkMeta() error {
	bad := func(text string, args ...any) error {
		return fmt.Errorf("%s: %w", fmt.Sprintf(text, args...), dataset.ErrFormat)
	}
	m := p.meta
	children, leaves := 0, 0
	for i := range m.Schema {
		s := &m.Schema[i]
		n := int(s.NumChildren.V)
		if n < 0 || n > len(m.Schema) {
			return bad("%q has %d children of %d", s.Name, n, len(m.Schema))
		}
		children += n
		if n == 0 {
			leaves++
		}
		if s.TypeLength.V < 0 || s.TypeLength.V > maxPage {
			return bad("%q has elements of %d bytes", s.Name, s.TypeLength.V)
		}
	}
	if len(m.Schema) < 2 || children != len(m.Schema)-1 {
		return bad("the columns are described wrongly")
	}
	if leaves > maxLeaves {
		return fmt.Errorf("%d columns, at most %d: %w", leaves, maxLeaves, dataset.ErrTooLarge)
	}
	var rows int64
	for i := range m.RowGroups {
		g := &m.RowGroups[i]
		if rows += g.NumRows; g.NumRows < 0 || rows > maxImages || len(g.Columns) != leaves {
			return bad("row group %d has %d rows in %d columns", i+1, g.NumRows, len(g.Columns))
		}
		for j := range g.Columns {
			c := &g.Columns[j].MetaData
			from := chunkStart(c)
			if from < 4 || c.TotalCompressedSize < 0 || c.TotalCompressedSize > p.size || from > p.size-c.TotalCompressedSize || c.DataPageOffset < from {
				return bad("column %d of row group %d lies at %d, %d bytes, in a file of %d", j+1, i+1, from, c.TotalCompressedSize, p.size)
			}
		}
	}
	if rows != m.NumRows {
		return bad("%d rows are announced, the row groups have %d", m.NumRows, rows)
	}
	return nil
}

// chunkStart is where the pages of a column in a row group begin.
func chunkStart(c *format.ColumnMetaData) int64 {
	if c.DictionaryPageOffset > 0 && c.DictionaryPageOffset < c.DataPageOffset {
		return c.DictionaryPageOffset
	}
	return c.DataPageOffset
}

// checkChunk walks through the pages of a column in a row group and returns what
// reading it takes in memory: its largest page and its dictionary.
func (p *parquetFile) checkChunk(c *format.ColumnMetaData, maxRepetition, maxDefinition int) (int64, error) {
	at, end := chunkStart(c), chunkStart(c)+c.TotalCompressedSize
	var page, dictionary int64
	buf := make([]byte, 4<<10)
	for at < end {
		h := new(format.PageHeader)
		n, err := p.pageHeader(at, end, &buf, h)
		if err != nil {
			return 0, err
		}
		at += int64(n)
		if h.CompressedPageSize < 0 || int64(h.CompressedPageSize) > end-at || h.UncompressedPageSize < 0 {
			return 0, fmt.Errorf("a page of %d bytes where %d are left: %w", h.CompressedPageSize, end-at, dataset.ErrFormat)
		}
		if h.CompressedPageSize > maxPage || h.UncompressedPageSize > maxPage {
			return 0, fmt.Errorf("a page of %d bytes, at most %d: write the file with smaller pages: %w", max(h.CompressedPageSize, h.UncompressedPageSize), maxPage, dataset.ErrTooLarge)
		}
		packed := make([]byte, h.CompressedPageSize)
		if _, err := p.file.ReadAt(packed, at); err != nil && len(packed) > 0 {
			return 0, broken(err)
		}
		if err := checkPage(c.Codec, h, packed, maxRepetition, maxDefinition); err != nil {
			return 0, err
		}
		if h.Type == format.DictionaryPage {
			dictionary += int64(h.UncompressedPageSize)
		} else {
			page = max(page, int64(h.UncompressedPageSize))
		}
		at += int64(h.CompressedPageSize)
	}
	if dictionary > maxPage {
		return 0, fmt.Errorf("dictionaries of %d bytes: %w", dictionary, dataset.ErrTooLarge)
	}
	return page + dictionary, nil
}

// pageHeader reads the header of a page, with a larger buffer when one isn't enough.
func (p *parquetFile) pageHeader(at, end int64, buf *[]byte, h *format.PageHeader) (int, error) {
	for {
		part := (*buf)[:min(int64(len(*buf)), end-at)]
		if _, err := p.file.ReadAt(part, at); err != nil {
			return 0, broken(err)
		}
		n, err := decodeThrift(part, h)
		if err == nil || int64(len(part)) == end-at || len(*buf) >= maxPageHeader {
			return n, err
		}
		*buf = make([]byte, 4*len(*buf))
	}
}

// leaves are the columns that hold values, in the order of the file.
func (p *parquetFile) leaves() []*parquet.Column {
	var out []*parquet.Column
	var walk func(c *parquet.Column)
	walk = func(c *parquet.Column) {
		if c.Leaf() {
			out = append(out, c)
			return
		}
		for _, child := range c.Columns() {
			walk(child)
		}
	}
	walk(p.tree.Root())
	return out
}

// check looks through the column's pages in a row group and returns what reading it
// takes in memory.
func (c *column) check(g *rowGroup) (int64, error) {
	return g.file.checkChunk(&g.meta.Columns[c.leaf].MetaData, c.repetition, c.definition)
}

// errPageEnd says that a column has fewer values than its row group has rows.
var errPageEnd = fmt.Errorf("the column ends too early: %w", dataset.ErrFormat)

// column reads the values of a column, row group after row group.
type column struct {
	leaf  int
	name  string // as "image.bytes"
	kind  parquet.Kind
	byte  bool // unsigned, 8 bits
	lists bool // a row has any number of values
	// repetition and definition are the highest levels of its values.
	repetition, definition int
	pages                  parquet.Pages
	page                   parquet.Page
	values                 parquet.ValueReader
	buf                    []parquet.Value
	at                     int
}

// open goes to a row of a row group.
func (c *column) open(g *rowGroup, row int64) error {
	c.close()
	c.pages = g.ColumnChunks()[c.leaf].Pages()
	if row > 0 {
		return c.pages.SeekToRow(row)
	}
	return nil
}

func (c *column) close() {
	if c.page != nil {
		parquet.Release(c.page)
	}
	if c.pages != nil {
		_ = c.pages.Close() // it was only read
	}
	c.pages, c.page, c.values, c.buf, c.at = nil, nil, nil, nil, 0
}

// peek returns the next value without passing it. What it refers to lasts until the
// value after the next one is read.
func (c *column) peek() (parquet.Value, error) {
	for c.at == len(c.buf) {
		if c.values == nil {
			page, err := c.pages.ReadPage()
			if errors.Is(err, io.EOF) {
				return parquet.Value{}, errPageEnd
			}
			if err != nil {
				return parquet.Value{}, fmt.Errorf("%w: %w", err, dataset.ErrFormat)
			}
			c.page, c.values = page, page.Values()
		}
		if c.buf == nil {
			c.buf = make([]parquet.Value, 0, 128)
		}
		n, err := c.values.ReadValues(c.buf[:cap(c.buf)])
		c.buf, c.at = c.buf[:n], 0
		if err != nil && !errors.Is(err, io.EOF) {
			return parquet.Value{}, fmt.Errorf("%w: %w", err, dataset.ErrFormat)
		}
		if n == 0 {
			parquet.Release(c.page)
			c.page, c.values = nil, nil
		}
	}
	return c.buf[c.at], nil
}

// next returns the next value; in a column of lists, of whatever row.
func (c *column) next() (parquet.Value, error) {
	v, err := c.peek()
	c.at++
	return v, err
}
