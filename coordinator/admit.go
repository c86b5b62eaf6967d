package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/sched"
	"idunno/objectstore"
)

// resolved is what a document's names stand for at the moment.
type resolved struct {
	model, data objectstore.Version
}

// validate checks a document against the stored models and data sets. It
// returns a *[wire.Error] when the document is at fault, and other errors when
// the store can't be asked.
func (c *coordinator) validate(ctx context.Context, doc wire.JobDoc) (resolved, error) {
	var r resolved
	var err error
	r.data, err = c.lookUp(ctx, "data", wire.DataFolder, doc.Data, wire.CodeUnknownData, dataHint(doc))
	if err != nil {
		return r, err
	}
	if doc.Training() {
		return r, nil
	}
	r.model, err = c.lookUp(ctx, "model", wire.ModelFolder, doc.Model, wire.CodeUnknownModel, "; `idunno model ls` lists them")
	if err != nil {
		return r, err
	}
	if batches := r.data.Parts; doc.To > batches {
		field := "to"
		if doc.From > batches {
			field = "from"
		}
		return r, &wire.Error{Code: wire.CodeBadRange, Field: field,
			Message: fmt.Sprintf("%s is beyond the end of data set %s; allowed: batches 1 to %d", field, doc.Data, batches)}
	}
	return r, nil
}

func dataHint(doc wire.JobDoc) string {
	if doc.Training() && doc.Data == wire.DefaultTrainData {
		return "; get it with `idunno data fetch mnist`, or from files with `idunno data import mnist-train --idx DIR`"
	}
	return "; `idunno data ls` lists them"
}

func (c *coordinator) lookUp(ctx context.Context, field, folder, ref, code, hint string) (objectstore.Version, error) {
	v, err := c.files.Resolve(ctx, folder+ref)
	if err == nil {
		return v, nil
	}
	if errors.Is(err, objectstore.ErrCorrupt) || errors.Is(err, objectstore.ErrBadName) {
		return v, &wire.Error{Code: code, Field: field, Message: fmt.Sprintf("%s %q can't be used (%v); allowed: a file that is whole%s", field, ref, err, hint)}
	}
	if !errors.Is(err, objectstore.ErrNotFound) {
		return v, fmt.Errorf("look up %s %s: %w", field, ref, err)
	}
	files, err := c.files.List(ctx, folder)
	names := "none is stored yet"
	if err != nil {
		// An unreadable entry of another file is no reason to keep this job waiting.
		names = "those that are stored"
	}
	if len(files) > 0 {
		list := make([]string, len(files))
		for i, f := range files {
			list[i] = strings.TrimPrefix(f.Name, folder)
		}
		names = strings.Join(list, ", ")
	}
	return v, &wire.Error{Code: code, Field: field,
		Message: fmt.Sprintf("%s %q is not stored; allowed: %s%s", field, ref, names, hint)}
}

// followJobs admits the submissions that have no record yet, and then every new one.
func (l *leader) followJobs(ctx context.Context) (stop func(), err error) {
	return l.Broker.FollowJobs(ctx, l.last+1, func(ctx context.Context, m *broker.Stored) {
		if m != nil {
			l.admitWhenPossible(ctx, m.Seq, m.At, m.Data)
		}
	})
}

// admitWhenPossible admits a submission, again and again while the store is
// away: an accepted job is never skipped.
func (l *leader) admitWhenPossible(ctx context.Context, job uint64, at time.Time, p []byte) {
	for ctx.Err() == nil {
		rec, err := l.freeze(ctx, job, at, p)
		if err == nil {
			var ok bool
			if err, ok = inLoop(ctx, l, func() error { return l.admit(ctx, rec) }); !ok {
				return
			}
		}
		if err == nil || errors.Is(err, errFenced) {
			return
		}
		l.Log.Warn("can't admit the job yet", "job", job, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// freeze makes the record of a submission: queued, or rejected with the reason.
func (l *leader) freeze(ctx context.Context, job uint64, at time.Time, p []byte) (*wire.JobRecord, error) {
	rec := &wire.JobRecord{Schema: wire.Schema, Job: job, Submitted: at, State: wire.StateQueued}
	reject := func(e *wire.Error) (*wire.JobRecord, error) {
		rec.State, rec.Reason, rec.Ended = wire.StateRejected, e.Message, time.Now()
		return rec, nil
	}
	doc, err := wire.ParseJobDoc(p)
	var refusal *wire.Error
	if errors.As(err, &refusal) {
		return reject(refusal)
	}
	rec.Doc = doc
	if err = l.resolve(ctx, rec); errors.As(err, &refusal) {
		return reject(refusal)
	}
	if err != nil {
		return nil, err
	}
	last, err := l.Broker.LastResult(ctx)
	if err != nil {
		return nil, err
	}
	rec.ResultsFrom = last + 1
	return rec, nil
}

// resolve freezes in a record what its document's names stand for.
func (l *leader) resolve(ctx context.Context, rec *wire.JobRecord) error {
	if rec.Doc.Retry > 0 {
		return l.resolveRetry(ctx, rec)
	}
	r, err := l.validate(ctx, rec.Doc)
	if err != nil {
		return err
	}
	rec.ModelVersion, rec.ModelDigest = r.model.Version, r.model.Digest
	rec.DataVersion, rec.DataDigest = r.data.Version, r.data.Digest
	return nil
}

// admit files a new record, in the loop.
func (l *leader) admit(ctx context.Context, rec *wire.JobRecord) error {
	if rec.Job <= l.last {
		return nil // admitted before
	}
	if rec.State != wire.StateRejected && rec.Retry == nil {
		rec.TaskSize = sched.TaskSize(rec.Batches(), l.known[workloadOf(rec)], l.roll.slots())
	}
	if err := l.write(ctx, rec); err != nil {
		return err
	}
	l.last = rec.Job
	if rec.State == wire.StateRejected {
		l.Log.Info("job rejected", "job", rec.Job, "reason", rec.Reason)
		l.ended.add(rec, recordSize)
		return nil
	}
	l.Log.Info("job admitted", "job", rec.Job, "model", rec.Doc.Target(), "from", rec.Doc.From, "to", rec.Doc.To,
		"batches_a_task", rec.TaskSize)
	l.jobs[rec.Job] = sched.NewJob(rec, false)
	l.queued = append(l.queued, rec.Job)
	return nil
}

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
	for _, job := range slices.Clone(l.queued) {
		if len(l.active) >= maxActive {
			break
		}
		failed = append(failed, l.start(ctx, job))
	}
	for _, job := range l.active {
		l.file(ctx, l.jobs[job])
		l.publish(ctx, l.jobs[job])
	}
	failed = append(failed, l.tidy(ctx))
	return errors.Join(failed...)
}

// start opens a queued job's task queue and makes it active.
func (l *leader) start(ctx context.Context, job uint64) error {
	j := l.jobs[job]
	if err := l.openQueue(ctx, job); err != nil {
		return err
	}
	was := *j.Rec
	if j.Rec.State = wire.StateRunning; j.Rec.Started.IsZero() {
		// It has no result before this moment, however long it has waited.
		j.Rec.Started, j.Rec.ResultsFrom = time.Now(), max(j.Rec.ResultsFrom, l.results+1)
	}
	if err := l.write(ctx, j.Rec); err != nil {
		*j.Rec = was
		return err
	}
	l.queued = slices.DeleteFunc(l.queued, func(n uint64) bool { return n == job })
	l.active = append(l.active, job)
	l.looked[job] = time.Now()
	l.roll.plan(j.Rec)
	l.dirty = true
	return nil
}

// finish writes the final record of a job whose tasks all have results.
func (l *leader) finish(ctx context.Context, j *sched.Job) error {
	state, reason := j.Outcome()
	return l.end(ctx, j, state, reason)
}

// end closes an active or queued job in the given state.
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
	l.remember(&rec, recordSize+nodeSize*len(rec.Summary.Nodes))
	delete(l.revs, job)
	delete(l.jobs, job)
	delete(l.looked, job)
	delete(l.queues, job)
	l.roll.forget(job)
	isJob := func(n uint64) bool { return n == job }
	l.active = slices.DeleteFunc(l.active, isJob)
	l.queued = slices.DeleteFunc(l.queued, isJob)
	l.Log.Info("job ended", "job", job, "state", state, "reason", reason)
	l.dirty, l.closing[job] = true, true
	return nil
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

// wakeWorkers tells the workers that there is something to pull. A lost
// connection loses the call, and the workers look by themselves soon after.
func (l *leader) wakeWorkers() { _ = l.Broker.Wake() }
