package objectstore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
	"idunno/objectstore"
)

func digestOf(p []byte) string { return fmt.Sprintf("%x", sha256.Sum256(p)) }

// handles opens the buckets behind the store.
func handles(tb testing.TB, ctx context.Context, b *broker.Broker) (jetstream.ObjectStore, jetstream.KeyValue) {
	tb.Helper()
	objects, index, err := b.Files(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	return objects, index
}

// until asks again and again whether something has happened.
func until(tb testing.TB, ctx context.Context, what string, fn func() bool) {
	tb.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !fn() {
		select {
		case <-ctx.Done():
			tb.Fatalf("%s: not in time", what)
		case <-tick.C:
		}
	}
}

func stored(tb testing.TB, ctx context.Context, objects jetstream.ObjectStore) uint64 {
	tb.Helper()
	status, err := objects.Status(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	return status.Size()
}

func TestUploaderKilledHalfWay(t *testing.T) {
	s, b, ctx := open(t)
	objects, _ := handles(t, ctx, b)
	put(t, s, ctx, "big", "old")
	before := stored(t, ctx, objects)

	dir := t.TempDir()
	cmd := command(t, ctx, "put", b.NC.ConnectedUrl(), "big", strconv.Itoa(256<<20))
	cmd.Env = append(cmd.Env, "TMPDIR="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, ctx, "an upload under way", func() bool { return stored(t, ctx, objects) > before+(4<<20) })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the upload ended before it was killed")
	}
	if got := get(t, s, ctx, "big"); got != "old" {
		t.Fatalf("after the kill: %q", got)
	}
	if list, err := s.Versions(ctx, "big"); err != nil || len(list) != 1 {
		t.Fatalf("versions after the kill: %+v, %v", list, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Fatalf("temporary files left: %v, %v", left, err)
	}

	if swept, err := s.Sweep(ctx); err != nil || swept != (objectstore.Swept{}) {
		t.Fatalf("swept %+v, %v though the upload might go on", swept, err)
	}
	s.SetClock(func() time.Time { return time.Now().Add(2 * time.Hour) })
	swept, err := s.Sweep(ctx)
	if err != nil || swept.Uploads != 1 || swept.Chunks < 32 || swept.Objects != 0 {
		t.Fatalf("swept %+v, %v", swept, err)
	}
	if after := stored(t, ctx, objects); after > before+4096 {
		t.Fatalf("%d bytes stored after the sweep, %d before the upload", after, before)
	}
	if got := get(t, s, ctx, "big"); got != "old" {
		t.Fatalf("after the sweep: %q", got)
	}
}

func TestUploadCancelledHalfWayCleansUp(t *testing.T) {
	s, b, ctx := open(t)
	objects, _ := handles(t, ctx, b)
	put(t, s, ctx, "big", "old")
	before := stored(t, ctx, objects)
	upload, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := s.Put(upload, "big", stream(1, 128<<20))
		done <- err
	}()
	until(t, ctx, "an upload under way", func() bool { return stored(t, ctx, objects) > before+(4<<20) })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled upload: %v", err)
	}
	if got := get(t, s, ctx, "big"); got != "old" {
		t.Fatalf("after the cancellation: %q", got)
	}
	if after := stored(t, ctx, objects); after > before+4096 {
		t.Fatalf("%d bytes stored after the cancellation, %d before the upload", after, before)
	}
}

func tempFile(t *testing.T, text string) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFileIsStoredFromWhereItWasRead(t *testing.T) {
	s, _, ctx := open(t)
	f := tempFile(t, "skipped contents")
	if _, err := f.Seek(8, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, "f", f); err != nil {
		t.Fatal(err)
	}
	if got := get(t, s, ctx, "f"); got != "contents" {
		t.Fatalf("a file read from its middle: %q", got)
	}
}

func TestPutReportsBothReadings(t *testing.T) {
	s, _, ctx := open(t)
	path := filepath.Join(t.TempDir(), "file")
	const size = 3<<20 + 1
	if err := os.WriteFile(path, noise(1, size), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int64{size, 0} { // what is there already isn't sent again
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		var read, sent int64
		_, err = s.PutReporting(ctx, "file", f, func(r, n int64) {
			if r < read || n < sent || n > 0 && r != size {
				t.Errorf("read %d, sent %d after %d, %d", r, n, read, sent)
			}
			read, sent = r, n
		})
		f.Close()
		if err != nil || read != size || sent != want {
			t.Fatalf("read %d, sent %d, want %d and %d: %v", read, sent, size, want, err)
		}
	}
}

func TestFileThatChangesWhileStored(t *testing.T) {
	s, b, ctx := open(t)
	objects, _ := handles(t, ctx, b)
	for what, change := range map[string]func(*os.File) error{
		"rewritten": func(f *os.File) error { _, err := f.WriteAt([]byte("other"), 0); return err },
		"shortened": func(f *os.File) error { return f.Truncate(3) },
	} {
		f := tempFile(t, strings.Repeat("text", 100_000))
		if _, err := f.Seek(0, 0); err != nil {
			t.Fatal(err)
		}
		digest, err := s.StoreChanging(ctx, f, func() error { return change(f) })
		if !errors.Is(err, objectstore.ErrChanged) {
			t.Errorf("%s: %v, want ErrChanged", what, err)
		}
		if exists(t, ctx, objects, digest) {
			t.Errorf("%s: stored", what)
		}
	}
	if size := stored(t, ctx, objects); size > 4096 {
		t.Errorf("%d bytes left behind", size)
	}
}

// Reads are cancelled at every moment; open looks for goroutines that stay.
func TestCancelledReadsLeaveNothing(t *testing.T) {
	s, _, ctx := open(t)
	if _, err := s.Put(ctx, "file", bytes.NewReader(noise(1, 300<<10))); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := s.Get(ctx, "file", io.Discard); err != nil {
		t.Fatal(err)
	}
	const reads = 300
	step := 2 * time.Since(began) / reads
	for i := range reads {
		brief, cancel := context.WithTimeout(ctx, time.Duration(i)*step)
		_, err := s.Get(brief, "file", io.Discard)
		if err != nil && brief.Err() == nil {
			t.Errorf("read %d: %v", i, err)
		}
		cancel()
	}
}

func TestDamagedObjectIsNeverDelivered(t *testing.T) {
	s, b, ctx := open(t)
	objects, _ := handles(t, ctx, b)
	good := noise(1, 400<<10)
	digest := digestOf(good)
	for what, bad := range map[string][]byte{"other": noise(2, len(good)), "empty": {}, "shorter": good[:1000], "longer": append(bytes.Clone(good), 1)} {
		if _, err := s.Put(ctx, "f", bytes.NewReader(good)); err != nil {
			t.Fatalf("%s: put: %v", what, err)
		}
		if _, err := objects.PutBytes(ctx, digest, bad); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(ctx, "f", &bytes.Buffer{}); !errors.Is(err, objectstore.ErrCorrupt) {
			t.Errorf("%s bytes: get: %v, want ErrCorrupt", what, err)
		}
		// Storing the file again repairs it, under the same version.
		v, err := s.Put(ctx, "f", bytes.NewReader(good))
		if err != nil || v.Version != 1 {
			t.Fatalf("%s bytes: put again: %+v, %v", what, v, err)
		}
		if got := get(t, s, ctx, "f"); got != string(good) {
			t.Errorf("%s bytes: not repaired", what)
		}
	}
}

func TestLostObjectIsStoredAgain(t *testing.T) {
	s, b, ctx := open(t)
	objects, _ := handles(t, ctx, b)
	v := put(t, s, ctx, "f", "text")
	if err := objects.Delete(ctx, v.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(ctx, "f", &bytes.Buffer{}); !errors.Is(err, objectstore.ErrNotFound) {
		t.Fatalf("get of a lost object: %v", err)
	}
	put(t, s, ctx, "f", "text")
	if got := get(t, s, ctx, "f"); got != "text" {
		t.Fatalf("got %q", got)
	}
}

func TestDamagedIndexIsTold(t *testing.T) {
	s, b, ctx := open(t)
	_, index := handles(t, ctx, b)
	for _, value := range []string{"", "{", `{"v":1,"name":"g","next":1}`, `{"v":1,"name":"f","next":0}`, strings.Repeat("x", 1<<19)} {
		if _, err := index.PutString(ctx, objectstore.KeyOf("f"), value); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Resolve(ctx, "f"); !errors.Is(err, objectstore.ErrCorrupt) {
			t.Errorf("index entry %.20q: resolve: %v", value, err)
		}
		if _, err := s.Put(ctx, "f", strings.NewReader("new")); !errors.Is(err, objectstore.ErrCorrupt) {
			t.Errorf("index entry %.20q: put: %v", value, err)
		}
	}
	if _, err := index.PutString(ctx, objectstore.KeyOf("f"), `{"v":2,"name":"f"}`); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resolve(ctx, "f"); err == nil || !strings.Contains(err.Error(), "same version everywhere") {
		t.Errorf("index entry of a later program: %v", err)
	}
}
