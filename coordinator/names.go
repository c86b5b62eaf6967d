package coordinator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"idunno/broker/wire"
	"idunno/coordinator/sched"
)

// Names in a document stand for what is stored under them when the job is admitted, and
// the record keeps that. A job that waits for another one is to run on what that one
// leaves: a model that it trains, above all. So its names are looked up once more when
// it starts for the first time, and the record that says that it has started says what
// they stood for: one write, under the leader's epoch. Another leader finds the job
// either waiting, and looks the names up itself, or started, and keeps them.
//
// Should they stand for nothing that can be run then, the job is cancelled.

// seenLate is how long after a job's end the model that it has stored may not be seen: a
// server's copy of the index may be behind. Later it has been removed.
const seenLate = 5 * time.Second

// named returns a job as it is to start: with what its names stand for now, if it has
// waited for another one. It returns nil for one that can't be run, which is doomed then.
func (l *leader) named(ctx context.Context, j *sched.Job) (*sched.Job, error) {
	if !j.Rec.NamesOpen() {
		return j, nil
	}
	rec, before := *j.Rec, l.before(j.Rec)
	ctx, cancel := context.WithTimeout(ctx, readWait)
	defer cancel()
	r, err := l.validate(ctx, rec.Doc, l.batchSize(rec.Doc), false)
	var refusal *wire.Error
	refused := errors.As(err, &refusal)
	switch t := l.trainedOf(before, rec.Doc.Model); {
	case err != nil && !refused:
		return nil, fmt.Errorf("start job %d: %w", rec.Job, err)
	case t != nil && r.model.Version < t.Version:
		return nil, fmt.Errorf("start job %d: version %d of model %s, which job %d has trained, is not seen yet", rec.Job, t.Version, t.Model, before)
	case refused:
		l.doomed[rec.Job] = wire.Shorten(fmt.Sprintf("job %d has ended, and this one can't start after it: %s", before, refusal.Message))
		return nil, nil
	}
	was, known := workloadOf(&rec), l.shown(&rec)
	r.freeze(&rec)
	if is := workloadOf(&rec); known.Time > 0 && was.data == is.data && was.batch == is.batch {
		// A version that was trained anew takes about what the one before took.
		if _, ok := l.known[is]; !ok {
			l.known[is] = known
		}
	}
	l.taskSize(&rec)
	return sched.NewJob(&rec, false), nil
}

// trainedOf is the model of the given name that a job has stored just now, nil for none.
func (l *leader) trainedOf(job uint64, model string) *wire.Trained {
	rec := l.ended.get(job)
	if rec == nil || rec.Trained == nil || rec.Trained.Model != model || time.Since(rec.Ended) > seenLate {
		return nil
	}
	return rec.Trained
}

// planned makes a job that has just started the one that results are folded into.
func (l *leader) planned(j *sched.Job) {
	l.jobs[j.Rec.Job] = j
	l.takeEarly(j.Rec.Job)
}

// awaitsModel reports whether the model of a record's document is trained by a job that
// this one waits for, or that one waits for. Where that has ended badly since the
// submission it doesn't matter any more which model it is.
func (l *leader) awaitsModel(ctx context.Context, rec *wire.JobRecord) (bool, error) {
	if rec.Doc.After == 0 || rec.Doc.Training() {
		return false, nil
	}
	awaited, ok := inLoop(ctx, l, func() bool {
		for r := rec; r.Doc.After > 0; {
			before := l.before(r)
			j := l.jobs[before]
			if j == nil {
				_, never := l.waitsFor(r)
				return never != "" && rec.Job > 0 || l.trainedOf(before, rec.Doc.Model) != nil
			}
			if r = j.Rec; r.Doc.Train == rec.Doc.Model {
				return true
			}
		}
		return false
	})
	if !ok {
		return false, ctx.Err()
	}
	return awaited, nil
}
