package coordinator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"idunno/broker"
	"idunno/coordinator/sched"
)

const (
	// DefaultCheckpointEvery is how many results there are between two checkpoints of a
	// running job unless [Config] says otherwise: a coordinator that starts reads about so many, a second's work.
	DefaultCheckpointEvery = 4096
	// checkpointLook is the pause between two looks for one that is due.
	checkpointLook = 100 * time.Millisecond
	// checkpointGap is the least time between two checkpoints of a job.
	checkpointGap = time.Second
)

// foldMark is a stored checkpoint.
type foldMark struct {
	// place is that of the last result in it, revision that of its key.
	place, revision uint64
	// through is the task up to which it has all.
	through int
	// at is when this coordinator wrote it.
	at time.Time
}

// readFolds takes in the checkpoints of unfinished jobs. A ledger that has folded
// results already needs none of them, and only notes that they are there.
func (c *coordinator) readFolds(ctx context.Context, records broker.Bucket) error {
	g := c.ledger
	clear(g.folds)
	last, err := c.Broker.LastResult(ctx)
	if err != nil {
		return fmt.Errorf("read checkpoints: %w", err)
	}
	err = records.Watch(ctx, broker.KeyFolds, func(e *broker.Entry) (more bool) {
		if e != nil {
			g.restore(e, last)
		}
		return e != nil
	})
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("read checkpoints: %w", err)
	}
	for job, j := range g.jobs {
		if j.Missing() {
			g.log.Warn("results are kept no longer, and no checkpoint has them: their statistics are lost", "job", job, "tasks", j.Rec.Forgotten())
			j.Concede()
		}
	}
	return nil
}

// restore takes one in. The last result there is has the place last: a checkpoint from
// beyond it belongs to results that somebody has removed.
func (g *ledger) restore(e *broker.Entry, last uint64) {
	job, ok := broker.JobOfFold(e.Key)
	if !ok {
		return
	}
	mark := foldMark{revision: e.Revision}
	have := func(restored *sched.Job, place uint64) { mark.place, mark.through = place, restored.Through() }
	if j := g.jobs[job]; j != nil {
		restored, place, err := sched.Restore(j.Rec, e.Value)
		if err == nil && place > last {
			err = fmt.Errorf("%w: it goes to place %d of %d", sched.ErrCheckpoint, place, last)
		}
		switch {
		case err != nil:
			g.log.Warn("checkpoint not used: the job's results are read again", "job", job, "error", err)
		case g.results > 0 && !j.Missing():
			have(restored, place)
		default:
			have(restored, place)
			g.jobs[job] = restored
			if g.results > 0 { // it was away, and what it didn't read is kept no longer
				g.readAgain(place + 1)
			}
		}
	}
	g.folds[job] = mark
}

// checkpoint writes the next checkpoint that is due, aside; in the loop.
func (l *leader) checkpoint(ctx context.Context, now time.Time) {
	if l.saving {
		return
	}
	for job, mark := range l.folds {
		if l.jobs[job] == nil {
			l.dropFold(ctx, job, mark)
			return
		}
	}
	if now.Sub(l.foldsLooked) < checkpointLook {
		return
	}
	l.foldsLooked = now
	// Paused ones too: what they have must not be where a coordinator begins to read.
	for job, j := range l.jobs {
		mark := l.folds[job]
		if j.Rec.Started.IsZero() {
			continue
		}
		from := max(mark.place+1, j.Rec.ResultsFrom)
		if l.results+1 < from+uint64(l.CheckpointEvery) || now.Sub(mark.at) < checkpointGap || !j.AllFiled() || j.Finished() {
			continue
		}
		place, through := l.results, j.Through()
		p, err := j.Checkpoint(place, l.epoch)
		if err == nil && len(p) > maxRecord {
			err = errTooLarge
		}
		if err != nil {
			l.Log.Debug("no checkpoint", "job", job, "error", err)
			mark.at = now
			l.folds[job] = mark
			continue
		}
		l.saving = true
		go func() {
			revision, err := l.writeFold(ctx, job, p, mark.revision)
			l.do(ctx, func() {
				l.saving = false
				mark := foldMark{place, revision, through, now}
				if err != nil {
					l.Log.Debug("checkpoint not written", "job", job, "error", err)
					known := l.folds[job]
					mark.place, mark.through = known.place, known.through
				}
				l.folds[job] = mark
				l.forget(ctx, job)
			})
		}()
		return
	}
}

// writeFold stores a checkpoint over the one with the given revision. When there is
// another it returns that one's revision with the error: a former leader's, which the
// next one replaces, or errFenced for a later leader's.
func (l *leader) writeFold(ctx context.Context, job uint64, p []byte, over uint64) (revision uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, readWait)
	defer cancel()
	key := broker.KeyFold(job)
	revision, err = l.state.Update(ctx, key, p, over)
	if err == nil || !broker.IsExists(err) {
		return max(revision, over), err
	}
	e, getErr := l.state.Get(ctx, key)
	switch {
	case getErr != nil:
		return over, errors.Join(err, getErr)
	case string(e.Value) == string(p):
		return e.Revision, nil // ours: its acknowledgement got lost
	case sched.CheckpointEpoch(e.Value) > l.epoch:
		return e.Revision, errFenced
	}
	return e.Revision, err
}

// dropFold removes the checkpoint of a job that has ended, aside; in the loop.
func (l *leader) dropFold(ctx context.Context, job uint64, mark foldMark) {
	delete(l.folds, job)
	if mark.revision == 0 {
		return
	}
	l.saving = true
	go func() {
		within, cancel := context.WithTimeout(ctx, readWait)
		defer cancel()
		// What stays takes some room, and is removed by the next leader.
		err := l.state.Delete(within, broker.KeyFold(job), mark.revision)
		l.do(ctx, func() {
			l.saving = false
			if err != nil {
				l.Log.Debug("checkpoint not removed", "job", job, "error", err)
			}
		})
	}()
}
