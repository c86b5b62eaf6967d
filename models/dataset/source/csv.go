package source

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"idunno/models/dataset"
)

const (
	// maxRow bounds the bytes of one row of a CSV file, maxColumns its fields.
	maxRow     = 16 << 20
	maxColumns = 1 << 20
	maxLabel   = 200 // bytes of a class's name
)

// rowLimit lets a row have maxRow bytes: the reader behind it would keep a quoted
// field in memory until its end.
type rowLimit struct {
	r    io.Reader
	left int
}

var errRow = errors.New("a row is too long")

func (l *rowLimit) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errRow
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

// sheet is an open CSV file.
type sheet struct {
	name   string
	stream *stream
	limit  *rowLimit
	csv    *csv.Reader
	comma  rune
}

func openSheet(name string) (*sheet, error) {
	s, err := openStream(name)
	if err != nil {
		return nil, err
	}
	if mark, _ := s.r.Peek(3); string(mark) == "\xef\xbb\xbf" {
		s.r.Discard(3) // the byte order mark; it was read already
	}
	head, _ := s.r.Peek(64 << 10)
	line, _, _ := strings.Cut(string(head), "\n")
	comma := ','
	for _, c := range []rune{';', '\t'} {
		if strings.Count(line, string(c)) > strings.Count(line, string(comma)) {
			comma = c
		}
	}
	f := &sheet{name: name, stream: s, limit: &rowLimit{r: s.r, left: maxRow}, comma: comma}
	f.csv = csv.NewReader(f.limit)
	f.csv.Comma, f.csv.ReuseRecord, f.csv.TrimLeadingSpace = comma, true, comma != '\t'
	return f, nil
}

// row reads the next row; its fields last until the row after. At the end it returns
// io.EOF.
func (f *sheet) row() ([]string, error) {
	f.limit.left = maxRow
	row, err := f.csv.Read()
	switch {
	case errors.Is(err, io.EOF) || err == nil && len(row) <= maxColumns:
		return row, err
	case err == nil, errors.Is(err, errRow):
		return nil, fmt.Errorf("%s: row at line %d has more than %d bytes or %d fields: %w", f.name, f.line(), maxRow, maxColumns, dataset.ErrTooLarge)
	}
	var syntax *csv.ParseError
	if errors.As(err, &syntax) {
		return nil, fmt.Errorf("%s: %w: %w", f.name, err, dataset.ErrFormat)
	}
	return nil, fmt.Errorf("%s: %w", f.name, broken(err))
}

func (f *sheet) line() (n int) {
	defer func() { _ = recover() }() // there is no field yet
	n, _ = f.csv.FieldPos(0)
	return n
}

// csvRows are the rows of a CSV file as images.
type csvRows struct {
	path   string
	header []string // nil when there is none
	label  int      // column, -1 for none
	drop   int      // column of row numbers that is left out, -1 for none
	names  map[string]int32
	*sheet
	values  int
	numbers []float32 // of one row
	native  string
}

// openCSV opens a CSV file: a column of labels, the rest values. The file is read
// through once to learn its size, its classes and whether the values are bytes.
func openCSV(path string, o *Options) (*table, error) {
	c := &csvRows{path: path, label: -1, drop: -1}
	f, err := openSheet(path)
	if err != nil {
		return nil, err
	}
	t, err := c.scan(f, o)
	f.stream.Close()
	if err != nil {
		return nil, err
	}
	if c.sheet, err = openSheet(path); err != nil {
		return nil, err
	}
	if c.header != nil {
		if _, err := c.row(); err != nil {
			c.Close()
			return nil, err
		}
	}
	t.rows, t.files, t.source = c, []string{path}, "CSV file "+filepath.Base(path)
	return t, nil
}

// scan reads the whole file.
func (c *csvRows) scan(f *sheet, o *Options) (*table, error) {
	first, err := f.row()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s is empty: %w", c.path, dataset.ErrFormat)
	}
	if err != nil {
		return nil, err
	}
	first = slices.Clone(first)
	words := wordColumns(first)
	if o.Header == "yes" || o.Header == "" && (len(words) > 1 || len(words) == len(first)) {
		c.header = first
		if c.drop = -1; first[0] == "" && len(first) > 2 {
			c.drop = 0
		}
		if first, err = f.row(); err != nil {
			return nil, fmt.Errorf("%s has no rows after its header: %w", c.path, dataset.ErrFormat)
		}
		words = wordColumns(first)
	}
	if err := c.chooseLabel(o, len(first), words); err != nil {
		return nil, err
	}
	c.values = len(first)
	for _, col := range []int{c.label, c.drop} {
		if col >= 0 {
			c.values--
		}
	}
	if c.values < 1 {
		return nil, fmt.Errorf("%s has %d columns: no values are left beside the label: %w", c.path, len(first), dataset.ErrFormat)
	}
	return c.scanRows(f, first, o)
}

// wordColumns are the columns of a row whose fields are no numbers.
func wordColumns(row []string) []int {
	var out []int
	for i, field := range row {
		if _, err := strconv.ParseFloat(strings.TrimSpace(field), 64); err != nil {
			out = append(out, i)
		}
	}
	return out
}

// labelColumns are names that the column of labels commonly has.
var labelColumns = []string{"label", "labels", "class", "target", "y", "species", "category"}

// chooseLabel finds the column with the labels: the one that is named, one with such a
// name, the only one with words, or the first of a file without a header.
func (c *csvRows) chooseLabel(o *Options, columns int, words []int) error {
	named := func(name string) int {
		return slices.IndexFunc(c.header, func(h string) bool { return strings.EqualFold(strings.TrimSpace(h), name) })
	}
	if o.Labels != "" {
		if o.Labels == None {
			return nil
		}
		if c.label = named(o.Labels); c.label < 0 {
			n, err := strconv.Atoi(o.Labels)
			if err != nil || n < 1 || n > columns {
				return fmt.Errorf("%s has no column %q; it has %d columns, %s: %w", c.path, o.Labels, columns, brief(c.header), ErrOption)
			}
			c.label = n - 1
		}
		if c.label == c.drop {
			c.drop = -1
		}
		return nil
	}
	for _, name := range labelColumns {
		if c.label = named(name); c.label >= 0 {
			return nil
		}
	}
	switch {
	case len(words) == 1:
		c.label = words[0]
	case c.header == nil:
		c.label = 0
	default:
		return fmt.Errorf("%s: which column has the labels? It has %s; name one, or %q: %w", c.path, brief(c.header), None, ErrOption)
	}
	return nil
}

// scanRows reads the rows, of which the first is given.
func (c *csvRows) scanRows(f *sheet, row []string, o *Options) (*table, error) {
	seen, top, numeric, bytes := map[string]bool{}, 0, true, o.DType != dataset.F32
	t := &table{shape: []int{c.values}, labelled: c.label >= 0}
	c.numbers = make([]float32, c.values)
	for {
		t.images++
		if err := c.parse(f, row, t.images, c.numbers); err != nil {
			return nil, err
		}
		for _, v := range c.numbers {
			bytes = bytes && v >= 0 && v <= 255 && v == float32(byte(v))
		}
		if c.label >= 0 {
			text := strings.TrimSpace(row[c.label])
			if text == "" || len(text) > maxLabel {
				return nil, c.wrong(f, t.images, c.label, "%.40q is no label", text)
			}
			if !seen[text] {
				if len(seen) >= maxClasses {
					return nil, c.wrong(f, t.images, c.label, "more than %d different labels: is it the right column?", maxClasses)
				}
				seen[strings.Clone(text)] = true
				n, err := labelNumber(text)
				numeric, top = numeric && err == nil, max(top, n)
			}
		}
		var err error
		if row, err = f.row(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
	}
	if t.labels = top + 1; c.label >= 0 && !numeric {
		c.names = map[string]int32{}
		for name := range seen {
			t.classes = append(t.classes, name)
		}
		slices.Sort(t.classes)
		for i, name := range t.classes {
			c.names[name] = int32(i)
		}
	}
	if t.native = dataset.F32; bytes {
		t.native = dataset.U8
	}
	c.native = t.native
	return t, nil
}

// labelNumber reads a label that is a whole number, as 7 or 7.0.
func labelNumber(text string) (int, error) {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || v < 0 || v >= maxClasses || v != math.Trunc(v) {
		return 0, dataset.ErrFormat
	}
	return int(v), nil
}

// parse reads the values of row number n.
func (c *csvRows) parse(f *sheet, row []string, n int, out []float32) error {
	i := 0
	for col, field := range row {
		if col == c.label || col == c.drop {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(field), 32)
		if err != nil || v-v != 0 {
			return c.wrong(f, n, col, "%.40q is no number", field)
		}
		out[i] = float32(v)
		i++
	}
	return nil
}

// wrong is an error about a field.
func (c *csvRows) wrong(f *sheet, n, col int, format string, args ...any) error {
	column := fmt.Sprintf("column %d", col+1)
	if col < len(c.header) {
		column += fmt.Sprintf(" (%.40q)", c.header[col])
	}
	return fmt.Errorf("%s, line %d (image %d), %s: %s: %w", c.path, f.line(), n, column, fmt.Sprintf(format, args...), dataset.ErrFormat)
}

func (c *csvRows) read(n int, b *block) error {
	if c.native == dataset.U8 {
		b.u8 = make([]byte, 0, n*c.values)
	} else {
		b.f32 = make([]float32, 0, n*c.values)
	}
	for i := range n {
		row, err := c.row()
		if err != nil {
			return c.changed(err)
		}
		if err := c.parse(c.sheet, row, i+1, c.numbers); err != nil {
			return err
		}
		if c.native == dataset.U8 {
			for _, v := range c.numbers {
				b.u8 = append(b.u8, byte(v))
			}
		} else {
			b.f32 = append(b.f32, c.numbers...)
		}
		if c.label < 0 {
			continue
		}
		text := strings.TrimSpace(row[c.label])
		y, ok := c.names[text]
		if c.names == nil {
			v, err := labelNumber(text)
			y, ok = int32(v), err == nil
		}
		if !ok {
			return c.wrong(c.sheet, i+1, c.label, "%.40q is a label that was not there before: the file changed", text)
		}
		b.y = append(b.y, y)
	}
	return nil
}

// changed explains an end that comes earlier than the first time.
func (c *csvRows) changed(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%s changed while it was read: %w", c.path, dataset.ErrFormat)
	}
	return err
}

func (c *csvRows) skip(n int) error {
	for range n {
		if _, err := c.row(); err != nil {
			return c.changed(err)
		}
	}
	return nil
}

func (c *csvRows) end() error {
	if _, err := c.row(); !errors.Is(err, io.EOF) {
		if err != nil {
			return err
		}
		return fmt.Errorf("%s changed while it was read: %w", c.path, dataset.ErrFormat)
	}
	return nil
}

func (c *csvRows) Close() error { return c.stream.Close() }
