package source

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"

	"idunno/models/dataset"
)

// The formats, as Options.Format names them.
const (
	IDX         = "idx"
	Npy         = "npy"
	Npz         = "npz"
	CSV         = "csv"
	Safetensors = "safetensors"
	Parquet     = "parquet"
	Images      = "images"
)

// Formats lists the formats.
func Formats() []string { return []string{IDX, Npy, Npz, CSV, Safetensors, Parquet, Images} }

// The parts that a set may be divided into.
const (
	Train = "train"
	Test  = "test"
)

// Limits of what is read.
const (
	// DefaultMaxBytes bounds the images of a set, as they are stored.
	DefaultMaxBytes = 256 << 30
	maxImages       = math.MaxInt32
	maxImageBytes   = 128 << 20 // of one image
	maxClasses      = 1 << 16
	maxRank         = 6 // dimensions of one image
)

// None, as Options.Labels, says that the set has no labels.
const None = "none"

// Options say how files are to be read. The zero value lets the files tell.
type Options struct {
	// Format is one of Formats; "" is told from the path.
	Format string
	// Split is the part to read, Train or Test, of files that hold both; "" means
	// Test where there are both.
	Split string
	// Images and Labels say where images and labels are: arrays in npz and
	// safetensors files, columns (names, or numbers from 1) in CSV and Parquet ones;
	// Labels is a file for IDX and npy. None means that there are no labels.
	Images, Labels string
	// Header says whether a CSV file begins with the names of its columns: "yes",
	// "no", or "" to tell from the first line.
	Header string
	// Shape is the shape of one image, for files that don't tell it.
	Shape []int
	// Layout is the order of an image's dimensions in arrays: "chw", "hwc", or "" to
	// tell from the shape. Images are stored channels first.
	Layout string
	// DType is dataset.U8 or dataset.F32; "" keeps bytes as bytes and makes 32-bit
	// numbers of everything else.
	DType string
	// Channels is 1 (grey) or 3 (red, green, blue) for pictures; 0 is what the first
	// one has.
	Channels int
	// Resize is the height and width to which pictures are scaled, or the length of the
	// shorter side in Resize[0] alone; Crop is cut out of the middle after that.
	Resize, Crop [2]int
	// Mean and Std, one number or one a channel, make (x - mean) / std of each value,
	// bytes being divided by 255 before; nil means neither.
	Mean, Std []float64
	// Classes are the names of the classes, instead of those in the files.
	Classes []string
	// MaxBytes bounds the images as they are stored; 0 means DefaultMaxBytes.
	MaxBytes int64
}

// rows are the images of a file, one after the other, in the file's own element type.
type rows interface {
	// read fills b with the next n images; there are so many.
	read(n int, b *block) error
	skip(n int) error
	// end checks, after the last image, that the file ends there.
	end() error
	io.Closer
}

// block is some images in a row, either bytes or numbers, and their labels.
type block struct {
	u8  []byte
	f32 []float32
	y   []int32
}

// table is what opening a file gives.
type table struct {
	rows
	images   int
	shape    []int // of one image, as it lies in the file
	native   string
	labelled bool
	classes  []string // names; nil for numbers
	labels   int      // classes when they are numbers: the highest label and 1
	source   string
	files    []string // everything that was read, for the fingerprint
}

// Reader gives the images of a data set in order. It is not safe for concurrent use.
type Reader struct {
	table
	o           Options
	head        dataset.Head
	hwc         bool // images have to be turned to channels first
	mean, scale []float32
	done        int
	fingerprint string
	where       string
}

// openers opens the formats.
var openers = map[string]func(path string, o *Options) (*table, error){
	IDX: openIDX, Npy: openNpy, Npz: openNpz, CSV: openCSV, Safetensors: openSafetensors, Parquet: openParquet, Images: openImages,
}

// Open opens a data set: a file, or a folder of files. The error wraps
// dataset.ErrFormat, ErrTooLarge, ErrNotFound or ErrOption, or is the file
// system's.
func Open(path string, o Options) (*Reader, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Format == "" {
		format, err := Detect(path)
		if err != nil {
			return nil, err
		}
		o.Format = format
	}
	t, err := openers[o.Format](path, &o)
	if err != nil {
		return nil, err
	}
	r := &Reader{table: *t, o: o, where: path}
	if err := r.prepare(); err != nil {
		r.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// prepare decides what images become and checks it against the limits.
func (r *Reader) prepare() error {
	if r.images < 1 {
		return fmt.Errorf("there are no images: %w", dataset.ErrFormat)
	}
	if r.images > maxImages {
		return fmt.Errorf("%d images, at most %d: %w", r.images, maxImages, dataset.ErrTooLarge)
	}
	shape, err := r.layout()
	if err != nil {
		return err
	}
	h := dataset.Head{Images: r.images, Shape: shape, DType: r.native, Source: r.source}
	if r.o.DType != "" {
		h.DType = r.o.DType
	}
	if r.o.Mean != nil || r.o.Std != nil {
		h.DType = dataset.F32
		if err := r.normalize(shape); err != nil {
			return err
		}
	}
	if r.labelled {
		if h.Classes, err = r.names(); err != nil {
			return err
		}
	}
	size, err := h.BatchBytes(1)
	if err != nil {
		return err
	}
	most := r.o.MaxBytes
	if most <= 0 {
		most = DefaultMaxBytes
	}
	if size > maxImageBytes {
		return fmt.Errorf("images of %v have %d bytes each, at most %d: %w", shape, size, maxImageBytes, dataset.ErrTooLarge)
	}
	if all := int64(size) * int64(r.images); all > most {
		return fmt.Errorf("%d images of %v have %d bytes in all, at most %d: %w", r.images, shape, all, most, dataset.ErrTooLarge)
	}
	r.head = h
	return r.mark()
}

// names are the classes of a labelled set.
func (r *Reader) names() ([]string, error) {
	names := r.classes
	if r.o.Classes != nil {
		n := max(r.labels, len(r.classes))
		if len(r.o.Classes) < n {
			return nil, fmt.Errorf("%d classes are named, the labels go up to %d: name %d: %w", len(r.o.Classes), n-1, n, ErrOption)
		}
		names = r.o.Classes
	}
	if names == nil {
		names = dataset.Numbered(r.labels)
	}
	if len(names) > maxClasses {
		return nil, fmt.Errorf("%d classes, at most %d: %w", len(names), maxClasses, dataset.ErrTooLarge)
	}
	return slices.Clone(names), nil
}

// layout is the shape in which images are stored.
func (r *Reader) layout() ([]int, error) {
	shape := slices.Clone(r.shape)
	if r.o.Shape != nil {
		if product(r.o.Shape) != product(shape) {
			return nil, fmt.Errorf("shape %v has %d values, an image of the file %v has %d: %w", r.o.Shape, product(r.o.Shape), shape, product(shape), ErrOption)
		}
		shape = slices.Clone(r.o.Shape)
	}
	if len(shape) == 2 && r.o.Shape == nil {
		shape = append([]int{1}, shape...) // rows and columns of one channel
	}
	if len(shape) == 0 {
		shape = []int{1}
	}
	if len(shape) > maxRank || product(shape) < 1 {
		return nil, fmt.Errorf("images of shape %v: %w", shape, dataset.ErrFormat)
	}
	few := func(n int) bool { return n == 1 || n == 3 || n == 4 }
	r.hwc = len(shape) == 3 && (r.o.Layout == "hwc" || r.o.Layout == "" && few(shape[2]) && !few(shape[0]))
	if r.hwc {
		shape = []int{shape[2], shape[0], shape[1]}
	}
	return shape, nil
}

// normalize turns mean and std into what is subtracted from and multiplied with the
// values of each channel.
func (r *Reader) normalize(shape []int) error {
	channels := 1
	if len(shape) > 1 {
		channels = shape[0]
	}
	for name, v := range map[string][]float64{"mean": r.o.Mean, "std": r.o.Std} {
		if len(v) > 1 && len(v) != channels {
			return fmt.Errorf("%s has %d numbers, images of %v have %d channels: give one number, or one a channel: %w", name, len(v), shape, channels, ErrOption)
		}
	}
	at := func(v []float64, c int, none float64) float64 {
		switch len(v) {
		case 0:
			return none
		case 1:
			return v[0]
		}
		return v[c]
	}
	for c := range channels {
		r.mean = append(r.mean, float32(at(r.o.Mean, c, 0)))
		r.scale = append(r.scale, float32(1/at(r.o.Std, c, 1)))
	}
	return nil
}

// Head describes the set.
func (r *Reader) Head() dataset.Head { return r.head }

// Fingerprint is the same when the same files, unchanged, are opened in the same way.
func (r *Reader) Fingerprint() string { return r.fingerprint }

// mark takes the fingerprint, from the names, sizes and times of the files.
func (r *Reader) mark() error {
	h := sha256.New()
	options, err := json.Marshal(struct {
		Options
		Head dataset.Head
	}{r.o, r.head})
	if err != nil {
		return err
	}
	h.Write(options)
	for _, name := range r.files {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		if full, err := filepath.Abs(name); err == nil {
			name = full
		}
		fmt.Fprintf(h, "%q %d %d\n", name, info.Size(), info.ModTime().UnixNano())
	}
	r.fingerprint = hex.EncodeToString(h.Sum(nil))
	return nil
}

// Read gives the next n images, or as many as are left; at the end io.EOF. The error
// names the file and what is wrong in it, and wraps dataset.ErrFormat or ErrTooLarge,
// or is the file system's.
func (r *Reader) Read(n int) (*dataset.Batch, error) {
	if n = min(n, r.images-r.done); n < 1 {
		return nil, io.EOF
	}
	b := block{}
	if err := guard(func() error { return r.rows.read(n, &b) }); err != nil {
		return nil, err
	}
	x, err := r.convert(&b, n)
	if err != nil {
		return nil, err
	}
	out := &dataset.Batch{X: x, DType: r.head.DType, Shape: append([]int{n}, r.head.Shape...), Y: b.y}
	if !r.labelled {
		out.Y = nil
	}
	for i, y := range out.Y {
		if y < 0 || int(y) >= len(r.head.Classes) {
			return nil, fmt.Errorf("%s: image %d has label %d, there are classes 0 to %d: %w", r.where, r.done+i+1, y, len(r.head.Classes)-1, dataset.ErrFormat)
		}
	}
	return out, r.step(n)
}

// Skip passes over n images, or as many as are left, without decoding them where the
// format allows.
func (r *Reader) Skip(n int) error {
	if n = min(n, r.images-r.done); n < 1 {
		return nil
	}
	if err := guard(func() error { return r.rows.skip(n) }); err != nil {
		return err
	}
	return r.step(n)
}

func (r *Reader) step(n int) error {
	if r.done += n; r.done == r.images {
		return guard(r.rows.end)
	}
	return nil
}

// guard makes an error of a panic in a library that meets a file it did not expect.
func guard(fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the file can't be read: %v: %w", p, dataset.ErrFormat)
		}
	}()
	return fn()
}

// convert makes the stored form of n images.
func (r *Reader) convert(b *block, n int) ([]byte, error) {
	per := product(r.head.Shape)
	if r.hwc {
		c := r.head.Shape[0]
		b.u8, b.f32 = turned(b.u8, n, per, c), turned(b.f32, n, per, c)
	}
	for i, v := range b.f32 {
		if v-v != 0 {
			return nil, fmt.Errorf("%s: image %d has a value that is %v: %w", r.where, r.done+i/per+1, v, dataset.ErrFormat)
		}
	}
	if r.head.DType == dataset.U8 {
		return r.bytes(b, per)
	}
	if b.f32 == nil {
		b.f32 = make([]float32, len(b.u8))
		by := float32(1)
		if r.mean != nil {
			by = 1.0 / 255
		}
		for i, v := range b.u8 {
			b.f32[i] = float32(v) * by
		}
	}
	if r.mean != nil {
		plane := per / len(r.mean)
		for i := range b.f32 {
			c := i % per / plane
			b.f32[i] = (b.f32[i] - r.mean[c]) * r.scale[c]
		}
	}
	out := make([]byte, 4*len(b.f32))
	for i, v := range b.f32 {
		binary.LittleEndian.PutUint32(out[4*i:], math.Float32bits(v))
	}
	return out, nil
}

// bytes makes bytes of whole numbers from 0 to 255.
func (r *Reader) bytes(b *block, per int) ([]byte, error) {
	if b.f32 == nil {
		return b.u8, nil
	}
	out := make([]byte, len(b.f32))
	for i, v := range b.f32 {
		if v < 0 || v > 255 || v != float32(byte(v)) {
			return nil, fmt.Errorf("%s: image %d has the value %v, which is no byte: choose the type F32: %w", r.where, r.done+i/per+1, v, ErrOption)
		}
		out[i] = byte(v)
	}
	return out, nil
}

// turned makes n images of c channels, per values each, channels first.
func turned[T byte | float32](x []T, n, per, c int) []T {
	if x == nil {
		return nil
	}
	out := make([]T, len(x))
	plane := per / c
	for i := range n {
		from, to := x[i*per:(i+1)*per], out[i*per:(i+1)*per]
		for p := range plane {
			for ch := range c {
				to[ch*plane+p] = from[p*c+ch]
			}
		}
	}
	return out
}

// product is the number of values of a shape, -1 when no image may have so many.
func product(shape []int) int {
	n := 1
	for _, d := range shape {
		if d < 1 || n > maxImageBytes/d {
			return -1
		}
		n *= d
	}
	return n
}

// ErrOption is returned when the options do not fit the files.
var ErrOption = errors.New("choose other options")

func (o *Options) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %w", fmt.Errorf(format, args...), ErrOption)
	}
	switch {
	case o.Format != "" && !slices.Contains(Formats(), o.Format):
		return bad("format %q: choose one of %v", o.Format, Formats())
	case o.Split != "" && o.Split != Train && o.Split != Test:
		return bad("split %q: choose train or test", o.Split)
	case o.Header != "" && o.Header != "yes" && o.Header != "no":
		return bad("header %q: choose yes or no", o.Header)
	case o.Layout != "" && o.Layout != "chw" && o.Layout != "hwc":
		return bad("layout %q: choose chw or hwc", o.Layout)
	case o.DType != "" && o.DType != dataset.U8 && o.DType != dataset.F32:
		return bad("type %q: choose U8 or F32", o.DType)
	case o.DType == dataset.U8 && (o.Mean != nil || o.Std != nil):
		return bad("mean and std give numbers that are no bytes: leave the type out, or choose F32")
	case o.Channels != 0 && o.Channels != 1 && o.Channels != 3:
		return bad("%d channels: choose 1 or 3", o.Channels)
	case o.Shape != nil && (len(o.Shape) > maxRank || product(o.Shape) < 1):
		return bad("shape %v: give 1 to %d sizes from 1, such as 1,28,28", o.Shape, maxRank)
	}
	for name, size := range map[string][2]int{"resize": o.Resize, "crop": o.Crop} {
		if size[0] < 0 || size[1] < 0 || size[0] > maxSide || size[1] > maxSide || size[0] == 0 && size[1] != 0 {
			return bad("%s %v: give a length from 1 to %d, or height and width", name, size, maxSide)
		}
	}
	for name, list := range map[string][]float64{"mean": o.Mean, "std": o.Std} {
		for _, v := range list {
			if v-v != 0 || math.Abs(v) > math.MaxFloat32 || name == "std" && math.Abs(v) < 1e-30 {
				return bad("%s %v: give numbers, std's not 0", name, v)
			}
		}
	}
	return nil
}
