package objectstore

import (
	"context"
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
	// Objects were whole but nothing referred to them.
	Objects int `json:"objects"`
	// Uploads died half-way, with Chunks messages stored.
	Uploads int    `json:"uploads"`
	Chunks  uint64 `json:"chunks"`
}

// Sweep deletes what died half-way: objects that nothing has referred to for a
// day, the leavings of uploads that stopped an hour ago, and what a collector
// that died had begun to delete. It may run at any time, from any process; once
// an hour is plenty.
func (s *Store) Sweep(ctx context.Context, js jetstream.JetStream) (Swept, error) {
	var swept Swept
	if _, err := s.collect(ctx, nil); err != nil {
		return swept, err
	}
	infos, err := s.list(ctx)
	if err != nil {
		return swept, err
	}
	snap, err := s.snapshot(ctx, "", 0)
	if err != nil {
		return swept, err
	}
	used, err := s.references(ctx, snap)
	if err != nil {
		return swept, err
	}
	var unused []string
	for _, info := range infos {
		if isDigest(info.Name) && !used[info.Name] && s.now().Sub(info.ModTime) > KeepFor {
			unused = append(unused, info.Name)
		}
	}
	if swept.Objects, err = s.collect(ctx, unused); err != nil {
		return swept, err
	}
	err = s.sweepUploads(ctx, js, &swept)
	return swept, err
}

// sweepUploads deletes chunks that belong to no object. An upload writes its
// chunks first and the object's description last, so that one that dies leaves
// chunks that nothing leads to.
func (s *Store) sweepUploads(ctx context.Context, js jetstream.JetStream, swept *Swept) error {
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
	stream, err := js.Stream(ctx, cfg.Name)
	if err != nil {
		return fmt.Errorf("open object bucket: %w", err)
	}
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
