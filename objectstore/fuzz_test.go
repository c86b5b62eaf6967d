package objectstore

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

const someDigest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func FuzzDecodeIndex(f *testing.F) {
	e := entry{Schema: indexSchema, Name: "models/mlp", Next: 4, Versions: []Version{
		{Version: 1, ID: "x", Digest: someDigest, Created: time.Unix(1700000000, 0).UTC()},
		{Version: 3, ID: "y", Digest: someDigest, Size: 7, Created: time.Unix(1700000001, 5).UTC(), Bundle: true, Parts: 2, PartsSize: 9},
	}}
	f.Add(e.encode())
	f.Add([]byte(`{"v":1,"name":"a","next":1}`))
	f.Add([]byte(`{"v":2}`))
	f.Add([]byte(`{"v":1,"name":"a","next":3,"versions":[{"version":2},{"version":2}]}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, p []byte) {
		e, err := decodeEntry(p)
		if err != nil {
			return
		}
		again, err := decodeEntry(e.encode())
		if err != nil {
			t.Fatalf("accepted %q, but not what it was written as: %v", p, err)
		}
		if !bytes.Equal(again.encode(), e.encode()) {
			t.Fatalf("%q became %q", e.encode(), again.encode())
		}
		if v := e.find(0); v != nil && (e.find(v.Version) == nil || e.file().Newest.Version != v.Version || v.Version >= e.Next) {
			t.Fatalf("newest version of %q: %+v", p, v)
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add((&record{}).encode())
	f.Add((&record{Refs: map[string]int64{"models/mlp#x": 1700000000, "a#y": -1}}).encode())
	f.Add((&record{Deleter: "x"}).encode())
	f.Add([]byte(`{"v":1,"refs":{"a":1}}`))
	f.Add([]byte(`{"v":1,"refs":{"a#b":1},"deleter":"c"}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := decodeRecord(p)
		if err != nil {
			return
		}
		again, err := decodeRecord(r.encode())
		if err != nil || !bytes.Equal(again.encode(), r.encode()) {
			t.Fatalf("%q became %+v, %v", p, again, err)
		}
	})
}

func FuzzRef(f *testing.F) {
	for _, ref := range []string{"models/mlp", "models/mlp@3", "a@0", "a@03", "@1", "a@", "../a", "a//b", "v1.5", "a@1@2", "/a", "a/", ".", "é"} {
		f.Add(ref)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		name, version, err := ParseRef(ref)
		if err != nil {
			if !errors.Is(err, ErrBadName) || len(err.Error()) > 1000 {
				t.Fatalf("%q: %v", ref, err)
			}
			return
		}
		if got := FormatRef(name, version); got != ref {
			t.Fatalf("%q became %q", ref, got)
		}
		key := keyOf(name)
		if back := strings.ReplaceAll(strings.TrimPrefix(key, keyFile), "=2e", "."); back != name {
			t.Fatalf("key %q of %q leads back to %q", key, name, back)
		}
		if strings.Count(key, ".") != 1 || strings.ContainsAny(key, " *>@") {
			t.Fatalf("%q makes the key %q", name, key)
		}
	})
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"objects":[{"digest":"` + someDigest + `","size":3}]}`))
	f.Add([]byte(`{"objects":[{"digest":"x"}]}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, p []byte) {
		parts, err := partsOf(p)
		if err != nil && !errors.Is(err, ErrBadBundle) && !errors.Is(err, ErrTooLarge) {
			t.Fatal(err)
		}
		for _, part := range parts {
			if err == nil && (!isDigest(part.Digest) || part.Size < 0 || part.Size > MaxObject) {
				t.Fatalf("accepted %+v", part)
			}
		}
	})
}

func TestPruneKeepsTheNewestAndTheYoung(t *testing.T) {
	now := time.Unix(1700000000, 0)
	e := entry{Name: "a", Next: 9}
	for i := 1; i <= 8; i++ {
		age := time.Hour
		if i == 1 || i == 3 || i >= 7 {
			age = 48 * time.Hour
		}
		e.Versions = append(e.Versions, Version{Version: i, Digest: someDigest, Created: now.Add(-age)})
	}
	dropped := e.prune(5, now.Add(-24*time.Hour))
	if len(dropped) != 2 || dropped[0].Version != 1 || dropped[1].Version != 3 {
		t.Fatalf("dropped %+v", dropped)
	}
	if len(e.Versions) != 6 || e.Versions[0].Version != 2 {
		t.Fatalf("kept %+v", e.Versions)
	}
}

func TestFullIndexEntryFitsAMessage(t *testing.T) {
	e := entry{Schema: indexSchema, Name: strings.Repeat("n", maxName), Next: maxVersion + 1}
	for i := range maxVersions {
		e.Versions = append(e.Versions, Version{Version: maxVersion - maxVersions + 1 + i, ID: strings.Repeat("i", 26), Digest: someDigest, Size: 1<<63 - 1,
			Created: time.Unix(1700000000, 123456789).UTC(), Bundle: true, Parts: 1 << 40, PartsSize: 1<<63 - 1})
	}
	p := e.encode()
	if len(p) > maxEntry/2 {
		t.Fatalf("a full entry has %d bytes", len(p))
	}
	if _, err := decodeEntry(p); err != nil {
		t.Fatal(err)
	}
	r := &record{Refs: map[string]int64{}}
	for i := range maxRefs {
		r.Refs[refOf(strings.Repeat("n", maxName), fmt.Sprintf("%026d", i))] = 1700000000
	}
	if p := r.encode(); len(p) > maxEntry*4/5 {
		t.Fatalf("a full record has %d bytes", len(p))
	}
}
