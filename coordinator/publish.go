package coordinator

import (
	"context"
	"sync"
	"time"

	"idunno/broker"
	"idunno/coordinator/sched"
)

const (
	// publishWait bounds the wait for the queue's answer to a published task.
	publishWait = 5 * time.Second
	// publishAtOnce is how many tasks are published before their answers are
	// awaited; the next ones follow then.
	publishAtOnce = 512
)

// publish puts the job's next tasks into the queue. Answers are awaited aside;
// tasks that did not get in are published again.
func (l *leader) publish(ctx context.Context, j *sched.Job) {
	before := j.Outstanding()
	tasks := j.Next(publishAtOnce)
	if len(tasks) == 0 {
		return
	}
	// As long as more tasks are queued than workers can hold, whoever asks gets some, and
	// nobody waits to be told. Those that are checked may have been lost.
	wake := func() {}
	if tasks[0].Check || before <= l.mostHeld() {
		wake = l.wakeWorkers
	}
	job := j.Rec.Job
	futures := make(map[int]broker.Future, len(tasks))
	var refused []int
	for i, t := range tasks {
		future, err := l.Broker.PublishTask(job, t.Task, t.Marshal())
		if err != nil {
			// The queue doesn't answer: waiting here would hold up everything else.
			for _, left := range tasks[i:] {
				refused = append(refused, left.Task)
			}
			break
		}
		futures[t.Task] = future
	}
	wake()
	go l.awaitPublished(ctx, job, futures, refused, wake)
}

// What a worker holds at most: results that it has yet to store, and some tasks for each
// slot.
const (
	heldByWorker = 256
	heldBySlot   = 8
)

// mostHeld is how many tasks all workers hold at most.
func (l *leader) mostHeld() int {
	most := heldByWorker // not all may be known yet
	for _, w := range l.steering.workers {
		most += heldByWorker + heldBySlot*w.Slots
	}
	return most
}

func (l *leader) awaitPublished(ctx context.Context, job uint64, futures map[int]broker.Future, refused []int, wake func()) {
	within, cancel := context.WithTimeout(ctx, publishWait)
	defer cancel()
	for task, future := range futures {
		// A task that is queued already is where it belongs.
		if err := future.Wait(within); err != nil && !broker.IsExists(err) {
			refused = append(refused, task)
		}
	}
	wake()
	if len(refused) > 0 {
		// Not at once: whatever refused them needs a moment.
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	// Even with nothing refused: what comes after this in the loop publishes on.
	l.do(ctx, func() {
		if j := l.jobs[job]; j != nil && len(refused) > 0 {
			l.Log.Warn("publishing tasks again", "job", job, "tasks", len(refused))
			j.Again(refused...)
		}
	})
}

// watch looks after jobs that make no progress: when the queue holds fewer tasks
// than it should, it lost them (its memory went with a server), and the tasks
// without a result are published again. The queue refuses those it still has.
func (l *leader) watch(ctx context.Context, now time.Time) error {
	for _, job := range l.active {
		j := l.jobs[job]
		if now.Sub(l.looked[job]) < stalledAfter {
			continue
		}
		l.looked[job] = now
		if err := l.openQueue(ctx, job); err != nil {
			return err
		}
		depth, err := l.Broker.QueueDepth(ctx, job)
		if err == nil && depth >= j.Outstanding() {
			if err := l.unstick(ctx, job); err != nil {
				return err
			}
			continue
		}
		l.Log.Warn("task queue lost tasks: filling it again", "job", job, "queued", depth, "expected", j.Outstanding(), "error", err)
		l.republish(ctx, j)
	}
	return nil
}

// refill makes sure after a reconnection that queues exist and are full.
func (l *leader) refill(ctx context.Context) error {
	if err := l.Broker.Ensure(ctx); err != nil {
		return err
	}
	for _, job := range l.active {
		if err := l.openQueue(ctx, job); err != nil {
			return err
		}
		l.republish(ctx, l.jobs[job])
	}
	return l.settle(ctx)
}

// republish publishes the tasks without a result once more, into an open queue.
func (l *leader) republish(ctx context.Context, j *sched.Job) {
	j.Again(j.Unfinished()...)
	l.publish(ctx, j)
}

// wakeGap is the least time between two calls that wake the workers, for each of them: a
// thousand that are called at every result would do nothing else than ask.
const wakeGap = 50 * time.Microsecond

// waker wakes the workers, and not too often.
type waker struct {
	mu   sync.Mutex
	last time.Time
	// due says that a call is put off.
	due bool
}

// wakeWorkers tells the workers that there is something to pull. A lost
// connection loses the call, and the workers look by themselves soon after.
func (l *leader) wakeWorkers() {
	gap := time.Duration(l.crew.Load()) * wakeGap
	w := &l.waker
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.due {
		return
	}
	call := func() { _ = l.Broker.Wake() }
	if wait := gap - time.Since(w.last); wait > 0 {
		w.due = true
		time.AfterFunc(wait, func() {
			w.mu.Lock()
			w.due, w.last = false, time.Now()
			w.mu.Unlock()
			call()
		})
		return
	}
	w.last = time.Now()
	call()
}
