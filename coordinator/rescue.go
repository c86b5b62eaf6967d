package coordinator

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
)

// offer is a rescue that a worker has been asked to take.
type offer struct {
	to       string
	withdraw func()
}

// rescue gives a dead node's task to a live worker, past the queue and its
// waiting tasks. It reports false when there is none to ask. Call it locked.
func (r *roll) rescue(ctx context.Context, o sched.Orphan) bool {
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
func (r *roll) place(ctx context.Context, o sched.Orphan, to string, request []byte) {
	for range maxOffers {
		if r.offer(ctx, to, request) {
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
	r.Broker.HandBack(o.Reply)
	_ = r.Broker.Wake()
}

// offer asks a worker to take a task, and reports whether it does. One that has its
// hands full says so; one that is dying too, as workers on one machine do, doesn't
// answer, and the news of its death ends the wait.
func (r *roll) offer(ctx context.Context, to string, request []byte) bool {
	within, cancel := context.WithTimeout(ctx, offerWait)
	defer cancel()
	f := &offer{to, cancel}
	r.mu.Lock()
	r.offers[f] = struct{}{}
	r.mu.Unlock()
	answer, err := r.Broker.Ask(within, broker.SubjectRescue(to), request)
	r.mu.Lock()
	delete(r.offers, f)
	r.mu.Unlock()
	return err == nil && string(answer) == wire.RescueTaken
}

// withdraw ends the wait for a node's answers. Call it locked.
func (r *roll) withdraw(node string) {
	for f := range r.offers {
		if f.to == node {
			f.withdraw()
		}
	}
}
