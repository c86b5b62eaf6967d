package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"idunno/broker"
	"idunno/broker/wire"
)

const (
	// idlePoll is how often a worker looks by itself at queues that had nothing: for
	// tasks that came back by the ack wait or after a delay, and for wake-up calls that
	// got lost. One that is busy does so too, or such tasks would wait for it to idle.
	// One that finds nothing again and again looks less often, at last every idlePollMost:
	// of a thousand that idle, one looks soon.
	idlePoll     = 250 * time.Millisecond
	idlePollMost = time.Second
	// pullMost is how many tasks are asked for at once, when they are shorter than
	// briskTask.
	pullMost  = 16
	briskTask = 2 * time.Millisecond
	// pullWait bounds one request to a queue.
	pullWait = 2 * time.Second
	// Delays of tasks that are handed back because of a failure.
	firstDelay = 200 * time.Millisecond
	mostDelay  = 5 * time.Second
)

// pull takes tasks from the queues as long as there is room for them: one
// computing and one ready for each slot, and the first task of a job that has just
// come. It ends with ctx, closes the line and hands back what is in it.
func (w *worker) pull(ctx, work context.Context) error {
	defer func() {
		for _, t := range w.ready.end() {
			w.handBack(t, 0)
		}
	}()
	for {
		select {
		case job := <-w.table.fresh:
			w.welcome(ctx, work, job)
			continue
		default:
		}
		select {
		case job := <-w.table.fresh:
			w.welcome(ctx, work, job)
			continue
		case w.tokens <- struct{}{}:
		case <-ctx.Done():
			return nil // told to stop
		}
		places := 1 + w.reserve()
		list, err := w.next(ctx, places)
		if err != nil {
			return nil
		}
		for range places - len(list) {
			<-w.tokens
		}
		for _, p := range list {
			if t := w.take(ctx, work, p, w.tokens); t != nil {
				w.ready.put(t) // has room for every token
			}
		}
	}
}

// took notes how long a task took. Slots may do so at the same time: it is an average.
func (w *worker) took(d time.Duration) {
	usual := w.usual.Load()
	w.usual.Store(usual + (int64(d)-usual)/8)
}

// brisk reports that tasks are so short at the moment that asking for each would take
// longer than to compute it.
func (w *worker) brisk() bool { return w.usual.Load() < int64(briskTask) }

// reserve takes what there is of further tokens while tasks are so short that asking
// for each would take longer than to compute it. Longer ones are taken one by one, so
// that all workers have some of the last.
func (w *worker) reserve() (n int) {
	if !w.brisk() {
		return 0
	}
	for n < pullMost-1 {
		select {
		case w.tokens <- struct{}{}:
			n++
		default:
			return n
		}
	}
	return n
}

// welcome begins with a job that has come, between two batches of what is being
// computed: all that was pulled before would take a while. It does nothing when there
// are others to be welcomed.
func (w *worker) welcome(ctx, work context.Context, job uint64) {
	select {
	case w.welcomes <- struct{}{}:
	default:
		return
	}
	name, queue, ok := w.table.newcomer(job)
	if !ok || !w.link.isUp() {
		<-w.welcomes
		return
	}
	msg, err := w.fetchTask(ctx, job, name, queue)
	if err != nil || msg == nil {
		<-w.welcomes // the next look at it tells what is the matter
		return
	}
	if ctx.Err() != nil {
		_ = msg.Nak()
		<-w.welcomes
		return
	}
	if t := w.take(ctx, work, &pulled{msg, job}, w.welcomes); t != nil {
		w.hurry(t)
	}
}

// pulled is a message as it comes from a queue.
type pulled struct {
	msg broker.Delivery
	job uint64
}

// next returns the next tasks of the job whose turn it is, at most so many, waiting
// for one.
func (w *worker) next(ctx context.Context, most int) ([]*pulled, error) {
	for {
		if w.link.wait(ctx) {
			w.table.stir()
		}
		if time.Since(w.looked) >= w.lookGap {
			w.looked = time.Now()
			w.table.stir()
		}
		if pause := w.tally.pause(time.Now()); pause > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		job, name, queue, ok := w.table.pick()
		if !ok {
			select {
			case <-ctx.Done():
			case <-w.table.wake:
			case <-time.After(w.lookGap):
				w.looked = time.Now()
				w.table.stir()
			}
			continue
		}
		msgs, err := w.fetchTasks(ctx, job, name, queue, most)
		if err != nil {
			w.Log.Debug("queue does not answer", "job", job, "error", err)
			w.table.exhausted(job, true)
			continue
		}
		if len(msgs) == 0 {
			w.table.exhausted(job, false)
			w.lookGap = min(2*w.lookGap, idlePollMost)
			continue
		}
		if err := ctx.Err(); err != nil {
			for _, msg := range msgs {
				_ = msg.Nak() // it came too late for this worker
			}
			return nil, err
		}
		w.lookGap = idlePoll
		list := make([]*pulled, len(msgs))
		for i, msg := range msgs {
			list[i] = &pulled{msg, job}
		}
		return list, nil
	}
}

// fetchTask asks a queue for one task; nil when it has none.
func (w *worker) fetchTask(ctx context.Context, job uint64, name string, queue broker.TaskQueue) (broker.Delivery, error) {
	list, err := w.fetchTasks(ctx, job, name, queue, 1)
	if len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

// some is a queue that can be asked for several tasks at once.
type some interface {
	NextSome(ctx context.Context, most int) ([]broker.Delivery, error)
}

// fetchTasks asks a queue for tasks, at most so many. A request that has been sent is
// waited for even when ctx ends: the tasks would be lost until the ack wait brings
// them back.
func (w *worker) fetchTasks(ctx context.Context, job uint64, name string, queue broker.TaskQueue, most int) ([]broker.Delivery, error) {
	bound, cancel := context.WithTimeout(ctx, pullWait)
	defer cancel()
	if queue == nil {
		open, done := w.link.during(bound)
		defer done()
		var err error
		if queue, err = w.Broker.Tasks(open, w.Name, name); err != nil {
			return nil, err
		}
		w.table.opened(job, name, queue)
	}
	request, cancel := context.WithTimeout(context.WithoutCancel(ctx), pullWait)
	defer cancel()
	request, done := w.link.during(request)
	defer done()
	if q, ok := queue.(some); ok && most > 1 {
		return q.NextSome(request, most)
	}
	msg, err := queue.Next(request)
	if msg == nil {
		return nil, err
	}
	return []broker.Delivery{msg}, err
}

// take makes a pulled message a task in hand and starts fetching its data. It
// returns nil when there is nothing to compute. The token that the caller put into
// tokens goes with the task.
func (w *worker) take(ctx, work context.Context, p *pulled, tokens chan struct{}) *held {
	task, err := wire.ParseTask(p.msg.Data())
	if err != nil {
		// Perhaps a newer program's: a worker that can read it shall have it. The
		// others of the job will be alike, so the job is set aside for a moment.
		w.Log.Error("unreadable task handed back: do all nodes run the same version?", "subject", p.msg.Subject(), "error", err)
		_ = p.msg.NakWithDelay(mostDelay)
		w.table.exhausted(p.job, false)
		<-tokens
		return nil
	}
	t := w.newHeld(work, p.msg, task, func() { <-tokens })
	t.place, t.priority, t.counted = w.table.served(task.Job, max(task.To-task.From+1, 1))
	w.hand.add(t)
	if !w.prepare(ctx, t) {
		return nil
	}
	return t
}

// newHeld is a task that is taken in hand; free gives back the place that it takes.
func (w *worker) newHeld(work context.Context, msg broker.Delivery, task *wire.Task, free func()) *held {
	t := &held{msg: msg, task: task, attempt: msg.NumDelivered(), token: sync.OnceFunc(free)}
	t.ctx, t.cancel = context.WithCancel(work)
	return t
}

// prepare starts fetching a task's data. It reports false when there is nothing
// to compute, and has done what was to do then.
func (w *worker) prepare(ctx context.Context, t *held) bool {
	if t.task.Check || t.attempt > 1 {
		has, err := w.lookUp(ctx, t)
		switch {
		case ctx.Err() != nil && !has:
			w.handBack(t, 0)
			return false
		case err != nil:
			w.infrastructure(t, err)
			return false
		case has:
			w.table.done(t.task.Job, t.counted, nil)
			w.ack(t)
			w.hand.remove(t)
			return false
		}
	}
	return w.place(ctx, t)
}

// place decides where a task is computed, and starts fetching its data. It reports
// false when that is not a slot.
func (w *worker) place(ctx context.Context, t *held) bool {
	suspicious := w.suspicious(t)
	switch {
	case w.final(t):
		// Whoever saw the last try didn't live to say so.
		err := errors.New(t.tried[len(t.tried)-1].Error)
		if n := wire.Crashes(t.tried); wire.Failures(t.tried) < w.MaxAttempts {
			err = fmt.Errorf("%d nodes died while they computed the task", n)
		}
		w.storeAside(t, w.failure(t, err))
		return false
	case w.leave(ctx, t):
		w.handBack(t, retryDelay(len(t.tried)))
		return false
	case suspicious && !w.isolation.admit(t):
		if w.tally.suspects(t.task.ModelDigest) {
			w.table.exhausted(t.task.Job, false) // its other tasks would fare alike
		}
		w.handBack(t, retryDelay(t.attempt))
		return false
	}
	w.bring(t, !suspicious)
	if suspicious {
		t.token() // it takes no slot
		w.isolation.compute(ctx, t)
		return false
	}
	return true
}

// bring starts fetching a task's batches, and its model where that is to be run
// in this process.
func (w *worker) bring(t *held, model bool) {
	if t.task.Train == "" {
		t.batches = make(chan fetched, fetchAhead)
		go w.library.stream(t.ctx, t.task, model, t.batches)
	}
}

// lookUp finds out whether a task has a stored result, and what has been tried. It
// asks again when the reply doesn't come.
func (w *worker) lookUp(ctx context.Context, t *held) (has bool, err error) {
	for range lookUps {
		w.link.wait(ctx)
		try, done := w.link.during(ctx)
		try, cancel := context.WithTimeout(try, lookUpWait)
		var group errgroup.Group
		group.Go(func() (err error) {
			t.tried, err = w.Broker.Attempts(try, t.task.Job, t.task.Task)
			return err
		})
		has, err = w.Broker.HasResult(try, t.task.Job, t.task.Task)
		if other := group.Wait(); err == nil && !has {
			err = other
		}
		cancel()
		done()
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	t.tried = append(t.tried, w.tally.kept(taskKey{t.task.Job, t.task.Task})...)
	return has, err
}

// ack acknowledges a task whose result is stored. An acknowledgement that gets
// lost does no harm: the task is delivered again, found done, and acknowledged.
func (w *worker) ack(t *held) {
	if err := t.msg.Ack(); err != nil {
		w.Log.Debug("acknowledgement lost", "job", t.task.Job, "task", t.task.Task, "error", err)
	}
	w.table.freed(t.task.Job)
}

// handBack gives a task up so that another worker gets it, after delay.
func (w *worker) handBack(t *held, delay time.Duration) {
	var err error
	if delay > 0 {
		err = t.msg.NakWithDelay(delay)
	} else {
		err = t.msg.Nak()
	}
	if err != nil {
		w.Log.Debug("task not handed back: the ack wait will", "job", t.task.Job, "task", t.task.Task, "error", err)
	}
	w.hand.remove(t)
	w.hand.tell() // or it might be handed back once more, and taken from another worker
}

// giveUp ends a task whose context has ended: its job is over, or the worker
// stops. Handing back is right in both cases: an ended job's queue is gone.
func (w *worker) giveUp(t *held) { w.handBack(t, 0) }

// infrastructure hands back a task that failed through no fault of its own.
func (w *worker) infrastructure(t *held, err error) {
	pause := w.tally.failure(time.Now())
	w.Log.Warn("task could not be carried out, handed back", "job", t.task.Job, "task", t.task.Task, "delivery", t.attempt, "pause", pause, "error", err)
	w.handBack(t, retryDelay(t.attempt))
}

// retryDelay grows with the attempts made.
func retryDelay(attempt int) time.Duration {
	d := firstDelay << min(max(attempt-1, 0), 10)
	return min(d, mostDelay)
}
