package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// reviveAfter is how long a stream in memory may be without a leader until it is
// created anew. An election takes at most nine seconds.
const reviveAfter = 12 * time.Second

// lost remembers since when streams have had no leader.
type lost struct {
	mu    sync.Mutex
	since map[string]time.Time
}

// see notes which streams have no leader at the moment, and returns those that have
// had none for longer than [reviveAfter].
func (l *lost) see(layout Layout, now time.Time) (long []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since == nil {
		l.since = make(map[string]time.Time)
	}
	for _, p := range layout {
		since, known := l.since[p.Stream]
		switch {
		case p.Leader != "":
			delete(l.since, p.Stream)
		case !known:
			l.since[p.Stream] = now
		case now.Sub(since) > reviveAfter:
			long = append(long, p.Stream)
		}
	}
	return long
}

// Tended is what [Broker.Tend] did.
type Tended struct {
	// Moved is the number of leaders that changed servers.
	Moved int
	// Revived are the streams in memory that were created anew: what was in them is
	// lost.
	Revived []string
	// Leaderless are streams on disk that have had no leader for long: most of the
	// servers that keep them are missing.
	Leaderless []string
}

// Tend looks after the servers, which is for one process to do, every few seconds:
// it keeps room for results, and in a cluster creates anew what was in the memory
// of servers that have died, adds copies that are missing, and spreads leaders over
// the servers.
func (b *Broker) Tend(ctx context.Context) (t Tended, err error) {
	roomErr := b.limit(ctx)
	t, err = b.tendServers(ctx)
	return t, errors.Join(roomErr, err)
}

func (b *Broker) tendServers(ctx context.Context) (t Tended, err error) {
	layout, err := b.Layout(ctx)
	if err != nil || layout == nil {
		return t, err
	}
	long := b.lost.see(layout, time.Now())
	t.Revived, err = b.revive(ctx, long)
	for _, name := range long {
		if !slices.Contains(t.Revived, name) {
			t.Leaderless = append(t.Leaderless, name)
		}
	}
	if err != nil || len(long) > 0 {
		return t, err
	}
	if err := b.addReplicas(ctx); err != nil {
		return t, err
	}
	if layout.Whole(1) {
		t.Moved, err = b.spread(ctx, layout)
	}
	return t, err
}

// Revive creates anew the lease's bucket and the stream of tasks when they have had
// no leader for long, as far as this process has seen. Whoever waits for the lease
// may call it again and again.
func (b *Broker) Revive(ctx context.Context) (revived []string, err error) {
	layout, err := b.Layout(ctx)
	if err != nil || layout == nil {
		return nil, err
	}
	return b.revive(ctx, b.lost.see(layout, time.Now()))
}

// revive creates streams in memory anew. Servers that start with nothing in their
// memory refuse to elect one of them while a server that may know more is away: it
// would be the end of what was in a file. In memory there is nothing worth waiting
// for.
func (b *Broker) revive(ctx context.Context, names []string) (revived []string, err error) {
	for _, name := range names {
		if name != streamTasks && name != streamLease {
			continue
		}
		if err := b.JS.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return revived, fmt.Errorf("create stream %s anew: %w", name, err)
		}
		if name == streamTasks {
			err = b.ensureStream(ctx, tasksConfig())
		} else {
			err = b.ensureBuckets(ctx)
		}
		if err != nil {
			return revived, err
		}
		revived = append(revived, name)
	}
	return revived, nil
}

// Deliveries is how many deliveries a job's queue has made.
func (b *Broker) Deliveries(ctx context.Context, job uint64) (uint64, error) {
	stream, err := b.JS.Stream(ctx, streamTasks)
	if err != nil {
		return 0, fmt.Errorf("open task queue: %w", err)
	}
	queue, err := stream.Consumer(ctx, consumerOf(job, stream.CachedInfo().Created))
	if err != nil {
		return 0, fmt.Errorf("open queue of job %d: %w", job, err)
	}
	return queue.CachedInfo().Delivered.Consumer, nil
}

// RebuildQueue makes a job's queue anew from the tasks that are in it. What is said
// about deliveries of the old one is not heard any more.
func (b *Broker) RebuildQueue(ctx context.Context, job uint64, inFlight int) (queue string, err error) {
	stream, err := b.JS.Stream(ctx, streamTasks)
	if err != nil {
		return "", fmt.Errorf("open task queue: %w", err)
	}
	err = stream.DeleteConsumer(ctx, consumerOf(job, stream.CachedInfo().Created))
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return "", fmt.Errorf("rebuild queue of job %d: %w", job, err)
	}
	return b.OpenQueue(ctx, job, inFlight)
}
