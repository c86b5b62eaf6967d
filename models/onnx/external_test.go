package onnx

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// outside is linear() with its weight in another file.
func outside(pairs ...[2]string) tm {
	m := linear()
	m.Init[0].External = pairs
	return m
}

// folder is a folder with weights.bin, a folder in it, and a link that leads out; what is opened stays in it.
func folder(t *testing.T) fs.FS {
	t.Helper()
	dir := t.TempDir()
	top := filepath.Join(dir, "model")
	weights := linear().Init[0]
	var raw []byte
	raw = append(make([]byte, 8), weights.Bytes()[len(weights.Bytes())-24:]...)
	for name, p := range map[string][]byte{"model/weights.bin": raw, "model/sub/w": raw[8:], "secret": raw[8:]} {
		name = filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, p, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join("..", "secret"), filepath.Join(top, "link")); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(top)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root.FS()
}

func TestEmbed(t *testing.T) {
	dir := folder(t)
	for name, m := range map[string]tm{
		"offset and length": outside([2]string{"location", "weights.bin"}, [2]string{"offset", "8"}, [2]string{"length", "24"}, [2]string{"checksum", "x"}),
		"offset only":       outside([2]string{"location", "./weights.bin"}, [2]string{"offset", "8"}),
		"location only":     outside([2]string{"location", "sub/w"}),
	} {
		p := m.Bytes()
		if !HasExternal(p) {
			t.Errorf("%s: HasExternal is false", name)
		}
		q, err := Embed(p, dir, 1<<20)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		g, err := Decode(q, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if w := g.Initializers["w"]; !slices.Equal(w.Floats, []float32{1, 2, 3, 4, 5, 6}) || HasExternal(q) {
			t.Errorf("%s: the weight is %v", name, w)
		}
	}
	p := linear().Bytes()
	if q, err := Embed(p, dir, 1<<20); err != nil || !bytes.Equal(p, q) || HasExternal(p) {
		t.Errorf("a model without external data changed: %v", err)
	}
}

// Weights of nodes in graphs in nodes, and of functions.
func TestEmbedReachesEveryTensor(t *testing.T) {
	k := tt{Dims: []int64{2, 3}, External: [][2]string{{"location", "sub/w"}}}
	constant := []tn{{Op: "Constant", Out: []string{"o"}, Attrs: map[string]any{"value": k}}}
	m := tm{In: []tv{{Name: "c", DType: 9}}, Out: []tv{{Name: "y"}, {Name: "z"}}, Domains: map[string]int64{"f": 1},
		Nodes: []tn{{Op: "If", In: []string{"c"}, Out: []string{"y"}, Attrs: map[string]any{"then_branch": tg{Out: []tv{{Name: "o"}}, Nodes: constant}}},
			{Op: "F", Domain: "f", Out: []string{"z"}}},
		Functions: []tf{{Name: "F", Domain: "f", Out: []string{"o"}, Nodes: constant}},
	}
	q, err := Embed(m.Bytes(), folder(t), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	g, err := Decode(q, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if v := g.Nodes[0].Attrs["then_branch"].G.Nodes[0].Attrs["value"].T; v.Floats[5] != 6 {
		t.Errorf("in the branch: %v", v)
	}
	if v := g.Nodes[1].Attrs["value"].T; v.Floats[5] != 6 {
		t.Errorf("in the function: %v", v)
	}
}

func TestEmbedRefuses(t *testing.T) {
	dir := folder(t)
	at := func(pairs ...string) []byte {
		var kv [][2]string
		for i := 0; i < len(pairs); i += 2 {
			kv = append(kv, [2]string{pairs[i], pairs[i+1]})
		}
		return outside(kv...).Bytes()
	}
	sized := func(dims ...int64) []byte {
		m := outside([2]string{"location", "sub/w"})
		m.Init[0].Dims = dims
		return m.Bytes()
	}
	text := outside([2]string{"location", "sub/w"})
	text.Init[0].DType = int64(String)
	for name, c := range map[string]struct {
		bytes []byte
		want  error
		text  string
	}{
		"no location":      {at("offset", "8"), ErrMalformed, "without a location"},
		"absolute":         {at("location", "/etc/passwd"), ErrUnsupported, `"/etc/passwd": only files in the model's own folder`},
		"parent":           {at("location", "../secret"), ErrUnsupported, "own folder"},
		"parent inside":    {at("location", "sub/../../secret"), ErrUnsupported, "own folder"},
		"backslash":        {at("location", `..\secret`), ErrUnsupported, "own folder"},
		"drive":            {at("location", `C:secret`), ErrUnsupported, "own folder"},
		"link out":         {at("location", "link"), nil, "escapes"},
		"missing":          {at("location", "nothing"), fs.ErrNotExist, "beside the model"},
		"folder":           {at("location", "sub"), ErrUnsupported, "not a plain file"},
		"itself":           {at("location", "."), ErrMalformed, ""},
		"negative offset":  {at("location", "weights.bin", "offset", "-8"), ErrMalformed, `offset of external data is "-8"`},
		"offset no number": {at("location", "weights.bin", "offset", "8x"), ErrMalformed, "offset"},
		"offset past end":  {at("location", "weights.bin", "offset", "9", "length", "24"), ErrMalformed, "24 from byte 9"},
		"offset far away":  {at("location", "weights.bin", "offset", "9223372036854775807", "length", "24"), ErrMalformed, "from byte"},
		"wrong length":     {at("location", "weights.bin", "length", "20"), ErrMalformed, "need 24"},
		"whole too long":   {at("location", "weights.bin"), ErrMalformed, "has 32 bytes"},
		"huge":             {sized(1 << 40), ErrTooLarge, ""},
		"overflow":         {sized(1<<40, 1<<40, 1<<40), ErrTooLarge, "dimensions"},
		"over the limit":   {sized(1 << 19), ErrTooLarge, "larger than is allowed"},
		"strings":          {text.Bytes(), ErrUnsupported, "string in another file"},
		"cut":              {at("location", "sub/w")[:60], ErrMalformed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Embed(c.bytes, dir, 1<<20)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error is %v, want %v with %q", err, c.want, c.text)
			}
		})
	}
	if _, err := Decode(at("location", "sub/w"), Limits{}); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "only when the model is given as a file") {
		t.Errorf("from bytes alone: %v", err)
	}
}

// Every truncation and many changes of a model with external data: no panic, and nothing outside is read.
func TestEmbedSurvivesMutations(t *testing.T) {
	dir := folder(t)
	whole := outside([2]string{"location", "weights.bin"}, [2]string{"offset", "8"}, [2]string{"length", "24"}).Bytes()
	for n := range whole {
		if p, err := Embed(whole[:n], dir, 1<<16); err == nil && len(p) > 1<<16 {
			t.Fatalf("%d bytes give %d", n, len(p))
		}
	}
	for i := range whole {
		for _, x := range []byte{1, 2, 8, 0x40, 0x80, 0xff} {
			p := bytes.Clone(whole)
			p[i] ^= x
			if q, err := Embed(p, dir, 1<<16); err == nil && len(q) > 1<<16 {
				t.Fatalf("byte %d gives %d bytes", i, len(q))
			}
		}
	}
}
