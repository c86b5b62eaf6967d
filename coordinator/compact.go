package coordinator

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/archive"
)

// The results of an ended job move from the stream of results into the SDFS, aside
// from the leader's loop:
//
//	ended ──CompactAfter──> archive stored (1) ──> record says so (2) ──DropAfter──> stream emptied (3)
//
// Readers go by the record: before (2) results are in the stream, after it in the
// archive. A leader that dies before (2) leaves an archive that the next one stores
// again, the same bytes; one that dies before (3) leaves messages that nobody reads.
// (2) is a compare-and-set under the leader's epoch, and (3) follows only a record that
// was read or written with the archive in it, so that a former leader removes nothing
// that isn't kept elsewhere.
//
// The table of active jobs lists which ended jobs still have results in the stream. It
// is written anyway when a job ends; should the leader die before, the job is still
// listed as active, and its record says that it isn't.
//
// A subject that was emptied would take a second result. So DropAfter is far longer
// than a worker that was cut off or frozen needs to learn that its job is over. A
// result that comes later still is removed when it is seen; nothing reads it.

const (
	// DefaultCompactAfter and DefaultDropAfter are the times after a job's end.
	DefaultCompactAfter = 3 * time.Second
	DefaultDropAfter    = 2 * time.Minute
	// compactAtOnce is how many jobs are taken up at a time.
	compactAtOnce = 32
	// compactRest is how long the compaction rests, in times of what it took: results
	// that are being made come first.
	compactRest = 3
	// restEvery is after how many results it rests in the midst of a job.
	restEvery = 512
	// compactAgain is the first pause after a failure, compactWait the longest.
	compactAgain = time.Second
	compactWait  = time.Minute
	// recordWait bounds one request for a record.
	recordWait = 5 * time.Second
)

// keptJob is an ended job whose results are still in the stream.
type keptJob struct {
	since time.Time // its end, or when this leader learned of it
	next  time.Time // when it is looked at
	fails int
	late  bool // a result has come since
}

// keep notes that an ended job has results in the stream, in the loop.
func (l *leader) keep(job uint64, since time.Time) {
	if l.kept[job] == nil {
		l.kept[job] = &keptJob{since: since, next: since.Add(l.CompactAfter)}
	}
}

// keptRuns lists those jobs for the table, and those that have results and don't run
// now: they may end before the table is written again.
func (l *leader) keptRuns() [][2]uint64 {
	jobs := slices.Collect(maps.Keys(l.kept))
	for job, j := range l.jobs {
		if j.Rec.State != wire.StateRunning && !j.LastResult().IsZero() {
			jobs = append(jobs, job)
		}
	}
	slices.Sort(jobs)
	var runs [][2]uint64
	for _, job := range jobs {
		if n := len(runs); n > 0 && runs[n-1][1] == job-1 {
			runs[n-1][1] = job
			continue
		}
		runs = append(runs, [2]uint64{job, job})
	}
	return runs
}

// takeKept learns from the table that a former leader wrote which ended jobs have
// results in the stream: those that it lists, and those that it takes for active.
func (l *leader) takeKept(table *wire.ActiveJobs) {
	now := time.Now()
	for _, run := range table.Kept {
		for job := run[0]; job <= min(run[1], l.last) && job > 0; job++ {
			if l.jobs[job] == nil {
				l.keep(job, now)
			}
		}
	}
	for _, j := range table.Jobs {
		if l.jobs[j.Job] == nil && j.Job <= l.last {
			l.keep(j.Job, now)
		}
	}
}

// late is told of a result for a job that isn't unfinished, in the loop. It came when
// the job had ended: nobody reads it.
func (l *leader) late(job uint64) {
	if l.jobs[job] == nil && job <= l.last {
		l.keep(job, time.Now())
		l.kept[job].late = true
	}
}

// ripe lists the jobs to look at now, in the loop.
func (l *leader) ripe(now time.Time) []uint64 {
	var jobs []uint64
	for job, k := range l.kept {
		if !k.next.After(now) {
			jobs = append(jobs, job)
		}
	}
	slices.SortFunc(jobs, func(x, y uint64) int { return cmp.Or(l.kept[x].next.Compare(l.kept[y].next), cmp.Compare(x, y)) })
	return jobs[:min(len(jobs), compactAtOnce)]
}

// compactEnded moves the results of ended jobs, one job after the other, until ctx ends.
func (l *leader) compactEnded(ctx context.Context) {
	if l.CompactAfter < 0 {
		return
	}
	tick := time.NewTicker(min(max(l.CompactAfter/4, 10*time.Millisecond), time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		jobs, ok := inLoop(ctx, l, func() []uint64 { return l.ripe(time.Now()) })
		if !ok {
			return
		}
		for _, job := range jobs {
			began := time.Now()
			dropped, err := l.compact(ctx, job)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				l.Log.Warn("results not moved into the store yet", "job", job, "error", err)
			}
			l.do(ctx, func() { l.compacted(job, dropped, err) })
			select {
			case <-ctx.Done():
				return
			case <-time.After(compactRest * time.Since(began)):
			}
		}
	}
}

// compacted notes what came of that, in the loop.
func (l *leader) compacted(job uint64, dropped bool, err error) {
	k := l.kept[job]
	switch {
	case k == nil:
	case dropped && k.late:
		k.late = false // it may have come after the stream was emptied: once more
	case dropped:
		delete(l.kept, job)
		l.dirty = true
	case err != nil:
		k.next = time.Now().Add(min(compactAgain<<min(k.fails, 10), compactWait))
		k.fails++
	default:
		k.next, k.fails = k.since.Add(l.DropAfter), 0
	}
}

// compact takes an ended job's results one step further. It reports true when none are
// left in the stream.
func (l *leader) compact(ctx context.Context, job uint64) (dropped bool, err error) {
	rec, rev, err := l.recordOf(ctx, job)
	if err != nil {
		return false, err
	}
	if rec == nil || !rec.State.Ended() {
		return false, fmt.Errorf("job %d has not ended by its record", job)
	}
	since, ok := inLoop(ctx, l, func() time.Time { return l.keptSince(job) })
	if !ok {
		return false, ctx.Err()
	}
	last := time.Since(since) >= l.DropAfter
	if rec.Results == nil {
		if rec.Results, err = l.store(ctx, rec, last); err != nil || rec.Results == nil {
			return false, err
		}
		if err := l.rewrite(ctx, rec, rev); err != nil {
			return false, err
		}
		l.Log.Debug("results moved into the store", "job", job, "results", rec.Results.Tasks, "bytes", rec.Results.Bytes, "file", rec.Results.File)
		if err := l.dropOutputs(ctx, rec); err != nil || !last {
			return false, err
		}
	}
	if !last {
		return false, nil
	}
	if err := l.Broker.DropResults(ctx, job, 0); err != nil {
		return false, err
	}
	return true, l.dropOutputs(ctx, rec)
}

// keptSince is when a job's results began to be kept, in the loop.
func (l *leader) keptSince(job uint64) time.Time {
	if k := l.kept[job]; k != nil {
		return k.since
	}
	return time.Now()
}

// store puts the results of an ended job into its archive. Of a job that ended before
// its time some may still be on their way: until last is set it returns nil then.
func (l *leader) store(ctx context.Context, rec *wire.JobRecord, last bool) (*wire.StoredResults, error) {
	if rec.State == wire.StateCancelled && !last {
		return nil, nil
	}
	out := archive.NewWriter(l.files, rec.Job)
	count, began := 0, time.Now()
	order := archive.Order{Tasks: rec.Tasks(), From: rec.KeptFrom,
		Fetch: func(ctx context.Context, task int) (*archive.Message, error) {
			s, err := l.Broker.Result(ctx, rec.Job, task)
			if err != nil || s == nil {
				return nil, err
			}
			return &archive.Message{Task: task, At: s.At, Data: s.Data}, nil
		},
		Emit: func(m *archive.Message) error { return out.Add(ctx, m) }}
	err := l.Broker.JobResults(ctx, rec.Job, func(s *broker.Stored) (bool, error) {
		_, task, ok := broker.TaskOfResult(s.Subject)
		if !ok {
			return true, nil
		}
		if count++; count%restEvery == 0 {
			select {
			case <-ctx.Done():
			case <-time.After(time.Since(began)):
			}
			began = time.Now()
		}
		return true, order.Add(ctx, &archive.Message{Task: task, At: s.At, Data: s.Data})
	})
	if err == nil {
		err = order.Flush(ctx)
	}
	if err != nil {
		return nil, err
	}
	switch want := rec.Tasks() - rec.Forgotten(); {
	case order.Seen() == want:
	case rec.State == wire.StateDone:
		return nil, fmt.Errorf("job %d has %d tasks whose results are kept, and %d results in the stream", rec.Job, want, order.Seen())
	case !last:
		return nil, nil
	}
	return out.Close(ctx)
}

// dropOutputs removes the files that kept outputs until the archive did.
func (l *leader) dropOutputs(ctx context.Context, rec *wire.JobRecord) error {
	if rec.Results.Outside == 0 && rec.Doc.Outputs != wire.OutputsProbs && rec.Doc.Outputs != wire.OutputsRaw {
		return nil
	}
	files, err := l.files.List(ctx, wire.ResultsFile(rec.Job)+"/")
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := l.files.Erase(ctx, f.Name); err != nil {
			return err
		}
	}
	return nil
}

// recordOf reads a job's record as it is stored, nil for none.
func (l *leader) recordOf(ctx context.Context, job uint64) (*wire.JobRecord, uint64, error) {
	within, cancel := context.WithTimeout(ctx, recordWait)
	defer cancel()
	e, err := l.state.Get(within, broker.KeyJob(job))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read record of job %d: %w", job, err)
	}
	var rec wire.JobRecord
	err = json.Unmarshal(e.Value, &rec)
	if err == nil && rec.Job != job {
		err = fmt.Errorf("it is of job %d", rec.Job)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("record of job %d can't be read: %w", job, err)
	}
	return &rec, e.Revision, nil
}

// rewrite writes the record of an ended job, of which nothing but the place of its
// results changes, aside.
func (l *leader) rewrite(ctx context.Context, rec *wire.JobRecord, rev uint64) error {
	if rec.Epoch > l.epoch {
		return errFenced
	}
	rec.Epoch = l.epoch
	p, err := json.Marshal(rec) // a little more than there was, which is within what a message holds
	if err != nil {
		return fmt.Errorf("encode record of job %d: %w", rec.Job, err)
	}
	if _, err = l.compareAndSet(ctx, broker.KeyJob(rec.Job), p, rev); err != nil {
		return fmt.Errorf("write record of job %d: %w", rec.Job, err)
	}
	l.do(ctx, func() { l.moved(rec) })
	return nil
}
