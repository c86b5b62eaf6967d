package objectstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// MaxManifest is the largest manifest of a bundle in bytes.
const MaxManifest = 32 << 20

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
	sp, err := newSpool(ctx, bytes.NewReader(manifest), nil)
	if err != nil {
		return Version{}, err
	}
	defer sp.close()
	v := Version{Digest: sp.Digest, Size: sp.Size, Bundle: true, Parts: len(parts)}
	for _, p := range parts {
		v.PartsSize += p.Size
	}
	return s.publish(ctx, name, v, parts, func() error {
		if err := each(ctx, distinct(parts), s.checkPart); err != nil {
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

// parts reads the parts of a bundle's version.
func (s *Store) parts(ctx context.Context, v Version) ([]Object, error) {
	var manifest bytes.Buffer
	if _, err := s.copyObject(ctx, v.Digest, MaxManifest, &manifest); err != nil {
		return nil, err
	}
	return partsOf(manifest.Bytes())
}

// distinct leaves out the parts that a bundle lists again.
func distinct(parts []Object) []Object {
	seen := make(map[Object]bool, len(parts))
	return slices.DeleteFunc(slices.Clone(parts), func(p Object) bool {
		again := seen[p]
		seen[p] = true
		return again
	})
}

// checkPart makes sure that a part is stored with the size listed.
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

// HasObject reports whether an object is stored with that size. Its bytes aren't
// read.
func (s *Store) HasObject(ctx context.Context, o Object) (bool, error) {
	if err := checkDigest(o.Digest); err != nil {
		return false, err
	}
	err := s.checkPart(ctx, o)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrBadBundle) {
		return false, nil
	}
	return err == nil, err
}
