package broker

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// LeaseWrite is a write of the coordinator's lease, as one sees it who doesn't take
// part.
type LeaseWrite struct {
	// Bucket is when the bucket was made: a server that is started anew has
	// forgotten the one before, and counts revisions from 1 again.
	Bucket   time.Time
	Holder   string
	Revision uint64
	At       time.Time
	// Deleted says that the holder gave the lease up.
	Deleted bool
}

// leaseSilence is how long nothing may be heard of a lease, which its holder renews
// all the time, before the bucket is opened again.
const leaseSilence = LeaseTTL

// FollowLease calls fn for writes of the coordinator's lease until ctx ends: the
// last one, and then every one that a reader sees who loses its connection when
// everybody does. It may see one twice.
func (b *Broker) FollowLease(ctx context.Context, fn func(LeaseWrite)) {
	changes, stop := b.ConnectionChanges()
	defer stop()
	for ctx.Err() == nil {
		// What fails here begins anew: the server is away, or has no lease yet.
		_ = b.followLease(ctx, changes, fn)
		select {
		case <-ctx.Done():
		case <-time.After(followPause):
		}
	}
}

func (b *Broker) followLease(ctx context.Context, changes <-chan bool, fn func(LeaseWrite)) error {
	open, opened := context.WithTimeout(ctx, lookUpWait)
	defer opened()
	kv, err := b.Lease(open)
	if err != nil {
		return fmt.Errorf("open the lease: %w", err)
	}
	status, err := kv.Status(open)
	if err != nil {
		return fmt.Errorf("open the lease: %w", err)
	}
	bucket, ok := status.(*jetstream.KeyValueBucketStatus)
	if !ok {
		return fmt.Errorf("open the lease: it is a %T", status)
	}
	w, err := kv.Watch(ctx, KeyLeader)
	if err != nil {
		return fmt.Errorf("follow the lease: %w", err)
	}
	defer func() { _ = w.Stop() }()
	silence := time.NewTimer(leaseSilence)
	defer silence.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-silence.C:
			return nil
		case connected := <-changes:
			if connected {
				return nil
			}
		case e, ok := <-w.Updates():
			if !ok {
				return ErrWatchEnded
			}
			if e == nil {
				continue
			}
			silence.Reset(leaseSilence)
			fn(LeaseWrite{Bucket: bucket.StreamInfo().Created, Holder: string(e.Value()), Revision: e.Revision(), At: e.Created(),
				Deleted: e.Operation() != jetstream.KeyValuePut})
		}
	}
}
