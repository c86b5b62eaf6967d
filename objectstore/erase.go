package objectstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Erase removes a file with its entry in the index, as if it had never been: a file
// of that name would begin again at version 1. It is for names that are never used
// again; entries of removed files would pile up. A file that isn't there is no error,
// and one that is stored again meanwhile stays.
func (s *Store) Erase(ctx context.Context, name string) error {
	if err := s.Remove(ctx, name); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	for failed := 0; ; {
		e, revision, err := s.load(ctx, name)
		if err == nil && (revision == 0 || len(e.Versions) > 0) {
			return nil
		}
		if err == nil {
			if err = s.index.Delete(ctx, keyOf(name), jetstream.LastRevision(revision)); err == nil {
				return nil
			}
		}
		if failed++; ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if failed >= 5 || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrTooLarge) {
			return fmt.Errorf("erase %s: %w", name, err)
		}
		if err := pause(ctx, failed); err != nil {
			return err
		}
	}
}

// Object returns the bytes of an object that has at most limit of them. It returns
// [ErrTooLarge] when it has more, [ErrNotFound], [ErrCorrupt], [ErrInterrupted] or
// [ErrBadName].
func (s *Store) Object(ctx context.Context, digest string, limit int64) ([]byte, error) {
	var buf sliceWriter
	if _, err := s.copyObject(ctx, digest, limit, &buf); err != nil {
		return nil, err
	}
	return buf, nil
}

// sliceWriter keeps what is written to it.
type sliceWriter []byte

func (w *sliceWriter) Write(p []byte) (int, error) {
	*w = append(*w, p...)
	return len(p), nil
}
