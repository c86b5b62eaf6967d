package objectstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// maxDoomed keeps the table of doomed objects below 512 KiB.
	maxDoomed = 7000
	// renewEvery is how often a collector shows that it lives while it deletes.
	renewEvery = time.Second
	// staleAfter is how long the table must stand still until someone else takes it over.
	staleAfter = 10 * time.Second
)

// doomed is the table of objects that are being deleted. Whoever fills it holds
// it until it is empty, so that one collector works at a time. See the package
// comment for the protocol.
type doomed struct {
	Schema int    `json:"v"`
	Owner  string `json:"owner,omitempty"`
	// Sealed says that nothing can be taken out of the table any more.
	Sealed  bool     `json:"sealed,omitempty"`
	Digests []string `json:"digests,omitempty"`
}

func (d doomed) encode() []byte {
	d.Schema = indexSchema
	p, _ := json.Marshal(d) // strings and a flag always marshal
	return p
}

func decodeDoomed(p []byte) (doomed, error) {
	var d doomed
	if len(p) > maxEntry {
		return d, fmt.Errorf("table of doomed objects of %d bytes: %w", len(p), ErrTooLarge)
	}
	if err := json.Unmarshal(p, &d); err != nil {
		return d, fmt.Errorf("decode table of doomed objects: %v: %w", err, ErrCorrupt)
	}
	if d.Schema != indexSchema {
		return d, fmt.Errorf("table of doomed objects has version %d, this program reads %d: run the same version everywhere", d.Schema, indexSchema)
	}
	for _, digest := range d.Digests {
		if !isDigest(digest) {
			return d, fmt.Errorf("table of doomed objects has digest %.80q: %w", digest, ErrCorrupt)
		}
	}
	return d, nil
}

func (s *Store) loadDoomed(ctx context.Context) (doomed, uint64, error) {
	kve, err := s.index.Get(ctx, keyDoomed)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return doomed{}, 0, nil
	}
	if err != nil {
		return doomed{}, 0, fmt.Errorf("read table of doomed objects: %w", err)
	}
	d, err := decodeDoomed(kve.Value())
	return d, kve.Revision(), err
}

// collect deletes those of the objects that no version refers to, and returns
// how many. It first finishes what a collector that died left undone.
func (s *Store) collect(ctx context.Context, digests []string) (deleted int, err error) {
	digests = slices.Clone(digests)
	slices.Sort(digests)
	digests = slices.Compact(digests)
	for first := true; first || len(digests) > 0; first = false {
		batch := digests[:min(len(digests), maxDoomed)]
		digests = digests[len(batch):]
		n, err := s.collectBatch(ctx, batch)
		if deleted += n; err != nil {
			return deleted, fmt.Errorf("delete what nothing refers to: %w", err)
		}
	}
	return deleted, nil
}

func (s *Store) collectBatch(ctx context.Context, digests []string) (deleted int, err error) {
	owner := rand.Text()
	var still stillness
	for tries := 1; ; tries++ {
		table, revision, err := s.loadDoomed(ctx)
		if err != nil {
			return deleted, err
		}
		next, mine := doomed{Owner: owner, Digests: digests}, true
		if len(table.Digests) > 0 {
			if !still.lasted(revision, s.stale) {
				if err := pause(ctx, tries); err != nil {
					return deleted, err
				}
				continue
			}
			next, mine = doomed{Owner: owner, Digests: table.Digests}, false
		}
		if len(next.Digests) == 0 {
			return deleted, nil
		}
		written, err := s.swap(ctx, keyDoomed, next.encode(), revision)
		if err == nil {
			n, err := s.carryOut(ctx, owner, written)
			if deleted += n; err != nil || mine {
				return deleted, err
			}
		} else if !isConflict(err) {
			return deleted, err
		}
		if err := pause(ctx, min(tries, 6)); err != nil {
			return deleted, err
		}
	}
}

// carryOut deletes the objects of a table that owner wrote at revision, but for
// those referred to and those that a writer takes out before it is sealed.
func (s *Store) carryOut(ctx context.Context, owner string, revision uint64) (int, error) {
	for tries := 1; ; tries++ {
		snap, err := s.snapshot(ctx, keyDoomed, revision)
		if err != nil {
			return 0, err
		}
		if snap.doomed.Owner != owner {
			return 0, nil // taken over: whoever did that finishes it
		}
		if snap.doomed.Sealed {
			// Our own seal, whose acknowledgement was lost.
			return s.deleteAll(ctx, snap.doomed, snap.doomedAt)
		}
		used, err := s.references(ctx, snap)
		if err != nil {
			// Nothing may be deleted, and nobody should have to wait for us.
			_, giveUp := s.swap(ctx, keyDoomed, doomed{}.encode(), snap.doomedAt)
			return 0, errors.Join(err, giveUp)
		}
		next := doomed{Owner: owner, Sealed: true}
		for _, digest := range snap.doomed.Digests {
			if !used[digest] {
				next.Digests = append(next.Digests, digest)
			}
		}
		if len(next.Digests) == 0 {
			next = doomed{}
		}
		sealed, err := s.swap(ctx, keyDoomed, next.encode(), snap.doomedAt)
		if err == nil && len(next.Digests) == 0 {
			return 0, nil
		}
		if err == nil {
			return s.deleteAll(ctx, next, sealed)
		}
		if !isConflict(err) && tries >= 5 {
			return 0, err
		}
		if err := pause(ctx, tries); err != nil {
			return 0, err
		}
	}
}

// deleteAll deletes the objects of a sealed table and empties it.
func (s *Store) deleteAll(ctx context.Context, table doomed, revision uint64) (deleted int, err error) {
	renewed := time.Now().Round(0) // wall time: it goes on while a machine sleeps
	for len(table.Digests) > 0 {
		if time.Now().Round(0).Sub(renewed) > renewEvery {
			if revision, err = s.swap(ctx, keyDoomed, table.encode(), revision); err != nil {
				return deleted, unlessTakenOver(err)
			}
			renewed = time.Now().Round(0)
		}
		digest := table.Digests[0]
		err := s.objects.Delete(ctx, digest)
		if err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
			return deleted, fmt.Errorf("delete object %.12s: %w", digest, err)
		}
		table.Digests = table.Digests[1:]
		deleted++
	}
	_, err = s.swap(ctx, keyDoomed, doomed{}.encode(), revision)
	return deleted, unlessTakenOver(err)
}

// unlessTakenOver drops the error of a collector that someone believed dead:
// whoever took the table over finishes it.
func unlessTakenOver(err error) error {
	if isConflict(err) {
		return nil
	}
	return err
}

// references returns every object that a version in the snapshot refers to.
func (s *Store) references(ctx context.Context, snap *snapshot) (map[string]bool, error) {
	used := make(map[string]bool)
	for _, e := range snap.entries {
		for _, v := range e.Versions {
			used[v.Digest] = true
			parts, err := s.parts(ctx, v)
			if err != nil {
				ref := FormatRef(e.Name, v.Version)
				return nil, fmt.Errorf("can't tell what %s refers to: %w: `idunno sdfs rm %s` if it is lost", ref, err, ref)
			}
			for _, p := range parts {
				used[p.Digest] = true
			}
		}
	}
	return used, nil
}

// parts reads the parts of a bundle's version.
func (s *Store) parts(ctx context.Context, v Version) ([]Object, error) {
	if !v.Bundle {
		return nil, nil
	}
	var manifest bytes.Buffer
	if _, err := s.copyObject(ctx, v.Digest, MaxManifest, &manifest); err != nil {
		return nil, err
	}
	return partsOf(manifest.Bytes())
}

// stillness notices that something has had the same revision for a while, by
// this process's own clock: other clocks may be wrong.
type stillness struct {
	revision uint64
	since    time.Time
}

func (st *stillness) lasted(revision uint64, d time.Duration) bool {
	if revision != st.revision {
		st.revision, st.since = revision, time.Now()
	}
	return time.Since(st.since) >= d
}

// rescue makes sure that no object of a version that was just written to the
// index, at revision of key, is deleted. It returns the table's revision, and
// whether any of the objects may be gone already.
func (s *Store) rescue(ctx context.Context, key string, revision uint64, digests map[string]bool) (hit bool, at uint64, err error) {
	var still stillness
	for tries := 1; ; tries++ {
		snap, seen, err := s.readIndex(ctx, []string{key, keyDoomed}, key)
		if err != nil {
			return hit, 0, err
		}
		if seen >= revision {
			var others []string
			for _, digest := range snap.doomed.Digests {
				if !digests[digest] {
					others = append(others, digest)
				}
			}
			if len(others) == len(snap.doomed.Digests) {
				return hit, snap.doomedAt, nil
			}
			hit = true
			if !snap.doomed.Sealed || still.lasted(snap.doomedAt, s.stale) {
				next := snap.doomed
				next.Digests, next.Sealed = others, false
				if len(others) == 0 {
					next = doomed{}
				}
				if snap.doomed.Sealed {
					next.Owner = "" // its owner died: the next collector finishes the rest
				}
				_, err := s.swap(ctx, keyDoomed, next.encode(), snap.doomedAt)
				if err != nil && !isConflict(err) {
					return hit, 0, err
				}
			}
		}
		if err := pause(ctx, tries); err != nil {
			return hit, 0, err
		}
	}
}
