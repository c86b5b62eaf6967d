package dataset

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// What MNIST is, and how this program divides its 70,000 images.
const (
	// MNISTTrainImages is the size of the training part: the first images of the
	// training file.
	MNISTTrainImages = 49000
	// MNISTTestImages is the size of the held-out part: the 10,000 images of the
	// test file, then the last 11,000 of the training file.
	MNISTTestImages = 21000

	mnistSide   = 28
	mnistSource = "MNIST: Yann LeCun, Corinna Cortes, Christopher J.C. Burges, The MNIST Database of Handwritten Digits, 1998"
	// The database's page names no licence; this is how its copies are commonly
	// labelled.
	mnistLicence = "CC BY-SA 3.0"
)

// packedMagic opens the embedded file; the byte after it is the version.
const (
	packedMagic   = "iDunnoU8"
	packedVersion = 1
	packedHeader  = 8 + 1 + 3*4 + sha256.Size
)

//go:embed data/mnist-test.bin
var mnistTest string

// MNISTTest is the held-out part of MNIST, which the program carries with it:
// 21,000 images of shape [1, 28, 28], uint8, white on black, no image of which is
// in MNISTTrain. Every call unpacks it anew (about 0.1 s), so the caller owns what
// it gets. The error wraps ErrFormat or ErrChecksum: the program file is damaged.
func MNISTTest() (*Set, error) {
	s, err := unpack(mnistTest, MNISTTestImages*(mnistSide*mnistSide+1))
	if err != nil {
		return nil, fmt.Errorf("embedded MNIST test set: %w", err)
	}
	return mnist("mnist", s), nil
}

// MNISTTrain is the training part: the first 49,000 images of the training file
// in the folder dir (as LoadIDXDir reads it). It takes only the official file, by
// its checksum: with another one, test images could slip into training. The error
// wraps ErrNotFound, ErrFormat or ErrChecksum.
func MNISTTrain(dir string) (*Set, error) {
	images, labels, err := readSplit(dir, "train")
	if err != nil {
		return nil, fmt.Errorf("MNIST training set: %w", err)
	}
	for _, part := range []struct {
		name string
		x    *IDX
		want string
	}{
		{"train-images-idx3-ubyte", images, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"},
		{"train-labels-idx1-ubyte", labels, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"},
	} {
		if sum := sha256.Sum256(part.x.Marshal()); hex.EncodeToString(sum[:]) != part.want {
			return nil, fmt.Errorf("MNIST training set: %s is not the official file (SHA-256 of its content is %x); fetch it again: %w",
				part.name, sum, ErrChecksum)
		}
	}
	s, err := newIDXSet("train", images, labels)
	if err != nil {
		return nil, fmt.Errorf("MNIST training set: %w", err)
	}
	return mnist("mnist-train", s.slice(0, MNISTTrainImages)), nil
}

// mnist gives a set MNIST's name, classes and origin.
func mnist(name string, s *Set) *Set {
	s.Name, s.Classes, s.Source, s.Licence = name, numbered(10), mnistSource, mnistLicence
	return s
}

// unpack reads the packed form of a set of byte images: magic, version,
// big-endian count, rows and columns, SHA-256 of what follows unpacked, and then,
// compressed with deflate (RFC 1951), count*rows*columns pixels and count labels.
// It unpacks at most maxBytes.
func unpack(p string, maxBytes int64) (*Set, error) {
	if len(p) < packedHeader || p[:8] != packedMagic || p[8] != packedVersion {
		return nil, fmt.Errorf("no packed set of version %d: %w", packedVersion, ErrFormat)
	}
	head := []byte(p[9:packedHeader])
	n := int64(binary.BigEndian.Uint32(head))
	rows, cols := int(binary.BigEndian.Uint32(head[4:])), int(binary.BigEndian.Uint32(head[8:]))
	pixels, err := byteSize([]int{int(n), rows, cols}, U8)
	if err != nil {
		return nil, err
	}
	size := int64(pixels) + n
	if size > maxBytes {
		return nil, fmt.Errorf("%d images of %dx%d, at most %d bytes: %w", n, rows, cols, maxBytes, ErrTooLarge)
	}
	body := bytes.NewBuffer(make([]byte, 0, min(size+bytes.MinRead, int64(len(p))*16)))
	z := flate.NewReader(strings.NewReader(p[packedHeader:]))
	if _, err := body.ReadFrom(io.LimitReader(z, size+1)); err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrFormat)
	}
	if int64(body.Len()) != size {
		return nil, fmt.Errorf("%d images of %dx%d in %d bytes: %w", n, rows, cols, body.Len(), ErrFormat)
	}
	if sum := sha256.Sum256(body.Bytes()); !bytes.Equal(sum[:], head[12:]) {
		return nil, fmt.Errorf("SHA-256 %x, expected %x: %w", sum, head[12:], ErrChecksum)
	}
	s := &Set{X: body.Bytes()[:pixels:pixels], DType: U8, Shape: []int{1, rows, cols}, Y: make([]int32, n)}
	for i, y := range body.Bytes()[pixels:] {
		s.Y[i] = int32(y)
	}
	return s, nil
}
