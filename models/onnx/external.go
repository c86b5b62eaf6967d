package onnx

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// HasExternal says whether a model keeps weights in files of their own. It returns false for bytes that are no model.
func HasExternal(p []byte) bool {
	found := false
	e := &embedder{tensor: func(p []byte) ([]byte, error) {
		found = true
		return nil, errStop
	}}
	_, err := e.message(p, kindModel, 0)
	return found && errors.Is(err, errStop)
}

var errStop = errors.New("found")

// Embed returns a model with the weights inside that it keeps in files below folder (TensorProto.external_data); a model without such weights
// comes back as it is. The files are those that the model names relative to its own place: a path that is absolute, or leaves the folder, is
// refused, and what folder doesn't open is too, which with an os.Root's FS are links that lead out of it. limit bounds the bytes of the
// result. It returns ErrMalformed, ErrTooLarge or ErrUnsupported with the reason, and errors of folder.
func Embed(p []byte, folder fs.FS, limit int64) ([]byte, error) {
	if int64(len(p)) > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", ErrTooLarge, len(p), limit)
	}
	e := &embedder{left: limit - int64(len(p))}
	e.tensor = func(p []byte) ([]byte, error) { return e.embed(p, folder) }
	return e.message(p, kindModel, 0)
}

// embedder walks a model for tensors in other files.
type embedder struct {
	left   int64
	tensor func(p []byte) ([]byte, error) // the tensor with its data inside
}

// kind is a message type that may contain tensors.
type kind int

const (
	kindTensor kind = iota
	kindModel
	kindGraph
	kindFunction
	kindNode
	kindAttribute
)

// inner gives the message types of the fields of a message that may contain tensors.
func (k kind) inner(num protowire.Number) (kind, bool) {
	switch {
	case k == kindModel && num == 7, k == kindAttribute && (num == 6 || num == 11):
		return kindGraph, true
	case k == kindModel && num == 25:
		return kindFunction, true
	case k == kindGraph && num == 1, k == kindFunction && num == 7:
		return kindNode, true
	case k == kindNode && num == 5, k == kindFunction && num == 11:
		return kindAttribute, true
	case k == kindGraph && num == 5, k == kindAttribute && (num == 5 || num == 10):
		return kindTensor, true
	}
	return 0, false
}

// message returns p, or a copy in which tensors have their data inside.
func (e *embedder) message(p []byte, k kind, depth int) ([]byte, error) {
	if k == kindTensor {
		if out, err := isExternal(p); !out || err != nil {
			return p, err
		}
		return e.tensor(p)
	}
	if depth > 4*maxDepth {
		return nil, fmt.Errorf("%w: graphs nested more than %d deep", ErrTooLarge, maxDepth)
	}
	var out []byte // nil as long as nothing has changed
	done := 0      // bytes of p that are in out
	err := eachRaw(p, func(num protowire.Number, body []byte, start, end int) error {
		in, ok := k.inner(num)
		if !ok {
			return nil
		}
		changed, err := e.message(body, in, depth+1)
		if err != nil || len(changed) == len(body) && (len(body) == 0 || &changed[0] == &body[0]) {
			return err
		}
		if out == nil {
			out = make([]byte, 0, len(p)+len(changed)-len(body)+8)
		}
		out = appendMessage(append(out, p[done:start]...), num, changed)
		done = end
		return nil
	})
	if err != nil || out == nil {
		return p, err
	}
	return append(out, p[done:]...), nil
}

// eachRaw calls f for every length-delimited field with its number, content and place.
func eachRaw(p []byte, f func(num protowire.Number, body []byte, start, end int) error) error {
	for at := 0; at < len(p); {
		num, typ, n := protowire.ConsumeTag(p[at:])
		if n < 0 {
			return fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(n))
		}
		m := protowire.ConsumeFieldValue(num, typ, p[at+n:])
		if m < 0 {
			return fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(m))
		}
		if typ == protowire.BytesType {
			body, _ := protowire.ConsumeBytes(p[at+n:])
			if err := f(num, body, at, at+n+m); err != nil {
				return err
			}
		}
		at += n + m
	}
	return nil
}

// isExternal says whether the data of a tensor is in another file.
func isExternal(p []byte) (bool, error) {
	out := false
	err := fields(p, func(x field) error {
		if x.num == 14 {
			out = x.val != 0
		}
		return nil
	})
	return out, err
}

// place is where the data of a tensor is.
type place struct {
	location       string
	offset, length int64 // length is -1 where the model doesn't tell
}

// embed reads the data of one tensor.
func (e *embedder) embed(p []byte, folder fs.FS) ([]byte, error) {
	at := place{length: -1}
	var t Tensor
	var dtype int64
	var kept []byte
	err := fields(p, func(x field) error {
		switch x.num {
		case 1:
			return x.varints(func(v uint64) error {
				if len(t.Dims) == maxRank || int64(v) < 0 {
					return fmt.Errorf("%w: dimensions of a tensor", ErrMalformed)
				}
				t.Dims = append(t.Dims, int(min(v, 1<<40)))
				return nil
			})
		case 2:
			return x.setInt(&dtype)
		case 8:
			return x.set(&t.Name)
		case 13:
			return at.entry(x)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	t.DType = DType(dtype)
	data, err := e.read(&t, at, folder)
	if err != nil {
		return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
	}
	for _, d := range t.Dims {
		kept = protowire.AppendVarint(protowire.AppendTag(kept, 1, protowire.VarintType), uint64(d))
	}
	kept = protowire.AppendVarint(protowire.AppendTag(kept, 2, protowire.VarintType), uint64(dtype))
	kept = appendText(slices.Grow(kept, len(data)+len(t.Name)+32), 8, t.Name)
	return appendMessage(kept, 9, data), nil
}

// entry reads one pair of external_data.
func (a *place) entry(x field) error {
	p, err := x.bytes()
	if err != nil {
		return err
	}
	var k, v string
	err = fields(p, func(x field) error {
		switch x.num {
		case 1:
			return x.set(&k)
		case 2:
			return x.set(&v)
		}
		return nil
	})
	if err != nil {
		return err
	}
	number := func(to *int64) error {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("%w: %s of external data is %q", ErrMalformed, k, v)
		}
		*to = n
		return nil
	}
	switch k {
	case "location":
		a.location = v
	case "offset":
		return number(&a.offset)
	case "length":
		return number(&a.length)
	}
	return nil // a checksum is the exporter's own affair
}

// read returns the bytes of a tensor.
func (e *embedder) read(t *Tensor, at place, folder fs.FS) ([]byte, error) {
	name, err := at.file()
	if err != nil {
		return nil, err
	}
	n, err := elements(t.Dims)
	if err != nil {
		return nil, err
	}
	width := int64(t.DType.width())
	if width == 0 {
		return nil, fmt.Errorf("%w: element %s in another file", ErrUnsupported, t.DType)
	}
	size := int64(n) * width
	if size > e.left {
		return nil, fmt.Errorf("%w: with its weights from %q the model is larger than is allowed", ErrTooLarge, name)
	}
	if at.length >= 0 && at.length != size {
		return nil, fmt.Errorf("%w: %d bytes in %q for dimensions %v of %s, which need %d", ErrMalformed, at.length, name, t.Dims, t.DType, size)
	}
	info, err := fs.Stat(folder, name)
	if err != nil {
		return nil, fmt.Errorf("its data is in another file: %w; put the file beside the model, not a link that leads out of the folder", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: its data is in %q, which is not a plain file", ErrUnsupported, name)
	}
	if at.offset > info.Size() || info.Size()-at.offset < size || at.length < 0 && info.Size()-at.offset != size {
		return nil, fmt.Errorf("%w: %q has %d bytes, %d from byte %d on are needed", ErrMalformed, name, info.Size(), size, at.offset)
	}
	e.left -= size
	return readPart(folder, name, at.offset, size)
}

// file checks the path and returns it cleaned, with forward slashes.
func (a *place) file() (string, error) {
	switch {
	case a.location == "":
		return "", fmt.Errorf("%w: external data without a location", ErrMalformed)
	case strings.ContainsAny(a.location, "\\:\x00"), path.IsAbs(a.location), slices.Contains(strings.Split(a.location, "/"), ".."):
		return "", fmt.Errorf("%w: external data in %q: only files in the model's own folder or below it are read", ErrUnsupported, a.location)
	}
	name := path.Clean(a.location)
	if !fs.ValidPath(name) || name == "." {
		return "", fmt.Errorf("%w: external data in %q", ErrMalformed, a.location)
	}
	return name, nil
}

// readPart reads size bytes of a file from offset on.
func readPart(folder fs.FS, name string, offset, size int64) ([]byte, error) {
	f, err := folder.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if s, ok := f.(io.Seeker); ok {
		_, err = s.Seek(offset, io.SeekStart)
	} else {
		_, err = io.CopyN(io.Discard, f, offset)
	}
	if err != nil {
		return nil, err
	}
	p := make([]byte, size)
	if _, err := io.ReadFull(f, p); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}
