package objectstore

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// staleAfter is how long a record must stand still in deletion until
	// whoever deletes it is taken for dead. Deleting takes milliseconds.
	staleAfter = 10 * time.Second
	// maxRefs keeps a record below the 1 MiB of a message.
	maxRefs = 3000
	// parallel is how many objects of a bundle are looked after at a time.
	parallel = 8
)

// record says who refers to an object. One that nothing ever referred to has
// no record.
type record struct {
	Schema int `json:"v"`
	// Refs has an entry a version that refers to the object, "name#id", with the
	// Unix time in seconds at which it began to.
	Refs map[string]int64 `json:"refs,omitempty"`
	// Deleter is set while the object is being deleted; Refs is empty then.
	Deleter string `json:"deleter,omitempty"`
}

func (r *record) encode() []byte {
	r.Schema = indexSchema
	p, _ := json.Marshal(r) // strings and numbers always marshal
	return p
}

func decodeRecord(p []byte) (*record, error) {
	if len(p) > maxEntry {
		return nil, fmt.Errorf("record of %d bytes: %w", len(p), ErrTooLarge)
	}
	var r record
	if err := json.Unmarshal(p, &r); err != nil {
		return nil, fmt.Errorf("decode record: %v: %w", err, ErrCorrupt)
	}
	if r.Schema != indexSchema {
		return nil, fmt.Errorf("record has version %d, this program reads %d: run the same version everywhere", r.Schema, indexSchema)
	}
	if r.Deleter != "" && len(r.Refs) > 0 {
		return nil, fmt.Errorf("decode record: in deletion with %d references: %w", len(r.Refs), ErrCorrupt)
	}
	for ref := range r.Refs {
		name, id, _ := strings.Cut(ref, "#")
		if id == "" || CheckName(name) != nil {
			return nil, fmt.Errorf("decode record: reference %.80q: %w", ref, ErrCorrupt)
		}
	}
	return &r, nil
}

// refOf is how a version of a file appears in the records of its objects.
func refOf(name, id string) string { return name + "#" + id }

func (s *Store) loadRecord(ctx context.Context, digest string) (*record, uint64, error) {
	kve, err := s.index.Get(ctx, keyRecord+digest)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return &record{}, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read record of object %.12s: %w", digest, err)
	}
	r, err := decodeRecord(kve.Value())
	if err != nil {
		return nil, 0, fmt.Errorf("object %.12s: %w", digest, err)
	}
	return r, kve.Revision(), nil
}

// changeRecord applies fn to an object's record and writes it if no one else
// has written it meanwhile, or tries again. Like with change, fn must recognise
// its own work. It returns the revision written, or read if fn returned
// errUnchanged.
func (s *Store) changeRecord(ctx context.Context, digest string, fn func(r *record, revision uint64) error) (uint64, error) {
	for failed, waits := 0, 0; ; {
		r, revision, err := s.loadRecord(ctx, digest)
		if err == nil {
			err = fn(r, revision)
			if errors.Is(err, errUnchanged) {
				return revision, nil
			}
			if err == nil {
				var written uint64
				if written, err = s.swap(ctx, keyRecord+digest, r.encode(), revision); err == nil {
					return written, nil
				}
			}
		}
		if isFull(err) {
			err = ErrFull
		}
		switch {
		case ctx.Err() != nil:
			return 0, context.Cause(ctx)
		case errors.Is(err, errWait):
			waits++
		case isConflict(err) && failed < maxTries:
			failed++
		case errors.Is(err, ErrCorrupt), errors.Is(err, ErrTooLarge), errors.Is(err, ErrTooManyVersions), errors.Is(err, ErrFull), failed >= 5:
			return 0, fmt.Errorf("change record of object %.12s: %w", digest, err)
		default:
			failed++
		}
		if err := pause(ctx, max(failed, min(waits, 5))); err != nil {
			return 0, err
		}
	}
}

// errWait makes changeRecord look again a little later.
var errWait = errors.New("wait")

// hold adds a reference to an object. From then on the object isn't deleted, or
// has been: the caller makes sure that it is there after holding it, not before.
func (s *Store) hold(ctx context.Context, digest, ref string) error {
	var seen uint64
	var since time.Time
	_, err := s.changeRecord(ctx, digest, func(r *record, revision uint64) error {
		if _, mine := r.Refs[ref]; mine {
			return errUnchanged
		}
		if r.Deleter != "" {
			// By this process's own clock: others may be wrong.
			if seen != revision {
				seen, since = revision, time.Now()
			}
			if time.Since(since) < s.stale {
				return errWait
			}
			r.Deleter = ""
		}
		if len(r.Refs) >= maxRefs {
			return fmt.Errorf("%w: %d have the same contents", ErrTooManyVersions, len(r.Refs))
		}
		if r.Refs == nil {
			r.Refs = make(map[string]int64)
		}
		r.Refs[ref] = s.now().Unix()
		return nil
	})
	return err
}

// release takes a reference away, "" for none, and deletes the object if nothing
// refers to it then. It reports whether it deleted one.
func (s *Store) release(ctx context.Context, digest, ref string) (erased bool, err error) {
	me := rand.Text()
	var last bool
	revision, err := s.changeRecord(ctx, digest, func(r *record, _ uint64) error {
		last = r.Deleter == me // our own write, whose acknowledgement was lost
		_, held := r.Refs[ref]
		if r.Deleter != "" || ref != "" && !held {
			return errUnchanged
		}
		delete(r.Refs, ref)
		if last = len(r.Refs) == 0; last {
			r.Deleter = me
		} else if !held {
			return errUnchanged
		}
		return nil
	})
	if err != nil || !last {
		return false, err
	}
	return s.erase(ctx, digest, revision)
}

// erase deletes an object whose record, at the given revision, says so, and
// reports whether there was one.
func (s *Store) erase(ctx context.Context, digest string, revision uint64) (existed bool, err error) {
	// A deleter that was held up lets others take over rather than delete what
	// they may have stored again.
	ctx, cancel := context.WithTimeout(ctx, s.stale/2)
	defer cancel()
	if _, err = s.objects.GetInfo(ctx, digest); err == nil {
		existed = true
		err = s.objects.Delete(ctx, digest)
	}
	if err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
		return existed, fmt.Errorf("delete object %.12s: %w", digest, err)
	}
	err = s.index.Delete(ctx, keyRecord+digest, jetstream.LastRevision(revision))
	if err != nil && !isConflict(err) {
		return existed, fmt.Errorf("delete record of object %.12s: %w", digest, err)
	}
	return existed, nil
}

// holdAll adds the reference to every object, releaseAll takes it away.
func (s *Store) holdAll(ctx context.Context, digests []string, ref string) error {
	return each(ctx, digests, func(ctx context.Context, d string) error { return s.hold(ctx, d, ref) })
}

func (s *Store) releaseAll(ctx context.Context, digests []string, ref string) error {
	return each(ctx, digests, func(ctx context.Context, d string) error {
		_, err := s.release(ctx, d, ref)
		return err
	})
}

// letGo takes a reference away from every object but deletes none: those of a
// version that could not be stored may be wanted again in a moment. What nobody
// wants is left to Sweep.
func (s *Store) letGo(ctx context.Context, digests []string, ref string) error {
	return each(ctx, digests, func(ctx context.Context, d string) error {
		_, err := s.changeRecord(ctx, d, func(r *record, _ uint64) error {
			if _, held := r.Refs[ref]; !held {
				return errUnchanged
			}
			delete(r.Refs, ref)
			return nil
		})
		return err
	})
}

// each calls fn for every item, a few at a time, and stops at the first error.
func each[T any](ctx context.Context, items []T, fn func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan T)
	var wg sync.WaitGroup
	for range min(parallel, len(items)) {
		wg.Go(func() {
			for item := range work {
				if err := fn(ctx, item); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, item := range items {
		select {
		case work <- item:
		case <-ctx.Done():
		}
	}
	close(work)
	wg.Wait()
	return context.Cause(ctx)
}

// discard takes away the references of versions that left the index.
func (s *Store) discard(ctx context.Context, name string, versions []Version) error {
	for _, v := range versions {
		digests, err := s.objectsOf(ctx, v)
		if err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		// A manifest that is lost names no parts; Sweep finds their references.
		if err := s.releaseAll(ctx, digests, refOf(name, v.ID)); err != nil {
			return err
		}
	}
	return nil
}

// objectsOf lists the digests of all objects of a version, its own in any case.
func (s *Store) objectsOf(ctx context.Context, v Version) ([]string, error) {
	if !v.Bundle {
		return []string{v.Digest}, nil
	}
	parts, err := s.parts(ctx, v)
	return digestsOf(v.Digest, parts), err
}

// digestsOf lists each digest once.
func digestsOf(own string, parts []Object) []string {
	list, seen := []string{own}, map[string]bool{own: true}
	for _, p := range parts {
		if !seen[p.Digest] {
			seen[p.Digest] = true
			list = append(list, p.Digest)
		}
	}
	return list
}
