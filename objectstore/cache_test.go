package objectstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"idunno/objectstore"
)

func openCache(tb testing.TB, s *objectstore.Store, dir string, size int64) *objectstore.Cache {
	tb.Helper()
	c, err := objectstore.OpenCache(s, dir, size)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func putNoise(tb testing.TB, s *objectstore.Store, ctx context.Context, seed uint64, n int) (string, []byte) {
	tb.Helper()
	data := noise(seed, n)
	o, err := s.PutObject(ctx, bytes.NewReader(data))
	if err != nil {
		tb.Fatal(err)
	}
	return o.Digest, data
}

func fetch(tb testing.TB, c *objectstore.Cache, ctx context.Context, digest string, want []byte) {
	tb.Helper()
	got, err := c.Fetch(ctx, digest, 1<<20)
	if err != nil {
		tb.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		tb.Fatalf("fetched %d other bytes", len(got))
	}
}

// files lists the regular files under dir with their size in all.
func files(tb testing.TB, dir string) (paths []string, total int64) {
	tb.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			paths, total = append(paths, path), total+info.Size()
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return paths, total
}

func TestCacheAnswersFromDisk(t *testing.T) {
	s, b, ctx := open(t)
	objects, _ := handles(t, ctx, b)
	dir := t.TempDir()
	c := openCache(t, s, dir, 0)
	digest, data := putNoise(t, s, ctx, 1, 100_000)
	empty, none := putNoise(t, s, ctx, 1, 0)
	fetch(t, c, ctx, digest, data)
	fetch(t, c, ctx, empty, none)
	if err := objects.Delete(ctx, digest); err != nil {
		t.Fatal(err)
	}
	fetch(t, c, ctx, digest, data)
	fetch(t, openCache(t, s, dir, 0), ctx, digest, data)
	if got := c.Stats(); got != (objectstore.CacheStats{Hits: 1, Misses: 2}) {
		t.Errorf("stats %+v", got)
	}
	if _, err := c.Fetch(ctx, digest, 99_999); !errors.Is(err, objectstore.ErrTooLarge) {
		t.Errorf("a limit below the size of the cached file: %v", err)
	}
	if _, err := c.Fetch(ctx, "../../etc/passwd", 1<<20); !errors.Is(err, objectstore.ErrBadName) {
		t.Errorf("fetch of a path: %v", err)
	}
	if _, err := c.Fetch(ctx, strings.Repeat("0", 64), 1<<20); !errors.Is(err, objectstore.ErrNotFound) {
		t.Errorf("fetch of what isn't there: %v", err)
	}
}

func TestCacheRefusesLargeObjectsBeforeReading(t *testing.T) {
	s, _, ctx := open(t)
	dir := t.TempDir()
	c := openCache(t, s, dir, 0)
	digest, _ := putNoise(t, s, ctx, 1, 5000)
	if _, err := c.Fetch(ctx, digest, 4999); !errors.Is(err, objectstore.ErrTooLarge) {
		t.Fatalf("fetch above the limit: %v", err)
	}
	if left, _ := files(t, dir); len(left) != 0 {
		t.Fatalf("kept %v", left)
	}
}

func TestCacheDropsDamagedFiles(t *testing.T) {
	s, _, ctx := open(t)
	dir := t.TempDir()
	c := openCache(t, s, dir, 0)
	digest, data := putNoise(t, s, ctx, 1, 10_000)
	fetch(t, c, ctx, digest, data)
	for i, bad := range [][]byte{data[:500], {}, noise(2, 10_000), append(bytes.Clone(data), 0), noise(2, 2<<20)} {
		paths, _ := files(t, dir)
		if len(paths) != 1 {
			t.Fatalf("cached files %v", paths)
		}
		if err := os.WriteFile(paths[0], bad, 0o600); err != nil {
			t.Fatal(err)
		}
		fetch(t, c, ctx, digest, data)
		if got := c.Stats(); got.Damaged != int64(i+1) || got.Misses != int64(i+2) {
			t.Fatalf("after damage %d: stats %+v", i, got)
		}
	}
}

func TestCacheEvictsWhatWasUnusedLongest(t *testing.T) {
	s, _, ctx := open(t)
	dir := t.TempDir()
	c := openCache(t, s, dir, 10*1000)
	digests, data := make([]string, 12), make([][]byte, 12)
	for i := range digests {
		digests[i], data[i] = putNoise(t, s, ctx, uint64(i), 1000)
	}
	for i := range 10 {
		fetch(t, c, ctx, digests[i], data[i])
	}
	// The files' ages are set by hand: clocks of file systems are coarse.
	paths, _ := files(t, dir)
	for _, path := range paths {
		for i, d := range digests {
			if filepath.Base(path) == d {
				at := time.Now().Add(time.Duration(i-20) * time.Minute)
				if err := os.Chtimes(path, at, at); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	fetch(t, c, ctx, digests[0], data[0]) // used again
	fetch(t, c, ctx, digests[10], data[10])
	paths, total := files(t, dir)
	if total > 10*1000 || c.Stats().Evicted != 2 {
		t.Fatalf("%d bytes kept, stats %+v", total, c.Stats())
	}
	kept := strings.Join(paths, " ")
	for i, want := range map[int]bool{0: true, 1: false, 2: false, 3: true, 10: true} {
		if strings.Contains(kept, digests[i]) != want {
			t.Errorf("object %d kept: %v, want %v", i, !want, want)
		}
	}
	// An object that doesn't fit goes through without being kept.
	small := openCache(t, s, t.TempDir(), 999)
	fetch(t, small, ctx, digests[5], data[5])
	fetch(t, small, ctx, digests[5], data[5])
	if got := small.Stats(); got != (objectstore.CacheStats{Misses: 2}) {
		t.Errorf("stats %+v", got)
	}
}

func TestCacheRemovesOnlyItsOwnLeavings(t *testing.T) {
	s, _, _ := open(t)
	dir := t.TempDir()
	old := time.Now().Add(-2 * time.Hour)
	for _, name := range []string{"tmp-1", "tmp-2", "mine.txt"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		if name != "tmp-2" {
			if err := os.Chtimes(path, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	openCache(t, s, dir, 1)
	paths, _ := files(t, dir)
	if got := fmt.Sprint(paths); strings.Contains(got, "tmp-1") || !strings.Contains(got, "tmp-2") || !strings.Contains(got, "mine.txt") {
		t.Fatalf("left: %v", paths)
	}
}

func TestCacheSharesADownload(t *testing.T) {
	s, _, ctx := open(t)
	c := openCache(t, s, t.TempDir(), 0)
	digest, data := putNoise(t, s, ctx, 1, 1<<20)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			mine := ctx
			if i%4 == 3 { // one who leaves takes nobody with him
				var cancel context.CancelFunc
				mine, cancel = context.WithTimeout(ctx, 200*time.Microsecond)
				defer cancel()
			}
			got, err := c.Fetch(mine, digest, 1<<20)
			if i%4 == 3 && errors.Is(err, context.DeadlineExceeded) {
				return
			}
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("caller %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
	if got := c.Stats(); got.Misses < 1 || got.Misses > 2 {
		t.Errorf("stats %+v, want one download", got)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := c.Fetch(gone, digest, 1<<20); !errors.Is(err, context.Canceled) {
		t.Errorf("fetch with an ended context: %v", err)
	}
}

func TestCacheSharedByProcesses(t *testing.T) {
	s, b, ctx := open(t)
	dir := t.TempDir()
	args := []string{dir}
	for i := range 12 { // 1.2 MB in a cache of 1 MiB: each evicts the others' files
		digest, _ := putNoise(t, s, ctx, uint64(i), 100_000)
		args = append(args, digest)
	}
	var wg sync.WaitGroup
	for range 3 {
		cmd := command(t, ctx, "cache", b.NC.ConnectedUrl(), args...)
		wg.Go(func() {
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
	paths, total := files(t, dir)
	for _, path := range paths {
		if data, err := os.ReadFile(path); err != nil || digestOf(data) != filepath.Base(path) {
			t.Errorf("%s: %v", path, err)
		}
	}
	// Each process may be one scan behind the others.
	if total > 3<<20 || total == 0 {
		t.Errorf("%d bytes in the cache", total)
	}
}

func TestUnwritableCacheStillAnswers(t *testing.T) {
	s, _, ctx := open(t)
	dir := t.TempDir()
	c := openCache(t, s, dir, 0)
	digest, data := putNoise(t, s, ctx, 1, 1000)
	// A file where the folder should be: nobody can write there, not even root.
	if err := os.WriteFile(filepath.Join(dir, digest[:2]), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fetch(t, c, ctx, digest, data)
	fetch(t, c, ctx, digest, data)
}
