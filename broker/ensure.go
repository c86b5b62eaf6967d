package broker

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/nats-io/nats.go/jetstream"
)

// clusterReplicas is the number of copies of everything on a cluster of servers:
// one server may die. Five would survive two, at the price of every write.
const clusterReplicas = 3

// replicas is the number of copies that streams shall have.
func (b *Broker) replicas() int {
	switch {
	case b.cfg.Replicas > 0:
		return b.cfg.Replicas
	case b.Clustered():
		return clusterReplicas
	}
	return 1
}

// Ensure creates every stream and bucket, and gives those that exist the copies
// they shall have. It is safe to call from several processes and again at any
// time. It returns [ErrTooFewServers] when there are fewer servers than copies.
func (b *Broker) Ensure(ctx context.Context) error {
	for _, cfg := range streams() {
		if err := b.ensureStream(ctx, cfg); err != nil {
			return err
		}
	}
	if err := b.ensureBuckets(ctx); err != nil {
		return err
	}
	if err := b.ensureObjects(ctx); err != nil {
		return err
	}
	return b.addReplicas(ctx)
}

func (b *Broker) ensureBuckets(ctx context.Context) error {
	for _, cfg := range buckets() {
		if _, err := b.JS.KeyValue(ctx, cfg.Bucket); err == nil {
			continue
		}
		err := b.withReplicas(cfg.Storage, func(n int) error {
			cfg.Replicas = n
			_, err := b.JS.CreateOrUpdateKeyValue(ctx, cfg)
			return err
		})
		if err != nil {
			return b.notCreated("bucket "+cfg.Bucket, err)
		}
	}
	return nil
}

// withReplicas calls create with the number of copies that there shall be. What is
// in memory is created with one copy where there are no servers for more: work goes
// on, and Tend adds the others later. What is on disk waits for them.
func (b *Broker) withReplicas(storage jetstream.StorageType, create func(replicas int) error) error {
	n := b.replicas()
	err := create(n)
	if n > 1 && storage == jetstream.MemoryStorage && b.cfg.Replicas == 0 && tooFewServers(err) {
		err = create(1)
	}
	return err
}

func tooFewServers(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == codeNoPeers
}

func (b *Broker) ensureObjects(ctx context.Context) error {
	if _, err := b.JS.ObjectStore(ctx, bucketObjects); err == nil {
		return nil
	}
	_, err := b.JS.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{
		Bucket: bucketObjects, Description: "iDunno: SDFS contents by digest", Storage: jetstream.FileStorage, Replicas: b.replicas()})
	if err != nil {
		return b.notCreated("bucket "+bucketObjects, err)
	}
	return nil
}

func (b *Broker) ensureStream(ctx context.Context, cfg jetstream.StreamConfig) error {
	err := b.withReplicas(cfg.Storage, func(n int) error {
		cfg.Replicas = n
		_, err := b.JS.CreateStream(ctx, cfg)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			err = b.updateStream(ctx, cfg)
		}
		return err
	})
	if IsFull(err) && b.exists(ctx, cfg.Name) {
		return nil
	}
	if err != nil {
		return b.notCreated("stream "+cfg.Name, err)
	}
	return nil
}

// exists reports whether a stream is there. Where the disk has filled up, streams have
// been promised more than there is room for, until [Broker.Tend] divides it anew; until
// then the server refuses to create even what is there.
func (b *Broker) exists(ctx context.Context, name string) bool {
	_, err := b.JS.Stream(ctx, name)
	return err == nil
}

// updateStream brings an existing stream up to date. It never takes replicas
// away: another process may have been told of more. Limits are not its business
// either.
func (b *Broker) updateStream(ctx context.Context, cfg jetstream.StreamConfig) error {
	stream, err := b.JS.Stream(ctx, cfg.Name)
	if err != nil {
		return err
	}
	now := stream.CachedInfo().Config
	cfg.Replicas = max(cfg.Replicas, now.Replicas)
	cfg.MaxBytes = now.MaxBytes
	if upToDate(now, cfg) {
		return nil // an update is a write, and every process that starts would make one
	}
	_, err = b.JS.UpdateStream(ctx, cfg)
	return err
}

// upToDate reports whether a stream has what [streams] say of it.
func upToDate(now, cfg jetstream.StreamConfig) bool {
	want := now
	want.Description, want.Subjects, want.Storage, want.Retention, want.Replicas = cfg.Description, cfg.Subjects, cfg.Storage, cfg.Retention, cfg.Replicas
	want.MaxAge, want.Discard, want.DiscardNewPerSubject = cfg.MaxAge, cfg.Discard, cfg.DiscardNewPerSubject
	want.AllowDirect, want.AllowAtomicPublish = cfg.AllowDirect, cfg.AllowAtomicPublish
	if cfg.MaxMsgsPerSubject > 0 {
		want.MaxMsgsPerSubject = cfg.MaxMsgsPerSubject
	}
	if cfg.Duplicates > 0 {
		want.Duplicates = cfg.Duplicates
	}
	return reflect.DeepEqual(want, now)
}

// addReplicas gives buckets that were made with fewer copies as many as they
// shall have: of a cluster that has grown, or of another program's making.
func (b *Broker) addReplicas(ctx context.Context) error {
	want := b.replicas()
	if want == 1 {
		return nil
	}
	for _, name := range streamNames() {
		stream, err := b.JS.Stream(ctx, name)
		if err != nil {
			return fmt.Errorf("look up stream %s: %w", name, err)
		}
		cfg := stream.CachedInfo().Config
		if cfg.Replicas >= want {
			continue
		}
		err = b.withReplicas(cfg.Storage, func(n int) error {
			if n <= cfg.Replicas {
				return nil
			}
			cfg.Replicas = n
			_, err := b.JS.UpdateStream(ctx, cfg)
			return err
		})
		if err != nil {
			return b.notCreated("stream "+name, err)
		}
	}
	return nil
}

// notCreated says why a stream could not be made, and what to do.
func (b *Broker) notCreated(what string, err error) error {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode {
		case codeNoPeers:
			return fmt.Errorf("create %s: %w for %d copies (%s): start the missing servers, or ask for fewer copies with --replicas",
				what, ErrTooFewServers, b.replicas(), api.Description)
		case codeNoReplicas:
			return fmt.Errorf("create %s: %w: %d copies need a cluster of servers: ask for one with --replicas 1", what, ErrTooFewServers, b.replicas())
		}
	}
	return fmt.Errorf("create %s: %w", what, err)
}
