package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"idunno/broker/wire"
	"idunno/models"
	"idunno/models/dataset"
	"idunno/models/train"
	"idunno/objectstore"
)

// A task that can't be computed has either a fault of its own, which it would have
// on any node, or met a failure of what is around it: the connection, the disk.
// The latter says nothing about the task: it is handed back without limit.
//
// A fault is noted as a try of the task, in a stream that all workers read and that
// outlives them, and the task is handed back with a delay that grows with its
// tries. A worker leaves a task that failed here to live workers that haven't tried
// it. The last of [Config.MaxAttempts] tries becomes the task's result, with all
// tries in it, and ends its job with failures: there is one write that makes a
// task dead, so it can't be lost or happen twice.
//
// Deliveries don't count: kills, drains and hand-backs make them grow as well.
// Deaths of nodes are noted by the coordinator, and counted apart.

// fault is an error of the task itself.
type fault struct{ error }

func (f fault) Unwrap() error { return f.error }

// asFault marks an error of a pure computation, unless ctx ended it.
func asFault(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	return fault{err}
}

var (
	errPanic = errors.New("panic")
	// errSlow is what a batch ends with that takes longer than allowed.
	errSlow = errors.New("took longer than allowed")
	// errHungry is what a task ends with whose process takes too much memory.
	errHungry = errors.New("took more memory than allowed")
	// errDied is what a task ends with whose process dies.
	errDied = errors.New("its process died")
)

// panicked turns a recovered panic into a fault.
func panicked(what string, p any) error { return fault{fmt.Errorf("%s: %w: %v", what, errPanic, p)} }

// slow is the fault of a batch that was given up after limit.
func slow(what string, limit time.Duration) error {
	return fault{fmt.Errorf("%s: %w: %v; --batch-timeout of the workers sets the limit", what, errSlow, limit)}
}

// causeOf tells how a fault ended its try.
func causeOf(err error) wire.Cause {
	for _, c := range []struct {
		err   error
		cause wire.Cause
	}{
		{errPanic, wire.CausePanic}, {errSlow, wire.CauseTimeout}, {errHungry, wire.CauseMemory}, {models.ErrTooLarge, wire.CauseMemory}, {errDied, wire.CauseKilled},
	} {
		if errors.Is(err, c.err) {
			return c.cause
		}
	}
	return wire.CauseError
}

// isFault reports whether an error is the task's own.
func isFault(err error) bool {
	var f fault
	if errors.As(err, &f) {
		return true
	}
	for _, own := range []error{
		models.ErrMalformed, models.ErrUnsupported, models.ErrTooLarge, models.ErrNotClassifier, models.ErrNoProbabilities, models.ErrInput, models.ErrResult,
		train.ErrConfig, train.ErrData, train.ErrDiverged,
		dataset.ErrFormat, dataset.ErrTooLarge, dataset.ErrNotFound, dataset.ErrChecksum, dataset.ErrRange,
		objectstore.ErrNotFound, objectstore.ErrCorrupt, objectstore.ErrTooLarge, objectstore.ErrBadName, objectstore.ErrTooManyVersions,
	} {
		if errors.Is(err, own) {
			return true
		}
	}
	return false
}

const (
	// maxTallied bounds what is remembered of tasks and models.
	maxTallied = 10_000
	// suspectAfter is how many batches of a model in a row must take too long before
	// all its tasks get processes of their own.
	suspectAfter = 2
	// patience is how many failures in a row of what is around the tasks a worker
	// takes before it pauses: on a sick node tasks fail fast, and it would eat
	// the queue.
	patience   = 3
	firstPause = time.Second
	mostPause  = 10 * time.Second
)

type taskKey struct {
	job  uint64
	task int
}

// tally counts what went wrong here.
type tally struct {
	mu sync.Mutex
	// unsaved are tries that could not be noted for all.
	unsaved map[taskKey][]wire.Attempt
	// slow counts, by model, the batches in a row that took too long.
	slow map[string]int
	// row is the number of failures of what is around the tasks since the last
	// task that got a result.
	row   int
	until time.Time
}

func newTally() *tally {
	return &tally{unsaved: make(map[taskKey][]wire.Attempt), slow: make(map[string]int)}
}

// fault takes note of a fault of a task with some model.
func (y *tally) fault(model string, cause wire.Cause) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.row = 0 // the node itself works
	if cause != wire.CauseTimeout {
		return
	}
	makeRoom(y.slow)
	y.slow[model]++
}

// keep remembers a try that could not be noted for all.
func (y *tally) keep(k taskKey, a wire.Attempt) {
	y.mu.Lock()
	defer y.mu.Unlock()
	makeRoom(y.unsaved)
	y.unsaved[k] = append(y.unsaved[k], a)
}

// kept returns the tries of a task that only this worker knows.
func (y *tally) kept(k taskKey) []wire.Attempt {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.unsaved[k]
}

// suspects reports whether a model's batches took too long, one after the other.
func (y *tally) suspects(model string) bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.slow[model] >= suspectAfter
}

// makeRoom drops some entry of a map that is full.
func makeRoom[K comparable, V any](m map[K]V) {
	if len(m) < maxTallied {
		return
	}
	for some := range m {
		delete(m, some)
		return
	}
}

// failure counts a failure of what is around the tasks and returns the pause that
// it brings, 0 for none.
func (y *tally) failure(now time.Time) time.Duration {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.row++
	if y.row < patience {
		return 0
	}
	pause := min(firstPause<<min(y.row-patience, 10), mostPause)
	y.until = now.Add(pause)
	return pause
}

// success says that a task has been computed.
func (y *tally) success(t *wire.Task) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.row = 0
	delete(y.unsaved, taskKey{t.Job, t.Task})
	delete(y.slow, t.ModelDigest)
}

// pause is how long the worker should wait before it pulls again.
func (y *tally) pause(now time.Time) time.Duration {
	y.mu.Lock()
	defer y.mu.Unlock()
	return max(y.until.Sub(now), 0)
}

// dropExcept forgets the tries of jobs that are no longer active.
func (y *tally) dropExcept(active map[uint64]bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for k := range y.unsaved {
		if !active[k.job] {
			delete(y.unsaved, k)
		}
	}
}
