package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// readFirst is how many results a reader asks for at first, readBytes about how many
	// bytes of them later, in readMost results at most: they may be of any size up to a
	// message's, and a job may have a million small ones.
	readFirst = 16
	readBytes = 8 << 20
	readMost  = 4096
)

// ReadResults calls fn for every stored result of a job, in the order stored,
// until fn returns false. The order is that of completion, not of the tasks.
func (b *Broker) ReadResults(ctx context.Context, job uint64, fn func(subject string, data []byte) (more bool, err error)) error {
	return b.JobResults(ctx, job, func(m *Stored) (bool, error) { return fn(m.Subject, m.Data) })
}

// JobResults is ReadResults that tells more of each result.
//
// Most are read through a consumer, which may be on a server whose copy has fallen
// behind, or that dies; whatever it doesn't bring is asked of the leader, whose word
// it is that there are no more. What is stored after the beginning may be left out, so
// that reading ends however many results come meanwhile.
func (b *Broker) JobResults(ctx context.Context, job uint64, fn func(*Stored) (more bool, err error)) error {
	stream, err := b.Results(ctx)
	if err != nil {
		return fmt.Errorf("open results: %w", err)
	}
	last, err := b.LastResult(ctx)
	if err != nil {
		return err
	}
	next, more, err := readThrough(ctx, stream, resultsOf(job), fn)
	for more && err == nil && next <= last {
		var m *Stored
		m, err = b.nextMessage(ctx, streamResults, resultsOf(job), next)
		if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && m.Seq > last {
			return nil
		}
		if err == nil {
			next = m.Seq + 1
			more, err = fn(m)
		}
	}
	if err != nil {
		return fmt.Errorf("read results of job %d: %w", job, err)
	}
	return nil
}

// readThrough reads what a consumer brings of a subject. It returns the place to go
// on from, and an error only if it is fn's or the end of ctx.
func readThrough(ctx context.Context, stream jetstream.Stream, subject string, fn func(*Stored) (more bool, err error)) (next uint64, more bool, err error) {
	open, cancel := context.WithTimeout(ctx, lookUpWait)
	defer cancel()
	consumer, err := stream.CreateConsumer(open, jetstream.ConsumerConfig{FilterSubject: subject, AckPolicy: jetstream.AckNonePolicy,
		MaxDeliver: 1, MemoryStorage: true, Replicas: 1, InactiveThreshold: 10 * time.Second})
	if err != nil {
		return 1, true, context.Cause(ctx)
	}
	info := consumer.CachedInfo()
	// The server would keep the consumer for a while; readers that poll would run into
	// its limit.
	defer func() {
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookUpWait)
		defer cancel()
		_ = stream.DeleteConsumer(within, info.Name)
	}()
	next = 1
	ahead, bytes := readFirst, uint64(0)
	for left, delivered := info.NumPending, uint64(0); left > 0; {
		if delivered > 0 { // so many as are about readBytes
			ahead = int(min(max(readBytes*delivered/(bytes+1), 1), readMost))
		}
		within, cancel := context.WithTimeout(ctx, pullExpiry)
		batch, err := consumer.Fetch(int(min(left, uint64(ahead))), jetstream.FetchContext(within), jetstream.FetchHeartbeat(pullBeat))
		if err != nil {
			cancel()
			return next, true, context.Cause(ctx)
		}
		got, lost := false, false
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			delivered++
			if lost = err != nil || meta.Sequence.Consumer != delivered; lost {
				break
			}
			got, next, left = true, meta.Sequence.Stream+1, left-1
			bytes += uint64(len(m.Data()))
			if more, err := fn(&Stored{Seq: meta.Sequence.Stream, At: meta.Timestamp, Subject: m.Subject(), Data: m.Data(),
				Group: m.Headers().Get(headerBatch)}); err != nil || !more {
				cancel()
				return next, false, err
			}
		}
		cancel()
		if lost || !got || batch.Error() != nil {
			break
		}
	}
	return next, true, context.Cause(ctx)
}
