package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"idunno/broker"
)

const (
	// tryWait bounds the wait for one reply of the server; lookUpWait that for a
	// look-up, which is tried lookUps times.
	tryWait    = 2 * time.Second
	lookUpWait = time.Second
	lookUps    = 3
	// storeDelay is the longest pause between two tries to store a result.
	storeDelay = time.Second
)

// storeAside stores a result while the slot goes on with its next task. When too
// many results wait already, the slot waits too.
func (w *worker) storeAside(t *held, result []byte) {
	places := int64(min(1+len(result)/storingBytes, storingMost))
	if w.places.Acquire(t.ctx, places) != nil {
		w.giveUp(t)
		return
	}
	t.token()
	w.storing.Go(func() {
		defer w.places.Release(places)
		w.store(t, result)
	})
}

// store makes the result durable and acknowledges the task. It keeps trying
// while the broker is away: the work is done and shall not be done again.
func (w *worker) store(t *held, result []byte) {
	for delay := firstDelay; ; delay = min(2*delay, storeDelay) {
		w.link.wait(t.ctx)
		err := w.publishResult(t, result)
		switch {
		case err == nil || errors.Is(err, broker.ErrExists):
			w.ack(t)
			w.hand.remove(t)
			return
		case t.ctx.Err() != nil:
			w.giveUp(t)
			return
		case errors.Is(err, broker.ErrTooLarge):
			result = w.failure(t, fmt.Errorf("the result has %d bytes, more than the server takes: raise its max_payload, or import the data with a smaller --batch-size", len(result)))
			continue
		case errors.Is(err, errLost):
			continue
		}
		w.Log.Warn("result not stored yet", "job", t.task.Job, "task", t.task.Task, "error", err)
		select {
		case <-t.ctx.Done():
		case <-time.After(delay):
		}
	}
}

// publishResult tries once. It returns errLost when the connection was lost.
func (w *worker) publishResult(t *held, result []byte) error {
	try, done := w.link.during(t.ctx)
	defer done()
	timed, cancel := context.WithTimeout(try, tryWait)
	defer cancel()
	err := w.Broker.StoreResult(timed, t.task.Job, t.task.Task, result)
	if err != nil && errors.Is(context.Cause(try), errLost) {
		return errLost
	}
	return err
}
