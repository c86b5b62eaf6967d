package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
)

// errBusy refuses a rescue: there is no place for it.
var errBusy = errors.New("no place")

// A rescue is the task of a worker that died. The coordinator sends it straight
// to a worker that lives, with the dead one's delivery; the queue needs no part in
// it. Whoever takes it begins at once: the slot that comes first between two
// batches, or waits for one, puts its own task aside for it.
//
//	slot:   batch  batch │ rescued task, whole │ batch  batch
//	                     └ between two batches

// followRescues takes rescues until ctx ends.
func (w *worker) followRescues(ctx, work context.Context) error {
	stop, err := w.Broker.Listen(broker.SubjectRescue(w.Name), func(m *broker.Message) {
		if m.Respond == nil {
			return
		}
		answer := wire.RescueTaken
		if err := w.rescue(ctx, work, m.Data); err != nil {
			answer = "-ERR " + err.Error()
		}
		// Should the answer be lost, somebody else gets the task too.
		_ = m.Respond([]byte(answer))
	})
	if err != nil {
		return err
	}
	<-ctx.Done()
	stop()
	w.taking.close()
	for {
		select {
		case t := <-w.urgent:
			w.handBack(t, 0)
		default:
			return nil
		}
	}
}

// rescue takes a task over.
func (w *worker) rescue(ctx, work context.Context, p []byte) error {
	r, err := wire.ParseRescue(p)
	if err != nil {
		return err
	}
	if r.Copy {
		return w.copy(ctx, work, r.Task)
	}
	select {
	case w.rescues <- struct{}{}: // a place
	default:
		return errBusy
	}
	free := func() { <-w.rescues }
	if ctx.Err() != nil || !w.table.has(r.Task.Job) {
		free()
		return errBusy
	}
	msg, err := w.Broker.Adopt(r.Reply, nil)
	if err != nil {
		free()
		return err
	}
	t := w.newHeld(work, msg, r.Task, free)
	t.crashes = r.Crashes
	w.hand.add(t)
	began := w.taking.run(func() {
		_ = msg.InProgress()
		if w.suspicious(t) {
			if w.prepare(ctx, t) {
				w.hurry(t)
			}
			return
		}
		// It was being computed or waited for that when its worker died, so it hardly has a
		// result. Whether it has is found out while it is computed.
		w.bring(t, true)
		w.hurry(t)
		if w.isDone(t) {
			t.cancel()
		}
	})
	if !began {
		w.hand.remove(t)
		return errBusy
	}
	return nil
}

// hurry passes a task to the slots that goes before all others. There is room for every
// place that such a task takes.
func (w *worker) hurry(t *held) {
	t.urgent = true
	w.urgent <- t
}

// copy takes a task that another worker computes already, near the end of its job, if
// a slot has nothing to do: whichever result is stored first counts.
func (w *worker) copy(ctx, work context.Context, task *wire.Task) error {
	if ctx.Err() != nil || !w.table.has(task.Job) || task.Train != "" || w.hand.count() >= w.Slots {
		return errBusy
	}
	select {
	case w.tokens <- struct{}{}:
	default:
		return errBusy
	}
	t := w.newHeld(work, mute{}, task, func() { <-w.tokens })
	t.copied = true
	w.hand.add(t)
	began := w.taking.run(func() {
		w.bring(t, true)
		w.ready.put(t)
	})
	if !began {
		w.hand.remove(t)
		return errBusy
	}
	return nil
}

// mute is the delivery of a copy: what is said about it reaches nobody, and the queue
// hears of the task from the worker that has it.
type mute struct{}

func (mute) Data() []byte                     { return nil }
func (mute) Subject() string                  { return "" }
func (mute) Reply() string                    { return "" }
func (mute) NumDelivered() int                { return 1 }
func (mute) Ack() error                       { return nil }
func (mute) Nak() error                       { return nil }
func (mute) NakWithDelay(time.Duration) error { return nil }
func (mute) InProgress() error                { return nil }
func (mute) Term() error                      { return nil }

// isDone reports whether a task is known to have a result.
func (w *worker) isDone(t *held) bool {
	try, done := w.link.during(t.ctx)
	defer done()
	has, err := w.Broker.HasResult(try, t.task.Job, t.task.Task)
	return err == nil && has
}

// takings are the rescues that are being prepared.
type takings struct {
	mu     sync.Mutex
	closed bool
	group  sync.WaitGroup
}

// run runs fn aside, and reports false when it is too late for that.
func (k *takings) run(fn func()) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.closed {
		k.group.Go(fn)
	}
	return !k.closed
}

// close waits for what runs, and lets nothing begin any more.
func (k *takings) close() {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.group.Wait()
}
