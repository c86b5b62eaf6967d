package objectstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// orphanAge is how old the last chunk of an upload without a description must
// be to be deleted. It is far above maxStall, after which an upload gives up.
const orphanAge = time.Hour

// Swept counts what [Store.Sweep] deleted.
type Swept struct {
	// References were those of versions that are not in the index.
	References int `json:"references"`
	// Objects were whole but nothing referred to them.
	Objects int `json:"objects"`
	// Uploads died half-way, with Chunks messages stored.
	Uploads int    `json:"uploads"`
	Chunks  uint64 `json:"chunks"`
}

// Sweep deletes what was left behind: references of versions that never came
// into the index or left it, objects that nothing has referred to for a day, and
// the chunks of uploads that stopped an hour ago. It may run at any time, from
// any process; once an hour is plenty.
func (s *Store) Sweep(ctx context.Context) (Swept, error) {
	var swept Swept
	err := s.watchAll(ctx, keyRecords, func(kve jetstream.KeyValueEntry) error {
		return s.sweepRecord(ctx, kve, &swept)
	})
	if err != nil {
		return swept, err
	}
	infos, err := s.list(ctx)
	if err != nil {
		return swept, err
	}
	for _, info := range infos {
		if !isDigest(info.Name) || s.now().Sub(info.ModTime) < KeepFor {
			continue
		}
		erased, err := s.release(ctx, info.Name, "")
		if err != nil {
			return swept, err
		}
		if erased {
			swept.Objects++
		}
	}
	err = s.sweepUploads(ctx, &swept)
	return swept, err
}

// sweepRecord takes away an object's references that lead nowhere, and finishes
// the work of a deleter that died.
func (s *Store) sweepRecord(ctx context.Context, kve jetstream.KeyValueEntry, swept *Swept) error {
	digest := strings.TrimPrefix(kve.Key(), keyRecord)
	r, err := decodeRecord(kve.Value())
	if err != nil || !isDigest(digest) {
		return fmt.Errorf("record %.80s: %w", kve.Key(), cmp.Or(err, ErrCorrupt))
	}
	if r.Deleter != "" && s.now().Sub(kve.Created()) > orphanAge {
		me := rand.Text()
		r.Deleter = me
		revision, err := s.swap(ctx, kve.Key(), r.encode(), kve.Revision())
		if isConflict(err) {
			return nil
		}
		if err != nil {
			return err
		}
		existed, err := s.erase(ctx, digest, revision)
		if existed && err == nil {
			swept.Objects++
		}
		return err
	}
	if len(r.Refs) == 0 && r.Deleter == "" && s.now().Sub(kve.Created()) > KeepFor {
		erased, err := s.release(ctx, digest, "")
		if erased && err == nil {
			swept.Objects++
		}
		return err
	}
	for ref, since := range r.Refs {
		name, id, _ := strings.Cut(ref, "#")
		if s.now().Sub(time.Unix(since, 0)) < KeepFor || s.inIndex(ctx, name, id) {
			continue
		}
		erased, err := s.release(ctx, digest, ref)
		if err != nil {
			return err
		}
		swept.References++
		if erased {
			swept.Objects++
		}
	}
	return nil
}

// sweepUploads deletes chunks that belong to no object. An upload writes its
// chunks first and the object's description last, so that one that dies leaves
// chunks that nothing leads to.
func (s *Store) sweepUploads(ctx context.Context, swept *Swept) error {
	status, err := s.objects.Status(ctx)
	if err != nil {
		return fmt.Errorf("read object bucket: %w", err)
	}
	bucket, ok := status.(*jetstream.ObjectBucketStatus)
	if !ok {
		return nil
	}
	cfg := bucket.StreamInfo().Config
	prefix, ok := chunkPrefix(cfg.Subjects)
	if !ok {
		return fmt.Errorf("the object bucket keeps its chunks in an unknown way: %q", cfg.Subjects)
	}
	stream := s.objects.Stream()
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(prefix+">"))
	if err != nil {
		return fmt.Errorf("list chunks: %w", err)
	}
	// Read after the chunks: an upload that ended in between counts as whole.
	objects, err := s.list(ctx)
	if err != nil {
		return err
	}
	whole := make(map[string]bool)
	for _, o := range objects {
		whole[prefix+o.NUID] = true
	}
	for subject, chunks := range info.State.Subjects {
		if whole[subject] {
			continue
		}
		last, err := stream.GetLastMsgForSubject(ctx, subject)
		if err != nil || s.now().Sub(last.Time) < orphanAge {
			continue // gone meanwhile, or perhaps still under way
		}
		if err := stream.Purge(ctx, jetstream.WithPurgeSubject(subject)); err != nil {
			return fmt.Errorf("delete the leavings of an upload: %w", err)
		}
		swept.Uploads++
		swept.Chunks += chunks
	}
	return nil
}

// chunkPrefix finds, among the subjects of an object bucket, what those of
// chunks begin with: by the format's specification (NATS ADR-20) the token
// before the last is "C" for chunks and "M" for descriptions.
func chunkPrefix(subjects []string) (string, bool) {
	for _, subject := range subjects {
		if prefix, ok := strings.CutSuffix(subject, ">"); ok && strings.HasSuffix(prefix, ".C.") {
			return prefix, true
		}
	}
	return "", false
}
