package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/models"
)

// maxSessions is how many models a slot keeps ready to run.
const maxSessions = 4

// slot computes tasks one after the other until there are no more.
func (w *worker) slot(ctx context.Context) {
	sessions := make(map[string]*models.Session)
	for t := range w.ready {
		result, err := w.compute(t, sessions)
		if err != nil {
			w.failed(ctx, t, err)
			continue
		}
		w.storing.Go(func() { w.store(ctx, t, result) })
	}
}

// compute carries a task out and returns its result.
func (w *worker) compute(t *held, sessions map[string]*models.Session) (*wire.Result, error) {
	r := &wire.Result{Schema: wire.Schema, Job: t.task.Job, Task: t.task.Task, From: t.task.From, To: t.task.To,
		Node: w.Name, Attempt: t.attempt, Started: time.Now()}
	if t.task.Train != "" {
		trained, err := w.train(t.ctx, t.task)
		r.Trained = trained
		return r, err
	}
	session, err := w.session(t.ctx, t.task, sessions)
	if err != nil {
		return nil, err
	}
	for n := t.task.From; n <= t.task.To; n++ {
		var f fetched
		select {
		case f = <-t.batches:
		case <-t.ctx.Done():
			return nil, t.ctx.Err()
		}
		if f.err != nil {
			return nil, f.err
		}
		b, err := predict(t.ctx, session, n, f)
		if err != nil {
			return nil, fmt.Errorf("batch %d: %w", n, err)
		}
		w.status.add(t.task, b)
		r.Batches = append(r.Batches, *b)
	}
	return r, nil
}

// predict runs the model on a batch. The time is that of the prediction alone.
func predict(ctx context.Context, s *models.Session, n int, f fetched) (*wire.BatchResult, error) {
	began := time.Now()
	p, err := s.Predict(ctx, f.batch)
	took := time.Since(began)
	if err != nil {
		return nil, err
	}
	return &wire.BatchResult{Batch: n, Images: len(p.Class), Labeled: f.batch.Y != nil, Correct: p.Correct, LossSum: p.LossSum,
		Nanos: took.Nanoseconds(), Class: p.Class, Prob: p.Prob, Labels: f.batch.Y}, nil
}

// session returns the slot's own session of a model.
func (w *worker) session(ctx context.Context, t *wire.Task, sessions map[string]*models.Session) (*models.Session, error) {
	if s := sessions[t.ModelDigest]; s != nil {
		return s, nil
	}
	m, err := w.library.model(ctx, t.ModelDigest)
	if err != nil {
		return nil, err
	}
	if len(sessions) >= maxSessions {
		clear(sessions)
	}
	s := m.NewSession()
	sessions[t.ModelDigest] = s
	return s, nil
}

// store makes the result durable and acknowledges the task. It keeps trying
// while the broker is away: the work is done and shall not be done again.
func (w *worker) store(ctx context.Context, t *held, r *wire.Result) {
	p := r.Marshal()
	if len(p) > wire.MaxResult {
		w.fail(ctx, t, fmt.Errorf("the result has %d bytes, a message holds %d: import the data with a smaller --batch-size", len(p), wire.MaxResult))
		return
	}
	for delay := firstDelay; ; delay = min(2*delay, mostDelay) {
		err := w.publishResult(ctx, t, p)
		if err == nil || errors.Is(err, broker.ErrExists) {
			w.ack(t)
			w.hand.remove(t)
			return
		}
		w.Log.Warn("result not stored yet", "job", t.task.Job, "task", t.task.Task, "error", err)
		select {
		case <-t.ctx.Done():
			w.giveUp(t)
			return
		case <-time.After(delay):
		}
	}
}

func (w *worker) publishResult(ctx context.Context, t *held, p []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return w.Broker.StoreResult(ctx, t.task.Job, t.task.Task, p)
}

// failed decides about a task that couldn't be computed.
func (w *worker) failed(ctx context.Context, t *held, err error) {
	switch {
	case t.ctx.Err() != nil:
		w.giveUp(t)
	case t.attempt < maxAttempts:
		w.Log.Warn("task failed, handed back", "job", t.task.Job, "task", t.task.Task, "attempt", t.attempt, "error", err)
		w.handBack(t, retryDelay(t.attempt))
	default:
		w.fail(ctx, t, err)
	}
}

// fail makes the error the task's result, so that the job can end.
func (w *worker) fail(ctx context.Context, t *held, err error) {
	const most = 1000
	text := err.Error()
	if len(text) > most {
		text = text[:most] + "…"
	}
	r := &wire.Result{Schema: wire.Schema, Job: t.task.Job, Task: t.task.Task, From: t.task.From, To: t.task.To,
		Node: w.Name, Attempt: t.attempt, Started: time.Now(), Error: text}
	w.storing.Go(func() { w.store(ctx, t, r) })
}
