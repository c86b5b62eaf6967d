package coordinator

import (
	"context"
	"time"

	"idunno/broker/wire"
)

// followResults folds the results of unfinished jobs that the ledger doesn't know
// yet: first those that are stored, before anything is published, then every new
// one. Last is the place of the newest result, from before the records were read. It
// returns when the stored ones are folded.
func (l *leader) followResults(ctx context.Context, last uint64) (stop func(), err error) {
	caughtUp := make(chan struct{})
	stop, err = l.readResults(ctx, last, l.do, l.fold, func() { close(caughtUp) })
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
func (l *leader) fold(r *wire.Result, seq uint64, at time.Time) {
	if !l.ledger.fold(r, seq, at) {
		l.late(r.Job)
		return
	}
	l.looked[r.Job] = time.Now()
	if j := l.jobs[r.Job]; j != nil {
		l.steering.warmed(j.Rec.ModelDigest, r.Node)
	}
	l.seeComplete(l.jobs[r.Job])
	if r.Error != "" {
		l.Log.Warn("task failed for good", "job", r.Job, "task", r.Task, "node", r.Node, "error", r.Error)
	}
}
