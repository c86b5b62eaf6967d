package objectstore_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/objectstore"
)

func exists(tb testing.TB, ctx context.Context, objects jetstream.ObjectStore, digest string) bool {
	tb.Helper()
	_, err := objects.GetInfo(ctx, digest)
	if err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
		tb.Fatal(err)
	}
	return err == nil
}

// bundle stores the parts and a manifest that lists them.
func bundle(tb testing.TB, s *objectstore.Store, ctx context.Context, name string, parts ...string) (objectstore.Version, []string) {
	tb.Helper()
	var m struct {
		Name    string               `json:"name"`
		Objects []objectstore.Object `json:"objects"`
	}
	m.Name = name
	var digests []string
	for _, p := range parts {
		o, err := s.PutObject(ctx, strings.NewReader(p))
		if err != nil {
			tb.Fatal(err)
		}
		m.Objects = append(m.Objects, o)
		digests = append(digests, o.Digest)
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	v, err := s.PutBundle(ctx, name, manifest)
	if err != nil {
		tb.Fatal(err)
	}
	return v, digests
}

func TestRemoveDeletesWhatNothingRefersTo(t *testing.T) {
	s, b, ctx := open(t)
	objects, _ := handles(t, ctx, b)
	shared := put(t, s, ctx, "a", "shared")
	put(t, s, ctx, "b", "shared")
	own := put(t, s, ctx, "a", "own")
	if err := s.Remove(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if exists(t, ctx, objects, own.Digest) {
		t.Error("contents of a removed file are still there")
	}
	if got := get(t, s, ctx, "b"); got != "shared" {
		t.Errorf("shared contents: %q", got)
	}
	if err := s.Remove(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	if exists(t, ctx, objects, shared.Digest) {
		t.Error("contents are still there after the last file with them was removed")
	}
}

func TestBundles(t *testing.T) {
	s, b, ctx := open(t)
	objects, _ := handles(t, ctx, b)
	one, digests := bundle(t, s, ctx, "data/set", "p1", "p22", "p333")
	if !one.Bundle || one.Parts != 3 || one.PartsSize != 9 || one.Version != 1 {
		t.Fatalf("bundle %+v", one)
	}
	two, _ := bundle(t, s, ctx, "data/set", "p1", "new")
	// A file may have the very bytes of a part, or of a manifest.
	put(t, s, ctx, "part", "p22")
	if err := s.Remove(ctx, "data/set@1"); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, true, false} {
		if exists(t, ctx, objects, digests[i]) != want {
			t.Errorf("part %d: there %v, want %v", i+1, !want, want)
		}
	}
	if exists(t, ctx, objects, one.Digest) || !exists(t, ctx, objects, two.Digest) {
		t.Error("the wrong manifest was deleted")
	}
	absent := objectstore.Object{Digest: digests[2], Size: 4}
	manifest, _ := json.Marshal(map[string]any{"objects": []objectstore.Object{absent}})
	if _, err := s.PutBundle(ctx, "data/set", manifest); !errors.Is(err, objectstore.ErrNotFound) || !strings.Contains(err.Error(), absent.Digest[:12]) {
		t.Errorf("bundle with a missing part: %v", err)
	}
	fresh, err := s.PutObject(ctx, strings.NewReader("fresh"))
	if err != nil {
		t.Fatal(err)
	}
	manifest, _ = json.Marshal(map[string]any{"objects": []objectstore.Object{fresh, absent}})
	if _, err := s.PutBundle(ctx, "data/set", manifest); !errors.Is(err, objectstore.ErrNotFound) || !exists(t, ctx, objects, fresh.Digest) {
		t.Errorf("bundle with a missing part: %v; the other one is there: %v", err, exists(t, ctx, objects, fresh.Digest))
	}
	manifest, _ = json.Marshal(map[string]any{"objects": []objectstore.Object{{Digest: digests[0], Size: 99}}})
	if _, err := s.PutBundle(ctx, "data/set", manifest); !errors.Is(err, objectstore.ErrBadBundle) {
		t.Errorf("bundle with a wrong size: %v", err)
	}
	for _, bad := range []string{"", "null and void", `[]`, `{"objects":[{"digest":"x"}]}`, `{"objects":[{"size":-1}]}`} {
		if _, err := s.PutBundle(ctx, "data/set", []byte(bad)); !errors.Is(err, objectstore.ErrBadBundle) {
			t.Errorf("manifest %q: %v", bad, err)
		}
	}
	if v, err := s.Resolve(ctx, "data/set"); err != nil || v.Version != 2 {
		t.Errorf("after refused bundles: %+v, %v", v, err)
	}
	s.SetClock(func() time.Time { return time.Now().Add(25 * time.Hour) })
	for round, want := range []int{1, 0} {
		if swept, err := s.Sweep(ctx); err != nil || swept != (objectstore.Swept{Objects: want}) || exists(t, ctx, objects, fresh.Digest) {
			t.Errorf("sweep %d: %+v, %v", round+1, swept, err)
		}
	}
}

func TestOldVersionsArePrunedAfterADay(t *testing.T) {
	s, b, ctx := open(t)
	objects, _ := handles(t, ctx, b)
	now := time.Now()
	s.SetClock(func() time.Time { return now })
	var versions []objectstore.Version
	for i := range 8 {
		versions = append(versions, put(t, s, ctx, "f", fmt.Sprint("contents ", i)))
	}
	if list, err := s.Versions(ctx, "f"); err != nil || len(list) != 8 {
		t.Fatalf("%d versions on the first day, %v", len(list), err)
	}
	now = now.Add(25 * time.Hour)
	put(t, s, ctx, "f", "next day")
	list, err := s.Versions(ctx, "f")
	if err != nil || len(list) != objectstore.KeepVersions || list[4].Version != 5 {
		t.Fatalf("versions on the second day: %+v, %v", list, err)
	}
	for _, v := range versions {
		if exists(t, ctx, objects, v.Digest) != (v.Version >= 5) {
			t.Errorf("contents of version %d: there %v", v.Version, v.Version < 5)
		}
	}
}

func TestTooManyYoungVersions(t *testing.T) {
	s, b, ctx := open(t)
	_, index := handles(t, ctx, b)
	var list []string
	v := put(t, s, ctx, "f", "text")
	for i := range objectstore.MaxVersions {
		list = append(list, fmt.Sprintf(`{"version":%d,"id":"x","digest":%q,"size":4,"created":%q}`, i+1, v.Digest, time.Now().UTC().Format(time.RFC3339)))
	}
	full := fmt.Sprintf(`{"v":1,"name":"f","next":%d,"versions":[%s]}`, len(list)+1, strings.Join(list, ","))
	if _, err := index.PutString(ctx, objectstore.KeyOf("f"), full); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, "f", strings.NewReader("one more")); !errors.Is(err, objectstore.ErrTooManyVersions) {
		t.Fatalf("put into a full file: %v", err)
	}
	if err := s.Remove(ctx, "f@7"); err != nil {
		t.Fatal(err)
	}
	if v := put(t, s, ctx, "f", "one more"); v.Version != len(list)+1 {
		t.Fatalf("version %d", v.Version)
	}
}

func TestConcurrentPutsGetConsecutiveVersions(t *testing.T) {
	s, b, ctx := open(t)
	const writers, each = 8, 5
	numbers := make(chan int, writers*each)
	var wg sync.WaitGroup
	for w := range writers {
		mine := s
		if w%2 == 1 {
			mine = reopen(t, ctx, b)
		}
		wg.Go(func() {
			for i := range each {
				v, err := mine.Put(ctx, "f", strings.NewReader(fmt.Sprint(w, " ", i)))
				if err != nil {
					t.Error(err)
					return
				}
				numbers <- v.Version
			}
		})
	}
	wg.Wait()
	close(numbers)
	var got []int
	for n := range numbers {
		got = append(got, n)
	}
	slices.Sort(got)
	for i, n := range got {
		if n != i+1 {
			t.Fatalf("versions %v", got)
		}
	}
	if len(got) != writers*each {
		t.Fatalf("%d versions", len(got))
	}
}

func TestConcurrentPutsOfTheSameContents(t *testing.T) {
	s, _, ctx := open(t)
	data := noise(3, 3<<20)
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			name := fmt.Sprint("f", i)
			if _, err := s.Put(ctx, name, bytes.NewReader(data)); err != nil {
				t.Error(err)
				return
			}
			var buf bytes.Buffer
			if _, err := s.Get(ctx, name, &buf); err != nil || !bytes.Equal(buf.Bytes(), data) {
				t.Errorf("%s: %d bytes, %v", name, buf.Len(), err)
			}
		})
	}
	wg.Wait()
	if h, err := s.Holdings(ctx); err != nil || h.Servers[0].Objects != 1 {
		t.Errorf("holdings %+v, %v; want one object", h, err)
	}
}

// Whoever stores a file while the last other one with the same contents is
// removed must find it whole afterwards.
func TestRemoveVersusPut(t *testing.T) {
	s, b, ctx := open(t)
	other := reopen(t, ctx, b)
	for round := range 60 {
		text := fmt.Sprint("round ", round)
		put(t, s, ctx, "old", text)
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := other.Remove(ctx, "old"); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := s.Put(ctx, "new", strings.NewReader(text)); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if got := get(t, s, ctx, "new"); got != text {
			t.Fatalf("round %d: got %q", round, got)
		}
	}
}

func TestManyWritersAndRemovers(t *testing.T) {
	s, b, ctx := open(t)
	names := []string{"a", "b", "c"}
	var wg sync.WaitGroup
	for w := range 6 {
		mine := reopen(t, ctx, b)
		wg.Go(func() {
			for i := range 15 {
				name, text := names[(w+i)%3], fmt.Sprint("contents ", (w*i)%4)
				if w%2 == 0 {
					if _, err := mine.Put(ctx, name, strings.NewReader(text)); err != nil {
						t.Error(err)
					}
				} else if err := mine.Remove(ctx, name); err != nil && !errors.Is(err, objectstore.ErrNotFound) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	objects, _ := handles(t, ctx, b)
	used := map[string]bool{}
	for _, name := range names {
		list, err := s.Versions(ctx, name)
		if err != nil && !errors.Is(err, objectstore.ErrNotFound) {
			t.Fatal(err)
		}
		for _, v := range list {
			used[v.Digest] = true
			get(t, s, ctx, objectstore.FormatRef(name, v.Version))
		}
	}
	for i := range 4 {
		if digest := digestOf(fmt.Append(nil, "contents ", i)); exists(t, ctx, objects, digest) != used[digest] {
			t.Errorf("contents %d: used %v, there %v", i, used[digest], !used[digest])
		}
	}
}

// A deleter that died leaves its record behind, the object deleted or not.
func TestPutMeetsADeadDeleter(t *testing.T) {
	s, b, ctx := open(t)
	objects, index := handles(t, ctx, b)
	s.SetStale(100 * time.Millisecond)
	texts := map[string]string{"there": "text", "lost": "lost text"}
	for name, text := range texts {
		o, err := s.PutObject(ctx, strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := index.Put(ctx, objectstore.KeyRecord(o.Digest), objectstore.InDeletion("dead")); err != nil {
			t.Fatal(err)
		}
		if name == "lost" {
			if err := objects.Delete(ctx, o.Digest); err != nil {
				t.Fatal(err)
			}
		}
	}
	o, err := s.PutObject(ctx, strings.NewReader("nobody's"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := index.Put(ctx, objectstore.KeyRecord(o.Digest), objectstore.InDeletion("dead")); err != nil {
		t.Fatal(err)
	}
	for name, text := range texts {
		put(t, s, ctx, name, text)
	}
	s.SetStale(10 * time.Second)
	if swept, err := s.Sweep(ctx); err != nil || swept != (objectstore.Swept{}) {
		t.Fatalf("swept %+v, %v what may still be in deletion", swept, err)
	}
	s.SetClock(func() time.Time { return time.Now().Add(2 * time.Hour) })
	if swept, err := s.Sweep(ctx); err != nil || swept != (objectstore.Swept{Objects: 1}) {
		t.Fatalf("swept %+v, %v", swept, err)
	}
	for name, want := range texts {
		if got := get(t, s, ctx, name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if exists(t, ctx, objects, o.Digest) {
		t.Error("what the dead deleter was to delete is still there")
	}
}

// A writer that meets a deleter at work waits for it and stores the object again.
func TestPutWaitsForADeleter(t *testing.T) {
	s, b, ctx := open(t)
	objects, index := handles(t, ctx, b)
	o, err := s.PutObject(ctx, strings.NewReader("text"))
	if err != nil {
		t.Fatal(err)
	}
	revision, err := index.Put(ctx, objectstore.KeyRecord(o.Digest), objectstore.InDeletion("at work"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.Put(ctx, "f", strings.NewReader("text"))
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("put did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := objects.Delete(ctx, o.Digest); err != nil {
		t.Fatal(err)
	}
	if err := index.Delete(ctx, objectstore.KeyRecord(o.Digest), jetstream.LastRevision(revision)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := get(t, s, ctx, "f"); got != "text" {
		t.Fatalf("got %q", got)
	}
}

// A writer that died after it had held its objects leaves references that lead
// nowhere; so does one that removed a version.
func TestSweepTakesLostReferencesAway(t *testing.T) {
	s, b, ctx := open(t)
	objects, index := handles(t, ctx, b)
	v, parts := bundle(t, s, ctx, "set", "part")
	put(t, s, ctx, "f", "kept")
	lost := fmt.Sprintf(`{"v":1,"name":"set","next":%d,"versions":[]}`, v.Version+1)
	if _, err := index.PutString(ctx, objectstore.KeyOf("set"), lost); err != nil {
		t.Fatal(err)
	}
	if swept, err := s.Sweep(ctx); err != nil || swept != (objectstore.Swept{}) {
		t.Fatalf("swept %+v, %v on the first day", swept, err)
	}
	s.SetClock(func() time.Time { return time.Now().Add(25 * time.Hour) })
	if swept, err := s.Sweep(ctx); err != nil || swept != (objectstore.Swept{References: 2, Objects: 2}) {
		t.Fatalf("swept %+v, %v on the second day", swept, err)
	}
	if exists(t, ctx, objects, v.Digest) || exists(t, ctx, objects, parts[0]) {
		t.Error("the lost bundle's objects are still there")
	}
	if got := get(t, s, ctx, "f"); got != "kept" {
		t.Errorf("got %q", got)
	}
}

func TestSweepDeletesOldObjectsThatNothingRefersTo(t *testing.T) {
	s, b, ctx := open(t)
	objects, _ := handles(t, ctx, b)
	put(t, s, ctx, "f", "kept")
	bundle(t, s, ctx, "set", "kept too")
	o, err := s.PutObject(ctx, strings.NewReader("nobody's"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := objects.PutString(ctx, "somebody-elses", "object"); err != nil {
		t.Fatal(err)
	}
	if swept, err := s.Sweep(ctx); err != nil || swept != (objectstore.Swept{}) || !exists(t, ctx, objects, o.Digest) {
		t.Fatalf("swept %+v, %v on the first day", swept, err)
	}
	s.SetClock(func() time.Time { return time.Now().Add(25 * time.Hour) })
	if swept, err := s.Sweep(ctx); err != nil || swept != (objectstore.Swept{Objects: 1}) || exists(t, ctx, objects, o.Digest) {
		t.Fatalf("swept %+v, %v on the second day", swept, err)
	}
	if got := get(t, s, ctx, "f"); got != "kept" {
		t.Errorf("got %q", got)
	}
	if got, err := objects.GetString(ctx, "somebody-elses"); err != nil || got != "object" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestBundleWithALostManifestCanBeRemoved(t *testing.T) {
	s, b, ctx := open(t)
	objects, _ := handles(t, ctx, b)
	v, parts := bundle(t, s, ctx, "set", "part")
	if err := objects.Delete(ctx, v.Digest); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(ctx, "set"); err != nil {
		t.Fatal(err)
	}
	s.SetClock(func() time.Time { return time.Now().Add(25 * time.Hour) })
	if swept, err := s.Sweep(ctx); err != nil || swept != (objectstore.Swept{References: 1, Objects: 1}) || exists(t, ctx, objects, parts[0]) {
		t.Fatalf("swept %+v, %v", swept, err)
	}
}

func TestHoldings(t *testing.T) {
	s, _, ctx := open(t)
	put(t, s, ctx, "f", "four")
	put(t, s, ctx, "g", "four")
	bundle(t, s, ctx, "set", "12345", "four")
	h, err := s.Holdings(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Servers) != 1 || h.Servers[0].Name == "" || !h.Servers[0].Leader || !h.Servers[0].Current || h.Servers[0].Objects != 3 {
		t.Fatalf("servers %+v", h.Servers)
	}
	if len(h.Files) != 3 || h.Files[2].Name != "set" || h.Files[2].Objects != 3 || !slices.Equal(h.Files[2].Servers, []string{h.Servers[0].Name}) {
		t.Fatalf("files %+v", h.Files)
	}
	if want := h.Files[2].Bytes; h.Servers[0].Bytes != want {
		t.Fatalf("%d bytes held, want %d", h.Servers[0].Bytes, want)
	}
}
