package worker

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker/wire"
)

const (
	// idlePoll is how often an idle worker looks by itself: for tasks that came
	// back by the ack wait, and for wake-up calls that got lost.
	idlePoll = 250 * time.Millisecond
	// pullWait bounds one request to a queue.
	pullWait = 2 * time.Second
	// attempts and delays of tasks that fail.
	maxAttempts = 5
	firstDelay  = 200 * time.Millisecond
	mostDelay   = 5 * time.Second
)

// pull takes tasks from the queues as long as there is room for them: one
// computing and one ready for each slot. It ends with ctx and closes ready.
func (w *worker) pull(ctx, work context.Context) error {
	defer close(w.ready)
	for {
		msg, err := w.next(ctx)
		if err != nil {
			return nil // told to stop
		}
		t := w.take(ctx, work, msg)
		if t == nil {
			continue
		}
		select {
		case w.ready <- t:
		case <-t.ctx.Done():
			w.giveUp(t)
		case <-ctx.Done():
			w.handBack(t, 0)
			return nil
		}
	}
}

// next returns the next task of the job whose turn it is, waiting for one.
func (w *worker) next(ctx context.Context) (jetstream.Msg, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		job, queue, ok := w.table.pick()
		if !ok {
			select {
			case <-ctx.Done():
			case <-w.table.wake:
			case <-time.After(idlePoll):
				w.table.stir()
			}
			continue
		}
		msg, err := w.fetchTask(ctx, job, queue)
		if err != nil {
			w.Log.Debug("queue does not answer", "job", job, "error", err)
			w.table.exhausted(job, true)
			continue
		}
		if msg == nil {
			w.table.exhausted(job, false)
			continue
		}
		return msg, nil
	}
}

// fetchTask asks a queue for one task; nil when it has none.
func (w *worker) fetchTask(ctx context.Context, job uint64, queue jetstream.Consumer) (jetstream.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, pullWait)
	defer cancel()
	if queue == nil {
		var err error
		if queue, err = w.Broker.Queue(ctx, job); err != nil {
			return nil, err
		}
		w.table.opened(job, queue)
	}
	batch, err := queue.FetchNoWait(1)
	if err != nil {
		return nil, err
	}
	select {
	case msg, ok := <-batch.Messages():
		if ok {
			return msg, nil
		}
		if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, jetstream.ErrNoMessages) {
			return nil, err
		}
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// take makes a pulled message a task in hand and starts fetching its data. It
// returns nil when there is nothing to compute.
func (w *worker) take(ctx, work context.Context, msg jetstream.Msg) *held {
	task, err := wire.ParseTask(msg.Data())
	if err != nil {
		w.Log.Error("unreadable task dropped", "subject", msg.Subject(), "error", err)
		_ = msg.TermWithReason(err.Error())
		return nil
	}
	t := &held{msg: msg, task: task, attempt: 1}
	if meta, err := msg.Metadata(); err == nil {
		t.attempt = int(meta.NumDelivered)
	}
	t.ctx, t.cancel = context.WithCancel(work)
	w.table.served(task.Job, max(task.To-task.From+1, 1))
	w.hand.add(t)
	if task.Check || t.attempt > 1 {
		has, err := w.Broker.HasResult(ctx, task.Job, task.Task)
		if err != nil {
			w.handBack(t, firstDelay)
			return nil
		}
		if has {
			w.ack(t)
			w.hand.remove(t)
			return nil
		}
	}
	if task.Train == "" {
		t.batches = make(chan fetched, fetchAhead)
		go w.library.stream(t.ctx, task, t.batches)
	}
	return t
}

// ack acknowledges a task whose result is stored. An acknowledgement that gets
// lost does no harm: the task is delivered again, found done, and acknowledged.
func (w *worker) ack(t *held) {
	if err := t.msg.Ack(); err != nil {
		w.Log.Debug("acknowledgement lost", "job", t.task.Job, "task", t.task.Task, "error", err)
	}
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
}

// giveUp ends a task whose context has ended: its job is over, or the worker
// stops. Handing back is right in both cases: an ended job's queue is gone.
func (w *worker) giveUp(t *held) { w.handBack(t, 0) }

// retryDelay grows with the attempts made.
func retryDelay(attempt int) time.Duration {
	d := firstDelay << min(max(attempt-1, 0), 10)
	return min(d, mostDelay)
}
