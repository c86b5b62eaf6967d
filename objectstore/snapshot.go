package objectstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// snapshot is the index at one moment.
type snapshot struct {
	entries []*entry
	doomed  doomed
	// doomedAt is the revision of the table of doomed objects, 0 if never written.
	doomedAt uint64
}

// snapshot reads the whole index, no older than revision of key: a replica that
// answers may lag behind the one that took a write, so a snapshot that must see
// the caller's own write looks for it. An empty key asks for no such thing.
func (s *Store) snapshot(ctx context.Context, key string, revision uint64) (*snapshot, error) {
	for tries := 1; ; tries++ {
		snap, seen, err := s.readIndex(ctx, []string{keyFiles, keyDoomed}, key)
		if err != nil {
			return nil, err
		}
		if seen >= revision {
			slices.SortFunc(snap.entries, func(a, b *entry) int { return cmp.Compare(a.Name, b.Name) })
			return snap, nil
		}
		if err := pause(ctx, tries); err != nil {
			return nil, err
		}
	}
}

// readIndex reads the keys that match and returns the revision at which it saw key.
func (s *Store) readIndex(ctx context.Context, keys []string, key string) (_ *snapshot, seen uint64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, opWait, fmt.Errorf("read index: %w", ErrInterrupted))
	defer cancel()
	w, err := s.index.WatchFiltered(ctx, keys)
	if err != nil {
		return nil, 0, fmt.Errorf("read index: %w", err)
	}
	defer stopWatch[jetstream.KeyValueEntry](w)
	snap := &snapshot{}
	for {
		select {
		case <-ctx.Done():
			return nil, 0, context.Cause(ctx)
		case kve, open := <-w.Updates():
			if !open {
				return nil, 0, fmt.Errorf("read index: %w", ErrInterrupted)
			}
			if kve == nil {
				return snap, seen, nil
			}
			if kve.Key() == key {
				seen = kve.Revision()
			}
			if err := snap.take(kve); err != nil {
				return nil, 0, err
			}
		}
	}
}

func (snap *snapshot) take(kve jetstream.KeyValueEntry) error {
	if kve.Key() == keyDoomed {
		snap.doomedAt = kve.Revision()
		if kve.Operation() != jetstream.KeyValuePut {
			return nil
		}
		d, err := decodeDoomed(kve.Value())
		snap.doomed = d
		return err
	}
	if kve.Operation() != jetstream.KeyValuePut {
		return nil
	}
	e, err := decodeEntry(kve.Value())
	if err != nil {
		return err
	}
	if keyOf(e.Name) != kve.Key() {
		return fmt.Errorf("index entry %s is of %s: %w", kve.Key(), e.Name, ErrCorrupt)
	}
	snap.entries = append(snap.entries, e)
	return nil
}

// stopWatch ends a watch and takes what is still on its way: the client's
// goroutine would wait for ever to hand it over.
func stopWatch[T any](w interface {
	Updates() <-chan T
	Stop() error
}) {
	if w.Stop() != nil {
		return
	}
	for range w.Updates() {
	}
}
