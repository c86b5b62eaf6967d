package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/client"
	"idunno/coordinator/cluster"
	"idunno/objectstore"
)

// work is what a loaded cluster computes.
type work struct {
	model string
	// set is the prefix of the names of its data sets, repeats how often a set has
	// the batches of mnist.
	set     string
	repeats int
	// fresh gives each job a data set of its own, of which the coordinator has no
	// experience: a task is one batch then.
	fresh bool
}

var (
	// longTasks are tasks of 100 ms of work, hundreds of batches each.
	longTasks = work{model: "mlp", set: "long", repeats: 300}
	// shortTasks are tasks of one batch, so that results come all the time.
	shortTasks = work{model: "cnn", set: "short", repeats: 60, fresh: true}
)

const (
	// running is how many jobs a load keeps unfinished.
	running = 2
	// firstJob is the batches of the job that shows how long a batch takes.
	firstJob = 50
)

// load keeps a cluster busy, and sees from outside what it does: what the workers
// say that they compute, and the results.
type load struct {
	work
	api   *client.Client
	files *objectstore.Store
	stop  func()

	mu    sync.Mutex
	nodes map[string]*wire.Heartbeat
	// given are the tasks without a result that queues gave out, counted them all; fault
	// is what is being looked at.
	given   map[taskOf]givenTo
	counted int
	fault   *fault
	// done are the results of the last moments.
	done   map[taskOf]computed
	recent []computed
	jobs   []submitted
	// closed is when a connection was last said to have closed.
	closed  time.Time
	changed chan struct{}
	failed  error
}

type taskOf struct {
	job  uint64
	task int
}

// givenTo is who was given a task last; number is lower for those given earlier.
type givenTo struct {
	node   string
	number int
}

// fault is what befell workers while they held tasks.
type fault struct {
	victims []string
	// held are those that they had been given, and the order. What their queues still
	// gave them then is among it.
	held map[taskOf]givenTo
}

// computed is where and when a task that has a result was computed and stored.
type computed struct {
	taskOf
	node            string
	started, stored time.Time
}

type submitted struct {
	job  uint64
	last int
}

// startLoad stores the data and begins to submit jobs, one after the other.
func startLoad(ctx context.Context, local *cluster.Local, w work) (*load, error) {
	files, err := cluster.OpenStore(ctx, local.Broker())
	if err != nil {
		return nil, err
	}
	if _, err := cluster.Seed(ctx, files, nil); err != nil {
		return nil, err
	}
	l := &load{work: w, api: client.New(local.Broker()), files: files, nodes: make(map[string]*wire.Heartbeat), given: make(map[taskOf]givenTo),
		done: make(map[taskOf]computed), changed: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	subjects := []string{broker.SubjectHeartbeats, broker.SubjectClosed}
	for _, name := range local.Names(wire.RoleWorker) {
		subjects = append(subjects, broker.SubjectGiven(name))
	}
	listening, err := local.Broker().ListenAll(subjects, func(m *broker.Message) {
		switch m.To {
		case broker.SubjectHeartbeats:
			l.heard(m.Data)
		case broker.SubjectClosed:
			l.mu.Lock()
			l.closed = time.Now()
			l.mu.Unlock()
		default:
			l.gave(m)
		}
	})
	if err != nil {
		cancel()
		return nil, err
	}
	stopResults, err := local.Broker().FollowResults(ctx, 1, func(_ context.Context, m *broker.Stored) { l.stored(m) })
	if err != nil {
		cancel()
		listening.Stop()
		return nil, err
	}
	group.Go(func() { l.submit(ctx) })
	l.stop = func() {
		cancel()
		group.Wait()
		stopResults()
		listening.Stop()
	}
	return l, nil
}

// submit keeps jobs in the cluster. The first one is shorter than the others: jobs
// that begin together progress at the same rate and would end together, and until the
// next ones came there would be nothing that a fault could interrupt.
func (l *load) submit(ctx context.Context) {
	var unfinished []submitted
	for n := 0; ctx.Err() == nil; n++ {
		if n == 1 && !l.fresh { // the first one showed how long a batch takes
			if _, err := l.api.Wait(ctx, unfinished[0].job, nil); err != nil && ctx.Err() == nil {
				l.fail(err)
				return
			}
			unfinished = nil
		}
		for len(unfinished) >= running && ctx.Err() == nil {
			if _, err := l.api.Wait(ctx, unfinished[0].job, nil); err != nil && ctx.Err() == nil {
				l.fail(err)
				return
			}
			unfinished = unfinished[1:]
		}
		set := l.set
		if l.fresh {
			set += strconv.Itoa(n)
		}
		last, err := l.repeat(ctx, set)
		switch {
		case n > 0:
		case l.fresh:
			last /= 2
		default:
			last = min(last, firstJob)
		}
		if err == nil {
			var doc []byte
			if doc, err = json.Marshal(wire.JobDoc{Model: l.model, Data: set, From: 1, To: last}); err == nil {
				var s client.Submitted
				if s, err = l.api.Submit(ctx, doc); err == nil {
					unfinished = append(unfinished, submitted{s.Job, last})
					l.mu.Lock()
					l.jobs = append(l.jobs, submitted{s.Job, last})
					l.mu.Unlock()
				}
			}
		}
		if err != nil && ctx.Err() == nil {
			l.fail(err)
			return
		}
	}
}

// repeat stores the data set of that name, which refers to the batches of mnist
// again and again, and returns the number of its batches.
func (l *load) repeat(ctx context.Context, name string) (batches int, err error) {
	v, err := l.files.Resolve(ctx, wire.DataFolder+wire.DefaultData)
	if err != nil {
		return 0, err
	}
	m, err := cluster.Manifest(ctx, l.files, v.Digest)
	if err != nil {
		return 0, err
	}
	m.Name, m.Batches, m.Images = name, m.Batches*l.repeats, m.Images*l.repeats
	m.Objects = slices.Repeat(m.Objects, l.repeats)
	_, err = l.files.PutBundle(ctx, wire.DataFolder+name, m.Marshal())
	return m.Batches, err
}

func (l *load) fail(err error) {
	l.mu.Lock()
	l.failed = fmt.Errorf("the load: %w", err)
	l.mu.Unlock()
	l.tell()
}

func (l *load) tell() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

func (l *load) heard(p []byte) {
	h, err := wire.ParseHeartbeat(p)
	if err != nil {
		return
	}
	l.mu.Lock()
	l.nodes[h.Node] = h
	l.mu.Unlock()
	l.tell()
}

// gave takes in that a queue has answered a worker, with a task perhaps.
func (l *load) gave(m *broker.Message) {
	node, job, task, ok := broker.Given(m)
	if !ok {
		return
	}
	t := taskOf{job, task}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.done[t]; ok {
		return
	}
	l.counted++
	l.given[t] = givenTo{node, l.counted}
	if l.fault != nil && slices.Contains(l.fault.victims, node) {
		l.fault.held[t] = l.given[t]
	}
}

func (l *load) lastClosed() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// remembered is how long results are kept.
const remembered = 20 * time.Second

func (l *load) stored(m *broker.Stored) {
	if m == nil {
		return
	}
	job, task, ok := broker.TaskOfResult(m.Subject)
	if !ok {
		return
	}
	r := wire.ReceiveResult(job, task, m.Data)
	c := computed{taskOf{job, task}, r.Node, r.Started, m.At}
	l.mu.Lock()
	l.done[c.taskOf] = c
	delete(l.given, c.taskOf)
	l.recent = append(l.recent, c)
	for len(l.recent) > 0 && m.At.Sub(l.recent[0].stored) > remembered {
		delete(l.done, l.recent[0].taskOf)
		l.recent = l.recent[1:]
	}
	l.mu.Unlock()
	l.tell()
}

// await waits until cond holds, which is asked under no lock.
func (l *load) await(ctx context.Context, cond func() bool) error {
	late := time.NewTimer(faultWait)
	defer late.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		l.mu.Lock()
		err := l.failed
		l.mu.Unlock()
		if err != nil {
			return err
		}
		if cond() {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-late.C:
			return fmt.Errorf("%w within %v", errNotResumed, faultWait)
		case <-l.changed:
		case <-tick.C:
		}
	}
}

// busy waits until all the workers named compute.
func (l *load) busy(ctx context.Context, workers []string) error {
	before := make(map[string]int64)
	l.mu.Lock()
	for _, name := range workers {
		if h := l.nodes[name]; h != nil {
			before[name] = h.Batches
		}
	}
	l.mu.Unlock()
	return l.await(ctx, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, name := range workers {
			// A worker that was started anew has computed less than the one before, and
			// nothing yet while it still fetches model and data.
			h := l.nodes[name]
			if h == nil || h.Leaving || len(started(h)) == 0 || h.Batches == 0 || h.Batches == before[name] {
				return false
			}
		}
		return true
	})
}

// steady is how long results must have come without a pause before a fault whose
// pause is measured, calmGap the longest pause. A machine too busy for that is waited
// for no longer than busyWait.
const (
	steady   = time.Second
	calmGap  = 100 * time.Millisecond
	busyWait = 10 * time.Second
)

// flowing waits until results come steadily.
func (l *load) flowing(ctx context.Context) error {
	began := time.Now()
	return l.await(ctx, func() bool {
		now := time.Now()
		return l.gap(now.Add(-steady), now) < calmGap || now.Sub(began) > busyWait
	})
}

// started are the tasks that a worker says that it computes.
func started(h *wire.Heartbeat) []taskOf {
	var tasks []taskOf
	for _, t := range h.InFlight {
		if t.Started {
			tasks = append(tasks, taskOf{t.Job, t.Task})
		}
	}
	return tasks
}

// strikes notes what workers hold that are about to be struck by a fault.
func (l *load) strikes(victims []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = &fault{victims, make(map[taskOf]givenTo)}
	for t, g := range l.given {
		if slices.Contains(victims, g.node) {
			l.fault.held[t] = g
		}
	}
}

// resumed waits until every task that the victims held has a result. Of those that
// others computed it returns when the last one was begun, and the same of those alone
// that the victims had begun; the zero time when there were none.
func (l *load) resumed(ctx context.Context, at time.Time) (begun, all time.Time, err error) {
	err = l.await(ctx, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		begun, all = time.Time{}, time.Time{}
		for _, name := range l.fault.victims {
			first := givenTo{}
			var firstBegun, startedBegun time.Time
			names := started(l.nodes[name])
			for _, t := range names {
				if _, ok := l.fault.held[t]; !ok {
					l.fault.held[t] = givenTo{node: name} // it was given it by the coordinator
				}
			}
			for t, g := range l.fault.held {
				c, ok := l.done[t]
				if !ok {
					return false
				}
				if g.node != name || slices.Contains(l.fault.victims, c.node) || c.started.Before(at) {
					continue // another victim's, or done or begun before
				}
				all = later(all, c.started)
				if slices.Contains(names, t) {
					startedBegun = later(startedBegun, c.started)
				}
				if first.node == "" || g.number < first.number {
					first, firstBegun = g, c.started
				}
			}
			// One that had begun with the next task, and had not come to say so.
			if startedBegun.IsZero() {
				startedBegun = firstBegun
			}
			begun = later(begun, startedBegun)
		}
		return true
	})
	l.mu.Lock()
	l.fault = nil
	l.mu.Unlock()
	return begun, all, err
}

func later(x, y time.Time) time.Time {
	if y.After(x) {
		return y
	}
	return x
}

// gap is the longest time without a result between two moments.
func (l *load) gap(from, to time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	var longest time.Duration
	before := from
	for _, c := range l.recent {
		if c.stored.Before(from) || c.stored.After(to) {
			continue
		}
		longest = max(longest, c.stored.Sub(before))
		before = c.stored
	}
	return max(longest, to.Sub(before))
}

// end stops the load, waits for its jobs and counts their results.
func (l *load) end(ctx context.Context) (cluster.Outcome, error) {
	l.stop()
	var total cluster.Outcome
	for _, s := range l.jobs {
		stats, err := l.api.Wait(ctx, s.job, nil)
		if err != nil {
			return total, err
		}
		if stats.State != wire.StateDone {
			return total, fmt.Errorf("job %d ended as %s: %s", s.job, stats.State, stats.Reason)
		}
		o, err := cluster.Collect(ctx, l.api, s.job, 1, s.last)
		if err != nil {
			return total, err
		}
		total.Missing += o.Missing
		total.Duplicates += o.Duplicates
	}
	return total, nil
}
