package worker

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"idunno/broker/wire"
	"idunno/models"
)

// maxSessions is how many models a slot keeps ready to run.
const maxSessions = 4

// slot computes tasks one after the other until there are no more. What it hasn't
// begun when ctx ends goes back.
func (w *worker) slot(ctx context.Context) {
	sessions := make(map[string]*models.Session)
	for {
		var t *held
		var ok bool
		select {
		case t = <-w.urgent: // at once
		default:
			select {
			case t = <-w.urgent:
			case t, ok = <-w.ready:
				if !ok {
					return
				}
			}
		}
		if ctx.Err() != nil {
			w.handBack(t, 0)
			continue
		}
		w.carry(t, sessions)
	}
}

// carry sees a task through to its result.
func (w *worker) carry(t *held, sessions map[string]*models.Session) {
	w.hand.begin(t)
	result, err := w.carryOut(t, sessions)
	if err != nil {
		result = w.failed(t, err)
	} else {
		w.tally.success(taskKey{t.task.Job, t.task.Task})
	}
	if result != nil {
		w.storeAside(t, result)
	}
}

// carryOut computes a task and encodes its result. A panic on the way is the
// task's fault; its model's session may be broken then.
func (w *worker) carryOut(t *held, sessions map[string]*models.Session) (p []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			w.Log.Error("task panicked", "job", t.task.Job, "task", t.task.Task, "panic", r, "stack", string(debug.Stack()))
			delete(sessions, t.task.ModelDigest)
			p, err = nil, panicked("compute", r)
		}
	}()
	r, err := w.compute(t, sessions)
	if err != nil {
		return nil, err
	}
	if p = r.Marshal(); len(p) > wire.MaxResult {
		return nil, fault{fmt.Errorf("the result has %d bytes, a message holds %d: import the data with a smaller --batch-size", len(p), wire.MaxResult)}
	}
	return p, nil
}

// compute carries a task out and returns its result.
func (w *worker) compute(t *held, sessions map[string]*models.Session) (*wire.Result, error) {
	r := w.result(t)
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
		if !t.rescued {
			w.beside(sessions)
		}
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
			return nil, asFault(t.ctx, fmt.Errorf("batch %d: %w", n, err))
		}
		w.status.add(t.task, b)
		r.Batches = append(r.Batches, *b)
	}
	return r, nil
}

func (w *worker) result(t *held) *wire.Result {
	return &wire.Result{Schema: wire.Schema, Job: t.task.Job, Task: t.task.Task, From: t.task.From, To: t.task.To,
		Node: w.Name, Attempt: t.attempt, Started: time.Now()}
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

// failed decides about a task that couldn't be computed. It returns the result
// that says so when that is final; otherwise the task has been handed back.
func (w *worker) failed(t *held, err error) []byte {
	switch {
	case t.ctx.Err() != nil:
		w.giveUp(t)
	case !isFault(err):
		w.infrastructure(t, err)
	case w.tally.fault(taskKey{t.task.Job, t.task.Task}, t.attempt):
		return w.failure(t, err)
	default:
		w.Log.Warn("task failed, handed back", "job", t.task.Job, "task", t.task.Task, "delivery", t.attempt, "error", err)
		w.handBack(t, retryDelay(t.attempt))
	}
	return nil
}

// failure is the result of a task that failed for good: its error, so that the
// job can end.
func (w *worker) failure(t *held, err error) []byte {
	const most = 1000
	text := err.Error()
	if len(text) > most {
		text = text[:most] + "…"
	}
	r := w.result(t)
	r.Error = text
	return r.Marshal()
}
