package source

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"idunno/models/dataset"
)

// idxElements are the element types of IDX files by their code.
var idxElements = map[byte]element{
	0x08: {kind: 'u', size: 1}, 0x09: {kind: 'i', size: 1}, 0x0b: {kind: 'i', size: 2, big: true},
	0x0c: {kind: 'i', size: 4, big: true}, 0x0d: {kind: 'f', size: 4, big: true}, 0x0e: {kind: 'f', size: 8, big: true},
}

// idxParts are the names that MNIST's files have for the parts of the set.
var idxParts = map[string]string{Train: "train", Test: "t10k"}

// openIDX opens files in MNIST's format: a folder with files named as MNIST's are, or
// the file with the images.
func openIDX(path string, o *Options) (*table, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	images, labels := path, o.Labels
	if info.IsDir() {
		part := idxParts[o.Split]
		if o.Split == "" {
			part = idxParts[Test]
			if findIDX(path, part+"-images", "idx3-ubyte") == "" {
				part = idxParts[Train]
			}
		}
		if images = findIDX(path, part+"-images", "idx3-ubyte"); images == "" {
			return nil, noIDX(path, part+"-images", "idx3-ubyte")
		}
		if labels == "" {
			if labels = findIDX(path, part+"-labels", "idx1-ubyte"); labels == "" {
				return nil, noIDX(path, part+"-labels", "idx1-ubyte")
			}
		}
	} else if labels == "" {
		dir, base := filepath.Split(path)
		labels = dir + strings.NewReplacer("images", "labels", "idx3", "idx1").Replace(base)
		if _, err := os.Stat(labels); labels == path || err != nil {
			return nil, fmt.Errorf("%s: which file has its labels? Name it, or %q: %w", path, None, ErrOption)
		}
	}
	x, err := openIDXFile(images)
	if err != nil {
		return nil, err
	}
	files := []string{images}
	var open func() (*array, error)
	if labels != None {
		files = append(files, labels)
		open = func() (*array, error) { return openIDXFile(labels) }
	}
	t, err := pair(x, open)
	if err != nil {
		return nil, err
	}
	t.files, t.source = files, "IDX files"
	if o.Split != "" {
		t.source += ", " + o.Split + " split"
	}
	return t, nil
}

// findIDX is the file of a folder that is called stem-kind or stem.kind, compressed
// or not; "" when there is none.
func findIDX(dir, stem, kind string) string {
	for _, name := range []string{stem + "-" + kind, stem + "." + kind} {
		for _, suffix := range []string{"", ".gz"} {
			if _, err := os.Stat(filepath.Join(dir, name+suffix)); !errors.Is(err, os.ErrNotExist) {
				return filepath.Join(dir, name+suffix)
			}
		}
	}
	return ""
}

func noIDX(dir, stem, kind string) error {
	return fmt.Errorf("%s has no %s-%s nor %[2]s-%[3]s.gz: %w", dir, stem, kind, dataset.ErrNotFound)
}

// openIDXFile reads the header of an IDX file: 0, 0, type, rank, and as many
// big-endian 32-bit sizes.
func openIDXFile(name string) (*array, error) {
	s, err := openStream(name)
	if err != nil {
		return nil, err
	}
	a := &array{stream: s}
	if err := a.idxHeader(); err != nil {
		s.Close()
		return nil, err
	}
	return a, nil
}

func (a *array) idxHeader() error {
	var head [4]byte
	if err := a.full(head[:]); err != nil {
		return err
	}
	e, known := idxElements[head[2]]
	if head[0] != 0 || head[1] != 0 || !known || head[3] == 0 || head[3] > maxRank+1 {
		return fmt.Errorf("%s begins with %#x: that is no IDX file: %w", a.name, head, dataset.ErrFormat)
	}
	a.element = e
	for range head[3] {
		var dim [4]byte
		if err := a.full(dim[:]); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(dim[:])
		if n < 1 || n > math.MaxInt32 {
			return fmt.Errorf("%s: dimension %d: %w", a.name, n, dataset.ErrFormat)
		}
		a.shape = append(a.shape, int(n))
	}
	return nil
}
