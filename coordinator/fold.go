package coordinator

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
	"idunno/broker/wire"
)

// followResults folds the results of unfinished jobs: first those that are
// stored, before anything is published, then every new one. It returns when the
// stored ones are folded.
func (l *leader) followResults(ctx context.Context) (stop func(), err error) {
	stream, err := l.Broker.Results(ctx)
	if err != nil {
		return nil, fmt.Errorf("open results: %w", err)
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	from := info.State.LastSeq + 1
	for _, j := range l.jobs {
		from = min(from, max(j.Rec.ResultsFrom, 1))
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from})
	if err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	caughtUp := make(chan struct{})
	told := sync.OnceFunc(func() { close(caughtUp) })
	last := info.State.LastSeq
	if pending, err := consumer.Info(ctx); err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	} else if pending.NumPending == 0 {
		told()
	}
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		meta, err := m.Metadata()
		if err != nil {
			return
		}
		if job, task, ok := broker.TaskOfResult(m.Subject()); ok {
			r := wire.ReceiveResult(job, task, m.Data())
			l.do(ctx, func() { l.fold(r, meta.Timestamp) })
		}
		// The last one may have been deleted meanwhile, so its number alone won't do.
		if meta.Sequence.Stream >= last || meta.NumPending == 0 {
			l.do(ctx, told)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	for {
		select {
		case <-caughtUp:
			return consuming.Stop, nil
		case call := <-l.calls:
			call()
		case <-ctx.Done():
			consuming.Stop()
			return nil, ctx.Err()
		}
	}
}

// fold takes a result into account, in the loop.
func (l *leader) fold(r *wire.Result, at time.Time) {
	j := l.jobs[r.Job]
	if j == nil {
		return
	}
	if !j.Fold(r, at) {
		return
	}
	l.looked[r.Job] = time.Now()
	if r.Error != "" {
		l.Log.Warn("task failed for good", "job", r.Job, "task", r.Task, "node", r.Node, "error", r.Error)
	}
}
