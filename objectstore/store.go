package objectstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// KeepVersions is how many versions of a file are always kept.
	KeepVersions = 5
	// KeepFor is how long any version is kept: work that was admitted with a
	// version's digest must find its bytes.
	KeepFor = 24 * time.Hour
)

// Store is a file store on an object bucket and an index bucket. Its methods
// may be called from several goroutines, and any number of processes may have
// the same store open.
type Store struct {
	objects Objects
	index   jetstream.KeyValue
	// now is the clock and stale how long a deleter may seem dead; tests turn both.
	now   func() time.Time
	stale time.Duration
}

// Objects is a bucket of objects whose chunks can be read one by one.
type Objects interface {
	jetstream.ObjectStore
	// Chunk reads the first chunk, from place from of the bucket's stream on, of
	// the object whose chunks have the identifier id. It returns
	// [jetstream.ErrMsgNotFound] when there is none.
	Chunk(ctx context.Context, id string, from uint64) (*jetstream.RawStreamMsg, error)
	// Stream is the stream that the bucket stands on.
	Stream() jetstream.Stream
}

// Open makes a store of two buckets that exist already.
func Open(objects Objects, index jetstream.KeyValue) *Store {
	return &Store{objects: objects, index: index, now: time.Now, stale: staleAfter}
}

// Object is stored bytes by their content.
type Object struct {
	// Digest is the SHA-256 of the bytes in lower-case hexadecimal.
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// Put stores what r brings as the newest version of the file. When the newest
// version has the same contents already, Put returns that one. Until the new
// version is whole the older ones stay what is read. It returns [ErrBadName],
// [ErrTooLarge], [ErrTooManyVersions], [ErrChanged], [ErrBusy].
func (s *Store) Put(ctx context.Context, name string, r io.Reader) (Version, error) {
	return s.PutReporting(ctx, name, r, nil)
}

// PutReporting is Put that tells, from this goroutine, how many bytes have been
// read for the digest and how many of those have been sent. An upload that begins
// again begins at 0, and contents that are there already are not sent.
func (s *Store) PutReporting(ctx context.Context, name string, r io.Reader, report func(read, sent int64)) (Version, error) {
	if err := CheckName(name); err != nil {
		return Version{}, err
	}
	sp, err := newSpool(ctx, r, report)
	if err != nil {
		return Version{}, err
	}
	defer sp.close()
	v := Version{Digest: sp.Digest, Size: sp.Size}
	return s.publish(ctx, name, v, nil, func() error { return s.ensure(ctx, sp) })
}

// PutObject stores what r brings as an object without a name, for a bundle that
// will list it. An object that no bundle lists within a day is deleted.
func (s *Store) PutObject(ctx context.Context, r io.Reader) (Object, error) {
	sp, err := newSpool(ctx, r, nil)
	if err != nil {
		return Object{}, err
	}
	defer sp.close()
	return sp.Object, s.ensure(ctx, sp)
}

// publish makes v, with its parts, the newest version of the file. Ensure makes
// sure that all of its objects are stored, once they are held.
func (s *Store) publish(ctx context.Context, name string, v Version, parts []Object, ensure func() error) (Version, error) {
	v.ID = rand.Text()
	ref, digests := refOf(name, v.ID), digestsOf(v.Digest, parts)
	added, dropped, err := Version{}, []Version(nil), s.holdAll(ctx, digests, ref)
	if err == nil {
		err = ensure()
	}
	if err == nil {
		added, dropped, err = s.add(ctx, name, v)
	}
	if err != nil || added.ID != v.ID {
		// Also when the caller has gone; Sweep sees to what can't be let go now.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), opWait)
		defer cancel()
		if !s.inIndex(ctx, name, v.ID) {
			_ = s.letGo(ctx, digests, ref)
		}
		if err != nil {
			return Version{}, err
		}
		return added, nil
	}
	// The version is stored, whatever becomes of the old ones: what can't be
	// deleted now is left to Sweep.
	_ = s.discard(ctx, name, dropped)
	return added, nil
}

// inIndex reports whether the index has a version, or can't be asked.
func (s *Store) inIndex(ctx context.Context, name, id string) bool {
	e, _, err := s.load(ctx, name)
	return err != nil || slices.ContainsFunc(e.Versions, func(v Version) bool { return v.ID == id })
}

// add writes a version into the index. It returns the version with its number,
// or the newest one if that has the same contents, and the versions that made
// room.
func (s *Store) add(ctx context.Context, name string, v Version) (_ Version, dropped []Version, err error) {
	err = s.change(ctx, name, func(e *entry) error {
		newest := e.find(0)
		if newest != nil && newest.Digest == v.Digest && newest.Bundle == v.Bundle {
			if newest.ID != v.ID {
				dropped = nil
			} // else it is our own write, whose acknowledgement was lost
			v = *newest
			return errUnchanged
		}
		if e.Next > maxVersion {
			return fmt.Errorf("%w: %s has had %d: use another name", ErrTooManyVersions, name, maxVersion)
		}
		v.Version, v.Created = e.Next, s.now().UTC()
		e.Next++
		e.Versions = append(e.Versions, v)
		dropped = e.prune(KeepVersions, v.Created.Add(-KeepFor))
		if len(e.Versions) > maxVersions {
			return fmt.Errorf("%w: %s has %d younger than %v: remove some with `idunno sdfs rm %s@N`", ErrTooManyVersions, name, maxVersions, KeepFor, name)
		}
		return nil
	})
	return v, dropped, err
}

// Get writes the contents of a file's version to w, "name" for the newest or
// "name@3". What was written before an error must be thrown away: the digest is
// known at the end only. It returns [ErrBadName], [ErrNotFound], [ErrCorrupt],
// [ErrInterrupted].
func (s *Store) Get(ctx context.Context, ref string, w io.Writer) (Version, error) {
	v, err := s.Resolve(ctx, ref)
	if err != nil {
		return v, err
	}
	if _, err := s.copyObject(ctx, v.Digest, MaxObject, w); err != nil {
		return v, fmt.Errorf("%s: %w", ref, err)
	}
	return v, nil
}

// ReadObject writes an object to w and returns its size in bytes. Its errors
// and what they mean for w are those of [Store.Get].
func (s *Store) ReadObject(ctx context.Context, digest string, w io.Writer) (int64, error) {
	return s.copyObject(ctx, digest, MaxObject, w)
}

// ReadHead returns an object's first bytes, at most n. They are not checked against
// the digest, which takes all of them. Its errors are those of [Store.Get].
func (s *Store) ReadHead(ctx context.Context, digest string, n int) ([]byte, error) {
	h := &head{most: n}
	_, err := s.copyObject(ctx, digest, MaxObject, h)
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return h.data, nil
}

// head keeps the first bytes that are written to it and then has enough.
type head struct {
	data []byte
	most int
}

var errEnough = errors.New("read enough")

func (h *head) Write(p []byte) (int, error) {
	n := min(len(p), h.most-len(h.data))
	if h.data = append(h.data, p[:n]...); len(h.data) >= h.most {
		return n, errEnough
	}
	return n, nil
}

// Resolve finds the version that ref names. It returns [ErrBadName] or [ErrNotFound].
func (s *Store) Resolve(ctx context.Context, ref string) (Version, error) {
	name, number, err := ParseRef(ref)
	if err != nil {
		return Version{}, err
	}
	e, _, err := s.load(ctx, name)
	if err != nil {
		return Version{}, err
	}
	v := e.find(number)
	if v == nil {
		return Version{}, missing(e, number)
	}
	return *v, nil
}

func missing(e *entry, number int) error {
	if len(e.Versions) == 0 {
		return fmt.Errorf("%s: %w: `idunno sdfs ls` shows what is there", e.Name, ErrNotFound)
	}
	return fmt.Errorf("%s: %w: the newest version is %d; `idunno sdfs versions %s` shows all",
		FormatRef(e.Name, number), ErrNotFound, e.find(0).Version, e.Name)
}

// Versions lists the versions of a file, newest first. It returns [ErrNotFound].
func (s *Store) Versions(ctx context.Context, name string) ([]Version, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	e, _, err := s.load(ctx, name)
	if err != nil {
		return nil, err
	}
	if len(e.Versions) == 0 {
		return nil, missing(e, 0)
	}
	out := slices.Clone(e.Versions)
	slices.Reverse(out)
	return out, nil
}

// List lists the files whose names begin with prefix, by name.
func (s *Store) List(ctx context.Context, prefix string) ([]File, error) {
	entries, err := s.entries(ctx)
	if err != nil {
		return nil, err
	}
	files := []File{}
	for _, e := range entries {
		if len(e.Versions) > 0 && strings.HasPrefix(e.Name, prefix) {
			files = append(files, e.file())
		}
	}
	return files, nil
}

// Remove removes a file, or with "name@3" one version of it, and deletes the
// contents that nothing else refers to. It returns [ErrBadName] or [ErrNotFound].
func (s *Store) Remove(ctx context.Context, ref string) error {
	name, number, err := ParseRef(ref)
	if err != nil {
		return err
	}
	var dropped []Version
	err = s.change(ctx, name, func(e *entry) error {
		if e.find(number) == nil {
			// Unless it was our own write, whose acknowledgement was lost.
			if dropped != nil {
				return errUnchanged
			}
			return missing(e, number)
		}
		dropped = nil
		e.Versions = slices.DeleteFunc(e.Versions, func(v Version) bool {
			gone := number == 0 || v.Version == number
			if gone {
				dropped = append(dropped, v)
			}
			return gone
		})
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.discard(ctx, name, dropped); err != nil {
		return fmt.Errorf("%s is removed, but its contents still take space: %w", ref, err)
	}
	return nil
}
