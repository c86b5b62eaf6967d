package dataset

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

func zip(t testing.TB, p []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// writeIDX puts a set of n images of 2x3 under the given names into dir.
func writeIDX(t *testing.T, dir, images, labels string, n int) (x, y *IDX) {
	t.Helper()
	x, y = &IDX{Shape: []int{n, 2, 3}}, &IDX{Shape: []int{n}}
	for i := range n {
		for j := range 6 {
			x.Data = append(x.Data, byte(10*i+j))
		}
		y.Data = append(y.Data, byte(i%3))
	}
	for name, f := range map[string]*IDX{images: x, labels: y} {
		p := f.Marshal()
		if strings.HasSuffix(name, ".gz") {
			p = zip(t, p)
		}
		if err := os.WriteFile(filepath.Join(dir, name), p, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return x, y
}

func TestLoadIDXDir(t *testing.T) {
	for _, c := range []struct{ images, labels, split string }{
		{"train-images-idx3-ubyte", "train-labels-idx1-ubyte", "train"},
		{"train-images.idx3-ubyte", "train-labels.idx1-ubyte.gz", "train"},
		{"t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "test"},
		{"t10k-images.idx3-ubyte.gz", "t10k-labels-idx1-ubyte", "test"},
	} {
		dir := t.TempDir()
		x, _ := writeIDX(t, dir, c.images, c.labels, 5)
		s, err := LoadIDXDir(dir, c.split)
		if err != nil {
			t.Errorf("%s: %v", c.images, err)
			continue
		}
		if s.Len() != 5 || !reflect.DeepEqual(s.Shape, []int{1, 2, 3}) || !bytes.Equal(s.X, x.Data) ||
			!reflect.DeepEqual(s.Y, []int32{0, 1, 2, 0, 1}) || !reflect.DeepEqual(s.Classes, []string{"0", "1", "2"}) {
			t.Errorf("%s: got %+v", c.images, s)
		}
	}
}

func TestLoadIDXDirErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadIDXDir(dir, "train"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "train-images-idx3-ubyte.gz") {
		t.Errorf("empty folder: %v", err)
	}
	if _, err := LoadIDXDir(dir, "validation"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "train or test") {
		t.Errorf("unknown split: %v", err)
	}
	writeIDX(t, dir, "train-images-idx3-ubyte", "train-labels-idx1-ubyte", 5)
	if _, err := MNISTTrain(dir); !errors.Is(err, ErrChecksum) {
		t.Errorf("training files that are not MNIST's: %v", err)
	}
	fewer := &IDX{Shape: []int{4}, Data: make([]byte, 4)}
	if err := os.WriteFile(filepath.Join(dir, "train-labels-idx1-ubyte"), fewer.Marshal(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadIDXDir(dir, "train"); !errors.Is(err, ErrFormat) {
		t.Errorf("4 labels for 5 images: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "train-labels-idx1-ubyte")); err != nil {
		t.Fatal(err)
	}
	if _, err := MNISTTrain(dir); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "train-labels") {
		t.Errorf("no labels: %v", err)
	}
}

func TestBrokenIDX(t *testing.T) {
	good := (&IDX{Shape: []int{2, 3}, Data: []byte("abcdef")}).Marshal()
	packed := zip(t, good)
	damaged := bytes.Clone(packed)
	damaged[len(damaged)-6] ^= 1 // the checksum
	for name, p := range map[string][]byte{
		"empty":                  nil,
		"header cut":             good[:6],
		"data cut":               good[:len(good)-1],
		"data left over":         append(bytes.Clone(good), 0),
		"floats":                 {0, 0, 0x0d, 1, 0, 0, 0, 1, 0, 0, 0, 0},
		"rank 0":                 {0, 0, 8, 0},
		"rank 200":               {0, 0, 8, 200},
		"no images":              {0, 0, 8, 1, 0, 0, 0, 0},
		"4 GiB":                  {0, 0, 8, 1, 255, 255, 255, 255},
		"product overflows":      {0, 0, 8, 3, 127, 255, 255, 255, 127, 255, 255, 255, 127, 255, 255, 255},
		"gzip header only":       packed[:8],
		"gzip cut":               packed[:len(packed)-4],
		"gzip sum wrong":         damaged,
		"gzip with a tail":       append(bytes.Clone(packed), 1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
		"gzip of something else": zip(t, []byte("hello")),
	} {
		if x, err := ReadIDX(bytes.NewReader(p), 100); !errors.Is(err, ErrFormat) && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: got %v, %v", name, x, err)
		}
	}
	if _, err := ReadIDX(bytes.NewReader(good), 5); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one byte too many: %v", err)
	}
	if _, err := ReadIDX(bytes.NewReader(good), 6); err != nil {
		t.Errorf("exactly as many bytes as allowed: %v", err)
	}
	if _, err := ReadIDX(io.MultiReader(bytes.NewReader(good[:14]), iotest.ErrReader(io.ErrClosedPipe)), 6); !errors.Is(err, io.ErrClosedPipe) || errors.Is(err, ErrFormat) {
		t.Errorf("a failing disk is not a broken file: %v", err)
	}
}

// TestIDXAnnouncingMuch reads a file of a few bytes that announces a gigabyte.
func TestIDXAnnouncingMuch(t *testing.T) {
	p := (&IDX{Shape: []int{1 << 10, 1 << 10, 1 << 10}}).Marshal()
	allocated := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ReadIDX(bytes.NewReader(p), 1<<30); !errors.Is(err, ErrFormat) {
				b.Fatal(err)
			}
		}
	}).AllocedBytesPerOp()
	if allocated == 0 || allocated > 64<<10 {
		t.Errorf("allocates %d bytes", allocated)
	}
}

func FuzzReadIDX(f *testing.F) {
	good := (&IDX{Shape: []int{2, 3}, Data: []byte("abcdef")}).Marshal()
	f.Add(good)
	f.Add(zip(f, good))
	f.Add([]byte{0, 0, 8, 1, 0, 0, 0, 1, 7})
	f.Fuzz(func(t *testing.T, p []byte) {
		x, err := ReadIDX(bytes.NewReader(p), 1<<16)
		if err != nil {
			return
		}
		again, err := ReadIDX(bytes.NewReader(x.Marshal()), 1<<16)
		if err != nil {
			t.Fatalf("cannot read what it wrote: %v", err)
		}
		if !reflect.DeepEqual(again, x) {
			t.Fatalf("round trip: %v became %v", x, again)
		}
	})
}
