package worker

import (
	"cmp"
	"context"
	"encoding/json"
	"math"
	"slices"
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
// pass that grows with what is pulled for it, divided by its weight, and the lowest
// pass is served next. What is counted are batches, or images, or the time of
// computing, as the cluster's setting says. So all running jobs progress at the same
// rate whatever their models cost. Before that a higher priority counts, and whether
// the job has been assigned to this node; a job that another node is to serve is
// served when there is nothing else.
//
// A new job starts where the last task stood that was pulled for any (as in
// start-time fair queueing; Goyal, Vin and Cheng, 1996): it is next, and gets its
// share from then on, no more. Each worker decides for itself. What their decisions
// add up to the coordinator sees in the results, and tells who is ahead; see lead.
type table struct {
	// node is this worker's name, slots the number of its slots.
	node  string
	slots int

	mu   sync.Mutex
	jobs map[uint64]*entry
	fair string
	// at is the highest place of a task that has been pulled, by priority.
	at map[int]float64
	// stirs counts how often queues have become worth asking.
	stirs uint64
	// wake says that there may be something to pull, fresh names a job that has come.
	wake  chan struct{}
	fresh chan uint64
}

type entry struct {
	// pass is the place of the job's next task.
	pass     float64
	weight   float64
	priority int
	train    bool
	// mine says that the job is assigned to this node, only that no other node may
	// serve it. scarce says that its tasks in hand are limited: its queue has some again
	// when one is done.
	mine, only, scarce bool
	// empty is set while the queue had nothing when last asked, idle until a task is
	// pulled after that, and for a job that other nodes are to serve.
	empty, idle bool
	// asked is the stir after which its queue was asked.
	asked uint64
	// name is that of the queue, queue what it is pulled through once it is open.
	name  string
	queue broker.TaskQueue
	// batches, images and nanos are what has been computed here.
	batches, images, nanos float64
}

const (
	// arrears is how many of its tasks a job may be behind when it has work again after
	// it had none: it shall not hold up the others to catch up. mostLeads is how many
	// leads it may be behind.
	arrears   = 8
	mostLeads = 2
	// maxFresh bounds the jobs that have come and had no task yet.
	maxFresh = 64
)

func newTable(node string, slots int) *table {
	return &table{node: node, slots: slots, jobs: make(map[uint64]*entry), at: make(map[int]float64), wake: make(chan struct{}, 1), fresh: make(chan uint64, maxFresh)}
}

// follow keeps the table up to date until ctx ends.
// Changed is told which jobs are active.
func (t *table) follow(ctx context.Context, b broker.Core, l *link, changed func(active map[uint64]bool)) error {
	stop, err := b.Listen(broker.SubjectWake, func(*broker.Message) { t.stir() })
	if err != nil {
		return err
	}
	defer stop()
	unfollow, err := b.Listen(broker.SubjectLeads, func(m *broker.Message) { t.lead(m.Data) })
	if err != nil {
		return err
	}
	defer unfollow()
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
		changed(t.update(&active))
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
func (t *table) update(active *wire.ActiveJobs) map[uint64]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fair != active.Fair { // passes in another unit say nothing
		t.fair = active.Fair
		clear(t.at)
		for _, e := range t.jobs {
			e.pass = 0
		}
	}
	listed := make(map[uint64]bool, len(active.Jobs))
	for i := range active.Jobs {
		j := &active.Jobs[i]
		listed[j.Job] = true
		e := t.jobs[j.Job]
		if e == nil {
			e = &entry{pass: t.at[j.Priority]}
			t.jobs[j.Job] = e
		}
		e.weight, e.priority, e.train, e.only, e.scarce = j.Weight, j.Priority, j.Train, j.Only, j.MaxInFlight > 0
		if e.weight <= 0 {
			e.weight = 1
		}
		was := e.mine
		e.mine = len(j.Nodes) == 0 && !j.Only || slices.Contains(j.Nodes, t.node)
		e.idle = e.idle || !e.mine
		if e.mine && !was {
			select {
			case t.fresh <- j.Job:
			default: // so many have come that it is nothing special
			}
		}
		if e.name != j.Queue {
			e.name, e.queue = j.Queue, nil
		}
	}
	for job := range t.jobs {
		if !listed[job] {
			delete(t.jobs, job)
		}
	}
	return listed
}

// stir marks every queue as worth asking and wakes whoever waits.
func (t *table) stir() {
	t.mu.Lock()
	t.stirs++
	for _, e := range t.jobs {
		e.empty = false
	}
	t.mu.Unlock()
	t.rouse()
}

func (t *table) rouse() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// before reports whether a job is to be served before another one.
func (e *entry) before(o *entry) bool {
	if e.priority == o.priority && e.mine != o.mine {
		return e.mine
	}
	return cmp.Or(cmp.Compare(o.priority, e.priority), cmp.Compare(e.pass, o.pass)) < 0
}

// pick returns the job to serve next, and its queue's name and the queue when it is open already;
// false when no job is worth asking.
func (t *table) pick() (job uint64, name string, queue broker.TaskQueue, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var best *entry
	for n, e := range t.jobs {
		if e.empty || e.only && !e.mine {
			continue
		}
		if best == nil || e.before(best) || !best.before(e) && n < job {
			job, best = n, e
		}
	}
	if best == nil {
		return 0, "", nil, false
	}
	best.asked = t.stirs
	return job, best.name, best.queue, true
}

// newcomer returns the queue of a job that has come, unless a job of higher priority
// has work.
func (t *table) newcomer(job uint64) (name string, queue broker.TaskQueue, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.jobs[job]
	if e == nil || !e.mine || e.empty {
		return "", nil, false
	}
	for _, o := range t.jobs {
		if o.priority > e.priority && !o.empty {
			return "", nil, false
		}
	}
	e.asked = t.stirs
	return e.name, e.queue, true
}

// opened remembers a job's queue.
func (t *table) opened(job uint64, name string, queue broker.TaskQueue) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.jobs[job]; e != nil && e.name == name {
		e.queue = queue
	}
}

// exhausted sets a job aside until something stirs, unless that happened while its
// queue was asked: the answer may be older. With broken set its queue is opened anew
// then.
func (t *table) exhausted(job uint64, broken bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.jobs[job]; e != nil {
		e.empty, e.idle = broken || e.asked == t.stirs, true
		if broken {
			e.queue = nil
		}
	}
}

// served advances a job's pass by the batches of a task that was pulled for it, and
// returns the task's place in the order of service, the job's priority, and what was
// counted for the task.
func (t *table) served(job uint64, batches int) (place float64, priority int, counted float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.jobs[job]
	if e == nil {
		return 0, 0, 0
	}
	counted = float64(batches) * t.unit(e)
	at := t.at[e.priority]
	if e.idle {
		e.pass, e.idle = max(e.pass, at-arrears*counted/e.weight), false
	}
	place = e.pass
	e.pass += counted / e.weight
	t.at[e.priority] = max(at, place)
	return place, e.priority, counted
}

// unit is what a batch of a job counts, as far as is known. What isn't known yet
// is counted when the task is done.
func (t *table) unit(e *entry) float64 {
	switch {
	case t.fair != wire.FairImages && t.fair != wire.FairTime:
		return 1
	case e.batches == 0:
		return 0
	case t.fair == wire.FairImages:
		return e.images / e.batches
	}
	return e.nanos / e.batches
}

// done takes the batches of a task in, for which counted had been counted; none
// for a task that was not computed after all.
func (t *table) done(job uint64, counted float64, batches []wire.BatchResult) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.jobs[job]
	if e == nil {
		return
	}
	var images, nanos float64
	for i := range batches {
		images += float64(batches[i].Images)
		nanos += float64(batches[i].Nanos)
	}
	e.batches += float64(len(batches))
	e.images += images
	e.nanos += nanos
	was := float64(len(batches))
	switch t.fair {
	case wire.FairImages:
		was = images
	case wire.FairTime:
		was = nanos
	}
	e.pass += (was - counted) / e.weight
}

// freed says that a task of a job has left its queue: one whose tasks in flight are
// limited may give another one for it.
func (t *table) freed(job uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.jobs[job]; e != nil && e.scarce {
		e.empty = false
		t.rouse()
	}
}

// lead takes in which jobs are ahead of the others, and which behind: as many of
// the units that are counted, divided by weight, as every slot is to make up for.
func (t *table) lead(p []byte) {
	leads, err := wire.ParseLeads(p)
	if err != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if leads.Fair != t.fair {
		return
	}
	for _, l := range leads.Jobs {
		if e := t.jobs[l.Job]; e != nil {
			lead := l.Lead * float64(t.slots)
			// What this node can't make up for shall not be its debt for ever.
			e.pass = max(e.pass+lead, t.at[e.priority]-mostLeads*math.Abs(lead))
		}
	}
}

// has reports whether a job has work.
func (t *table) has(job uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.jobs[job] != nil
}
