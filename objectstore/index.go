package objectstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	indexSchema = 1
	// maxVersions keeps an index entry far below the 1 MiB of a message.
	maxVersions = 1000
	maxEntry    = 1 << 20
)

// Version is one version of a file.
type Version struct {
	// Version counts from 1 and is never used again, also after the file was removed.
	Version int `json:"version"`
	// Digest is the SHA-256 of the contents in lower-case hexadecimal.
	Digest string `json:"digest"`
	// Size is the contents' size in bytes; for a bundle, that of its manifest.
	Size    int64     `json:"size"`
	Created time.Time `json:"created"`
	// Bundle says that the contents list Parts other objects of PartsSize bytes in all.
	Bundle    bool  `json:"bundle,omitempty"`
	Parts     int   `json:"parts,omitempty"`
	PartsSize int64 `json:"parts_size,omitempty"`
	// ID is how the version is known to the objects that it refers to.
	ID string `json:"id"`
}

// File is a file and its newest version.
type File struct {
	Name   string  `json:"name"`
	Newest Version `json:"newest"`
	// Versions is the number of versions kept, Bytes their size with all parts;
	// contents that versions share count each time.
	Versions int   `json:"versions"`
	Bytes    int64 `json:"bytes"`
}

// entry is what the index holds for a file: its versions, oldest first, and the
// number of the next one. A removed file keeps its entry, without versions, so
// that no number comes twice.
type entry struct {
	Schema   int       `json:"v"`
	Name     string    `json:"name"`
	Next     int       `json:"next"`
	Versions []Version `json:"versions"`
}

func (e *entry) encode() []byte {
	p, _ := json.Marshal(e) // strings, numbers and times of this program's making always marshal
	return p
}

// decodeEntry reads an index entry and checks everything the store relies on.
func decodeEntry(p []byte) (*entry, error) {
	if len(p) > maxEntry {
		return nil, fmt.Errorf("index entry of %d bytes: %w", len(p), ErrTooLarge)
	}
	var e entry
	if err := json.Unmarshal(p, &e); err != nil {
		return nil, fmt.Errorf("decode index entry: %v: %w", err, ErrCorrupt)
	}
	if e.Schema != indexSchema {
		return nil, fmt.Errorf("index entry has version %d, this program reads %d: run the same version everywhere", e.Schema, indexSchema)
	}
	if err := CheckName(e.Name); err != nil {
		return nil, fmt.Errorf("decode index entry: %v: %w", err, ErrCorrupt)
	}
	last := 0
	for _, v := range e.Versions {
		if v.Version <= last || !isDigest(v.Digest) || v.ID == "" || v.Size < 0 || v.Parts < 0 || v.PartsSize < 0 {
			return nil, fmt.Errorf("decode index entry of %s: version %d after %d, digest %.80q: %w", e.Name, v.Version, last, v.Digest, ErrCorrupt)
		}
		if _, err := v.Created.MarshalJSON(); err != nil {
			return nil, fmt.Errorf("decode index entry of %s: %v: %w", e.Name, err, ErrCorrupt)
		}
		last = v.Version
	}
	if e.Next <= last || e.Next > maxVersion+1 {
		return nil, fmt.Errorf("decode index entry of %s: next version %d after %d: %w", e.Name, e.Next, last, ErrCorrupt)
	}
	return &e, nil
}

// find returns a version, the newest for 0, or nil.
func (e *entry) find(version int) *Version {
	if version == 0 && len(e.Versions) > 0 {
		return &e.Versions[len(e.Versions)-1]
	}
	for i := range e.Versions {
		if e.Versions[i].Version == version {
			return &e.Versions[i]
		}
	}
	return nil
}

// prune drops the versions that are neither among the newest keep nor younger
// than age, and returns them.
func (e *entry) prune(keep int, oldest time.Time) (dropped []Version) {
	var kept []Version
	for i, v := range e.Versions {
		if i < len(e.Versions)-keep && v.Created.Before(oldest) {
			dropped = append(dropped, v)
		} else {
			kept = append(kept, v)
		}
	}
	e.Versions = kept
	return dropped
}

func (e *entry) file() File {
	f := File{Name: e.Name, Versions: len(e.Versions), Newest: *e.find(0)}
	for _, v := range e.Versions {
		f.Bytes += v.Size + v.PartsSize
	}
	return f
}

// load reads a file's entry and its revision; a file never stored has an empty
// entry at revision 0.
func (s *Store) load(ctx context.Context, name string) (*entry, uint64, error) {
	kve, err := s.index.Get(ctx, keyOf(name))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return &entry{Schema: indexSchema, Name: name, Next: 1}, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read index of %s: %w", name, err)
	}
	e, err := decodeEntry(kve.Value())
	if err != nil {
		return nil, 0, err
	}
	if e.Name != name {
		return nil, 0, fmt.Errorf("index entry of %s is of %s: %w", name, e.Name, ErrCorrupt)
	}
	return e, kve.Revision(), nil
}

// errUnchanged leaves an entry as it is.
var errUnchanged = errors.New("unchanged")

// maxTries bounds how often a change is tried. Each round somebody wins, so
// that many processes would have to change one file at the same moment.
const maxTries = 200

// change applies fn to a file's entry and writes it if no one else has written
// it meanwhile, or tries again. A write whose acknowledgement was lost is tried
// again, so fn must recognise its own work; it returns errUnchanged when there
// is nothing to write.
func (s *Store) change(ctx context.Context, name string, fn func(*entry) error) error {
	for failed := 0; ; {
		e, revision, err := s.load(ctx, name)
		if err == nil {
			if err := fn(e); errors.Is(err, errUnchanged) {
				return nil
			} else if err != nil {
				return err
			}
			if _, err = s.swap(ctx, keyOf(name), e.encode(), revision); err == nil {
				return nil
			}
		}
		failed++
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, ErrCorrupt), errors.Is(err, ErrTooLarge):
			return err
		case isFull(err):
			return fmt.Errorf("change %s: %w", name, ErrFull)
		case isConflict(err) && failed >= maxTries:
			return fmt.Errorf("change %s: %w: try again", name, ErrBusy)
		case !isConflict(err) && failed >= 5:
			return fmt.Errorf("change %s: %w", name, err)
		}
		if err := pause(ctx, failed); err != nil {
			return err
		}
	}
}

// swap writes a key if it has the given revision, 0 meaning that it is new.
func (s *Store) swap(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	if revision == 0 {
		return s.index.Create(ctx, key, value)
	}
	return s.index.Update(ctx, key, value, revision)
}

// isConflict reports whether a write lost against another one.
func isConflict(err error) bool {
	const replicated = 10164 // the same refusal from a replicated stream
	if errors.Is(err, jetstream.ErrKeyExists) {
		return true
	}
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == replicated)
}

// isFull reports whether there was no room for a write: in the account, on the
// server, or in the bucket.
func isFull(err error) bool {
	const account, server, storage, failed = 10002, 10023, 10047, 10077
	var api *jetstream.APIError
	if errors.Is(err, ErrFull) {
		return true
	}
	if !errors.As(err, &api) {
		return false
	}
	switch api.ErrorCode {
	case account, server, storage:
		return true
	case failed:
		return strings.Contains(api.Description, "maximum bytes exceeded") || strings.Contains(api.Description, "no space left")
	}
	return false
}

// pause waits a moment that grows with the number of failed tries, with jitter.
func pause(ctx context.Context, failed int) error {
	most := min(time.Millisecond<<min(failed, 10), 200*time.Millisecond)
	timer := time.NewTimer(time.Duration(rand.Int64N(int64(most))))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
