package objectstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// entries reads the whole index, by name.
func (s *Store) entries(ctx context.Context) ([]*entry, error) {
	byName := make(map[string]*entry)
	err := s.watchAll(ctx, keyFiles, func(kve jetstream.KeyValueEntry) error {
		e, err := decodeEntry(kve.Value())
		if err != nil {
			return err
		}
		if keyOf(e.Name) != kve.Key() {
			return fmt.Errorf("index entry %s is of %s: %w", kve.Key(), e.Name, ErrCorrupt)
		}
		byName[e.Name] = e
		return nil
	})
	if err != nil {
		return nil, err
	}
	list := make([]*entry, 0, len(byName))
	for _, e := range byName {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b *entry) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// watchAll calls fn for every key that matches and has a value; for one that
// changes meanwhile perhaps twice. A watch may pass over a key that is being
// rewritten while others are, so it is read again when there were changes.
func (s *Store) watchAll(ctx context.Context, keys string, fn func(jetstream.KeyValueEntry) error) error {
	for tries := 1; ; tries++ {
		status, err := s.index.Status(ctx)
		if err != nil {
			return fmt.Errorf("read index: %w", err)
		}
		last, err := s.watchOnce(ctx, keys, fn)
		if err != nil {
			return err
		}
		bucket, ok := status.(*jetstream.KeyValueBucketStatus)
		if !ok || last <= bucket.StreamInfo().State.LastSeq || tries >= 5 {
			return nil
		}
	}
}

func (s *Store) watchOnce(ctx context.Context, keys string, fn func(jetstream.KeyValueEntry) error) (last uint64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := s.index.Watch(ctx, keys)
	if err != nil {
		return 0, fmt.Errorf("read index: %w", err)
	}
	defer stopWatch[jetstream.KeyValueEntry](w)
	for {
		wait, stop := context.WithTimeoutCause(ctx, opWait, fmt.Errorf("read index: %w", ErrInterrupted))
		select {
		case <-wait.Done():
			stop()
			return 0, context.Cause(wait)
		case kve, open := <-w.Updates():
			stop()
			if !open {
				return 0, fmt.Errorf("read index: %w", ErrInterrupted)
			}
			if kve == nil {
				return last, nil
			}
			last = max(last, kve.Revision())
			if kve.Operation() != jetstream.KeyValuePut {
				continue
			}
			if err := fn(kve); err != nil {
				return 0, err
			}
		}
	}
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
