package roll

import (
	"context"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/sched"
)

const (
	// offerWait bounds the wait for a worker to take a dead one's task, maxOffers the
	// workers that are asked.
	offerWait = 50 * time.Millisecond
	maxOffers = 3
	// crashWait bounds the wait until a crash is noted; the task waits with it.
	crashWait = time.Second
	// copyWait bounds the wait for a worker to take a copy.
	copyWait = 100 * time.Millisecond
)

// offer is a rescue that a worker has been asked to take.
type offer struct {
	to       string
	withdraw func()
}

// rescue gives a dead node's task to a live worker, past the queue and its
// waiting tasks. It reports false when there is none to ask. Call it locked.
func (r *Roll) rescue(ctx context.Context, o sched.Orphan) bool {
	rec := r.plans[o.Job]
	if rec == nil || o.Task < 1 || o.Task > rec.Tasks() || rec.Doc.MaxNodes > 0 {
		return false // a job with a limit of nodes: those that it has get it from the queue
	}
	to := r.members.Rescuer(o)
	if to == "" {
		return false
	}
	task := sched.Task(rec, o.Task)
	task.Check = true
	request := wire.Rescue{Schema: wire.Schema, Task: task, Reply: o.Reply, Crashes: r.crashes[taskKey{o.Job, o.Task}]}
	r.aside.Go(func() { r.place(ctx, o, to, request.Marshal()) })
	return true
}

// place offers a task to one worker after the other, and to the queue when none of
// them takes it. One that takes it but whose answer comes too late computes it too:
// the first result wins.
func (r *Roll) place(ctx context.Context, o sched.Orphan, to string, request []byte) {
	for range maxOffers {
		if r.offer(ctx, o, to, request) {
			return
		}
		r.mu.Lock()
		if r.plans != nil {
			to = r.members.Rescuer(o)
		}
		r.mu.Unlock()
		if to == "" {
			break
		}
	}
	r.broker.HandBack(o.Reply)
	_ = r.broker.Wake()
}

// offer asks a worker to take a task, and reports whether it does. One that has its
// hands full says so; one that is dying too, as workers on one machine do, doesn't
// answer, and the news of its death ends the wait.
func (r *Roll) offer(ctx context.Context, o sched.Orphan, to string, request []byte) bool {
	within, cancel := context.WithTimeout(ctx, offerWait)
	defer cancel()
	f := &offer{to, cancel}
	r.mu.Lock()
	r.offers[f] = struct{}{}
	r.mu.Unlock()
	answer, err := r.broker.Ask(within, broker.SubjectRescue(to), request)
	taken := err == nil && string(answer) == wire.RescueTaken
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.offers, f)
	// One that has died since no longer has it, and nobody else would be told.
	return taken && r.members.Given(to, o.Job, o.Task, o.Reply, time.Now()) == nil
}

// withdraw ends the wait for a node's answers. Call it locked.
func (r *Roll) withdraw(node string) {
	for f := range r.offers {
		if f.to == node {
			f.withdraw()
		}
	}
}

// noteCrash notes that a node died while it computed a task.
func (r *Roll) noteCrash(ctx context.Context, o sched.Orphan) {
	ctx, cancel := context.WithTimeout(ctx, crashWait)
	defer cancel()
	a := &wire.Attempt{Schema: wire.Schema, Cause: wire.CauseCrash, Node: o.Node, Incarnation: o.Incarnation, Time: time.Now(),
		Error: "the node died while it computed the task"}
	if err := r.broker.StoreAttempt(ctx, o.Job, o.Task, a); err != nil {
		r.log.Warn("crash not noted", "node", o.Node, "job", o.Job, "task", o.Task, "error", err)
	}
}

// Copy offers idle workers tasks of a job that others hold, looking at so many at most.
// Want returns the task of one that is to be computed twice, else nil; allowed says
// which workers may compute it, nil that all may.
func (r *Roll) Copy(ctx context.Context, job uint64, most int, allowed func(string) bool, want func(sched.Held) *wire.Task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.members.AnyIdle() {
		return
	}
	for _, h := range r.members.Holding(job, most) {
		task := want(h)
		if task == nil {
			continue
		}
		to := r.members.Idle(h.Node, allowed)
		if to == "" {
			return
		}
		request := wire.Rescue{Schema: wire.Schema, Task: task, Copy: true}
		r.aside.Go(func() {
			within, cancel := context.WithTimeout(ctx, copyWait)
			defer cancel()
			// One that has work by now refuses: then there are no idle slots to use.
			_, _ = r.broker.Ask(within, broker.SubjectRescue(to), request.Marshal())
		})
	}
}
