package objectstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// DefaultCacheBytes is the size of a cache opened with 0.
const DefaultCacheBytes = 1 << 30

const (
	// tempPrefix marks a file that is being written; one older than tempAge was
	// left by a process that died.
	tempPrefix = "tmp-"
	tempAge    = time.Hour
)

// Cache keeps objects on disk by digest and drops those unused for the longest
// time when they exceed its size. Its methods may be called from several
// goroutines, and several processes may use one directory: files appear whole
// by renaming, every read is checked against the digest, and a file that
// another process dropped is fetched again.
type Cache struct {
	store *Store
	dir   string
	max   int64

	mu      sync.Mutex
	flights map[flightKey]*flight
	// used is the directory's size as last scanned plus what was added since;
	// other processes' files show at the next scan.
	used  int64
	stats CacheStats
}

// CacheStats count what a cache did since it was opened.
type CacheStats struct {
	// Hits were answered from disk, Misses from the store.
	Hits   int64 `json:"hits"`
	Misses int64 `json:"misses"`
	// Evicted files were dropped for space, Damaged ones for a wrong digest.
	Evicted int64 `json:"evicted"`
	Damaged int64 `json:"damaged"`
}

// OpenCache opens a cache of at most maxBytes bytes in dir, which it creates; 0
// means [DefaultCacheBytes]. An object larger than all of it is never kept.
func OpenCache(store *Store, dir string, maxBytes int64) (*Cache, error) {
	if maxBytes < 0 {
		return nil, fmt.Errorf("open cache: %d bytes; give a size of 0 or more", maxBytes)
	}
	if maxBytes == 0 {
		maxBytes = DefaultCacheBytes
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	c := &Cache{store: store, dir: dir, max: maxBytes, flights: make(map[flightKey]*flight)}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c, c.trim()
}

// Stats returns the counts so far.
func (c *Cache) Stats() CacheStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

type flightKey struct {
	digest string
	limit  int64
}

// flight is a fetch that several callers wait for. It ends early when all of
// them have gone.
type flight struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiting int
	data    []byte
	err     error
}

// Fetch returns an object's bytes, from disk if they are there and sound,
// otherwise from the store. Callers that ask for the same object at the same
// time get the same slice: it must not be written to. It returns [ErrTooLarge]
// when the object has more than maxBytes bytes, [ErrNotFound], [ErrCorrupt],
// [ErrInterrupted] or [ErrBadName].
func (c *Cache) Fetch(ctx context.Context, digest string, maxBytes int64) ([]byte, error) {
	if err := checkDigest(digest); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	key := flightKey{digest, maxBytes}
	c.mu.Lock()
	f := c.flights[key]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		var work context.Context
		work, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
		c.flights[key] = f
		go c.fly(work, key, f)
	}
	f.waiting++
	c.mu.Unlock()
	select {
	case <-f.done:
		return f.data, f.err
	case <-ctx.Done():
		c.leave(key, f)
		return nil, context.Cause(ctx)
	}
}

// leave gives a flight up; the last one to leave stops it and sees it end. A
// stopped flight is forgotten at once so that the next caller starts afresh.
func (c *Cache) leave(key flightKey, f *flight) {
	c.mu.Lock()
	f.waiting--
	last := f.waiting == 0
	if last {
		f.cancel()
		if c.flights[key] == f {
			delete(c.flights, key)
		}
	}
	c.mu.Unlock()
	if last {
		<-f.done
	}
}

func (c *Cache) fly(ctx context.Context, key flightKey, f *flight) {
	defer f.cancel()
	f.data, f.err = c.get(ctx, key.digest, key.limit)
	c.mu.Lock()
	if c.flights[key] == f {
		delete(c.flights, key)
	}
	c.mu.Unlock()
	close(f.done)
}

func (c *Cache) get(ctx context.Context, digest string, limit int64) ([]byte, error) {
	data, err := c.read(digest, limit)
	if err == nil || errors.Is(err, ErrTooLarge) {
		return data, err
	}
	var buf bytes.Buffer
	if _, err := c.store.copyObject(ctx, digest, limit, &buf); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.stats.Misses++
	c.mu.Unlock()
	c.keep(digest, buf.Bytes())
	return buf.Bytes(), nil
}

// path spreads the files over 256 folders.
func (c *Cache) path(digest string) string { return filepath.Join(c.dir, digest[:2], digest) }

// read returns a file of the cache after checking it, and drops a damaged one.
func (c *Cache) read(digest string, limit int64) ([]byte, error) {
	path := c.path(digest)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// The size is checked before a byte is read; a damaged file may have any.
	if info.Mode().IsRegular() && info.Size() <= limit {
		data, err := io.ReadAll(io.LimitReader(f, limit+1))
		sum := sha256.Sum256(data)
		if err == nil && digestOf(sum[:]) == digest {
			now := time.Now()
			_ = os.Chtimes(path, now, now) // the order of use; worth no error
			c.mu.Lock()
			c.stats.Hits++
			c.mu.Unlock()
			return data, nil
		}
	} else if sum, err := hashFile(f); err == nil && sum == digest {
		return nil, fmt.Errorf("object %.12s has %d bytes, allowed are %d: %w", digest, info.Size(), limit, ErrTooLarge)
	}
	_ = os.Remove(path)
	c.mu.Lock()
	c.stats.Damaged++
	c.mu.Unlock()
	return nil, ErrCorrupt
}

func hashFile(f *os.File) (string, error) {
	h := sha256.New()
	_, err := io.CopyBuffer(onlyWriter{h}, f, make([]byte, copySize))
	return digestOf(h.Sum(nil)), err
}

// keep writes a file into the cache. A cache that can't be written to costs
// time, not results, so failures are not told.
func (c *Cache) keep(digest string, data []byte) {
	if int64(len(data)) > c.max {
		return
	}
	if err := c.write(c.path(digest), data); err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.used += int64(len(data)); c.used > c.max {
		_ = c.trim()
	}
}

func (c *Cache) write(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), tempPrefix+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

type cached struct {
	path string
	size int64
	used time.Time
}

// trim counts the directory and drops the files unused for the longest time
// until it is a tenth below its limit, so that not every new file starts a
// count. The caller holds the lock.
func (c *Cache) trim() error {
	files, total, err := c.scan()
	if err != nil {
		return fmt.Errorf("scan cache: %w", err)
	}
	if total > c.max {
		slices.SortFunc(files, func(a, b cached) int { return a.used.Compare(b.used) })
		for _, f := range files {
			if total <= c.max-c.max/10 {
				break
			}
			if err := os.Remove(f.path); err == nil {
				c.stats.Evicted++
			} else if !errors.Is(err, fs.ErrNotExist) {
				continue
			}
			total -= f.size
		}
	}
	c.used = total
	return nil
}

// scan lists the cached files and removes temporary ones that were left behind.
// Files that are not the cache's are neither counted nor touched.
func (c *Cache) scan() (files []cached, total int64, err error) {
	err = filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // dropped by another process
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil // dropped meanwhile
		}
		switch name := d.Name(); {
		case strings.HasPrefix(name, tempPrefix):
			if time.Since(info.ModTime()) > tempAge {
				_ = os.Remove(path)
			}
		case isDigest(name):
			files = append(files, cached{path, info.Size(), info.ModTime()})
			total += info.Size()
		}
		return nil
	})
	return files, total, err
}
