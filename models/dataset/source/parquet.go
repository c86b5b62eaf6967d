package source

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"
	"golang.org/x/sync/errgroup"

	"idunno/models/dataset"
)

// rowGroup is a part of a file's rows.
type rowGroup struct {
	parquet.RowGroup
	file    *parquetFile
	meta    *format.RowGroup
	checked bool
}

// parquetRows are the rows of Parquet files as images: columns of values, one column
// of lists of values, or one of pictures.
type parquetRows struct {
	files   []*parquetFile
	groups  []*rowGroup
	values  []*column
	picture *picture // when the only column of values holds pictures
	label   *column  // nil without labels
	names   map[string]int32
	per     int
	native  string

	group int   // where the next row is
	row   int64 // in its group
	done  int
	open  bool // the columns are open there
}

// parquetFiles are the files of a folder, or of the folder "data" in it, that belong to
// a part of the set, by name; "" means Test where there are both parts.
func parquetFiles(dir, part string) ([]string, error) {
	var all []string
	for _, d := range []string{dir, filepath.Join(dir, "data")} {
		entries, err := os.ReadDir(d)
		if err != nil && d != dir {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".parquet") && !e.IsDir() {
				all = append(all, filepath.Join(d, e.Name()))
			}
		}
		if len(all) > 0 {
			break
		}
	}
	of := func(part string) (out []string) {
		for _, name := range all {
			if strings.HasPrefix(filepath.Base(name), part) {
				out = append(out, name)
			}
		}
		return out
	}
	train, test := of(Train), of(Test)
	switch {
	case part == Train:
		return train, nil
	case part == Test || len(train) > 0 && len(test) > 0:
		return test, nil
	}
	return all, nil
}

// openParquet opens Parquet files.
func openParquet(path string, o *Options) (*table, error) {
	names := []string{path}
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if info.IsDir() {
		if names, err = parquetFiles(path, o.Split); err != nil {
			return nil, err
		}
		if len(names) == 0 {
			return nil, fmt.Errorf("%s has no .parquet files for %q: %w", path, o.Split, dataset.ErrNotFound)
		}
	}
	r := &parquetRows{}
	t := &table{rows: r, files: names, source: "Parquet file " + filepath.Base(path)}
	err := guard(func() error {
		for _, name := range names {
			f, err := openParquetFile(name)
			if err != nil {
				return err
			}
			r.files = append(r.files, f)
		}
		return r.describe(o, t)
	})
	if err != nil {
		r.Close()
		return nil, err
	}
	return t, nil
}

// describe finds the columns and fills in the table.
func (r *parquetRows) describe(o *Options, t *table) error {
	first := r.files[0]
	var columns []*column
	for i, leaf := range first.leaves() {
		columns = append(columns, newColumn(i, leaf))
	}
	for _, f := range r.files {
		for i, leaf := range f.leaves() {
			if c := newColumn(i, leaf); i >= len(columns) || c.name != columns[i].name || c.kind != columns[i].kind || c.lists != columns[i].lists {
				return fmt.Errorf("%s has other columns than %s: %w", f.path, first.path, dataset.ErrFormat)
			}
		}
		groups := f.tree.RowGroups()
		for i := range groups {
			g := &rowGroup{RowGroup: groups[i], file: f, meta: &f.meta.RowGroups[i]}
			r.groups = append(r.groups, g)
			t.images += int(g.meta.NumRows)
		}
	}
	if t.images == 0 {
		return fmt.Errorf("%s has no rows: %w", first.path, dataset.ErrFormat)
	}
	if err := r.choose(columns, o); err != nil {
		return fmt.Errorf("%s: %w", first.path, err)
	}
	if err := r.shape(o, t); err != nil {
		return err
	}
	if t.labelled = r.label != nil; t.labelled {
		return r.classes(t)
	}
	return nil
}

func newColumn(i int, leaf *parquet.Column) *column {
	return &column{leaf: i, name: strings.Join(leaf.Path(), "."), kind: leaf.Type().Kind(), byte: leaf.Type().String() == "INT(8,false)",
		lists: leaf.MaxRepetitionLevel() > 0, repetition: leaf.MaxRepetitionLevel(), definition: leaf.MaxDefinitionLevel()}
}

func (c *column) top() string {
	name, _, _ := strings.Cut(c.name, ".")
	return name
}

func (c *column) numeric() bool {
	return slices.Contains([]parquet.Kind{parquet.Boolean, parquet.Int32, parquet.Int64, parquet.Float, parquet.Double}, c.kind)
}

// choose finds the columns of labels and of values.
func (r *parquetRows) choose(columns []*column, o *Options) error {
	var names []string
	for _, c := range columns {
		names = append(names, c.name)
	}
	find := func(candidates ...string) *column {
		for _, name := range candidates {
			for _, c := range columns {
				if strings.EqualFold(c.name, name) || strings.EqualFold(c.name, name+".bytes") || c.lists && strings.EqualFold(c.top(), name) {
					return c
				}
			}
		}
		return nil
	}
	switch o.Labels {
	case None:
	case "":
		if r.label = find(append(labelColumns, "fine_label")...); r.label == nil {
			return fmt.Errorf("which column has the labels? It has %s; name one, or %q: %w", brief(names), None, ErrOption)
		}
	default:
		if r.label = find(o.Labels); r.label == nil {
			return fmt.Errorf("there is no column %q; it has %s: %w", o.Labels, brief(names), ErrOption)
		}
	}
	if r.label != nil && (r.label.lists || !r.label.numeric() && r.label.kind != parquet.ByteArray) {
		return fmt.Errorf("column %q can't hold labels: it has lists, or neither numbers nor words: %w", r.label.name, ErrOption)
	}
	candidates := []string{"image", "img", "picture", "pixels", "data", "features", "x"}
	if o.Images != "" {
		candidates = []string{o.Images}
	}
	if c := find(candidates...); c != nil && c != r.label && (c.lists || c.kind == parquet.ByteArray || o.Images != "") {
		if !c.numeric() && (c.kind != parquet.ByteArray || c.lists) {
			return fmt.Errorf("column %q holds neither numbers nor pictures: %w", c.name, ErrOption)
		}
		r.values = []*column{c}
		return nil
	}
	if o.Images != "" {
		return fmt.Errorf("there is no column %q; it has %s: %w", o.Images, brief(names), ErrOption)
	}
	for _, c := range columns {
		switch {
		case c == r.label || strings.HasPrefix(c.name, "__index_level_"): // row numbers, as pandas writes them
		case c.lists || !c.numeric():
			return fmt.Errorf("column %q holds no plain numbers: name the column with the images: %w", c.name, ErrOption)
		default:
			r.values = append(r.values, c)
		}
	}
	if len(r.values) == 0 {
		return fmt.Errorf("there are no columns of values beside the labels: %w", ErrOption)
	}
	return nil
}

// shape finds what one image is, from the first row.
func (r *parquetRows) shape(o *Options, t *table) error {
	c := r.values[0]
	r.native, r.per = dataset.F32, len(r.values)
	if c.kind == parquet.ByteArray {
		data, err := r.first(c)
		if err != nil {
			return err
		}
		config, err := checkPicture(bytes.NewReader(data))
		if err != nil {
			return fmt.Errorf("%s, row 1, column %q: %w", r.files[0].path, c.name, err)
		}
		r.picture, r.native = newPicture(o, config), dataset.U8
		t.shape, t.native = r.picture.shape(), dataset.U8
		r.per = product(t.shape)
		return nil
	}
	if c.lists {
		n, err := r.firstList(c)
		if err != nil {
			return err
		}
		r.per = n
	}
	if !slices.ContainsFunc(r.values, func(c *column) bool { return !c.byte }) {
		r.native = dataset.U8
	}
	t.shape, t.native = []int{r.per}, r.native
	return nil
}

// first reads the bytes of a column's first row.
func (r *parquetRows) first(c *column) ([]byte, error) {
	defer c.close()
	if err := r.enter(c); err != nil {
		return nil, err
	}
	v, err := c.next()
	if err != nil {
		return nil, r.wrong(c, err)
	}
	return bytes.Clone(v.ByteArray()), nil
}

// firstList counts the values of a column's first row.
func (r *parquetRows) firstList(c *column) (int, error) {
	defer c.close()
	if err := r.enter(c); err != nil {
		return 0, err
	}
	for n := 0; ; n++ {
		v, err := c.peek()
		if errors.Is(err, errPageEnd) && n > 0 || err == nil && n > 0 && v.RepetitionLevel() == 0 {
			return n, nil
		}
		if err != nil {
			return 0, r.wrong(c, err)
		}
		if n > maxImageBytes {
			return 0, r.wrong(c, fmt.Errorf("a list of more than %d values: %w", maxImageBytes, dataset.ErrTooLarge))
		}
		c.at++
	}
}

// enter opens a column alone at the first row.
func (r *parquetRows) enter(c *column) error {
	i := slices.IndexFunc(r.groups, func(g *rowGroup) bool { return g.meta.NumRows > 0 })
	if _, err := c.check(r.groups[i]); err != nil {
		return r.wrong(c, err)
	}
	return c.open(r.groups[i], 0)
}

// wrong is an error about a column near the next row.
func (r *parquetRows) wrong(c *column, err error) error {
	path := r.files[0].path
	if r.group < len(r.groups) {
		path = r.groups[r.group].file.path
	}
	return fmt.Errorf("%s, column %q, from image %d on: %w", path, c.name, r.done+1, err)
}

// columns are all columns that are read.
func (r *parquetRows) columns() []*column {
	if r.label == nil {
		return r.values
	}
	return append(slices.Clone(r.values), r.label)
}

// ready opens the columns at the next row, after checking them.
func (r *parquetRows) ready() error {
	for r.group < len(r.groups) && r.row >= r.groups[r.group].meta.NumRows {
		r.shut()
		r.group, r.row = r.group+1, 0
	}
	if r.group == len(r.groups) {
		return fmt.Errorf("the rows end too early: %w", dataset.ErrFormat)
	}
	if r.open {
		return nil
	}
	g := r.groups[r.group]
	var memory int64
	for _, c := range r.columns() {
		if !g.checked {
			m, err := c.check(g)
			if err != nil {
				return r.wrong(c, err)
			}
			if memory += m; memory > maxOpenPages {
				return fmt.Errorf("%s: the pages of its columns have more than %d bytes in all: write it with smaller pages: %w", g.file.path, maxOpenPages, dataset.ErrTooLarge)
			}
		}
		if err := c.open(g, r.row); err != nil {
			return r.wrong(c, err)
		}
	}
	g.checked, r.open = true, true
	return nil
}

func (r *parquetRows) shut() {
	for _, c := range r.columns() {
		c.close()
	}
	r.open = false
}

// picturesAtOnce is how many pictures wait, packed, for being decoded.
const picturesAtOnce = 32

func (r *parquetRows) read(n int, b *block) error {
	if r.native == dataset.U8 {
		b.u8 = make([]byte, n*r.per)
	} else {
		b.f32 = make([]float32, n*r.per)
	}
	if r.label != nil {
		b.y = make([]int32, n)
	}
	for from := 0; from < n; {
		if err := r.ready(); err != nil {
			return err
		}
		k := int(min(int64(n-from), r.groups[r.group].meta.NumRows-r.row))
		if r.picture != nil {
			k = min(k, picturesAtOnce)
		}
		if err := r.part(b, from, k); err != nil {
			return err
		}
		from, r.row, r.done = from+k, r.row+int64(k), r.done+k
	}
	return nil
}

// part reads k rows of the present group as images from on.
func (r *parquetRows) part(b *block, from, k int) error {
	if r.picture != nil {
		if err := r.pictures(b.u8[from*r.per:], k); err != nil {
			return err
		}
	} else if err := r.numbers(b, from, k); err != nil {
		return err
	}
	if r.label == nil {
		return nil
	}
	for i := range k {
		v, err := r.label.next()
		if err == nil && r.names == nil {
			b.y[from+i], err = classOf(v)
		} else if err == nil {
			y, ok := r.names[string(v.ByteArray())]
			if b.y[from+i] = y; !ok {
				err = fmt.Errorf("a label that was not there before: the file changed: %w", dataset.ErrFormat)
			}
		}
		if err != nil {
			return r.wrong(r.label, err)
		}
	}
	return nil
}

// numbers reads k rows of values.
func (r *parquetRows) numbers(b *block, from, k int) error {
	for col, c := range r.values {
		each := 1
		if c.lists {
			each = r.per
		}
		for i := range k {
			for j := range each {
				v, err := c.next()
				if err == nil && c.lists && (v.RepetitionLevel() == 0) != (j == 0) {
					err = fmt.Errorf("a list of another length than the first row's %d: %w", r.per, dataset.ErrFormat)
				}
				var f float64
				if err == nil {
					f, err = numberOf(v)
				}
				if err != nil {
					return r.wrong(c, err)
				}
				at := (from+i)*r.per + col + j
				if b.u8 != nil {
					b.u8[at] = byte(f)
				} else {
					b.f32[at] = float32(f)
				}
			}
		}
	}
	return nil
}

// pictures decodes k rows of pictures, several at a time.
func (r *parquetRows) pictures(out []byte, k int) error {
	c := r.values[0]
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range k {
		v, err := c.next()
		if err != nil {
			_ = group.Wait() // this error came first
			return r.wrong(c, err)
		}
		data := bytes.Clone(v.ByteArray())
		group.Go(func() error {
			return guard(func() error {
				if err := r.picture.decodeBytes(data, out[i*r.per:(i+1)*r.per]); err != nil {
					return fmt.Errorf("%s, column %q, image %d: %w", r.groups[r.group].file.path, c.name, r.done+i+1, err)
				}
				return nil
			})
		})
	}
	return group.Wait()
}

func (r *parquetRows) skip(n int) error {
	r.shut()
	r.done += n
	for left := int64(n); left > 0; {
		if r.group == len(r.groups) {
			return fmt.Errorf("the rows end too early: %w", dataset.ErrFormat)
		}
		k := min(left, r.groups[r.group].meta.NumRows-r.row)
		if r.row, left = r.row+k, left-k; r.row == r.groups[r.group].meta.NumRows {
			r.group, r.row = r.group+1, 0
		}
	}
	return nil
}

func (r *parquetRows) end() error { return nil }

func (r *parquetRows) Close() error {
	r.shut()
	var all []error
	for _, f := range r.files {
		all = append(all, f.file.Close())
	}
	return errors.Join(all...)
}
