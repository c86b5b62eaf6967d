package coordinator

import (
	"context"
	"errors"
	"fmt"
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
	// batchSize is the images in a batch, 0 for as stored.
	batchSize int
}

// validate checks a document against the stored models and data sets; batchSize is
// the images in a batch, 0 for as stored. A model that is awaited may be missing. It
// returns a *[wire.Error] when the document is at fault, and other errors when the
// store can't be asked.
func (c *coordinator) validate(ctx context.Context, doc wire.JobDoc, batchSize int, awaited bool) (resolved, error) {
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
	var refusal *wire.Error
	if err != nil && !(awaited && errors.As(err, &refusal)) {
		return r, err
	}
	batches := r.data.Parts
	if batchSize > 0 {
		if batches, r.batchSize, err = c.regroup(ctx, doc, r.data, batchSize); err != nil {
			return r, err
		}
	}
	if doc.To > batches {
		field := "to"
		if doc.From > batches {
			field = "from"
		}
		of := ""
		if r.batchSize > 0 {
			of = fmt.Sprintf(" of %d images", r.batchSize)
		}
		return r, &wire.Error{Code: wire.CodeBadRange, Field: field,
			Message: fmt.Sprintf("%s is beyond the end of data set %s; allowed: batches 1 to %d%s", field, doc.Data, batches, of)}
	}
	if most := wire.MaxBatch / (doc.To - doc.From + 1); doc.Rounds > most {
		return r, &wire.Error{Code: wire.CodeBadRange, Field: "rounds",
			Message: fmt.Sprintf("rounds is %d, too many of so many batches; allowed: 1 to %d", doc.Rounds, most)}
	}
	if err != nil {
		return resolved{data: r.data, batchSize: r.batchSize}, nil
	}
	return r, c.fits(ctx, doc, r)
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
	rec.Doc, rec.Deadline = doc, doc.DeadlineAt(at)
	if err = l.resolve(ctx, rec); errors.As(err, &refusal) {
		return reject(refusal)
	}
	if err != nil {
		return nil, err
	}
	owner, err := l.claimID(ctx, rec)
	if err != nil {
		return nil, err
	}
	if owner != job {
		rec.DuplicateOf = owner
		return reject(&wire.Error{Message: fmt.Sprintf("job %d has the id %q already; it isn't run again", owner, doc.ID)})
	}
	return rec, nil
}

// resolve freezes in a record what its document's names stand for. A record that has
// no number yet is that of a submission.
func (l *leader) resolve(ctx context.Context, rec *wire.JobRecord) error {
	if rec.Doc.Retry > 0 {
		return l.resolveRetry(ctx, rec)
	}
	if err := l.checkTimes(ctx, rec); err != nil {
		return err
	}
	awaited, err := l.awaitsModel(ctx, rec)
	if err != nil {
		return err
	}
	r, err := l.validate(ctx, rec.Doc, l.batchSize(rec.Doc), awaited)
	if err == nil {
		r.freeze(rec)
	}
	return err
}

// freeze writes down what the names in a record's document stand for.
func (r *resolved) freeze(rec *wire.JobRecord) {
	rec.BatchSize = r.batchSize
	rec.ModelVersion, rec.ModelDigest = r.model.Version, r.model.Digest
	rec.DataVersion, rec.DataDigest = r.data.Version, r.data.Digest
}

// admit files a new record, in the loop.
func (l *leader) admit(ctx context.Context, rec *wire.JobRecord) error {
	if rec.Job <= l.last {
		return nil // admitted before
	}
	if rec.State != wire.StateRejected {
		rec.ResultsFrom = l.firstResult()
	}
	if rec.State != wire.StateRejected && rec.Retry == nil {
		l.taskSize(rec)
	}
	if err := l.write(ctx, rec); err != nil {
		return err
	}
	l.last = rec.Job
	if rec.State == wire.StateRejected {
		l.Log.Info("job rejected", "job", rec.Job, "reason", rec.Reason)
		l.ended.add(rec, recordSize)
		l.release(rec.Job)
		return nil
	}
	l.Log.Info("job admitted", "job", rec.Job, "model", rec.Doc.Target(), "from", rec.Doc.From, "to", rec.Doc.To,
		"batches_a_task", rec.TaskSize)
	l.jobs[rec.Job] = sched.NewJob(rec, false)
	l.enqueue(l.jobs[rec.Job])
	l.remind(rec.Deadline)
	return nil
}
