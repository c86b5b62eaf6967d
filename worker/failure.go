package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"idunno/models"
	"idunno/models/dataset"
	"idunno/models/train"
	"idunno/objectstore"
)

// A task that can't be computed has either a fault of its own, which it would have
// on any node, or met a failure of what is around it: the connection, the disk.
// The latter says nothing about the task: it is handed back without limit.
//
// A fault becomes the task's result, and ends its job with failures, when it is
// confirmed. Deliveries alone don't count: kills, drains and hand-backs make them
// grow as well. The worker counts the faults that it saw itself:
//
//	faults seen here          deliveries         final
//	maxAttempts               any                yes
//	2 and more                maxAttempts        yes
//	1                         2 * maxAttempts    yes, so that a hundred nodes don't each try twice
//	otherwise                                    no, handed back with a growing delay
const maxAttempts = 5

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

// panicked turns a recovered panic into a fault.
func panicked(what string, p any) error { return fault{fmt.Errorf("%s: panic: %v", what, p)} }

// isFault reports whether an error is the task's own.
func isFault(err error) bool {
	var f fault
	if errors.As(err, &f) {
		return true
	}
	for _, own := range []error{
		models.ErrMalformed, models.ErrUnsupported, models.ErrTooLarge, models.ErrNotClassifier, models.ErrInput, models.ErrResult,
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
	// maxTallied bounds the memory of faults seen.
	maxTallied = 10_000
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
	mu     sync.Mutex
	faults map[taskKey]int
	// row is the number of failures of what is around the tasks since the last
	// task that got a result.
	row   int
	until time.Time
}

func newTally() *tally { return &tally{faults: make(map[taskKey]int)} }

// fault counts a fault of a task at its delivery of the given number and reports
// whether it is final.
func (y *tally) fault(k taskKey, deliveries int) (final bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if _, known := y.faults[k]; !known && len(y.faults) >= maxTallied {
		for some := range y.faults {
			delete(y.faults, some)
			break
		}
	}
	y.faults[k]++
	seen := y.faults[k]
	final = seen >= maxAttempts || seen >= 2 && deliveries >= maxAttempts || deliveries >= 2*maxAttempts
	if final {
		delete(y.faults, k)
	}
	y.row = 0 // the node itself works
	return final
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
func (y *tally) success(k taskKey) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.row = 0
	delete(y.faults, k)
}

// pause is how long the worker should wait before it pulls again.
func (y *tally) pause(now time.Time) time.Duration {
	y.mu.Lock()
	defer y.mu.Unlock()
	return max(y.until.Sub(now), 0)
}

// dropExcept forgets the faults of jobs that are no longer active.
func (y *tally) dropExcept(active map[uint64]bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for k := range y.faults {
		if !active[k.job] {
			delete(y.faults, k)
		}
	}
}
