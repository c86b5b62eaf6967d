package dataset

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func manifest() *Manifest {
	return &Manifest{Schema: 1, Name: "mnist", Batches: 2, BatchSize: 100, Images: 150, Shape: []int{1, 28, 28}, DType: U8,
		Classes: []string{"0", "1"}, Source: "a source", Licence: "a licence",
		Objects: []Object{{strings.Repeat("0a", 32), 5}, {strings.Repeat("f9", 32), 7}}}
}

func TestManifestRoundTrip(t *testing.T) {
	m := manifest()
	got, err := ParseManifest(m.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, m) {
		t.Errorf("read back %+v, wrote %+v", got, m)
	}
	if !bytes.Contains(m.Marshal(), []byte(`{"schema_version":1,"name":"mnist","batches":2,"batch_size":100,"images":150,"shape":[1,28,28],"dtype":"U8",`)) {
		t.Errorf("field names changed: %s", m.Marshal())
	}
}

func TestBrokenManifests(t *testing.T) {
	for name, change := range map[string]func(*Manifest){
		"schema":              func(m *Manifest) { m.Schema = 2 },
		"no name":             func(m *Manifest) { m.Name = "" },
		"endless name":        func(m *Manifest) { m.Name = strings.Repeat("x", 201) },
		"dtype":               func(m *Manifest) { m.DType = "I64" },
		"one batch too many":  func(m *Manifest) { m.Batches = 3 },
		"an object missing":   func(m *Manifest) { m.Objects = m.Objects[:1] },
		"images do not fit":   func(m *Manifest) { m.Images = 201 },
		"too few images":      func(m *Manifest) { m.Images = 100 },
		"negative images":     func(m *Manifest) { m.Images = -150 },
		"batch size 0":        func(m *Manifest) { m.BatchSize = 0 },
		"negative dimension":  func(m *Manifest) { m.Shape[0] = -1 },
		"huge image":          func(m *Manifest) { m.Shape = []int{1 << 30, 1 << 30, 1 << 30} },
		"many dimensions":     func(m *Manifest) { m.Shape = []int{1, 1, 1, 1, 1, 1, 1, 1} },
		"digest too short":    func(m *Manifest) { m.Objects[0].Digest = "00" },
		"digest in capitals":  func(m *Manifest) { m.Objects[1].Digest = strings.Repeat("F9", 32) },
		"digest with a path":  func(m *Manifest) { m.Objects[1].Digest = strings.Repeat("../", 21) + "a" },
		"object without size": func(m *Manifest) { m.Objects[1].Size = 0 },
	} {
		m := manifest()
		change(m)
		if _, err := ParseManifest(m.Marshal()); !errors.Is(err, ErrFormat) && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, p := range []string{"", "[]", "{", "null", `{"images":1e99}`} {
		if _, err := ParseManifest([]byte(p)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", p, err)
		}
	}
	if _, err := ParseManifest(make([]byte, maxManifest+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add(manifest().Marshal())
	f.Add([]byte(`{"schema_version":1,"name":"x","batches":1,"batch_size":1,"images":1,"shape":[],"dtype":"F32","objects":[{"digest":"` + strings.Repeat("0", 64) + `","size":1}]}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		m, err := ParseManifest(p)
		if err != nil {
			return
		}
		again, err := ParseManifest(m.Marshal())
		if err != nil {
			t.Fatalf("cannot read what it wrote: %v", err)
		}
		if !reflect.DeepEqual(again, m) {
			t.Fatalf("round trip: %+v became %+v", m, again)
		}
	})
}
