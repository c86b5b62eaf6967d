package worker

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
)

// table is the list of jobs that have work, as the coordinator keeps it, with
// each job's place in the order of service.
//
// Jobs are served by stride scheduling (Waldspurger and Weihl, 1995): each has a
// pass that grows with the batches pulled for it, and the lowest pass is served
// next. So all running jobs progress at the same rate of batches whatever their
// models cost. A new job starts at the lowest pass there is: it gets its share
// at once and no more.
type table struct {
	mu   sync.Mutex
	jobs map[uint64]*entry
	// wake says that there may be something to pull.
	wake chan struct{}
}

type entry struct {
	pass  float64
	train bool
	// empty is set while the queue had nothing when last asked.
	empty bool
	// name is that of the queue, queue what it is pulled through once it is open.
	name  string
	queue broker.TaskQueue
}

func newTable() *table {
	return &table{jobs: make(map[uint64]*entry), wake: make(chan struct{}, 1)}
}

// follow keeps the table up to date until ctx ends.
// Changed is told which jobs are active.
func (t *table) follow(ctx context.Context, b broker.Core, l *link, changed func(active map[uint64]bool)) error {
	stop, err := b.Listen(broker.SubjectWake, func(*broker.Message) { t.stir() })
	if err != nil {
		return err
	}
	defer stop()
	for ctx.Err() == nil {
		// A lost server forgets the watch, and its silence would be noticed late; a
		// new one starts from the current value.
		l.wait(ctx)
		try, done := l.during(ctx)
		err := t.watch(try, b, changed)
		done()
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
	return nil
}

func (t *table) watch(ctx context.Context, b broker.Core, changed func(active map[uint64]bool)) error {
	open, cancel := context.WithTimeout(ctx, tryWait)
	defer cancel()
	records, err := b.Records(open)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var seen atomic.Uint64
	var looking sync.WaitGroup
	defer looking.Wait()
	defer stop()
	looking.Go(func() { lookAfter(ctx, records, &seen, stop) })
	return records.Watch(ctx, broker.KeyActive, func(e *broker.Entry) bool {
		var active wire.ActiveJobs
		if e != nil {
			seen.Store(e.Revision)
		}
		if e == nil || json.Unmarshal(e.Value, &active) != nil {
			return true
		}
		changed(t.update(active.Jobs))
		t.stir()
		return true
	})
}

// tableLook is how often a worker makes sure that its watch of the table is alive.
const tableLook = 2 * time.Second

// lookAfter ends a watch that has missed a change of the table: the server that
// kept it has died while the connection is to another one, which goes unnoticed for
// many seconds.
func lookAfter(ctx context.Context, records broker.Bucket, seen *atomic.Uint64, stop func()) {
	tick := time.NewTicker(tableLook)
	defer tick.Stop()
	var missed uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		within, cancel := context.WithTimeout(ctx, lookUpWait)
		e, err := records.Get(within, broker.KeyActive)
		cancel()
		switch {
		case err != nil || e.Revision <= seen.Load():
			missed = 0
		case missed != 0:
			stop()
			return
		default:
			missed = e.Revision // it may be on its way
		}
	}
}

// update replaces the list and returns the active jobs as a set.
func (t *table) update(jobs []wire.ActiveJob) map[uint64]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	lowest, any := 0.0, false
	for _, e := range t.jobs {
		if !any || e.pass < lowest {
			lowest, any = e.pass, true
		}
	}
	active := make(map[uint64]bool, len(jobs))
	for _, j := range jobs {
		active[j.Job] = true
		e := t.jobs[j.Job]
		if e == nil {
			e = &entry{pass: lowest, train: j.Train}
			t.jobs[j.Job] = e
		}
		if e.name != j.Queue {
			e.name, e.queue = j.Queue, nil
		}
	}
	for job := range t.jobs {
		if !active[job] {
			delete(t.jobs, job)
		}
	}
	return active
}

// stir marks every queue as worth asking and wakes whoever waits.
func (t *table) stir() {
	t.mu.Lock()
	for _, e := range t.jobs {
		e.empty = false
	}
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// pick returns the job to serve next, and its queue's name and the queue when it is open already;
// false when no job is worth asking.
func (t *table) pick() (job uint64, name string, queue broker.TaskQueue, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var best *entry
	for n, e := range t.jobs {
		if e.empty {
			continue
		}
		if best == nil || e.pass < best.pass || (e.pass == best.pass && n < job) {
			job, best = n, e
		}
	}
	if best == nil {
		return 0, "", nil, false
	}
	return job, best.name, best.queue, true
}

// opened remembers a job's queue.
func (t *table) opened(job uint64, name string, queue broker.TaskQueue) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.jobs[job]; e != nil && e.name == name {
		e.queue = queue
	}
}

// exhausted sets a job aside until something stirs. With broken set its queue is
// opened anew then.
func (t *table) exhausted(job uint64, broken bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.jobs[job]; e != nil {
		e.empty = true
		if broken {
			e.queue = nil
		}
	}
}

// served advances a job's pass by the batches pulled for it.
func (t *table) served(job uint64, batches int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.jobs[job]; e != nil {
		e.pass += float64(batches)
	}
}

// has reports whether a job has work.
func (t *table) has(job uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.jobs[job] != nil
}
