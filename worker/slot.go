package worker

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
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
			case _, ok = <-w.ready.some:
				if !ok {
					return
				}
				t = w.ready.take()
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
	began := time.Now()
	result, err := w.carryOut(t, sessions)
	w.took(time.Since(began))
	t.started.Store(false) // what kills the worker from now on is not the task
	w.done(t, result, err)
}

// done stores a task's result, or decides about its failure.
func (w *worker) done(t *held, result []byte, err error) {
	if err != nil {
		result = w.failed(t, err)
	} else {
		w.tally.success(t.task)
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
	if t.task.Train == "" {
		w.table.done(t.task.Job, t.counted, r.Batches)
	}
	return w.message(t, r)
}

// compute carries a task out and returns its result.
func (w *worker) compute(t *held, sessions map[string]*models.Session) (*wire.Result, error) {
	r := w.result(t)
	if t.task.Train != "" {
		trained, err := w.train(t.ctx, t.task)
		r.Trained = trained
		return r, err
	}
	if _, err := w.session(t.ctx, t.task, sessions); err != nil {
		return nil, err
	}
	return r, w.batches(t, r, func(u *held) { w.carry(u, sessions) }, func(n int, f fetched) (*wire.BatchResult, error) {
		session, err := w.session(t.ctx, t.task, sessions) // an urgent task may have taken it away
		if err != nil {
			return nil, err
		}
		b, left, err := w.inTime(t.ctx, func(ctx context.Context) (*wire.BatchResult, error) {
			return predict(ctx, session, n, f.batch, t.task.Outputs)
		})
		if left {
			delete(sessions, t.task.ModelDigest) // it is still in use
		}
		return b, err
	})
}

// batches has a task's batches computed as they come. Aside, where there is one,
// carries urgent tasks out in between.
func (w *worker) batches(t *held, r *wire.Result, aside func(*held), compute func(n int, f fetched) (*wire.BatchResult, error)) error {
	left := int64(wire.MaxOutputs)
	for n := t.task.From; n <= t.task.To; n++ {
		f, err := w.nextBatch(t, n == t.task.From, aside)
		if err != nil {
			return err
		}
		if n == t.task.From {
			r.Started = time.Now()
		}
		b, err := compute(n, f)
		if err != nil {
			return asFault(t.ctx, fmt.Errorf("batch %d: %w", n, err))
		}
		w.status.add(t.task, b)
		r.Batches = append(r.Batches, *b)
		if left -= int64(len(b.Values)) * 4; left < 0 {
			return tooMuch(r, n)
		}
	}
	return nil
}

// dataWait is how long an urgent task waits for its first batch while others are there:
// that of one more is a moment's work, if it isn't far away.
const dataWait = 50 * time.Millisecond

// nextBatch waits for a task's next batch. Urgent tasks come first, also when this is
// one itself, but not before its first batch: so each has begun soon, and there are no
// more of them than places.
func (w *worker) nextBatch(t *held, first bool, aside func(*held)) (fetched, error) {
	urgent := w.urgent
	if aside == nil {
		urgent = nil
	}
	if urgent != nil && first && t.urgent {
		late := time.NewTimer(dataWait)
		defer late.Stop()
		select {
		case f := <-t.batches:
			return f, f.err
		case <-t.ctx.Done():
			return fetched{}, t.ctx.Err()
		case <-late.C:
		}
	}
	for {
		select {
		case u := <-urgent:
			aside(u)
			continue
		default:
		}
		select {
		case f := <-t.batches:
			return f, f.err
		case u := <-urgent:
			aside(u)
		case <-t.ctx.Done():
			return fetched{}, t.ctx.Err()
		}
	}
}

// inTime computes a batch, for as long as a batch may take. Left says that what
// computes it doesn't stop, and was left behind.
func (w *worker) inTime(ctx context.Context, compute func(context.Context) (*wire.BatchResult, error)) (b *wire.BatchResult, left bool, err error) {
	within, cancel := context.WithTimeout(ctx, w.BatchTimeout)
	defer cancel()
	b, err = bounded(within, func() (*wire.BatchResult, error) { return compute(within) })
	left = errors.Is(err, errLeftBehind)
	if left {
		w.Log.Error("a computation doesn't stop and was left behind: it keeps a core busy until it ends or the worker is restarted")
	}
	if err != nil && within.Err() != nil && ctx.Err() == nil {
		err = slow("compute", w.BatchTimeout)
	}
	return b, left, err
}

// leaveAfter is how long a computation may go on after it has been told to stop.
// The engine looks between operators and within long ones.
const leaveAfter = 2 * time.Second

// errLeftBehind is returned for a computation that didn't stop.
var errLeftBehind = errors.New("the computation doesn't stop")

// bounded calls fn, and returns when fn does or, with [errLeftBehind], some time
// after ctx has ended. Nothing can end fn then: it is left behind.
func bounded[T any](ctx context.Context, fn func() (T, error)) (T, error) {
	type outcome struct {
		v   T
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		defer func() {
			if r := recover(); r != nil {
				o.err = panicked("compute", fmt.Sprintf("%v\n%s", r, debug.Stack()))
			}
			done <- o
		}()
		o.v, o.err = fn()
	}()
	select {
	case o := <-done:
		return o.v, o.err
	case <-ctx.Done():
	}
	late := time.NewTimer(leaveAfter)
	defer late.Stop()
	select {
	case o := <-done:
		return o.v, o.err
	case <-late.C:
		var none T
		return none, errLeftBehind
	}
}

func (w *worker) result(t *held) *wire.Result {
	return &wire.Result{Schema: wire.Schema, Job: t.task.Job, Task: t.task.Task, From: t.task.From, To: t.task.To,
		Node: w.Name, Attempt: t.attempt, Started: time.Now(), Tried: t.tried[max(len(t.tried)-wire.MaxTried, 0):]}
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
	case t.copied:
		w.Log.Debug("copy of a task failed", "job", t.task.Job, "task", t.task.Task, "error", err)
		w.giveUp(t)
	case t.ctx.Err() != nil:
		w.giveUp(t)
	case !isFault(err):
		w.infrastructure(t, err)
	default:
		return w.faulty(t, err)
	}
	return nil
}

// faulty notes a try of a task that failed by itself, and hands the task back or,
// after the last try, returns its result.
func (w *worker) faulty(t *held, err error) []byte {
	k := taskKey{t.task.Job, t.task.Task}
	cause := causeOf(err)
	w.tally.fault(t.task.ModelDigest, cause)
	a := wire.Attempt{Schema: wire.Schema, Cause: cause, Node: w.Name, Incarnation: w.started.UnixNano(), Delivery: t.attempt,
		Isolated: t.apart, Time: time.Now(), Error: wire.Shorten(err.Error())}
	t.tried = append(t.tried, a)
	if w.final(t) {
		return w.failure(t, err)
	}
	if noted := w.note(t, &a); noted != nil {
		w.Log.Warn("try not noted: it counts here only", "job", k.job, "task", k.task, "error", noted)
		w.tally.keep(k, a)
	}
	delay := retryDelay(len(t.tried))
	w.Log.Warn("task failed, handed back", "job", k.job, "task", k.task, "delivery", t.attempt, "cause", cause, "tries", len(t.tried), "delay", delay, "error", err)
	w.handBack(t, delay)
	return nil
}

const (
	// leastCrashes is how many nodes must die at a task before it is given up, however
	// few its tries may be: at two it gets a process of its own, where it kills no
	// node any more. Training has none, and takes so long that many nodes may die
	// meanwhile for reasons of their own.
	leastCrashes         = harmful + 1
	leastTrainingCrashes = 10
)

// final reports whether a task has been tried often enough.
func (w *worker) final(t *held) bool {
	least := leastCrashes
	if t.task.Train != "" {
		least = leastTrainingCrashes
	}
	return wire.Failures(t.tried) >= w.MaxAttempts || wire.Crashes(t.tried) >= max(w.MaxAttempts, least)
}

// note stores a try.
func (w *worker) note(t *held, a *wire.Attempt) error {
	try, done := w.link.during(t.ctx)
	defer done()
	try, cancel := context.WithTimeout(try, tryWait)
	defer cancel()
	return w.Broker.StoreAttempt(try, t.task.Job, t.task.Task, a)
}

// failure is the result of a task that failed for good: its error and its tries,
// so that the job can end.
func (w *worker) failure(t *held, err error) []byte {
	const most = 1000
	text := strings.ToValidUTF8(err.Error(), "")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	r := w.result(t)
	r.Error = text
	return r.Marshal()
}
