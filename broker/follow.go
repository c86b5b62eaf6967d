package broker

import (
	"context"
	"errors"
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
	// delivered counts what the present consumer has delivered.
	delivered uint64
	told      bool
	fn        func(context.Context, *Stored)
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

// readOnce reads until something fails or the connection is made anew, which may
// mean that the server has forgotten the consumer. It ends with ctx at once: the
// client's own ordered consumer would go on trying to replace what is lost.
func (b *Broker) readOnce(ctx context.Context, r *reader, changes <-chan bool) error {
	once, cancel := context.WithCancel(ctx)
	defer cancel()
	open, opened := context.WithTimeout(once, lookUpWait)
	defer opened()
	consumer, err := r.stream.CreateConsumer(open, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: r.next, AckPolicy: jetstream.AckNonePolicy,
		MaxDeliver: 1, MemoryStorage: true, Replicas: 1, InactiveThreshold: forgetReader})
	if err != nil {
		return err
	}
	r.delivered = 0
	r.caughtUp(ctx, consumer.CachedInfo().NumPending)
	for {
		again, err := r.fetch(once, consumer, changes)
		if again || err != nil {
			return err
		}
	}
}

// fetch makes one request for messages.
func (r *reader) fetch(ctx context.Context, consumer jetstream.Consumer, changes <-chan bool) (again bool, err error) {
	// The server is told of an end a little earlier.
	within, cancel := context.WithTimeout(ctx, pullExpiry)
	defer cancel()
	batch, err := consumer.Fetch(readAhead, jetstream.FetchContext(within), jetstream.FetchHeartbeat(pullBeat))
	if err != nil {
		return false, err
	}
	again, err = r.take(ctx, batch, changes)
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil // what came too late leaves a gap, which is noticed
	}
	return again, err
}

// take hands over what a request to the server brings. It reports true when the
// reader shall begin again at once.
func (r *reader) take(ctx context.Context, batch jetstream.MessageBatch, changes <-chan bool) (again bool, err error) {
	for {
		select {
		case <-ctx.Done():
			return true, nil
		case connected := <-changes:
			if connected {
				return true, nil
			}
		case m, ok := <-batch.Messages():
			if !ok {
				return false, batch.Error()
			}
			if err := r.read(ctx, m); err != nil {
				return false, err
			}
		}
	}
}

func (r *reader) read(ctx context.Context, m jetstream.Msg) error {
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	if r.delivered++; meta.Sequence.Consumer != r.delivered {
		return fmt.Errorf("message %d of the reader came as number %d", meta.Sequence.Consumer, r.delivered)
	}
	if meta.Sequence.Stream < r.next {
		return nil
	}
	r.fn(ctx, &Stored{Seq: meta.Sequence.Stream, At: meta.Timestamp, Subject: m.Subject(), Data: m.Data()})
	r.next = meta.Sequence.Stream + 1
	left := meta.NumPending
	if meta.Sequence.Stream >= r.last {
		left = 0 // what is still to come was stored after the reader began
	}
	r.caughtUp(ctx, left)
	return nil
}

// caughtUp says, once, that what was stored is through.
func (r *reader) caughtUp(ctx context.Context, pending uint64) {
	if pending == 0 && !r.told {
		r.told = true
		r.fn(ctx, nil)
	}
}
