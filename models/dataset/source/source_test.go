package source

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"idunno/models/dataset"
)

// The set that the tests write in every format: seven images of 2 x 3 bytes.
const images, rowsOf, colsOf, per = 7, 2, 3, 6

func pixels() []byte {
	x := make([]byte, images*per)
	for i := range x {
		x[i] = byte(37 * i)
	}
	return x
}

var classes = []int32{0, 2, 1, 2, 0, 1, 2}

func write(t testing.TB, dir, name string, p []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, p, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func gz(p []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(p)
	_ = z.Close()
	return b.Bytes()
}

func labelBytes() []byte {
	out := make([]byte, images)
	for i, y := range classes {
		out[i] = byte(y)
	}
	return out
}

func idxImages() []byte {
	return (&dataset.IDX{Shape: []int{images, rowsOf, colsOf}, Data: pixels()}).Marshal()
}
func idxLabels() []byte {
	return (&dataset.IDX{Shape: []int{images}, Data: labelBytes()}).Marshal()
}

// npyFile is an array as NumPy saves it.
func npyFile(descr, shape string, data []byte) []byte {
	head := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", descr, shape)
	head += strings.Repeat(" ", 63-(len(head)+10)%64) + "\n"
	out := append([]byte(npyMagic), 1, 0)
	out = binary.LittleEndian.AppendUint16(out, uint16(len(head)))
	return append(append(out, head...), data...)
}

func labels64() []byte {
	var out []byte
	for _, y := range classes {
		out = binary.LittleEndian.AppendUint64(out, uint64(y))
	}
	return out
}

func zipFile(files map[string][]byte) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	names := []string{}
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		w, _ := z.Create(name)
		_, _ = w.Write(files[name])
	}
	_ = z.Close()
	return b.Bytes()
}

func safetensorsFile(header string, data []byte) []byte {
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(out, header...), data...)
}

func tensorsFile() []byte {
	return safetensorsFile(fmt.Sprintf(`{"__metadata__":{"format":"np"},"images":{"dtype":"U8","shape":[7,2,3],"data_offsets":[0,42]},"labels":{"dtype":"I64","shape":[7],"data_offsets":[42,98]}}`),
		append(pixels(), labels64()...))
}

// csvFile has the labels in its first column.
func csvFile(header string, word func(int32) string) []byte {
	var b bytes.Buffer
	b.WriteString(header)
	x := pixels()
	for i, y := range classes {
		b.WriteString(word(y))
		for _, v := range x[i*per : (i+1)*per] {
			fmt.Fprintf(&b, ",%d", v)
		}
		b.WriteString("\r\n")
	}
	return b.Bytes()
}

func digit(y int32) string  { return fmt.Sprint(y) }
func animal(y int32) string { return []string{"ant", "bee", "cat"}[y] }

// greyPNG is image i as a picture.
func greyPNG(i int) []byte {
	x := pixels()
	m := &image.Gray{Pix: x[i*per : (i+1)*per], Stride: colsOf, Rect: image.Rect(0, 0, colsOf, rowsOf)}
	var b bytes.Buffer
	_ = png.Encode(&b, m)
	return b.Bytes()
}

type valueRow struct {
	Label int32 `parquet:"label"`
	A     uint8 `parquet:"a"`
	B     uint8 `parquet:"b"`
	C     uint8 `parquet:"c"`
	D     uint8 `parquet:"d"`
	E     uint8 `parquet:"e"`
	F     uint8 `parquet:"f"`
}

type picture7 struct {
	Bytes []byte `parquet:"bytes,plain,optional"`
	Path  string `parquet:"path,plain,optional"`
}

type pictureRow struct {
	Image picture7 `parquet:"image,optional"`
	Label int64    `parquet:"label,snappy"`
}

type listRow struct {
	Pixels []float64 `parquet:"pixels,list"`
	Class  string    `parquet:"class,plain,zstd"`
}

func parquetFileOf[T any](rows []T, options ...parquet.WriterOption) []byte {
	var b bytes.Buffer
	w := parquet.NewGenericWriter[T](&b, options...)
	for i := range rows {
		if i == 4 {
			_ = w.Flush() // a second row group
		}
		_, _ = w.Write(rows[i : i+1])
	}
	_ = w.Close()
	return b.Bytes()
}

func valueRows() []valueRow {
	var out []valueRow
	x := pixels()
	for i, y := range classes {
		v := x[i*per:]
		out = append(out, valueRow{y, v[0], v[1], v[2], v[3], v[4], v[5]})
	}
	return out
}

func pictureRows() []pictureRow {
	var out []pictureRow
	for i, y := range classes {
		out = append(out, pictureRow{picture7{greyPNG(i), "x.png"}, int64(y)})
	}
	return out
}

func listRows() []listRow {
	var out []listRow
	x := pixels()
	for i, y := range classes {
		row := listRow{Class: animal(y)}
		for _, v := range x[i*per : (i+1)*per] {
			row.Pixels = append(row.Pixels, float64(v))
		}
		out = append(out, row)
	}
	return out
}

const huggingFace = `{"info":{"features":{"image":{"_type":"Image"},"label":{"names":["ant","bee","cat"],"_type":"ClassLabel"}}}}`

var animals = []string{"ant", "bee", "cat"}

func TestFormats(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "idx/t10k-images-idx3-ubyte.gz", gz(idxImages()))
	write(t, dir, "idx/t10k-labels-idx1-ubyte", idxLabels())
	write(t, dir, "idx/train-images-idx3-ubyte", idxImages())
	write(t, dir, "idx/train-labels-idx1-ubyte.gz", gz(idxLabels()))
	write(t, dir, "alone-images.idx3", idxImages())
	write(t, dir, "alone-labels.idx1", idxLabels())
	write(t, dir, "x.npy", npyFile("|u1", "7, 2, 3", pixels()))
	write(t, dir, "y.npy", npyFile("<i8", "7,", labels64()))
	write(t, dir, "set.npz", zipFile(map[string][]byte{"x_test.npy": npyFile("|u1", "7, 2, 3", pixels()), "y_test.npy": npyFile("<i8", "7, 1", labels64()),
		"x_train.npy": npyFile("|u1", "7, 2, 3", pixels()), "y_train.npy": npyFile("<i8", "7,", labels64())}))
	write(t, dir, "set.safetensors", tensorsFile())
	write(t, dir, "plain.csv", csvFile("", digit))
	write(t, dir, "words.csv.gz", gz(csvFile("kind,a,b,c,d,e,f\n", animal)))
	write(t, dir, "values.parquet", parquetFileOf(valueRows()))
	write(t, dir, "lists.parquet", parquetFileOf(listRows()))
	write(t, dir, "hf/data/test-00000-of-00001.parquet", parquetFileOf(pictureRows(), parquet.KeyValueMetadata("huggingface", huggingFace)))
	// Pictures come in the order of their classes' names.
	order := []int{0, 4, 2, 5, 1, 3, 6}
	for i, y := range classes {
		write(t, dir, fmt.Sprintf("pictures/%s/%d.png", animal(y), i), greyPNG(i))
	}
	write(t, dir, "pictures/notes.txt", []byte("no picture"))

	for _, c := range []struct {
		name, path, format string
		o                  Options
		shape              []int
		dtype              string
		classes            []string
		order              []int
	}{
		{"idx folder", "idx", IDX, Options{}, []int{1, 2, 3}, dataset.U8, []string{"0", "1", "2"}, nil},
		{"idx train", "idx", IDX, Options{Split: Train, Classes: animals}, []int{1, 2, 3}, dataset.U8, animals, nil},
		{"idx file", "alone-images.idx3", IDX, Options{}, []int{1, 2, 3}, dataset.U8, []string{"0", "1", "2"}, nil},
		{"npy", "x.npy", Npy, Options{Labels: filepath.Join(dir, "y.npy")}, []int{1, 2, 3}, dataset.U8, []string{"0", "1", "2"}, nil},
		{"npy without labels", "x.npy", Npy, Options{Labels: None, DType: dataset.F32, Shape: []int{6}}, []int{6}, dataset.F32, nil, nil},
		{"npz", "set.npz", Npz, Options{}, []int{1, 2, 3}, dataset.U8, []string{"0", "1", "2"}, nil},
		{"npz by name", "set.npz", Npz, Options{Images: "x_train", Labels: "y_train"}, []int{1, 2, 3}, dataset.U8, []string{"0", "1", "2"}, nil},
		{"safetensors", "set.safetensors", Safetensors, Options{}, []int{1, 2, 3}, dataset.U8, []string{"0", "1", "2"}, nil},
		{"csv", "plain.csv", CSV, Options{Shape: []int{1, 2, 3}}, []int{1, 2, 3}, dataset.U8, []string{"0", "1", "2"}, nil},
		{"csv with words", "words.csv.gz", CSV, Options{Labels: "kind"}, []int{6}, dataset.U8, animals, nil},
		{"csv, the column of words", "words.csv.gz", CSV, Options{DType: dataset.F32}, []int{6}, dataset.F32, animals, nil},
		{"parquet of values", "values.parquet", Parquet, Options{}, []int{6}, dataset.U8, []string{"0", "1", "2"}, nil},
		{"parquet of lists", "lists.parquet", Parquet, Options{DType: dataset.U8}, []int{6}, dataset.U8, animals, nil},
		{"parquet of pictures", "hf", Parquet, Options{}, []int{1, 2, 3}, dataset.U8, animals, nil},
		{"pictures", "pictures", Images, Options{}, []int{1, 2, 3}, dataset.U8, animals, order},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(dir, c.path)
			if format, err := Detect(path); err != nil || format != c.format {
				t.Fatalf("detected %q, %v", format, err)
			}
			want := expected(c.dtype, c.order)
			for _, size := range []int{1, 3, 100} {
				r := open(t, path, c.o)
				h := r.Head()
				if h.Images != images || !slices.Equal(h.Shape, c.shape) || h.DType != c.dtype || !slices.Equal(h.Classes, c.classes) || h.Source == "" {
					t.Fatalf("head %+v", h)
				}
				if c.classes == nil {
					want.Y = nil
				}
				if got := rest(t, r, size); !bytes.Equal(got.X, want.X) || !slices.Equal(got.Y, want.Y) {
					t.Fatalf("in batches of %d: %v %v, want %v %v", size, got.X, got.Y, want.X, want.Y)
				}
			}
			// What is skipped is left out and nothing else.
			for skip := range images {
				r := open(t, path, c.o)
				if _, err := r.Read(1); err != nil {
					t.Fatal(err)
				}
				if err := r.Skip(skip); err != nil {
					t.Fatal(err)
				}
				n := len(want.X) / images
				if got := rest(t, r, 2); !bytes.Equal(got.X, want.X[min(1+skip, images)*n:]) || want.Y != nil && !slices.Equal(got.Y, want.Y[min(1+skip, images):]) {
					t.Fatalf("after the first and %d skipped: %v %v", skip, got.X, got.Y)
				}
			}
			if a, b := open(t, path, c.o), open(t, path, c.o); a.Fingerprint() != b.Fingerprint() {
				t.Error("the same files have two fingerprints")
			}
		})
	}
}

func expected(dtype string, order []int) *dataset.Batch {
	b := &dataset.Batch{}
	x := pixels()
	for i := range images {
		if order != nil {
			i = order[i]
		}
		b.Y = append(b.Y, classes[i])
		for _, v := range x[i*per : (i+1)*per] {
			if dtype == dataset.U8 {
				b.X = append(b.X, v)
			} else {
				b.X = binary.LittleEndian.AppendUint32(b.X, math.Float32bits(float32(v)))
			}
		}
	}
	return b
}

func open(t testing.TB, path string, o Options) *Reader {
	t.Helper()
	r, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// rest reads what is left, in batches of size.
func rest(t testing.TB, r *Reader, size int) *dataset.Batch {
	t.Helper()
	all := &dataset.Batch{}
	for {
		b, err := r.Read(size)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Check(); err != nil {
			t.Fatal(err)
		}
		all.X, all.Y = append(all.X, b.X...), append(all.Y, b.Y...)
	}
}

func TestElements(t *testing.T) {
	le := binary.LittleEndian
	for _, c := range []struct {
		e    element
		p    []byte
		want float64
	}{
		{element{kind: 'u', size: 1}, []byte{200}, 200}, {element{kind: 'i', size: 1}, []byte{200}, -56},
		{element{kind: 'u', size: 2}, le.AppendUint16(nil, 65535), 65535}, {element{kind: 'i', size: 2, big: true}, []byte{0xff, 0xfe}, -2},
		{element{kind: 'i', size: 4, big: true}, []byte{0, 0, 1, 0}, 256}, {element{kind: 'u', size: 4}, le.AppendUint32(nil, 1<<31), 1 << 31},
		{element{kind: 'i', size: 8}, le.AppendUint64(nil, math.MaxUint64), -1}, {element{kind: 'f', size: 4}, le.AppendUint32(nil, math.Float32bits(-1.5)), -1.5},
		{element{kind: 'f', size: 8, big: true}, binary.BigEndian.AppendUint64(nil, math.Float64bits(0.1)), 0.1}, {element{kind: 'b', size: 2}, le.AppendUint16(nil, 0x3fc0), 1.5},
		{element{kind: 'f', size: 2}, le.AppendUint16(nil, 0x3e00), 1.5}, {element{kind: 'f', size: 2}, le.AppendUint16(nil, 0x8001), -math.Ldexp(1, -24)},
		{element{kind: 'f', size: 2}, le.AppendUint16(nil, 0x7c00), math.Inf(1)},
	} {
		if got := c.e.value(c.p); got != c.want {
			t.Errorf("%+v: %v, want %v", c.e, got, c.want)
		}
	}
}

func TestNormalizeAndTurn(t *testing.T) {
	dir := t.TempDir()
	// Two images of 2 x 1 pixels in three channels, channels last.
	x := []byte{0, 51, 102, 153, 204, 255, 1, 2, 3, 4, 5, 6}
	path := write(t, dir, "x.npy", npyFile("|u1", "2, 2, 1, 3", x))
	b, err := open(t, path, Options{Labels: None}).Read(2)
	if err != nil || !bytes.Equal(b.X, []byte{0, 153, 51, 204, 102, 255, 1, 4, 2, 5, 3, 6}) || !reflect.DeepEqual(b.Shape, []int{2, 3, 2, 1}) {
		t.Fatalf("%+v, %v", b, err)
	}
	b, err = open(t, path, Options{Labels: None, Mean: []float64{0, 0.2, 0.4}, Std: []float64{0.5}}).Read(1)
	if err != nil || b.DType != dataset.F32 {
		t.Fatalf("%+v, %v", b, err)
	}
	for i, want := range []float64{0, 1.2, 0, 1.2, 0, 1.2} {
		if got := math.Float32frombits(binary.LittleEndian.Uint32(b.X[4*i:])); math.Abs(float64(got)-want) > 1e-6 {
			t.Errorf("value %d is %v, want %v", i, got, want)
		}
	}
	if _, err := Open(path, Options{Labels: None, Mean: []float64{1, 2}}); !errors.Is(err, ErrOption) {
		t.Errorf("two means for three channels: %v", err)
	}
}

func TestPictures(t *testing.T) {
	dir := t.TempDir()
	draw := func(w, h int, m interface {
		image.Image
		Set(x, y int, c color.Color)
	}) []byte {
		for y := range h {
			for x := range w {
				m.Set(x, y, color.NRGBA{uint8(10 * x), uint8(10 * y), 200, 255})
			}
		}
		var b bytes.Buffer
		if err := png.Encode(&b, m); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	write(t, dir, "a/1.png", draw(8, 6, image.NewNRGBA(image.Rect(0, 0, 8, 6))))
	write(t, dir, "b/2.PNG", draw(12, 6, image.NewNRGBA(image.Rect(0, 0, 12, 6))))
	if r := open(t, dir, Options{}); !slices.Equal(r.Head().Shape, []int{3, 6, 8}) {
		t.Fatalf("head %+v", r.Head())
	} else if _, err := r.Read(2); !errors.Is(err, ErrOption) || !strings.Contains(err.Error(), "2.PNG") {
		t.Errorf("pictures of two sizes: %v", err)
	}
	b, err := open(t, dir, Options{Crop: [2]int{4}}).Read(2)
	if err != nil || !slices.Equal(b.Shape, []int{2, 3, 4, 4}) || !slices.Equal(b.Y, []int32{0, 1}) {
		t.Fatalf("%+v, %v", b, err)
	}
	// The middle of 8 x 6 begins at column 2 and row 1, that of 12 x 6 at column 4.
	if b.X[0] != 20 || b.X[16] != 10 || b.X[32] != 200 || b.X[48] != 40 {
		t.Errorf("cut out %v", b.X)
	}
	for _, o := range []Options{{Resize: [2]int{3, 4}}, {Resize: [2]int{3}, Crop: [2]int{3, 4}}, {Resize: [2]int{3, 4}, Channels: 1}} {
		b, err := open(t, dir, o).Read(2)
		want := []int{2, 3, 3, 4}
		if o.Channels == 1 {
			want[1] = 1
		}
		if err != nil || !slices.Equal(b.Shape, want) {
			t.Errorf("%+v: %+v, %v", o, b, err)
		}
	}
}

func TestSplits(t *testing.T) {
	dir := t.TempDir()
	both := write(t, dir, "both.npz", zipFile(map[string][]byte{"x_test.npy": nil, "x_train.npy": nil}))
	one := write(t, dir, "one.npz", zipFile(map[string][]byte{"x.npy": nil}))
	write(t, dir, "p/train/a/1.png", greyPNG(0))
	write(t, dir, "p/val/a/1.png", greyPNG(0))
	for path, want := range map[string]bool{both: true, one: false, filepath.Join(dir, "p"): true, filepath.Join(dir, "p/train"): false} {
		if got, err := Splits(path, Options{}); err != nil || got != want {
			t.Errorf("%s: %v, %v", path, got, err)
		}
	}
	if r := open(t, filepath.Join(dir, "p"), Options{Split: Test}); r.Head().Images != 1 {
		t.Errorf("head %+v", r.Head())
	}
}
