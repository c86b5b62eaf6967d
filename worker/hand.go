package worker

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
)

// held is a task in hand: pulled, not yet acknowledged or handed back.
type held struct {
	msg  broker.Delivery
	task *wire.Task
	// attempt is the number of this delivery.
	attempt int
	// started says that it is being computed in this process.
	started atomic.Bool
	// copied says that the task is another worker's, which computes it too: the first
	// result counts, and nothing is said about the task.
	copied bool
	// place and priority order the tasks that are ready, see [table]; counted is what
	// the job was charged for the task.
	place    float64
	priority int
	counted  float64
	// token is given back when the task needs no slot any more.
	token func()
	// ctx ends when the task is to be dropped: its job is over, or the worker stops.
	ctx    context.Context
	cancel context.CancelFunc
	// batches brings the task's data, fetched ahead.
	batches chan fetched
	// tried are the tries before this one that gave no result.
	tried []wire.Attempt
	// urgent says that it goes before all others.
	urgent bool
	// crashes is how many nodes have died at the task, as far as the coordinator knows.
	crashes int
	// apart says that the task is computed in a process of its own.
	apart bool
}

// hand is the set of tasks in hand. It is what heartbeats report, so that the
// coordinator can hand them back when this worker dies.
type hand struct {
	mu       sync.Mutex
	tasks    map[*held]struct{}
	draining bool
	// changed asks for a heartbeat.
	changed chan struct{}
}

func newHand() *hand {
	return &hand{tasks: make(map[*held]struct{}), changed: make(chan struct{}, 1)}
}

func (h *hand) add(t *held) {
	h.mu.Lock()
	h.tasks[t] = struct{}{}
	h.mu.Unlock()
	h.tell()
}

// remove ends the worker's part in a task. That can wait for the next heartbeat:
// handing back a task that is done does nothing.
func (h *hand) remove(t *held) {
	t.cancel()
	t.token()
	h.mu.Lock()
	delete(h.tasks, t)
	h.mu.Unlock()
}

// begin notes that a task is being computed from now on.
func (h *hand) begin(t *held) {
	t.started.Store(true)
	h.tell()
}

func (h *hand) setDraining() {
	h.mu.Lock()
	h.draining = true
	h.mu.Unlock()
	h.tell()
}

func (h *hand) tell() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

func (h *hand) list() (tasks []wire.InFlight, draining bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	tasks = make([]wire.InFlight, 0, len(h.tasks))
	for t := range h.tasks {
		tasks = append(tasks, wire.InFlight{Job: t.task.Job, Task: t.task.Task, Reply: t.msg.Reply(), Started: t.started.Load(), Copy: t.copied})
	}
	return tasks, h.draining
}

// count is the number of tasks in hand.
func (h *hand) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.tasks)
}

// dropExcept cancels the tasks of jobs that are no longer active.
func (h *hand) dropExcept(active map[uint64]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for t := range h.tasks {
		if !active[t.task.Job] {
			t.cancel()
		}
	}
}

// keepAlive tells the queue that the tasks in hand are being worked on, so that
// a long task isn't delivered again. It stops with the process, not before: a
// dead worker's silence is what the ack wait listens for.
func (h *hand) keepAlive(ctx context.Context) {
	tick := time.NewTicker(broker.AckWait / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, t := range h.all() {
			// A failure means that the connection is away; the next tick tries again.
			_ = t.msg.InProgress()
		}
	}
}

// all returns the tasks in hand, so that nobody waits for the network under the
// lock.
func (h *hand) all() []*held {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.tasks))
}
