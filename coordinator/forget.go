package coordinator

import (
	"context"
	"strconv"
	"strings"

	"idunno/broker/wire"
)

// A job that runs for ever keeps the results of so many of its last whole rounds as the
// settings say. Older ones go whenever a checkpoint has been written, in this order:
//
//	checkpoint stored (1) ──> record says from which task on results are kept (2) ──> stream and outputs (3)
//
// After (1) no coordinator needs the results to know what is done, after (2) no reader
// looks for them. A leader that dies before (3) leaves them to the next one, which
// removes them with those that follow. (2) is a compare-and-set under the leader's epoch;
// a former leader that wakes up in (3) removes nothing but what its own record said.

// forget drops what a job keeps no longer, aside; in the loop.
func (l *leader) forget(ctx context.Context, job uint64) {
	j := l.jobs[job]
	if j == nil || l.forgetting[job] {
		return
	}
	from, before, ok := j.Forgettable(l.settings.Load().KeptRounds(), l.folds[job].place, l.folds[job].through)
	if !ok {
		return
	}
	rec := *j.Rec
	rec.KeptFrom, rec.ResultsFrom = from, max(rec.ResultsFrom, before)
	if err := l.write(ctx, &rec); err != nil {
		l.Log.Warn("old rounds not removed yet", "job", job, "error", err)
		return
	}
	*j.Rec = rec
	j.Forgot()
	l.forgetting[job] = true
	go func() {
		err := l.Broker.DropResults(ctx, job, before)
		if err == nil {
			err = l.forgetOutputs(ctx, &rec)
		}
		l.do(ctx, func() {
			delete(l.forgetting, job)
			if err != nil {
				l.Log.Warn("old rounds not removed yet", "job", job, "error", err)
			}
		})
	}()
}

// forgetOutputs removes the files that keep outputs of tasks whose results are kept no
// longer.
func (l *leader) forgetOutputs(ctx context.Context, rec *wire.JobRecord) error {
	if rec.Doc.Outputs != wire.OutputsProbs && rec.Doc.Outputs != wire.OutputsRaw {
		return nil
	}
	folder := wire.ResultsFile(rec.Job) + "/"
	files, err := l.files.List(ctx, folder)
	if err != nil {
		return err
	}
	for _, f := range files {
		task, err := strconv.Atoi(strings.TrimPrefix(f.Name, folder))
		if err != nil || task >= rec.KeptFrom {
			continue
		}
		if err := l.files.Erase(ctx, f.Name); err != nil {
			return err
		}
	}
	return nil
}
