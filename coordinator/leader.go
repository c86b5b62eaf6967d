package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
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
	// sweepEvery is how often the SDFS is cleaned of what died half-way.
	sweepEvery = time.Hour
)

// errFenced is returned when a record was written by a later leader.
var errFenced = errors.New("another coordinator leads")

// leader is the state of one term. Only the goroutine in loop touches it; others
// go through do and ask.
type leader struct {
	*coordinator
	epoch   uint64
	state   jetstream.KeyValue
	calls   chan func()
	fatal   error
	jobs    map[uint64]*sched.Job
	revs    map[uint64]uint64
	ended   map[uint64]*wire.JobRecord
	last    uint64
	active  []uint64
	queued  []uint64
	table   uint64
	members *sched.Members
	looked  map[uint64]time.Time
	// batchTime is the last measured mean batch time by model digest.
	batchTime map[string]time.Duration
}

// lead is one term: take over, then serve until ctx ends.
func (c *coordinator) lead(ctx context.Context, epoch uint64) error {
	c.Log.Info("leading", "epoch", epoch)
	c.setLeading(true)
	defer c.setLeading(false)
	if err := c.Broker.Ensure(ctx); err != nil {
		return ignoreEnd(ctx, err)
	}
	state, err := c.Broker.State(ctx)
	if err != nil {
		return ignoreEnd(ctx, fmt.Errorf("open job records: %w", err))
	}
	l := &leader{coordinator: c, epoch: epoch, state: state, calls: make(chan func(), 1024),
		jobs: make(map[uint64]*sched.Job), revs: make(map[uint64]uint64), ended: make(map[uint64]*wire.JobRecord),
		members: sched.NewMembers(), looked: make(map[uint64]time.Time), batchTime: make(map[string]time.Duration)}
	err = l.serve(ctx)
	if errors.Is(err, errFenced) {
		c.Log.Warn("stepping down: another coordinator leads")
		return nil
	}
	return ignoreEnd(ctx, err)
}

// ignoreEnd drops errors that only say that the term is over.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// serve takes over and runs the loop. Everything it starts has ended when it returns.
func (l *leader) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	beats, err := l.Broker.NC.Subscribe(broker.SubjectHeartbeats, func(m *nats.Msg) { l.observe(ctx, m.Data) })
	if err != nil {
		return fmt.Errorf("listen for heartbeats: %w", err)
	}
	defer func() { _ = beats.Unsubscribe() }()
	if err := l.loadRecords(ctx); err != nil {
		return err
	}
	stopResults, err := l.followResults(ctx)
	if err != nil {
		return err
	}
	defer stopResults()
	for _, job := range slices.Clone(l.active) {
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
		swept, err := l.files.Sweep(ctx, l.Broker.JS)
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
	reconnects := l.Broker.NC.StatusChanged(nats.CONNECTED)
	defer l.Broker.NC.RemoveStatusListener(reconnects)
	if err := l.settle(ctx); err != nil {
		return err
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
		case now := <-tick.C:
			l.tickMembers(ctx, now)
			err = l.watch(ctx, now)
		case <-reconnects:
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

// ask runs fn in the loop and waits for it; false when the term ended first.
func (l *leader) ask(ctx context.Context, fn func()) bool {
	done := make(chan struct{})
	l.do(ctx, func() { fn(); close(done) })
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

// loadRecords reads every record and rewrites those of unfinished jobs under
// this epoch, which fences an earlier leader that doesn't know it is deposed.
func (l *leader) loadRecords(ctx context.Context) error {
	watch, err := l.state.Watch(ctx, broker.KeyJobs)
	if err != nil {
		return fmt.Errorf("read job records: %w", err)
	}
	defer func() { _ = watch.Stop() }()
	for entry := range watch.Updates() {
		if entry == nil {
			break
		}
		var rec wire.JobRecord
		if err := json.Unmarshal(entry.Value(), &rec); err != nil || rec.Job == 0 {
			l.Log.Error("unreadable job record, left alone", "key", entry.Key(), "error", err)
			continue
		}
		l.revs[rec.Job] = entry.Revision()
		l.last = max(l.last, rec.Job)
		if rec.State.Ended() {
			l.ended[rec.Job] = &rec
			l.learn(&rec)
			continue
		}
		l.jobs[rec.Job] = sched.NewJob(&rec, true)
		if rec.State == wire.StateRunning {
			l.active = append(l.active, rec.Job)
		} else {
			l.queued = append(l.queued, rec.Job)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
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

func (l *leader) loadTable(ctx context.Context) error {
	entry, err := l.state.Get(ctx, broker.KeyActive)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		l.table = 0
	case err != nil:
		return fmt.Errorf("read job table: %w", err)
	default:
		l.table = entry.Revision()
	}
	return l.writeTable(ctx)
}

// write stores a record at the revision last seen. It returns errFenced when a
// later leader has written it since.
func (l *leader) write(ctx context.Context, rec *wire.JobRecord) error {
	rec.Epoch = l.epoch
	p, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode record of job %d: %w", rec.Job, err)
	}
	rev, err := l.compareAndSet(ctx, broker.KeyJob(rec.Job), p, l.revs[rec.Job])
	if err != nil {
		return fmt.Errorf("write record of job %d: %w", rec.Job, err)
	}
	l.revs[rec.Job] = rev
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
	if getErr == nil && string(entry.Value()) == string(p) {
		return entry.Revision(), nil
	}
	l.fatal = errFenced
	return 0, errFenced
}

// learn remembers how long a model's batches take.
func (l *leader) learn(rec *wire.JobRecord) {
	if s := rec.Summary; s != nil && s.Batches > 0 && rec.ModelDigest != "" {
		l.batchTime[rec.ModelDigest] = time.Duration(s.MeanMs * float64(time.Millisecond))
	}
}
