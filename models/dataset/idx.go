package dataset

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
)

// maxIDXFile bounds what LoadIDXDir reads of one file, decompressed; the largest
// file of the MNIST family (EMNIST by class) has 548 MB.
const maxIDXFile = 1 << 30

// IDX is the content of an IDX file of unsigned bytes, the format that the MNIST
// files are in (described in the "file formats" section of Yann LeCun's MNIST
// page): a magic number 0, 0, type, rank; rank big-endian 32-bit dimensions; the
// data, row-major.
type IDX struct {
	Shape []int
	Data  []byte // product(Shape) bytes
}

// idxUbyte is the IDX type code of unsigned bytes, the only one the MNIST family
// uses.
const idxUbyte = 0x08

// ReadIDX reads an IDX file, plain or compressed with gzip, to its end. It takes
// at most maxBytes of data and never allocates for data that is not there. The
// error wraps ErrFormat or ErrTooLarge, or is the reader's own.
func ReadIDX(r io.Reader, maxBytes int64) (*IDX, error) {
	x, err := readIDX(r, maxBytes)
	if err != nil {
		return nil, fmt.Errorf("read IDX: %w", err)
	}
	return x, nil
}

func readIDX(r io.Reader, maxBytes int64) (*IDX, error) {
	br := bufio.NewReader(r)
	if magic, _ := br.Peek(2); len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", idxError(err))
		}
		br = bufio.NewReader(z)
	}
	shape, err := readIDXHeader(br)
	if err != nil {
		return nil, err
	}
	size, err := byteSize(shape, U8)
	if err != nil {
		return nil, err
	}
	if int64(size) > maxBytes {
		return nil, fmt.Errorf("shape %v has %d bytes, at most %d: %w", shape, size, maxBytes, ErrTooLarge)
	}
	// ReadAll grows with what arrives, so a short file that announces much costs
	// little.
	data, err := io.ReadAll(io.LimitReader(br, int64(size)))
	if err != nil {
		return nil, idxError(err)
	}
	if len(data) != size {
		return nil, fmt.Errorf("shape %v has %d bytes, the file only %d: %w", shape, size, len(data), ErrFormat)
	}
	// Reading on to the end also makes gzip verify its own checksum.
	switch _, err := br.ReadByte(); {
	case err == nil:
		return nil, fmt.Errorf("the file goes on after the %d bytes of shape %v: %w", size, shape, ErrFormat)
	case !errors.Is(err, io.EOF):
		return nil, idxError(err)
	}
	return &IDX{Shape: shape, Data: data}, nil
}

func readIDXHeader(r io.Reader) ([]int, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, idxError(err)
	}
	if head[0] != 0 || head[1] != 0 || head[2] != idxUbyte || head[3] == 0 || head[3] > maxRank {
		return nil, fmt.Errorf("magic number %#x, expected 0x0801 to 0x08%02x (unsigned bytes): %w", head, maxRank, ErrFormat)
	}
	shape := make([]int, head[3])
	for i := range shape {
		var dim [4]byte
		if _, err := io.ReadFull(r, dim[:]); err != nil {
			return nil, idxError(err)
		}
		d := binary.BigEndian.Uint32(dim[:])
		if d > math.MaxInt32 {
			return nil, fmt.Errorf("dimension %d: %w", d, ErrTooLarge)
		}
		shape[i] = int(d)
	}
	return shape, nil
}

// idxError marks the end of a file in the wrong place, and broken compression, as
// ErrFormat; any other error is the reader's own and passes as it is.
func idxError(err error) error {
	var deflate flate.CorruptInputError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.As(err, &deflate):
		return fmt.Errorf("%w: %w", err, ErrFormat)
	}
	return err
}

// Marshal writes the IDX file, uncompressed.
func (x *IDX) Marshal() []byte {
	out := make([]byte, 0, 4+4*len(x.Shape)+len(x.Data))
	out = append(out, 0, 0, idxUbyte, byte(len(x.Shape)))
	for _, d := range x.Shape {
		out = binary.BigEndian.AppendUint32(out, uint32(d))
	}
	return append(out, x.Data...)
}

// LoadIDXDir reads the images and labels of a split, "train" or "test", from a
// folder that holds files named as MNIST's are: train-images-idx3-ubyte,
// train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, with
// '.' instead of the second '-' and with .gz if need be (so Fashion-MNIST, KMNIST
// and EMNIST copies load too). The images' shape is [1, rows, columns]; classes
// are numbered 0 to the highest label. The error wraps ErrNotFound, ErrFormat or
// ErrTooLarge.
func LoadIDXDir(dir, split string) (*Set, error) {
	images, labels, err := readSplit(dir, split)
	if err != nil {
		return nil, err
	}
	return newIDXSet(split, images, labels)
}

// readSplit reads the two files of a split.
func readSplit(dir, split string) (images, labels *IDX, err error) {
	prefix, ok := map[string]string{"train": "train", "test": "t10k"}[split]
	if !ok {
		return nil, nil, fmt.Errorf("split %q: choose train or test: %w", split, ErrNotFound)
	}
	if images, err = openIDX(dir, prefix+"-images", "idx3-ubyte"); err != nil {
		return nil, nil, err
	}
	labels, err = openIDX(dir, prefix+"-labels", "idx1-ubyte")
	return images, labels, err
}

// openIDX reads the file of a folder that is called stem-kind or stem.kind,
// compressed or not.
func openIDX(dir, stem, kind string) (*IDX, error) {
	for _, name := range []string{stem + "-" + kind, stem + "." + kind} {
		for _, suffix := range []string{"", ".gz"} {
			f, err := os.Open(filepath.Join(dir, name+suffix))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
			x, err := ReadIDX(f, maxIDXFile)
			f.Close()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name+suffix, err)
			}
			return x, nil
		}
	}
	return nil, fmt.Errorf("%s has no %s-%s nor %[2]s-%[3]s.gz: %w", dir, stem, kind, ErrNotFound)
}

func newIDXSet(split string, images, labels *IDX) (*Set, error) {
	if len(images.Shape) != 3 || len(labels.Shape) != 1 || images.Shape[0] != labels.Shape[0] {
		return nil, fmt.Errorf("%s images of shape %v with labels of shape %v, expected [N rows columns] and [N]: %w",
			split, images.Shape, labels.Shape, ErrFormat)
	}
	s := &Set{
		Name:   split,
		X:      images.Data,
		DType:  U8,
		Shape:  []int{1, images.Shape[1], images.Shape[2]},
		Y:      make([]int32, len(labels.Data)),
		Source: "IDX files, " + split + " split",
	}
	top := int32(0)
	for i, y := range labels.Data {
		s.Y[i] = int32(y)
		top = max(top, int32(y))
	}
	s.Classes = numbered(int(top) + 1)
	return s, nil
}

// numbered is n class names "0", "1", ...
func numbered(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = strconv.Itoa(i)
	}
	return out
}
