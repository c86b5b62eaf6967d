package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// dropAtOnce is how many places of the stream a removal of results looks at: the
	// server does nothing else meanwhile. dropPause is what it gets in between.
	dropAtOnce = 2000
	dropPause  = 5 * time.Millisecond
)

// Result is the stored result of a task, nil when there is none.
func (b *Broker) Result(ctx context.Context, job uint64, task int) (*Stored, error) {
	m, err := b.nextMessage(ctx, streamResults, SubjectResult(job, task), 1)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read result of job %d task %d: %w", job, task, err)
	}
	return m, nil
}

// FollowJobResults calls fn for every result of a job from the given place on, as
// FollowResults does for those of all jobs; see [Core].
func (b *Broker) FollowJobResults(ctx context.Context, job, from uint64, fn func(context.Context, *Stored)) (stop func(), err error) {
	return b.follow(ctx, streamResults, resultsOf(job), from, fn)
}

// DropResults removes the results of a job that lie before a place of the stream, with
// 0 all of them, some at a time. Whoever calls it has them elsewhere, or wants them no
// longer.
func (b *Broker) DropResults(ctx context.Context, job, before uint64) error {
	stream, err := b.Results(ctx)
	if err != nil {
		return fmt.Errorf("open results: %w", err)
	}
	for next := uint64(1); ; {
		m, err := b.nextMessage(ctx, streamResults, resultsOf(job), next)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err == nil {
			if before > 0 && m.Seq >= before {
				return nil
			}
			if next = m.Seq + dropAtOnce; before > 0 {
				next = min(next, before)
			}
			err = stream.Purge(ctx, jetstream.WithPurgeSubject(resultsOf(job)), jetstream.WithPurgeSequence(next))
		}
		if err != nil {
			return fmt.Errorf("remove results of job %d: %w", job, err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(dropPause):
		}
	}
}
