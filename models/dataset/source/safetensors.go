package source

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"idunno/models/dataset"
)

// maxTensorHeader bounds the header of a safetensors file.
const maxTensorHeader = 1 << 20

// tensorElements are the element types of safetensors by their names.
var tensorElements = map[string]element{
	"BOOL": {kind: 'u', size: 1}, "U8": {kind: 'u', size: 1}, "I8": {kind: 'i', size: 1}, "U16": {kind: 'u', size: 2}, "I16": {kind: 'i', size: 2},
	"U32": {kind: 'u', size: 4}, "I32": {kind: 'i', size: 4}, "U64": {kind: 'u', size: 8}, "I64": {kind: 'i', size: 8},
	"F16": {kind: 'f', size: 2}, "BF16": {kind: 'b', size: 2}, "F32": {kind: 'f', size: 4}, "F64": {kind: 'f', size: 8},
}

// tensors is the header of a safetensors file.
type tensors struct {
	path string
	file *os.File
	data int64 // where the data begins
	size int64 // of the data
	list map[string]struct {
		DType   string  `json:"dtype"`
		Shape   []int   `json:"shape"`
		Offsets []int64 `json:"data_offsets"`
	}
}

// openTensors reads the header: its length in eight bytes, then JSON
// (https://github.com/huggingface/safetensors#format).
func openTensors(path string) (_ *tensors, err error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var head [8]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return nil, fmt.Errorf("%s: %w", path, broken(err))
	}
	n := binary.LittleEndian.Uint64(head[:])
	if n > maxTensorHeader {
		return nil, fmt.Errorf("%s: a header of %d bytes, at most %d: %w", path, n, maxTensorHeader, dataset.ErrTooLarge)
	}
	text := make([]byte, n)
	if _, err := f.ReadAt(text, 8); err != nil && n > 0 {
		return nil, fmt.Errorf("%s: %w", path, broken(err))
	}
	var entries map[string]json.RawMessage
	if err := json.Unmarshal(text, &entries); err != nil {
		return nil, fmt.Errorf("%s: its header is no JSON object: %w: %w", path, err, dataset.ErrFormat)
	}
	delete(entries, "__metadata__")
	t := &tensors{path: path, file: f, data: 8 + int64(n), size: info.Size() - 8 - int64(n)}
	plain, err := json.Marshal(entries)
	if err == nil {
		err = json.Unmarshal(plain, &t.list)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: its header describes no tensors: %w: %w", path, err, dataset.ErrFormat)
	}
	return t, nil
}

// Close closes the file.
func (t *tensors) Close() error { return t.file.Close() }

func (t *tensors) names() []string {
	var out []string
	for name := range t.list {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// array opens one of the tensors.
func (t *tensors) array(name string) (*array, error) {
	e, ok := t.list[name]
	if !ok {
		return nil, fmt.Errorf("%s has no tensor %q; it has %s: %w", t.path, name, brief(t.names()), ErrOption)
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%s: tensor %.40q: %s: %w", t.path, name, fmt.Sprintf(format, args...), dataset.ErrFormat)
	}
	el, ok := tensorElements[e.DType]
	if !ok {
		return nil, bad("elements of type %.20q", e.DType)
	}
	if len(e.Offsets) != 2 || e.Offsets[0] < 0 || e.Offsets[1] < e.Offsets[0] || e.Offsets[1] > t.size {
		return nil, bad("offsets %v in %d bytes of data", e.Offsets, t.size)
	}
	if len(e.Shape) == 0 || len(e.Shape) > maxRank+1 || slices.Min(e.Shape) < 1 {
		return nil, bad("shape %v", e.Shape)
	}
	s := section(t.path+": "+name, t.file, t.data+e.Offsets[0], e.Offsets[1]-e.Offsets[0])
	return &array{stream: s, shape: e.Shape, element: el}, nil
}

// openSafetensors opens images and labels in a safetensors file.
func openSafetensors(path string, o *Options) (*table, error) {
	f, err := openTensors(path)
	if err != nil {
		return nil, err
	}
	return openNamed(path, "safetensors", f, o)
}

// isSafetensors reports whether a file begins as a safetensors file does.
func isSafetensors(head []byte) bool {
	return len(head) > 9 && binary.LittleEndian.Uint64(head) <= maxTensorHeader && strings.HasPrefix(strings.TrimLeft(string(head[8:]), " "), "{")
}
