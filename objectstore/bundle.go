package objectstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// MaxManifest is the largest manifest of a bundle in bytes.
	MaxManifest = 32 << 20
	// lookups is how many descriptions are asked for at a time.
	lookups = 8
)

// PutBundle stores a manifest as the newest version of the file. The manifest is
// a JSON object whose member "objects" lists the bundle's parts as
// [{"digest":…,"size":…},…]; each must be stored already. Parts live as long as
// a version lists them. It returns [ErrBadBundle], [ErrNotFound] when a part is
// missing, and the errors of [Store.Put].
func (s *Store) PutBundle(ctx context.Context, name string, manifest []byte) (Version, error) {
	if err := CheckName(name); err != nil {
		return Version{}, err
	}
	parts, err := partsOf(manifest)
	if err != nil {
		return Version{}, err
	}
	sp, err := newSpool(ctx, bytes.NewReader(manifest))
	if err != nil {
		return Version{}, err
	}
	defer sp.close()
	v := Version{Digest: sp.Digest, Size: sp.Size, Bundle: true, Parts: len(parts)}
	for _, p := range parts {
		v.PartsSize += p.Size
	}
	return s.publish(ctx, name, v, parts, func() error {
		if err := s.checkParts(ctx, parts); err != nil {
			return err
		}
		return s.ensure(ctx, sp)
	})
}

// partsOf reads the parts that a manifest lists. It returns [ErrBadBundle] or
// [ErrTooLarge].
func partsOf(manifest []byte) ([]Object, error) {
	if len(manifest) > MaxManifest {
		return nil, fmt.Errorf("manifest of %d bytes, allowed are %d: %w", len(manifest), MaxManifest, ErrTooLarge)
	}
	var m struct {
		Objects []Object `json:"objects"`
	}
	if err := json.Unmarshal(manifest, &m); err != nil {
		return nil, fmt.Errorf("%w: the manifest is not a JSON object with a list \"objects\" (%v)", ErrBadBundle, err)
	}
	for i, p := range m.Objects {
		if !isDigest(p.Digest) || p.Size < 0 || p.Size > MaxObject {
			return nil, fmt.Errorf("%w: part %d has digest %.80q and size %d", ErrBadBundle, i+1, p.Digest, p.Size)
		}
	}
	return m.Objects, nil
}

// checkParts makes sure that every part is stored with the size listed.
func (s *Store) checkParts(ctx context.Context, parts []Object) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan Object)
	var wg sync.WaitGroup
	for range min(lookups, len(parts)) {
		wg.Go(func() {
			for p := range work {
				if err := s.checkPart(ctx, p); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, p := range parts {
		select {
		case work <- p:
		case <-ctx.Done():
		}
	}
	close(work)
	wg.Wait()
	return context.Cause(ctx)
}

func (s *Store) checkPart(ctx context.Context, p Object) error {
	info, err := s.objects.GetInfo(ctx, p.Digest)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return fmt.Errorf("part %.12s: %w: store it before the bundle", p.Digest, ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("look up part %.12s: %w", p.Digest, err)
	}
	if info.Size != uint64(p.Size) || !describes(info, p.Digest) {
		return fmt.Errorf("%w: part %.12s has %d bytes, the manifest says %d", ErrBadBundle, p.Digest, info.Size, p.Size)
	}
	return nil
}
