package coordinator

import (
	"context"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
)

// followResults folds the results of unfinished jobs: first those that are
// stored, before anything is published, then every new one. It returns when the
// stored ones are folded.
func (l *leader) followResults(ctx context.Context) (stop func(), err error) {
	last, err := l.Broker.LastResult(ctx)
	if err != nil {
		return nil, err
	}
	from := last + 1
	for _, j := range l.jobs {
		from = min(from, max(j.Rec.ResultsFrom, 1))
	}
	caughtUp := make(chan struct{})
	stop, err = l.Broker.FollowResults(ctx, from, func(ctx context.Context, m *broker.Stored) {
		if m == nil {
			l.do(ctx, func() { close(caughtUp) })
		} else if job, task, ok := broker.TaskOfResult(m.Subject); ok {
			r := wire.ReceiveResult(job, task, m.Data)
			l.do(ctx, func() { l.fold(r, m.At) })
		}
	})
	if err != nil {
		return nil, err
	}
	for {
		select {
		case <-caughtUp:
			return stop, nil
		case call := <-l.calls:
			call()
		case <-ctx.Done():
			stop()
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
