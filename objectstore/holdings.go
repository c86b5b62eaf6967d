package objectstore

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Holdings tell what is held where.
type Holdings struct {
	Files   []FileHolding   `json:"files"`
	Servers []ServerHolding `json:"servers"`
}

// FileHolding is a version of a file and the servers that hold it.
type FileHolding struct {
	Name    string `json:"name"`
	Version int    `json:"version"`
	Digest  string `json:"digest"`
	// Objects and Bytes count the contents with all parts.
	Objects int      `json:"objects"`
	Bytes   int64    `json:"bytes"`
	Servers []string `json:"servers"`
}

// ServerHolding is a server and what it holds.
type ServerHolding struct {
	Name string `json:"name"`
	// Leader takes the writes; a server that isn't Current lags behind, one that
	// is Offline doesn't answer.
	Leader  bool `json:"leader"`
	Current bool `json:"current"`
	Offline bool `json:"offline,omitempty"`
	// Objects and Bytes count different contents once; Stored is what the server
	// needs for them, in bytes, with descriptions and what is not yet cleaned up.
	Objects int    `json:"objects"`
	Bytes   int64  `json:"bytes"`
	Stored  uint64 `json:"stored"`
}

// Holdings tells which servers hold which version. The object bucket is
// replicated as a whole, so each of its servers that is current holds every
// object in it.
func (s *Store) Holdings(ctx context.Context) (*Holdings, error) {
	status, err := s.objects.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("read object bucket: %w", err)
	}
	infos, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	total := ServerHolding{Stored: status.Size()}
	for _, info := range infos {
		if isDigest(info.Name) {
			total.Objects++
			total.Bytes += int64(info.Size)
		}
	}
	out := &Holdings{Files: []FileHolding{}, Servers: servers(status, total)}
	holders := []string{}
	for _, sv := range out.Servers {
		if sv.Current && !sv.Offline {
			holders = append(holders, sv.Name)
		}
	}
	entries, err := s.entries(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		for _, v := range e.Versions {
			out.Files = append(out.Files, FileHolding{Name: e.Name, Version: v.Version, Digest: v.Digest,
				Objects: 1 + v.Parts, Bytes: v.Size + v.PartsSize, Servers: holders})
		}
	}
	return out, nil
}

func servers(status jetstream.ObjectStoreStatus, total ServerHolding) []ServerHolding {
	bucket, ok := status.(*jetstream.ObjectBucketStatus)
	if !ok || bucket.StreamInfo() == nil || bucket.StreamInfo().Cluster == nil {
		return []ServerHolding{}
	}
	var list []ServerHolding
	cluster := bucket.StreamInfo().Cluster
	if cluster.Leader != "" {
		leader := total
		leader.Name, leader.Leader, leader.Current = cluster.Leader, true, true
		list = append(list, leader)
	}
	for _, peer := range cluster.Replicas {
		sv := ServerHolding{Name: peer.Name}
		if peer.Current {
			sv = total
		}
		sv.Name, sv.Current, sv.Offline = peer.Name, peer.Current, peer.Offline
		list = append(list, sv)
	}
	return list
}

// list returns the descriptions of all stored objects, others than the store's
// own included.
func (s *Store) list(ctx context.Context) ([]*jetstream.ObjectInfo, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, listWait, fmt.Errorf("list objects: %w", ErrInterrupted))
	defer cancel()
	w, err := s.objects.Watch(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("list objects: %w", err)
	}
	defer stopWatch[*jetstream.ObjectInfo](w)
	var infos []*jetstream.ObjectInfo
	for {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case info, open := <-w.Updates():
			if !open {
				return nil, fmt.Errorf("list objects: %w", ErrInterrupted)
			}
			if info == nil {
				return infos, nil
			}
			infos = append(infos, info)
		}
	}
}
