package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"idunno/broker/wire"
	"idunno/coordinator/sched"
)

// startAgain is the pause before a job that could not be started is tried again.
const startAgain = 200 * time.Millisecond

// The states of a job. What waits is queued: for its turn, for the job after which it
// is to run, or for the phase of the cluster.
//
//	          admit             start             all results
//	submitted ────┬──> queued <───────> running ──────────────> done, done_with_failures
//	              │     │  ^   suspend   │
//	    rejected <┘     │  │ resume      │ pause
//	                    └> paused <──────┘
//
// From queued, running and paused a job may be cancelled: by request, by its
// deadline, or because the job after which it was to run didn't end well.

// settle brings queue and records in line with what is known: finished jobs are
// closed, waiting ones started, tasks published.
func (l *leader) settle(ctx context.Context) error {
	if l.fatal != nil {
		return l.fatal
	}
	// What fails for one job is tried again later and must not hold up the others.
	var failed []error
	for _, job := range slices.Clone(l.active) {
		if j := l.jobs[job]; j.Finished() && j.AllFiled() {
			failed = append(failed, l.finish(ctx, j))
		}
	}
	l.expire(time.Now())
	failed = append(failed, l.dismiss(ctx), l.heedPhase(ctx))
	l.failedStart = time.Time{}
	for _, turn := range l.line.First(maxActive) {
		room, err := l.makeRoom(ctx, turn)
		failed = append(failed, err)
		if !room {
			break
		}
		if err = l.start(ctx, turn); err != nil {
			l.failedStart = time.Now()
			failed = append(failed, err)
		}
	}
	for _, job := range l.active {
		l.file(ctx, l.jobs[job])
		l.publish(ctx, l.jobs[job])
	}
	if l.dirty {
		l.allot(time.Now())
	}
	failed = append(failed, l.tidy(ctx))
	return errors.Join(failed...)
}

// makeRoom reports whether a job may start. Where as many run as may, one of a lower
// priority has to go back.
func (l *leader) makeRoom(ctx context.Context, turn sched.Turn) (room bool, err error) {
	if len(l.active) < maxActive {
		return true, nil
	}
	last := slices.MaxFunc(l.active, func(a, b uint64) int {
		return sched.TurnOf(l.jobs[a].Rec).Compare(sched.TurnOf(l.jobs[b].Rec))
	})
	if l.jobs[last].Rec.Doc.Priority >= turn.Priority {
		return false, nil
	}
	if err := l.suspend(ctx, l.jobs[last], wire.StateQueued); err != nil {
		return false, err
	}
	return true, nil
}

// startAgain says that it is time to try again to start what could not be started.
func (l *leader) startAgain(now time.Time) bool {
	return !l.failedStart.IsZero() && now.Sub(l.failedStart) > startAgain
}

// start opens a waiting job's task queue and makes it active.
func (l *leader) start(ctx context.Context, turn sched.Turn) error {
	job := turn.Job
	j, err := l.named(ctx, l.jobs[job])
	if j == nil || err != nil {
		return err
	}
	if err := l.closeQueue(ctx, job); err != nil {
		return err // what is left of the last time would be removed later
	}
	if err := l.openQueue(ctx, job); err != nil {
		return err
	}
	if err := l.change(ctx, j, wire.StateRunning); err != nil {
		return err
	}
	l.planned(j)
	l.line.Remove(turn)
	l.active = append(l.active, job)
	l.looked[job] = time.Now()
	l.roll.Plan(j.Rec)
	l.dirty = true
	return nil
}

// change writes a job's record in another state.
func (l *leader) change(ctx context.Context, j *sched.Job, state wire.State) error {
	rec := *j.Rec
	rec.State = state
	if state == wire.StateRunning && rec.Started.IsZero() {
		// It has no result before this moment, however long it has waited.
		rec.Started, rec.ResultsFrom = time.Now(), max(rec.ResultsFrom, l.firstResult())
	}
	if err := l.write(ctx, &rec); err != nil {
		return err
	}
	*j.Rec = rec
	return nil
}

// suspend takes a job from the workers, or from those that wait: it is paused then,
// or queued again. Its results stay; what is being computed is given up.
func (l *leader) suspend(ctx context.Context, j *sched.Job, state wire.State) error {
	was := j.Rec.State
	if err := l.change(ctx, j, state); err != nil {
		return err
	}
	l.leave(j)
	if was == wire.StateRunning {
		j.Resume() // the tasks that were published are dropped with the queue
		l.closing[j.Rec.Job] = false
	}
	l.Log.Info("job suspended", "job", j.Rec.Job, "state", state)
	l.enqueue(j)
	l.seeComplete(j)
	return nil
}

// enqueue lets a queued job wait for what it has to wait for.
func (l *leader) enqueue(j *sched.Job) {
	if j.Rec.State != wire.StateQueued {
		return
	}
	job := j.Rec.Job
	before, never := l.waitsFor(j.Rec)
	switch {
	case never != "":
		l.doomed[job] = never
	case before > 0:
		if l.after[before] == nil {
			l.after[before] = make(map[uint64]bool)
		}
		l.after[before][job] = true
	case !l.settings.Load().Runs(j.Rec.Doc.Training()):
		l.held[job] = true
	default:
		l.line.Add(sched.TurnOf(j.Rec))
	}
}

// leave takes a job from where it runs or waits. In after it may stay: who has
// ended or is paused isn't queued when its time comes.
func (l *leader) leave(j *sched.Job) {
	job := j.Rec.Job
	l.line.Remove(sched.TurnOf(j.Rec))
	delete(l.held, job)
	if !slices.Contains(l.active, job) {
		return
	}
	l.active = slices.DeleteFunc(l.active, func(n uint64) bool { return n == job })
	delete(l.looked, job)
	delete(l.queues, job)
	delete(l.stuck, job)
	l.roll.Forget(job)
	l.dirty = true
}

// waitsFor returns the job that has to end before this one may start, 0 for none,
// or why it never may.
func (l *leader) waitsFor(rec *wire.JobRecord) (before uint64, never string) {
	if before = l.before(rec); before == 0 {
		return 0, ""
	}
	switch ended := l.ended.get(before); {
	case l.jobs[before] != nil:
		return before, ""
	case !l.ended.has(before):
		return 0, fmt.Sprintf("job %d, after which it was to run, does not exist", before)
	case l.ended.done.has(before):
		return 0, ""
	case ended != nil:
		return 0, wire.Shorten(fmt.Sprintf("job %d, after which it was to run, is %s: %s", before, ended.State, ended.Reason))
	}
	return 0, fmt.Sprintf("job %d, after which it was to run, didn't end well; `idunno job %d` tells why", before, before)
}

// before is the job after which one is to run, 0 for none. Where that repeated
// another one's submission it is the other.
func (l *leader) before(rec *wire.JobRecord) uint64 {
	before := rec.Doc.After
	for {
		other, duplicate := l.ended.duplicates[before]
		if !duplicate || other >= before {
			return before
		}
		before = other
	}
}

// whatFor says what a queued job waits for, "" when it is its turn.
func (l *leader) whatFor(rec *wire.JobRecord) string {
	if rec.State != wire.StateQueued {
		return ""
	}
	if before, _ := l.waitsFor(rec); before > 0 {
		return fmt.Sprintf("it waits for job %d to end", before)
	}
	if l.held[rec.Job] {
		return fmt.Sprintf("it waits: the cluster's phase is %s; `idunno phase %s` lets it run", l.settings.Load().Phase, wire.PhaseBoth)
	}
	return ""
}

// remind has deadlines looked at when the given one comes, if that is the next.
func (l *leader) remind(deadline time.Time) {
	if !deadline.IsZero() && (l.due.IsZero() || deadline.Before(l.due)) {
		l.due = deadline
	}
}

// expire finds the jobs whose deadline has passed.
func (l *leader) expire(now time.Time) {
	if l.due.IsZero() || now.Before(l.due) {
		return
	}
	l.due = time.Time{}
	for job, j := range l.jobs {
		switch deadline := j.Rec.Deadline; {
		case deadline.IsZero() || j.Finished():
		case deadline.After(now):
			l.remind(deadline)
		case l.doomed[job] == "":
			s := j.Stats(now)
			l.doomed[job] = fmt.Sprintf("its deadline, %s, has passed with %d of %d batches done", deadline.UTC().Format(time.RFC3339), s.Batches, s.Total)
		}
	}
}

// seeComplete notes a job that has got its last result although it doesn't run.
func (l *leader) seeComplete(j *sched.Job) {
	if j.Finished() && j.Rec.State != wire.StateRunning {
		l.complete[j.Rec.Job] = true
	}
}

// dismiss ends the jobs that have to end without having run to their end, and those
// whose last results came when they didn't run any more.
func (l *leader) dismiss(ctx context.Context) error {
	var failed []error
	for job, reason := range l.doomed {
		if j := l.jobs[job]; j != nil {
			failed = append(failed, l.cease(ctx, j, wire.StateCancelled, reason))
		}
		if l.jobs[job] == nil {
			delete(l.doomed, job)
		}
	}
	for job := range l.complete {
		if j := l.jobs[job]; j != nil && j.Rec.State != wire.StateRunning {
			state, reason := j.Outcome()
			failed = append(failed, l.cease(ctx, j, state, reason))
		}
		if j := l.jobs[job]; j == nil || j.Rec.State == wire.StateRunning {
			delete(l.complete, job)
		}
	}
	return errors.Join(failed...)
}

// cease ends a job after filing its dead letters: nobody looks at the results of an
// ended one again.
func (l *leader) cease(ctx context.Context, j *sched.Job, state wire.State, reason string) error {
	if left := l.Broker.StoreDeadLetters(ctx, j.Unfiled()); len(left) > 0 {
		return fmt.Errorf("%d dead letters are not stored yet", len(left))
	}
	return l.end(ctx, j, state, reason)
}

// finish writes the final record of a job whose tasks all have results.
func (l *leader) finish(ctx context.Context, j *sched.Job) error {
	state, reason := j.Outcome()
	return l.end(ctx, j, state, reason)
}

// end closes an unfinished job in the given state.
func (l *leader) end(ctx context.Context, j *sched.Job, state wire.State, reason string) error {
	now := time.Now()
	rec := *j.Rec
	rec.State, rec.Reason, rec.Ended, rec.Trained = state, reason, now, j.Trained()
	if last := j.LastResult(); state != wire.StateCancelled && !last.IsZero() {
		rec.Ended = last
	}
	shown := *j.Rec
	*j.Rec = rec
	summary, err := j.Summary(now)
	*j.Rec = shown
	if err != nil {
		return err
	}
	rec.Summary = summary
	if err := l.writeEnded(ctx, &rec); err != nil {
		return err
	}
	job := rec.Job
	l.leave(j)
	l.remember(&rec, recordSize+nodeSize*len(rec.Summary.Nodes))
	delete(l.jobs, job)
	delete(l.revs, job)
	l.takeEarly(job)
	if shown.State != wire.StateQueued || !j.LastResult().IsZero() {
		l.keep(job, now)
	}
	l.Log.Info("job ended", "job", job, "state", state, "reason", reason)
	l.dirty, l.closing[job] = true, true
	l.release(job)
	return nil
}

// release lets the jobs go on that waited for this one to end.
func (l *leader) release(job uint64) {
	waited := l.after[job]
	delete(l.after, job)
	for other := range waited {
		if j := l.jobs[other]; j != nil {
			l.enqueue(j)
		}
	}
}

// writeEnded writes the record of an ended job. A record of very many nodes is
// cut to what a message holds: first the sums behind the nodes' statistics go,
// then the nodes; the job's own statistics stay.
func (l *leader) writeEnded(ctx context.Context, rec *wire.JobRecord) error {
	err := l.write(ctx, rec)
	if !errors.Is(err, errTooLarge) {
		return err
	}
	for i := range rec.Summary.Nodes {
		rec.Summary.Nodes[i].Raw = nil
	}
	if err = l.write(ctx, rec); !errors.Is(err, errTooLarge) {
		return err
	}
	rec.Summary.Nodes = []wire.NodeStats{}
	return l.write(ctx, rec)
}
