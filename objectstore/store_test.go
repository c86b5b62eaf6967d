package objectstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"idunno/broker"
	"idunno/broker/brokertest"
	"idunno/objectstore"
)

// open starts a server and opens a store on it. Goroutines that outlive the
// test, the server's included, fail it.
func open(tb testing.TB) (*objectstore.Store, *broker.Broker, context.Context) {
	tb.Helper()
	before := goleak.IgnoreCurrent()
	tb.Cleanup(func() { goleak.VerifyNone(tb, append(brokertest.Leaks(), before)...) })
	b := brokertest.New(tb)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	tb.Cleanup(cancel)
	return reopen(tb, ctx, b), b, ctx
}

func reopen(tb testing.TB, ctx context.Context, b *broker.Broker) *objectstore.Store {
	tb.Helper()
	objects, index, err := b.Files(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	return objectstore.Open(objects, index)
}

// noise is n bytes that differ with the seed.
func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	_, _ = rand.NewChaCha8(key).Read(p)
	return p
}

func put(tb testing.TB, s *objectstore.Store, ctx context.Context, name, text string) objectstore.Version {
	tb.Helper()
	v, err := s.Put(ctx, name, strings.NewReader(text))
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

func get(tb testing.TB, s *objectstore.Store, ctx context.Context, ref string) string {
	tb.Helper()
	var buf bytes.Buffer
	if _, err := s.Get(ctx, ref, &buf); err != nil {
		tb.Fatal(err)
	}
	return buf.String()
}

func TestVersions(t *testing.T) {
	s, _, ctx := open(t)
	if _, err := s.Resolve(ctx, "models/mlp"); !errors.Is(err, objectstore.ErrNotFound) {
		t.Fatalf("resolve before the first put: %v", err)
	}
	for i, text := range []string{"one", "two", "three"} {
		if v := put(t, s, ctx, "models/mlp", text); v.Version != i+1 || v.Size != int64(len(text)) {
			t.Fatalf("put %q: %+v", text, v)
		}
	}
	if v := put(t, s, ctx, "models/mlp", "three"); v.Version != 3 {
		t.Fatalf("same contents again: version %d, want 3", v.Version)
	}
	if v := put(t, s, ctx, "models/mlp", "one"); v.Version != 4 {
		t.Fatalf("older contents again: version %d, want 4", v.Version)
	}
	for ref, want := range map[string]string{"models/mlp": "one", "models/mlp@2": "two", "models/mlp@3": "three"} {
		if got := get(t, s, ctx, ref); got != want {
			t.Errorf("get %s: %q, want %q", ref, got, want)
		}
	}
	list, err := s.Versions(ctx, "models/mlp")
	if err != nil || len(list) != 4 || list[0].Version != 4 || list[3].Version != 1 {
		t.Fatalf("versions %+v, %v", list, err)
	}
	put(t, s, ctx, "models/v1.5", "dotted")
	put(t, s, ctx, "data/mnist", "")
	files, err := s.List(ctx, "models/")
	if err != nil || len(files) != 2 || files[0].Name != "models/mlp" || files[1].Name != "models/v1.5" || files[0].Versions != 4 || files[0].Bytes != 14 {
		t.Fatalf("list %+v, %v", files, err)
	}
	if got := get(t, s, ctx, "data/mnist"); got != "" {
		t.Fatalf("empty file has %q", got)
	}
	if _, err := s.Get(ctx, "models/mlp@9", &bytes.Buffer{}); !errors.Is(err, objectstore.ErrNotFound) || !strings.Contains(err.Error(), "newest version is 4") {
		t.Fatalf("missing version: %v", err)
	}
}

func TestRemove(t *testing.T) {
	s, _, ctx := open(t)
	for _, text := range []string{"one", "two", "three"} {
		put(t, s, ctx, "f", text)
	}
	if err := s.Remove(ctx, "f@3"); err != nil {
		t.Fatal(err)
	}
	if got := get(t, s, ctx, "f"); got != "two" {
		t.Fatalf("newest after the removal of version 3: %q", got)
	}
	if err := s.Remove(ctx, "f@3"); !errors.Is(err, objectstore.ErrNotFound) {
		t.Fatalf("remove twice: %v", err)
	}
	if err := s.Remove(ctx, "f"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(ctx, "f"); !errors.Is(err, objectstore.ErrNotFound) {
		t.Fatalf("remove a removed file: %v", err)
	}
	if files, err := s.List(ctx, ""); err != nil || len(files) != 0 {
		t.Fatalf("files left: %+v, %v", files, err)
	}
	if v := put(t, s, ctx, "f", "again"); v.Version != 4 {
		t.Fatalf("number of a version after the removal: %d, want 4", v.Version)
	}
}

// An erased file leaves nothing, not even its entry in the index.
func TestErase(t *testing.T) {
	s, b, ctx := open(t)
	put(t, s, ctx, "f", "one")
	kept := put(t, s, ctx, "g", "two")
	put(t, s, ctx, "f", "two")
	for range 2 { // a file that isn't there is none the second time
		if err := s.Erase(ctx, "f"); err != nil {
			t.Fatal(err)
		}
	}
	_, index, err := b.Files(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := index.Get(ctx, objectstore.KeyOf("f")); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("its entry is left: %v", err)
	}
	if p, err := s.Object(ctx, kept.Digest, 3); err != nil || string(p) != "two" {
		t.Errorf("another file's contents: %q, %v", p, err)
	}
	if v := put(t, s, ctx, "f", "again"); v.Version != 1 {
		t.Errorf("it begins at version %d", v.Version)
	}
	if err := s.Erase(ctx, "no//name"); !errors.Is(err, objectstore.ErrBadName) {
		t.Errorf("erase a bad name: %v", err)
	}
}

// Chunks of objects that are stored at the same time lie between each other.
func TestReadBetweenOtherChunks(t *testing.T) {
	s, b, ctx := open(t)
	objects, _, err := b.Files(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const size = 3<<20 + 1
	for round := range 50 {
		contents := make([][]byte, 4)
		var group errgroup.Group
		for i := range contents {
			contents[i] = noise(uint64(1+4*round+i), size)
			group.Go(func() error {
				_, err := s.Put(ctx, fmt.Sprintf("f%d", i), bytes.NewReader(contents[i]))
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		between := 0
		for i, want := range contents {
			name := fmt.Sprintf("f%d", i)
			if got := get(t, s, ctx, name); got != string(want) {
				t.Fatalf("round %d: %s came back differently", round, name)
			}
			v, err := s.Resolve(ctx, name)
			if err != nil {
				t.Fatal(err)
			}
			info, err := objects.GetInfo(ctx, v.Digest)
			if err != nil {
				t.Fatal(err)
			}
			for last := uint64(0); ; {
				m, err := objects.Chunk(ctx, info.NUID, last+1)
				if errors.Is(err, jetstream.ErrMsgNotFound) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if last > 0 && m.Sequence != last+1 {
					between++
				}
				last = m.Sequence
			}
		}
		if between > 0 {
			return
		}
	}
	t.Error("no chunk lay between others")
}
