package source

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"idunno/models/dataset"
)

// pngHeader is a picture that announces its size and has nothing behind it.
func pngHeader(w, h uint32) []byte {
	ihdr := append([]byte("IHDR"), make([]byte, 8)...)
	binary.BigEndian.PutUint32(ihdr[4:], w)
	binary.BigEndian.PutUint32(ihdr[8:], h)
	ihdr = append(ihdr, 8, 0, 0, 0, 0)
	out := append([]byte("\x89PNG\r\n\x1a\n"), 0, 0, 0, 13)
	return binary.BigEndian.AppendUint32(append(out, ihdr...), crc32.ChecksumIEEE(ihdr))
}

// footered is a Parquet file with a footer and nothing else.
func footered(footer []byte) []byte {
	out := append([]byte("PAR1"), footer...)
	return append(binary.LittleEndian.AppendUint32(out, uint32(len(footer))), "PAR1"...)
}

func TestHostileFiles(t *testing.T) {
	good := parquetFileOf(valueRows())
	huge := npyFile("|u1", "2000000000, 60, 60", nil)
	for name, c := range map[string]struct {
		file string
		p    []byte
		o    Options
	}{
		"empty":                  {file: "x.csv"},
		"neither":                {file: "x.bin", p: []byte{1, 2, 3, 4, 5, 6, 7, 8}},
		"idx of 2^31 images":     {file: "x-images", p: []byte{0, 0, 8, 1, 0x7f, 0xff, 0xff, 0xff}, o: Options{Labels: None}},
		"idx cut short":          {file: "x-images", p: idxImages()[:40], o: Options{Labels: None}},
		"idx with more":          {file: "x-images", p: append(idxImages(), 1), o: Options{Labels: None}},
		"idx packed, with more":  {file: "x-images.gz", p: gz(append(idxImages(), 1)), o: Options{Labels: None}},
		"idx packed, cut":        {file: "x-images.gz", p: gz(idxImages())[:30], o: Options{Labels: None}},
		"idx of rank 255":        {file: "x", p: append([]byte{0, 0, 8, 255}, make([]byte, 1200)...), o: Options{Format: IDX, Labels: None}},
		"idx without a size":     {file: "x", p: []byte{0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 0}, o: Options{Labels: None}},
		"idx packed zeros":       {file: "x.gz", p: gz(append([]byte{0, 0, 8, 2, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff}, make([]byte, 1<<20)...)), o: Options{Labels: None}},
		"npy of many":            {file: "x.npy", p: huge, o: Options{Labels: None}},
		"npy with a long header": {file: "x.npy", p: append([]byte(npyMagic), 2, 0, 255, 255, 255, 255), o: Options{Labels: None}},
		"npy of objects":         {file: "x.npy", p: npyFile("|O", "7,", nil), o: Options{Labels: None}},
		"npy of strings":         {file: "x.npy", p: npyFile("<U9", "7,", nil), o: Options{Labels: None}},
		"npy of 40 sizes":        {file: "x.npy", p: npyFile("|u1", strings.Repeat("1, ", 40), []byte{1}), o: Options{Labels: None}},
		"npy of one number":      {file: "x.npy", p: npyFile("|u1", "", []byte{1}), o: Options{Labels: None}},
		"npy cut":                {file: "x.npy", p: npyFile("|u1", "7, 2, 3", pixels())[:100], o: Options{Labels: None}},
		"npy of nan":             {file: "x.npy", p: npyFile("<f4", "1, 1", []byte{0, 0, 0xc0, 0x7f}), o: Options{Labels: None}},
		"npz no archive":         {file: "x.npz", p: []byte("PK\x03\x04 but no more")},
		"npz without arrays":     {file: "x.npz", p: zipFile(map[string][]byte{"a.txt": {1}})},
		"npz that unpacks to more": {file: "x.npz", p: zipFile(map[string][]byte{"x.npy": append(npyFile("|u1", "7, 2, 3", pixels()), make([]byte, 1<<20)...),
			"y.npy": npyFile("<i8", "7,", labels64())})},
		"npz of other lengths":        {file: "x.npz", p: zipFile(map[string][]byte{"x.npy": npyFile("|u1", "7, 6", pixels()), "y.npy": npyFile("<i8", "6,", labels64()[:48])})},
		"npz one-hot":                 {file: "x.npz", p: zipFile(map[string][]byte{"x.npy": npyFile("|u1", "7, 6", pixels()), "y.npy": npyFile("|u1", "7, 6", pixels())})},
		"safetensors, huge header":    {file: "x.safetensors", p: bytes.Repeat([]byte{255}, 64)},
		"safetensors, deep":           {file: "x.safetensors", p: safetensorsFile(strings.Repeat(`{"a":`, 20000)+"1"+strings.Repeat("}", 20000), nil)},
		"safetensors, beyond the end": {file: "x.safetensors", p: safetensorsFile(`{"x":{"dtype":"U8","shape":[9,9],"data_offsets":[0,81]}}`, pixels()), o: Options{Labels: None}},
		"safetensors, overflow":       {file: "x.safetensors", p: safetensorsFile(`{"x":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,4]}}`, pixels()), o: Options{Labels: None}},
		"safetensors, no shape":       {file: "x.safetensors", p: safetensorsFile(`{"x":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}`, pixels()), o: Options{Labels: None}},
		"csv, one long field":         {file: "x.csv", p: append([]byte(`"`), bytes.Repeat([]byte("1,"), 9<<20)...)},
		"csv, rows of two lengths":    {file: "x.csv", p: []byte("1,2,3\n1,2\n")},
		"csv, a word":                 {file: "x.csv", p: []byte("1,2,3\n1,2,x\n")},
		"csv, nothing but a header":   {file: "x.csv", p: []byte("label,a\n")},
		"csv, which label":            {file: "x.csv", p: []byte("p,q\n1,2\n")},
		"csv, a negative label":       {file: "x.csv", p: []byte("label,q\n-1.5,2\n"), o: Options{DType: dataset.U8, Labels: "q", Mean: []float64{1}}},
		"csv, infinite":               {file: "x.csv", p: []byte("1,2\n1,inf\n")},
		"parquet cut":                 {file: "x.parquet", p: good[:len(good)-9]},
		"parquet, huge footer":        {file: "x.parquet", p: append([]byte("PAR1"), "\xff\xff\xff\x7fPAR1"...)},
		"parquet, empty footer":       {file: "x.parquet", p: footered(nil)},
		// A list of 2^31-1 structs, one of 2^31-1 numbers, and one inside of another.
		"parquet, many columns": {file: "x.parquet", p: footered([]byte{0x29, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07})},
		"parquet, many numbers": {file: "x.parquet", p: footered([]byte{0xf9, 0xf5, 0xff, 0xff, 0xff, 0xff, 0x07})},
		"parquet, deep":         {file: "x.parquet", p: footered(bytes.Repeat([]byte{0x1c}, 100_000))},
		"parquet, deep lists":   {file: "x.parquet", p: footered(append([]byte{0x19}, bytes.Repeat([]byte{0x19}, 100_000)...))},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, t.TempDir(), c.file, c.p)
			err := readAll(path, c.o)
			if !errors.Is(err, dataset.ErrFormat) && !errors.Is(err, dataset.ErrTooLarge) && !errors.Is(err, ErrOption) {
				t.Errorf("got %v", err)
			} else if !errors.Is(err, ErrOption) && !strings.Contains(err.Error(), filepath.Base(path)) {
				t.Errorf("the error doesn't name the file: %v", err)
			}
		})
	}
}

// readAll reads a set to its end.
func readAll(path string, o Options) error {
	r, err := Open(path, o)
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		if _, err := r.Read(64); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

func TestHostilePictures(t *testing.T) {
	for name, p := range map[string][]byte{
		"2^31 x 2^31": pngHeader(1<<31-1, 1<<31-1), "60,000 x 60,000": pngHeader(60_000, 60_000), "no pixels": pngHeader(0, 5),
		"nothing behind": pngHeader(3, 2), "text": []byte("no picture"), "cut": greyPNG(1)[:40],
	} {
		dir := t.TempDir()
		write(t, dir, "a/bad.png", p)
		if err := readAll(dir, Options{}); !errors.Is(err, dataset.ErrFormat) && !errors.Is(err, dataset.ErrTooLarge) || !strings.Contains(err.Error(), "bad.png") {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := t.TempDir()
	write(t, dir, "a/1.png", greyPNG(0))
	write(t, dir, "2.png", greyPNG(0))
	if err := readAll(dir, Options{}); !errors.Is(err, dataset.ErrFormat) {
		t.Errorf("pictures beside classes: %v", err)
	}
	if err := readAll(t.TempDir(), Options{}); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("an empty folder: %v", err)
	}
}

// A page that claims to unpack to little and unpacks to much is found before it is
// unpacked into memory.
func TestParquetPagesThatUnpackToMore(t *testing.T) {
	type row struct {
		Label int32   `parquet:"label"`
		X     float64 `parquet:"x,zstd,plain"`
	}
	rows := make([]row, 5000)
	p := parquetFileOf(rows)
	f := write(t, t.TempDir(), "x.parquet", p)
	file, err := openParquetFile(f)
	if err != nil {
		t.Fatal(err)
	}
	defer file.file.Close()
	c := &file.meta.RowGroups[len(file.meta.RowGroups)-1].Columns[1].MetaData
	if _, err := file.checkChunk(c, 0, 0); err != nil {
		t.Fatal(err)
	}
	c.Codec = 1 // the same bytes read as Snappy announce another size
	if _, err := file.checkChunk(c, 0, 0); !errors.Is(err, dataset.ErrFormat) {
		t.Errorf("another codec: %v", err)
	}
	c.Codec = 6
	c.TotalCompressedSize--
	if _, err := file.checkChunk(c, 0, 0); !errors.Is(err, dataset.ErrFormat) {
		t.Errorf("a chunk that ends in a page: %v", err)
	}
}

// Every byte of small files is changed; whatever comes out must be an error or a set,
// within bounded memory, without a panic.
func TestMutations(t *testing.T) {
	dir := t.TempDir()
	for name, p := range map[string][]byte{
		"x-images": idxImages(), "x.npy": npyFile("<f4", "3, 2", make([]byte, 24)), "set.safetensors": tensorsFile(),
		"set.npz":   zipFile(map[string][]byte{"x.npy": npyFile("|u1", "7, 2, 3", pixels()), "y.npy": npyFile("<i8", "7,", labels64())}),
		"v.parquet": parquetFileOf(valueRows()[:5]), "l.parquet": parquetFileOf(listRows()[:5]),
		"p.parquet": parquetFileOf(pictureRows()[:5], parquet.KeyValueMetadata("huggingface", huggingFace)),
	} {
		o := Options{MaxBytes: 1 << 20}
		if name == "x-images" || name == "x.npy" {
			o.Labels = None
		}
		path := filepath.Join(dir, name)
		step := max(len(p)/120, 1)
		for i := 0; i < len(p); i += step {
			for _, flip := range []byte{1, 0x80, 0xff} {
				q := bytes.Clone(p)
				q[i] ^= flip
				mutated(t, path, q, o)
			}
			mutated(t, path, p[:i], o)
		}
	}
}

func mutated(t *testing.T, path string, p []byte, o Options) {
	t.Helper()
	if err := os.WriteFile(path, p, 0o644); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := readAll(path, o)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 600<<20 {
		t.Fatalf("%s of %d bytes took %d MiB: %v", path, len(p), used>>20, err)
	}
	for _, kind := range []error{nil, dataset.ErrFormat, dataset.ErrTooLarge, ErrOption} {
		if errors.Is(err, kind) {
			return
		}
	}
	t.Fatalf("%s: an error of no kind: %v", path, err)
}

func FuzzOpen(f *testing.F) {
	f.Add(idxImages())
	f.Add(npyFile("<f4", "3, 2", make([]byte, 24)))
	f.Add(tensorsFile())
	f.Add(csvFile("", digit))
	f.Add(zipFile(map[string][]byte{"x.npy": npyFile("|u1", "7, 2, 3", pixels())}))
	f.Add(parquetFileOf(valueRows()))
	f.Add(parquetFileOf(pictureRows()))
	f.Fuzz(func(t *testing.T, p []byte) {
		mutated(t, filepath.Join(t.TempDir(), "x"), p, Options{Labels: None, MaxBytes: 1 << 20})
	})
}

// A run's length is believed by the library that decodes it.
func TestRuns(t *testing.T) {
	run := func(head uint64, value ...byte) []byte { return append(binary.AppendUvarint(nil, head), value...) }
	for name, c := range map[string]struct {
		p             []byte
		width, values int
		ok            bool
	}{
		"nothing":               {nil, 3, 10, true},
		"one run":               {run(10<<1, 5), 3, 10, true},
		"one packed group":      {run(1<<1|1, 1, 2, 3), 3, 8, true},
		"a filled group":        {run(2<<1|1, 1, 2, 3, 4, 5, 6), 3, 10, true},
		"a run of 2^30":         {run(1<<31, 5), 3, 10, false},
		"2^60 groups":           {run(1<<61|1, 5), 3, 10, false},
		"many runs":             {bytes.Repeat(run(500<<1, 5), 9), 3, 1000, false},
		"a head without an end": {bytes.Repeat([]byte{0xff}, 11), 3, 10, false},
	} {
		if err := walkRuns(c.p, c.width, c.values); (err == nil) != c.ok || err != nil && !errors.Is(err, dataset.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A picture within the limits can be so high that scaling it would not be.
func TestHighPicture(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a/high.png", pngHeader(1, 39_000_000))
	for _, o := range []Options{{Resize: [2]int{224, 224}}, {Resize: [2]int{224}, Crop: [2]int{224}}} {
		if err := readAll(dir, o); !errors.Is(err, dataset.ErrTooLarge) || !strings.Contains(err.Error(), "high.png") {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
