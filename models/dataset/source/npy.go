package source

import (
	"archive/zip"
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"idunno/models/dataset"
)

const (
	npyMagic = "\x93NUMPY"
	// maxNpyHeader bounds the header of an array; NumPy's own bound is 10,000 bytes.
	maxNpyHeader = 64 << 10
	// maxEntries bounds the files in an npz archive.
	maxEntries = 10_000
)

// The header is a dictionary as Python writes it.
var (
	npyType    = regexp.MustCompile(`'descr': *'([<>|=]?)([a-z])([0-9]+)'`)
	npyFortran = regexp.MustCompile(`'fortran_order': *(True|False)`)
	npyShape   = regexp.MustCompile(`'shape': *\(([0-9, L]*)\)`)
)

// openNpy opens an array of images in a file, with labels in another one.
func openNpy(path string, o *Options) (*table, error) {
	if o.Labels == "" {
		return nil, fmt.Errorf("%s: which file has its labels? Name it, or %q: %w", path, None, ErrOption)
	}
	s, err := openStream(path)
	if err != nil {
		return nil, err
	}
	images, err := openArray(s)
	if err != nil {
		return nil, err
	}
	files := []string{path}
	var labels func() (*array, error)
	if o.Labels != None {
		files = append(files, o.Labels)
		labels = func() (*array, error) {
			s, err := openStream(o.Labels)
			if err != nil {
				return nil, err
			}
			return openArray(s)
		}
	}
	t, err := pair(images, labels)
	if err != nil {
		return nil, err
	}
	t.files, t.source = files, "NumPy array "+filepath.Base(path)
	return t, nil
}

// openArray reads the header of an array in NumPy's format
// (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html). It owns
// the stream.
func openArray(s *stream) (*array, error) {
	a := &array{stream: s}
	if err := a.npyHeader(); err != nil {
		s.Close()
		return nil, err
	}
	return a, nil
}

func (a *array) npyHeader() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%s: %s: %w", a.name, fmt.Sprintf(format, args...), dataset.ErrFormat)
	}
	var head [8]byte
	if err := a.full(head[:]); err != nil {
		return err
	}
	if string(head[:6]) != npyMagic {
		return bad("no NumPy array")
	}
	size := make([]byte, 2)
	if head[6] > 1 {
		size = make([]byte, 4)
	}
	if err := a.full(size); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(append(size, 0, 0)[:4])
	if n > maxNpyHeader {
		return fmt.Errorf("%s: a header of %d bytes, at most %d: %w", a.name, n, maxNpyHeader, dataset.ErrTooLarge)
	}
	text := make([]byte, n)
	if err := a.full(text); err != nil {
		return err
	}
	typ, order, shape := npyType.FindSubmatch(text), npyFortran.FindSubmatch(text), npyShape.FindSubmatch(text)
	if typ == nil || order == nil || shape == nil {
		return bad("an array of %.80q, expected one of plain numbers", text)
	}
	if string(order[1]) == "True" {
		return bad("the array lies in Fortran's order: save it as numpy.ascontiguousarray(x)")
	}
	e, err := npyElement(string(typ[1]), typ[2][0], string(typ[3]))
	if err != nil {
		return bad("%v", err)
	}
	a.element = e
	for field := range strings.SplitSeq(string(shape[1]), ",") {
		field = strings.Trim(field, " L")
		if field == "" {
			continue
		}
		d, err := strconv.ParseInt(field, 10, 32)
		if err != nil || d < 1 || len(a.shape) > maxRank {
			return bad("shape (%.80s)", shape[1])
		}
		a.shape = append(a.shape, int(d))
	}
	return nil
}

func npyElement(order string, kind byte, size string) (element, error) {
	n, err := strconv.Atoi(size)
	e := element{kind: kind, size: n, big: order == ">"}
	allowed := map[byte][]int{'u': {1, 2, 4, 8}, 'i': {1, 2, 4, 8}, 'f': {2, 4, 8}, 'b': {1}}[kind]
	if err != nil || !slices.Contains(allowed, n) {
		return e, fmt.Errorf("elements of type %s%c%s, expected whole or floating-point numbers", order, kind, size)
	}
	if kind == 'b' {
		e.kind = 'u' // true and false
	}
	return e, nil
}

// npz is an archive of arrays.
type npz struct {
	path string
	file *os.File
	zip  *zip.Reader
}

func openZip(path string) (*npz, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	z, err := zip.NewReader(f, info.Size())
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w: %w", path, err, dataset.ErrFormat)
	}
	if len(z.File) > maxEntries {
		f.Close()
		return nil, fmt.Errorf("%s: an archive of %d files, at most %d: %w", path, len(z.File), maxEntries, dataset.ErrTooLarge)
	}
	return &npz{path: path, file: f, zip: z}, nil
}

// Close closes the file.
func (z *npz) Close() error { return z.file.Close() }

// names are the arrays of the archive.
func (z *npz) names() []string {
	var out []string
	for _, f := range z.zip.File {
		if name, ok := strings.CutSuffix(f.Name, ".npy"); ok {
			out = append(out, name)
		}
	}
	return out
}

// array opens one of the arrays.
func (z *npz) array(name string) (*array, error) {
	for _, f := range z.zip.File {
		if f.Name != name+".npy" {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return nil, fmt.Errorf("%s: array %s: %w: %w", z.path, name, err, dataset.ErrFormat)
		}
		a, err := openArray(&stream{name: z.path + ": " + name, r: bufio.NewReaderSize(r, readSize), closers: []io.Closer{r}})
		if err != nil {
			return nil, err
		}
		// What the archive says of the size must be what the array says, so that
		// packed data can't unpack to more.
		if err := a.check(); err != nil {
			a.Close()
			return nil, err
		}
		if most := uint64(a.record())*uint64(a.shape[0]) + maxNpyHeader + 16; f.UncompressedSize64 > most {
			a.Close()
			return nil, fmt.Errorf("%s: array %s unpacks to %d bytes, its shape %v needs fewer: %w", z.path, name, f.UncompressedSize64, a.shape, dataset.ErrFormat)
		}
		return a, nil
	}
	return nil, fmt.Errorf("%s has no array %q; it has %s: %w", z.path, name, brief(z.names()), ErrOption)
}

// archive is a file that holds arrays by name.
type archive interface {
	names() []string
	array(name string) (*array, error)
	io.Closer
}

// openNpz opens images and labels in an archive of arrays.
func openNpz(path string, o *Options) (*table, error) {
	z, err := openZip(path)
	if err != nil {
		return nil, err
	}
	return openNamed(path, "NumPy arrays", z, o)
}

// openNamed opens images and labels in a file of the kind named.
func openNamed(path, kind string, f archive, o *Options) (*table, error) {
	images, labels, err := choose(path, f.names(), o)
	if err != nil {
		f.Close()
		return nil, err
	}
	x, err := f.array(images)
	if err != nil {
		f.Close()
		return nil, err
	}
	x.closers = append(x.closers, f)
	var open func() (*array, error)
	if labels != None {
		open = func() (*array, error) { return f.array(labels) }
	}
	t, err := pair(x, open)
	if err != nil {
		return nil, err
	}
	t.files, t.source = []string{path}, kind+" "+filepath.Base(path)
	if o.Split != "" {
		t.source += ", " + o.Split + " split"
	}
	return t, nil
}

// Names that arrays of images and labels commonly have. %s is the part.
var (
	imageNames = []string{"x_%s", "%s_x", "%s_images", "images_%s", "x%s", "x", "images", "image", "data", "arr_0"}
	labelNames = []string{"y_%s", "%s_y", "%s_labels", "labels_%s", "y%s", "y", "labels", "label", "targets", "target", "arr_1"}
)

// choose finds the arrays with images and labels among those of a file.
func choose(path string, names []string, o *Options) (images, labels string, err error) {
	parts := []string{o.Split}
	if o.Split == "" {
		parts = []string{Test, Train}
	}
	find := func(given, what string, patterns []string) (string, error) {
		if given != "" {
			return given, nil
		}
		for _, part := range parts {
			for _, p := range patterns {
				if strings.Contains(p, "%s") {
					p = fmt.Sprintf(p, part)
				}
				if i := slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, p) }); i >= 0 {
					return names[i], nil
				}
			}
		}
		return "", fmt.Errorf("%s: which array has the %s? It has %s: %w", path, what, brief(names), ErrOption)
	}
	if images, err = find(o.Images, "images", imageNames); err != nil {
		return "", "", err
	}
	labels, err = find(o.Labels, "labels", labelNames)
	return images, labels, err
}

// split reports whether the names tell of both parts.
func split(names []string) bool {
	has := func(part string) bool {
		return slices.ContainsFunc(imageNames, func(p string) bool {
			return strings.Contains(p, "%s") && slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, fmt.Sprintf(p, part)) })
		})
	}
	return has(Train) && has(Test)
}

// brief lists some names for an error.
func brief(names []string) string {
	const most = 12
	more := ""
	if len(names) > most {
		more = fmt.Sprintf(" and %d more", len(names)-most)
		names = names[:most]
	}
	if len(names) == 0 {
		return "none"
	}
	return fmt.Sprintf("%.200q", strings.Join(names, ", ")) + more
}
