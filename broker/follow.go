package broker

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// followPause is the pause before a reader that failed begins again.
	followPause = 100 * time.Millisecond
	// readAhead is how many messages of a stream are under way to a reader.
	readAhead = 256
	// pullExpiry is how long a server may keep a reader's request, and pullBeat how
	// often it says meanwhile that it still has it. After twice that the consumer is
	// taken for lost: it was on a server that has died.
	pullExpiry = 4 * time.Second
	pullBeat   = time.Second
	// forgetReader is how long a server keeps the consumer of a reader that has gone.
	forgetReader = time.Minute
)

// FollowJobs calls fn for every submission from the given job on; see [Core].
func (b *Broker) FollowJobs(ctx context.Context, from uint64, fn func(context.Context, *Stored)) (stop func(), err error) {
	return b.follow(ctx, streamJobs, from, fn)
}

// FollowResults calls fn for every result from the given place on; see [Core].
func (b *Broker) FollowResults(ctx context.Context, from uint64, fn func(context.Context, *Stored)) (stop func(), err error) {
	return b.follow(ctx, streamResults, from, fn)
}

// reader reads a stream in order. What it has read it never reads again: a
// consumer that a server lost is replaced by one that begins behind it.
type reader struct {
	stream jetstream.Stream
	// next is the place to read from, last the newest one at the beginning.
	next, last uint64
	told       bool
	fn         func(context.Context, *Stored)
}

func (b *Broker) follow(ctx context.Context, name string, from uint64, fn func(context.Context, *Stored)) (stop func(), err error) {
	stream, err := b.JS.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", name, err)
	}
	r := &reader{stream: stream, next: max(from, 1), last: stream.CachedInfo().State.LastSeq, fn: fn}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	changes, stopChanges := b.ConnectionChanges()
	go func() {
		defer close(done)
		defer stopChanges()
		for ctx.Err() == nil {
			if b.readOnce(ctx, r, changes) == nil {
				continue
			}
			// The server is away or just back.
			select {
			case <-ctx.Done():
			case <-changes:
			case <-time.After(followPause):
			}
		}
	}()
	return func() { cancel(); <-done }, nil
}

// readOnce reads until something fails or the connection changes, which may mean
// that the server has forgotten the consumer.
func (b *Broker) readOnce(ctx context.Context, r *reader, changes <-chan bool) error {
	once, cancel := context.WithCancel(ctx)
	defer cancel()
	open, opened := context.WithTimeout(once, lookUpWait)
	defer opened()
	consumer, err := r.stream.OrderedConsumer(open, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: r.next, InactiveThreshold: forgetReader})
	if err != nil {
		return err
	}
	info, err := consumer.Info(open)
	if err != nil {
		return err
	}
	r.caughtUp(ctx, info.NumPending)
	messages, err := consumer.Messages(jetstream.PullMaxMessages(readAhead), jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(pullBeat))
	if err != nil {
		return err
	}
	defer messages.Stop()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for {
			select {
			case <-once.Done():
				return
			case connected := <-changes:
				if connected {
					cancel()
				}
			}
		}
	}()
	defer func() { cancel(); <-watched }()
	for {
		m, err := messages.Next(jetstream.NextContext(once))
		if err != nil {
			if ctx.Err() == nil && once.Err() != nil {
				return nil // begin again at once
			}
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if meta.Sequence.Stream < r.next {
			continue
		}
		r.fn(ctx, &Stored{Seq: meta.Sequence.Stream, At: meta.Timestamp, Subject: m.Subject(), Data: m.Data()})
		r.next = meta.Sequence.Stream + 1
		left := meta.NumPending
		if meta.Sequence.Stream >= r.last {
			left = 0 // what is still to come was stored after the reader began
		}
		r.caughtUp(ctx, left)
	}
}

// caughtUp says, once, that what was stored is through.
func (r *reader) caughtUp(ctx context.Context, pending uint64) {
	if pending == 0 && !r.told {
		r.told = true
		r.fn(ctx, nil)
	}
}
