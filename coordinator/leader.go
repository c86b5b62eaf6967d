package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/sched"
)

const (
	// maxActive is how many jobs have tasks in the queue at a time; more wait.
	maxActive = 16
	// tickEvery drives the watchdog.
	tickEvery = 50 * time.Millisecond
	// stalledAfter is how long an active job may go without a result before its
	// queue is compared with what should be in it.
	stalledAfter = broker.AckWait + 2*time.Second
	// claimAtOnce is how many records a new leader rewrites at a time.
	claimAtOnce = 16
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

// leader is the state of one term. Only the goroutine in loop touches it, and the
// ledger; others go through do and ask.
type leader struct {
	*coordinator
	*ledger
	epoch  uint64
	state  broker.Bucket
	calls  chan func()
	fatal  error
	active []uint64
	// line are the jobs that may start, in their order. after are those that wait for
	// another one to end, by that one, held those that the phase doesn't let run.
	line  sched.Line
	after map[uint64]map[uint64]bool
	held  map[uint64]bool
	// doomed are unfinished jobs that have to end, and why; complete those that have all
	// results and don't run. due is when the next deadline may be.
	doomed   map[uint64]string
	complete map[uint64]bool
	due      time.Time
	// failedStart is when a job could not be started, zero when all could.
	failedStart time.Time
	// settings are the cluster's, settingsRev their revision.
	settings    atomic.Pointer[wire.Settings]
	settingsRev uint64
	// looked is when a job last made progress, or was last looked after.
	looked map[uint64]time.Time
	// queues are the names of the active jobs' queues.
	queues map[uint64]string
	// table is the revision of the table of active jobs, dirty that it must be
	// written; closing are jobs whose queues must be removed, with true for good.
	table   uint64
	dirty   bool
	closing map[uint64]bool
	// stuck are the active jobs that were found waiting for nobody.
	stuck map[uint64]stuckLook
	// saving says that a checkpoint is being written or removed.
	saving bool
	// forgetting are the jobs whose old rounds are being removed.
	forgetting map[uint64]bool
	// foldsLooked is when checkpoints that are due were last looked for.
	foldsLooked time.Time
	// steering is who works for what, crew how many workers there are.
	steering *steering
	crew     atomic.Int64
	waker    waker
	// kept are the ended jobs whose results are still in the stream.
	kept map[uint64]*keptJob
	// full is what there is room for, while that is not enough.
	full atomic.Pointer[broker.Room]
}

// lead is one term: take over, then serve until ctx ends.
func (c *coordinator) lead(ctx context.Context, epoch uint64) error {
	c.Log.Info("leading", "epoch", epoch)
	c.setLeading(true)
	defer c.setLeading(false)
	c.standby.stop()
	defer c.standby.start()
	l := &leader{coordinator: c, ledger: c.ledger, epoch: epoch, calls: make(chan func(), 1024), looked: make(map[uint64]time.Time),
		after: make(map[uint64]map[uint64]bool), held: make(map[uint64]bool), doomed: make(map[uint64]string), complete: make(map[uint64]bool),
		queues: make(map[uint64]string), closing: make(map[uint64]bool), stuck: make(map[uint64]stuckLook), kept: make(map[uint64]*keptJob), forgetting: make(map[uint64]bool), steering: newSteering()}
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
	var err error
	if l.state, err = l.Broker.Records(ctx); err != nil {
		return fmt.Errorf("open job records: %w", err)
	}
	// Asked before the records are, as a standby does: a former leader that isn't fenced
	// yet may start a job in between.
	last, err := l.Broker.LastResult(ctx)
	if err != nil {
		return err
	}
	if err := l.takeOver(ctx); err != nil {
		return err
	}
	defer l.roll.StandBy()
	stopResults, err := l.followResults(ctx, last)
	if err != nil {
		return err
	}
	defer stopResults()
	stopService, err := l.startService(ctx)
	if err != nil {
		return err
	}
	defer stopService()
	if err := l.openQueues(ctx); err != nil {
		return err
	}
	stopJobs, err := l.followJobs(ctx)
	if err != nil {
		return err
	}
	defer stopJobs()
	var aside sync.WaitGroup
	defer aside.Wait()
	defer cancel()
	aside.Go(func() { l.sweep(ctx) })
	aside.Go(func() { l.tend(ctx) })
	aside.Go(func() { l.compactEnded(ctx) })
	aside.Go(func() { l.retain(ctx) })
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
			l.sum(sumAtOnce)
			l.checkpoint(ctx, time.Now())
			err = errors.Join(l.watch(ctx, time.Now()), l.steer(ctx, time.Now()), l.tidy(ctx))
			if l.expire(time.Now()); len(l.doomed) > 0 || len(l.complete) > 0 || l.startAgain(time.Now()) {
				err = errors.Join(err, l.settle(ctx))
			}
		case connected := <-changes:
			if !connected {
				continue
			}
			l.Log.Info("reconnected: filling the queues again")
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

// takeOver brings the ledger up to date and rewrites the records of unfinished
// jobs under this epoch, which fences an earlier leader that doesn't know it is
// deposed.
func (l *leader) takeOver(ctx context.Context) error {
	if err := l.readRecords(ctx, l.state); err != nil {
		return err
	}
	active, queued, paused := l.unfinished()
	l.active = active
	tabled, err := l.loadTable(ctx)
	if err != nil {
		return err
	}
	// The bucket of the lease counts from 1 again when somebody has deleted it, and a
	// term may have written the table of active jobs and no record yet.
	l.epoch = max(l.epoch, l.ledger.epoch+1, tabled+1)
	l.ledger.epoch = l.epoch // what this term writes it doesn't read again
	plans := make(map[uint64]*wire.JobRecord, len(l.active))
	for _, job := range l.active {
		frozen := *l.jobs[job].Rec
		plans[job] = &frozen
	}
	l.roll.Lead(ctx, plans)
	err = l.claim(ctx, slices.Concat(active, queued, paused))
	if err == nil {
		err = l.loadSettings(ctx)
	}
	if err != nil {
		l.roll.StandBy()
		return err
	}
	for _, job := range queued {
		l.enqueue(l.jobs[job])
	}
	for _, job := range slices.Concat(queued, paused) {
		l.seeComplete(l.jobs[job])
	}
	l.due = time.Now() // whose deadline that is shows when it is looked for
	return nil
}

// claim rewrites records under this epoch, several at a time.
func (l *leader) claim(ctx context.Context, jobs []uint64) error {
	revs := make([]uint64, len(jobs))
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(claimAtOnce)
	for i, job := range jobs {
		j := l.jobs[job]
		j.Resume()
		j.Rec.Epoch = l.epoch
		p, err := encodeRecord(j.Rec)
		if err != nil {
			return errors.Join(err, group.Wait())
		}
		was := l.revs[job]
		group.Go(func() (err error) {
			if revs[i], err = l.compareAndSet(within, broker.KeyJob(job), p, was); err != nil {
				err = fmt.Errorf("write record of job %d: %w", job, err)
			}
			return err
		})
	}
	err := group.Wait()
	for i, job := range jobs {
		if revs[i] > 0 {
			l.revs[job] = revs[i]
		}
	}
	return err
}

// openQueues makes sure that the active jobs' tasks can be pulled.
func (l *leader) openQueues(ctx context.Context) error {
	for _, job := range l.active {
		if err := l.openQueue(ctx, job); err != nil {
			return err
		}
	}
	return l.tidy(ctx)
}

// openQueue opens a job's queue, and has the workers told when it is another one
// than before.
func (l *leader) openQueue(ctx context.Context, job uint64) error {
	name, err := l.Broker.OpenQueue(ctx, job, l.inFlight(job))
	if err == nil && l.queues[job] != name {
		l.queues[job], l.dirty = name, true
	}
	return err
}

// loadTable reads the table of active jobs and returns the epoch that it was written
// under, 0 when there is none.
func (l *leader) loadTable(ctx context.Context) (epoch uint64, err error) {
	entry, err := l.state.Get(ctx, broker.KeyActive)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		l.table = 0
	case err != nil:
		return 0, fmt.Errorf("read job table: %w", err)
	default:
		l.table = entry.Revision
		var table wire.ActiveJobs
		if json.Unmarshal(entry.Value, &table) == nil {
			for _, j := range table.Jobs {
				l.queues[j.Job] = j.Queue
				l.steering.allotted[j.Job] = sched.Allotment{Job: j.Job, Nodes: j.Nodes, All: len(j.Nodes) == 0, Only: j.Only}
				if !slices.Contains(l.active, j.Job) { // whoever led before didn't come to that
					l.closing[j.Job] = l.jobs[j.Job] == nil
				}
			}
			l.takeKept(&table)
			epoch = table.Epoch
		}
	}
	l.dirty = true
	return epoch, nil
}

// write stores a record at the revision last seen. It returns errFenced when a
// later leader has written it since.
func (l *leader) write(ctx context.Context, rec *wire.JobRecord) error {
	rec.Epoch = l.epoch
	p, err := encodeRecord(rec)
	if err != nil {
		return err
	}
	rev, err := l.decide(ctx, broker.KeyJob(rec.Job), p, l.revs[rec.Job])
	if err != nil {
		return fmt.Errorf("write record of job %d: %w", rec.Job, err)
	}
	l.revs[rec.Job] = rev
	return nil
}

func encodeRecord(rec *wire.JobRecord) ([]byte, error) {
	p, err := json.Marshal(rec)
	if err != nil {
		return nil, fmt.Errorf("encode record of job %d: %w", rec.Job, err)
	}
	if len(p) > maxRecord {
		return nil, fmt.Errorf("record of job %d: %w", rec.Job, errTooLarge)
	}
	return p, nil
}

// tidy does what had to be done before and could not: the table of active jobs
// is written, the queues of jobs that don't run any more are removed.
func (l *leader) tidy(ctx context.Context) error {
	if l.dirty {
		if err := l.writeTable(ctx); err != nil {
			return err
		}
		l.dirty = false
	}
	for job := range l.closing {
		if err := l.closeQueue(ctx, job); err != nil {
			return err
		}
	}
	return nil
}

// closeQueue removes a queue that has to be removed.
func (l *leader) closeQueue(ctx context.Context, job uint64) error {
	forGood, due := l.closing[job]
	if !due {
		return nil
	}
	remove := l.Broker.SuspendQueue
	if forGood {
		remove = l.Broker.CloseQueue
	}
	err := remove(ctx, job)
	if err == nil {
		delete(l.closing, job)
	}
	return err
}

// writeTable stores the table of active jobs, which tells the workers.
func (l *leader) writeTable(ctx context.Context) error {
	table := wire.ActiveJobs{Schema: wire.Schema, Epoch: l.epoch, Fair: l.fair(), Jobs: []wire.ActiveJob{}, Kept: l.keptRuns()}
	for _, job := range l.active {
		doc := l.jobs[job].Rec.Doc
		nodes, only := l.nodesOf(job)
		table.Jobs = append(table.Jobs, wire.ActiveJob{Job: job, Model: doc.Target(), Train: doc.Training(), Queue: l.queues[job],
			Weight: doc.Weight, Priority: doc.Priority, Nodes: nodes, Only: only, MaxInFlight: doc.MaxInFlight})
	}
	p, err := json.Marshal(table)
	if err != nil {
		return fmt.Errorf("encode job table: %w", err)
	}
	rev, err := l.decide(ctx, broker.KeyActive, p, l.table)
	if err != nil {
		return fmt.Errorf("write job table: %w", err)
	}
	l.table = rev
	return nil
}

// decide is compareAndSet in the loop: a refusal ends the term.
func (l *leader) decide(ctx context.Context, key string, p []byte, rev uint64) (uint64, error) {
	next, err := l.compareAndSet(ctx, key, p, rev)
	if errors.Is(err, errFenced) {
		l.fatal = errFenced
	}
	return next, err
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
	return 0, errFenced
}
