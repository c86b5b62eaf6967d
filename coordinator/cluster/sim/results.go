package sim

import (
	"context"

	"idunno/broker"
)

// Result reads the result of a task, nil for none.
func (c *Conn) Result(ctx context.Context, job uint64, task int) (*broker.Stored, error) {
	return call(ctx, c, "read result", true, func() (*broker.Stored, error) {
		subject := broker.SubjectResult(job, task)
		for i := range c.w.results {
			if c.w.results[i].Subject == subject {
				m := c.w.results[i]
				return &m, nil
			}
		}
		return nil, nil
	})
}

// JobResults reads the results of a job in the order stored.
func (c *Conn) JobResults(ctx context.Context, job uint64, fn func(*broker.Stored) (bool, error)) error {
	all, err := call(ctx, c, "read results", true, func() ([]broker.Stored, error) { return c.w.results[:len(c.w.results):len(c.w.results)], nil })
	if err != nil {
		return err
	}
	for i := range all {
		if of, _, ok := broker.TaskOfResult(all[i].Subject); !ok || of != job {
			continue
		}
		if more, err := fn(&all[i]); err != nil || !more {
			return err
		}
	}
	return nil
}

// DropResults is never called: a world's files can't be written, so its coordinators
// leave results where they are.
func (c *Conn) DropResults(context.Context, uint64, uint64) error { return errAway }
