package objectstore

import (
	"context"
	"io"
	"time"
)

// SetClock makes the store live at another time.
func (s *Store) SetClock(now func() time.Time) { s.now = now }

// SetStale sets how long a deleter may seem dead.
func (s *Store) SetStale(d time.Duration) { s.stale = d }

// The limits and names that tests need.
const (
	MaxVersions = maxVersions
)

// KeyOf is the index key of a file.
func KeyOf(name string) string { return keyOf(name) }

// KeyRecord is the index key of an object's record.
func KeyRecord(digest string) string { return keyRecord + digest }

// InDeletion is the record of an object that a deleter has begun to delete.
func InDeletion(deleter string) []byte { return (&record{Deleter: deleter}).encode() }

// StoreChanging stores an object and calls change between the two readings.
func (s *Store) StoreChanging(ctx context.Context, r io.Reader, change func() error) (string, error) {
	sp, err := newSpool(ctx, r, nil)
	if err != nil {
		return "", err
	}
	defer sp.close()
	if err := change(); err != nil {
		return "", err
	}
	return sp.Digest, s.ensure(ctx, sp)
}
