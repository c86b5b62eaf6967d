package sim

import (
	"context"
	"fmt"
	"slices"

	"idunno/broker/wire"
)

// place is a task.
type place struct {
	job  uint64
	task int
}

// StoreAttempt notes a try that gave no result; the same crash once.
func (c *Conn) StoreAttempt(ctx context.Context, job uint64, task int, a *wire.Attempt) error {
	_, err := call(ctx, c, "store attempt", a.Cause == wire.CauseCrash, func() (struct{}, error) {
		at := place{job, task}
		if a.Cause == wire.CauseCrash {
			id := fmt.Sprint(at, a.Node, a.Incarnation)
			if c.w.crashes[id] {
				return struct{}{}, nil
			}
			c.w.crashes[id] = true
		}
		c.w.logf("%s: %s of %s noted for job %d task %d", c.name, a.Cause, a.Node, job, task)
		c.w.tries[at] = append(c.w.tries[at], *a)
		return struct{}{}, nil
	})
	return err
}

// Attempts reads the tries of a task.
func (c *Conn) Attempts(ctx context.Context, job uint64, task int) ([]wire.Attempt, error) {
	return call(ctx, c, "attempts", true, func() ([]wire.Attempt, error) {
		return wire.Distinct(slices.Clone(c.w.tries[place{job, task}])), nil
	})
}

// StoreDeadLetters stores dead letters; the first of a task stands.
func (c *Conn) StoreDeadLetters(ctx context.Context, letters []*wire.DeadLetter) (left []*wire.DeadLetter) {
	for _, l := range letters {
		_, err := call(ctx, c, "store dead letter", true, func() (struct{}, error) {
			for _, known := range c.w.letters {
				if known.Job == l.Job && known.Task == l.Task {
					return struct{}{}, nil
				}
			}
			stored := *l
			stored.Seq = uint64(len(c.w.letters)) + 1
			c.w.logf("%s: dead letter of job %d task %d: %s", c.name, l.Job, l.Task, l.Error)
			c.w.letters = append(c.w.letters, stored)
			return struct{}{}, nil
		})
		if err != nil {
			left = append(left, l)
		}
	}
	return left
}

// DeadLetter reads that of a task.
func (c *Conn) DeadLetter(ctx context.Context, job uint64, task int) (*wire.DeadLetter, error) {
	return call(ctx, c, "dead letter", true, func() (*wire.DeadLetter, error) {
		for _, l := range c.w.letters {
			if l.Job == job && l.Task == task {
				return &l, nil
			}
		}
		return nil, nil
	})
}

// DeadLetters lists them.
func (c *Conn) DeadLetters(ctx context.Context, job, after uint64, limit int) (letters []wire.DeadLetter, more bool, err error) {
	letters, err = call(ctx, c, "dead letters", true, func() (found []wire.DeadLetter, err error) {
		for _, l := range c.w.letters {
			if l.Seq > after && (job == 0 || l.Job == job) {
				found = append(found, l)
			}
		}
		return found, nil
	})
	if len(letters) > limit {
		return letters[:limit], true, err
	}
	return letters, false, err
}

// DeadTasks lists the tasks of a job that have one.
func (c *Conn) DeadTasks(ctx context.Context, job uint64) ([]int, error) {
	return call(ctx, c, "dead tasks", true, func() (tasks []int, err error) {
		for _, l := range c.w.letters {
			if l.Job == job {
				tasks = append(tasks, l.Task)
			}
		}
		slices.Sort(tasks)
		return tasks, nil
	})
}
