package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/sched"
)

const (
	// maxActive is how many jobs have tasks in the queue at a time; more wait.
	maxActive = 16
	// tickEvery drives membership and the watchdog.
	tickEvery = 50 * time.Millisecond
	// stalledAfter is how long an active job may go without a result before its
	// queue is compared with what should be in it.
	stalledAfter = broker.AckWait + 2*time.Second
	// lateTick is the pause between two ticks after which this process, and not
	// the nodes, counts as having been away.
	lateTick = 300 * time.Millisecond
	// failedWait is the pause after a term that ended with an error.
	failedWait = 500 * time.Millisecond
	// sweepEvery is how often the SDFS is cleaned of what died half-way.
	sweepEvery = time.Hour
)

var (
	// errFenced is returned when a record was written by a later leader.
	errFenced = errors.New("another coordinator leads")
	// errTooLarge is returned for a record that a message doesn't hold.
	errTooLarge = errors.New("too large to store")
)

// maxRecord is the largest record in bytes; a server accepts 1 MiB.
const maxRecord = 900 << 10

// leader is the state of one term. Only the goroutine in loop touches it; others
// go through do and ask.
type leader struct {
	*coordinator
	epoch   uint64
	state   broker.Bucket
	calls   chan func()
	fatal   error
	jobs    map[uint64]*sched.Job
	revs    map[uint64]uint64
	ended   map[uint64]*wire.JobRecord
	totals  *nodeTotals // over all ended jobs
	last    uint64
	active  []uint64
	queued  []uint64
	members *sched.Members
	// looked is when a job last made progress, or was last looked after.
	looked map[uint64]time.Time
	// table is the revision of the table of active jobs, dirty that it must be
	// written; closing are ended jobs whose queues must be removed.
	table   uint64
	dirty   bool
	closing map[uint64]bool
	// known is what the last job showed of a model on a data set.
	known map[workload]sched.Experience
}

// workload is what a batch's time depends on, by digest.
type workload struct{ model, data string }

func workloadOf(rec *wire.JobRecord) workload {
	return workload{model: rec.ModelDigest, data: rec.DataDigest}
}

// lead is one term: take over, then serve until ctx ends.
func (c *coordinator) lead(ctx context.Context, epoch uint64) error {
	c.Log.Info("leading", "epoch", epoch)
	c.setLeading(true)
	defer c.setLeading(false)
	l := &leader{coordinator: c, epoch: epoch, calls: make(chan func(), 1024),
		jobs: make(map[uint64]*sched.Job), revs: make(map[uint64]uint64), ended: make(map[uint64]*wire.JobRecord),
		totals: newNodeTotals(), members: sched.NewMembers(), looked: make(map[uint64]time.Time),
		closing: make(map[uint64]bool), known: make(map[workload]sched.Experience)}
	err := l.serve(ctx)
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, errFenced):
		c.Log.Warn("stepping down: another coordinator leads")
	case err != nil:
		// A server that has just come back may refuse the first requests. The
		// lease is given up, and whoever takes it next tries again.
		c.Log.Warn("can't lead now", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(failedWait):
		}
	}
	return nil
}

// serve takes over and runs the loop. Everything it starts has ended when it returns.
func (l *leader) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := l.Broker.Ensure(ctx); err != nil {
		return err
	}
	var err error
	if l.state, err = l.Broker.Records(ctx); err != nil {
		return fmt.Errorf("open job records: %w", err)
	}
	stopBeats, err := l.Broker.Listen(broker.SubjectHeartbeats, func(m *broker.Message) { l.observe(ctx, m.Data) })
	if err != nil {
		return fmt.Errorf("listen for heartbeats: %w", err)
	}
	defer stopBeats()
	if err := l.loadRecords(ctx); err != nil {
		return err
	}
	stopResults, err := l.followResults(ctx)
	if err != nil {
		return err
	}
	defer stopResults()
	for _, job := range l.active {
		if err := l.Broker.OpenQueue(ctx, job); err != nil {
			return err
		}
	}
	stopJobs, err := l.followJobs(ctx)
	if err != nil {
		return err
	}
	defer stopJobs()
	stopService, err := l.startService(ctx)
	if err != nil {
		return err
	}
	defer stopService()
	var aside sync.WaitGroup
	defer aside.Wait()
	defer cancel()
	aside.Go(func() { l.sweep(ctx) })
	return l.loop(ctx)
}

// sweep has the SDFS clean up after uploads that died, now and then.
func (l *leader) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		swept, err := l.files.Sweep(ctx)
		if err != nil && ctx.Err() == nil {
			l.Log.Warn("can't clean up the store yet", "error", err)
			continue
		}
		l.Log.Debug("store swept", "left_behind", swept)
	}
}

func (l *leader) loop(ctx context.Context) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	changes, stopChanges := l.Broker.ConnectionChanges()
	defer stopChanges()
	if err := l.settle(ctx); err != nil {
		l.Log.Warn("will try again", "error", err)
	}
	ticked := time.Now()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case call := <-l.calls:
			call()
			l.drainCalls()
			err = l.settle(ctx)
		case <-tick.C:
			l.drainCalls() // heartbeats that wait count before silence does
			now := time.Now()
			if now.Sub(ticked) > lateTick {
				l.members.Grace(now)
			}
			ticked = now
			l.tickMembers(ctx, now)
			err = errors.Join(l.watch(ctx, now), l.tidy(ctx))
		case connected := <-changes:
			if !connected {
				continue
			}
			l.Log.Info("reconnected: filling the queues again")
			l.members.Grace(time.Now())
			err = l.refill(ctx)
		}
		if err == nil {
			err = l.fatal
		}
		if err != nil {
			if errors.Is(err, errFenced) || ctx.Err() != nil {
				return err
			}
			// The broker is away or busy. Everything here is done again by the
			// next call, tick or reconnection.
			l.Log.Warn("will try again", "error", err)
			l.fatal = nil
		}
	}
}

// drainCalls runs what is waiting, so that a burst of results is settled once.
func (l *leader) drainCalls() {
	for range cap(l.calls) {
		select {
		case call := <-l.calls:
			call()
		default:
			return
		}
	}
}

// do hands fn to the loop. It gives up when the term ends.
func (l *leader) do(ctx context.Context, fn func()) {
	select {
	case l.calls <- fn:
	case <-ctx.Done():
	}
}

// loadRecords reads every record and rewrites those of unfinished jobs under
// this epoch, which fences an earlier leader that doesn't know it is deposed.
func (l *leader) loadRecords(ctx context.Context) error {
	err := l.state.Watch(ctx, broker.KeyJobs, func(e *broker.Entry) (more bool) {
		if e != nil {
			l.load(e)
		}
		return e != nil
	})
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("read job records: %w", err)
	}
	slices.Sort(l.active)
	slices.Sort(l.queued)
	for _, j := range l.jobs {
		if err := l.write(ctx, j.Rec); err != nil {
			return err
		}
	}
	return l.loadTable(ctx)
}

// load takes in a record that was there before this term.
func (l *leader) load(e *broker.Entry) {
	var rec wire.JobRecord
	if err := json.Unmarshal(e.Value, &rec); err != nil || rec.Job == 0 {
		l.Log.Error("unreadable job record, left alone", "key", e.Key, "error", err)
		return
	}
	l.revs[rec.Job] = e.Revision
	l.last = max(l.last, rec.Job)
	if rec.State.Ended() {
		l.remember(&rec)
		return
	}
	l.jobs[rec.Job] = sched.NewJob(&rec, true)
	if rec.State == wire.StateRunning {
		l.active = append(l.active, rec.Job)
	} else {
		l.queued = append(l.queued, rec.Job)
	}
}

func (l *leader) loadTable(ctx context.Context) error {
	entry, err := l.state.Get(ctx, broker.KeyActive)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		l.table = 0
	case err != nil:
		return fmt.Errorf("read job table: %w", err)
	default:
		l.table = entry.Revision
	}
	l.dirty = true
	return l.tidy(ctx)
}

// write stores a record at the revision last seen. It returns errFenced when a
// later leader has written it since.
func (l *leader) write(ctx context.Context, rec *wire.JobRecord) error {
	rec.Epoch = l.epoch
	p, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode record of job %d: %w", rec.Job, err)
	}
	if len(p) > maxRecord {
		return fmt.Errorf("record of job %d: %w", rec.Job, errTooLarge)
	}
	rev, err := l.compareAndSet(ctx, broker.KeyJob(rec.Job), p, l.revs[rec.Job])
	if err != nil {
		return fmt.Errorf("write record of job %d: %w", rec.Job, err)
	}
	l.revs[rec.Job] = rev
	return nil
}

// tidy does what had to be done before and could not: the table of active jobs
// is written, the queues of ended jobs are removed.
func (l *leader) tidy(ctx context.Context) error {
	if l.dirty {
		if err := l.writeTable(ctx); err != nil {
			return err
		}
		l.dirty = false
	}
	for job := range l.closing {
		if err := l.Broker.CloseQueue(ctx, job); err != nil {
			return err
		}
		delete(l.closing, job)
	}
	return nil
}

// writeTable stores the table of active jobs, which tells the workers.
func (l *leader) writeTable(ctx context.Context) error {
	table := wire.ActiveJobs{Schema: wire.Schema, Jobs: []wire.ActiveJob{}}
	for _, job := range l.active {
		doc := l.jobs[job].Rec.Doc
		table.Jobs = append(table.Jobs, wire.ActiveJob{Job: job, Model: doc.Target(), Train: doc.Training()})
	}
	p, err := json.Marshal(table)
	if err != nil {
		return fmt.Errorf("encode job table: %w", err)
	}
	rev, err := l.compareAndSet(ctx, broker.KeyActive, p, l.table)
	if err != nil {
		return fmt.Errorf("write job table: %w", err)
	}
	l.table = rev
	return nil
}

func (l *leader) compareAndSet(ctx context.Context, key string, p []byte, rev uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	next, err := l.state.Update(ctx, key, p, rev)
	if err == nil {
		return next, nil
	}
	if !broker.IsExists(err) {
		return 0, err
	}
	// Our own write may have succeeded with its acknowledgement lost.
	entry, getErr := l.state.Get(ctx, key)
	if getErr == nil && string(entry.Value) == string(p) {
		return entry.Revision, nil
	}
	l.fatal = errFenced
	return 0, errFenced
}

// remember keeps an ended job: its record, its part in the nodes' totals, and how
// long its batches took.
func (l *leader) remember(rec *wire.JobRecord) {
	l.ended[rec.Job] = rec
	s := rec.Summary
	if s == nil {
		return
	}
	if err := l.totals.addSummary(s); err != nil {
		l.Log.Error("merge statistics", "job", rec.Job, "error", err)
	}
	// The sums have done their work; a record without them is small.
	for i := range s.Nodes {
		s.Nodes[i].Raw = nil
	}
	if s.Batches > 0 && rec.ModelDigest != "" {
		l.known[workloadOf(rec)] = sched.Experience{Time: time.Duration(s.MeanMs * float64(time.Millisecond)),
			Images: float64(s.Images) / float64(s.Batches)}
	}
}
