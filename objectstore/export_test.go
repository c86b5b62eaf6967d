package objectstore

import "time"

// SetClock makes the store live at another time.
func (s *Store) SetClock(now func() time.Time) { s.now = now }

// SetStale sets how long a collector may seem dead.
func (s *Store) SetStale(d time.Duration) { s.stale = d }

// The limits and names that tests need.
const (
	MaxVersions   = maxVersions
	KeyDoomed     = keyDoomed
	BarrierObject = barrierObject
)

// KeyOf is the index key of a file.
func KeyOf(name string) string { return keyOf(name) }

// Doomed encodes a table of doomed objects.
func Doomed(owner string, sealed bool, digests ...string) []byte {
	return doomed{Owner: owner, Sealed: sealed, Digests: digests}.encode()
}
