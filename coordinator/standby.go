package coordinator

import (
	"context"
	"fmt"
	"sync"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
)

// followWait is the pause before a standby that failed to read along begins again.
const followWait = 200 * time.Millisecond

// standby keeps the ledger while the coordinator doesn't lead. start and stop may
// be called in turn, from one goroutine.
type standby struct {
	*coordinator
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
}

// start begins to read along.
func (s *standby) start() {
	ctx, cancel := context.WithCancel(s.ctx)
	s.cancel, s.done = cancel, make(chan struct{})
	go func() {
		defer close(s.done)
		for ctx.Err() == nil {
			if err := s.read(ctx); err != nil && ctx.Err() == nil {
				s.Log.Debug("can't read along", "error", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(followWait):
			}
		}
	}()
}

// stop ends that. The ledger is somebody else's when it returns.
func (s *standby) stop() {
	s.cancel()
	<-s.done
}

// read keeps the ledger until something fails or ctx ends: first the records, then
// records and results side by side.
func (s *standby) read(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	records, err := s.Broker.Records(ctx)
	if err != nil {
		return fmt.Errorf("open job records: %w", err)
	}
	// Asked before the records are: whatever job has one of these results is in a record
	// that is read then, as one that has started.
	last, err := s.Broker.LastResult(ctx)
	if err != nil {
		return err
	}
	calls := make(chan func(), 1024)
	do := func(ctx context.Context, fn func()) {
		select {
		case calls <- fn:
		case <-ctx.Done():
		}
	}
	known, failed, from := make(chan struct{}), make(chan error, 1), s.ledger.seen+1
	group.Go(func() {
		failed <- records.WatchFrom(ctx, broker.KeyJobs, from, func(e *broker.Entry) bool {
			if e == nil {
				do(ctx, func() { close(known) })
			} else {
				do(ctx, func() { s.ledger.record(e) })
			}
			return ctx.Err() == nil
		})
	})
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.ledger.sum(sumAtOnce)
		case err := <-failed:
			return err
		case call := <-calls:
			call()
		case <-known:
			known = nil
			if err := s.readFolds(ctx, records); err != nil {
				return err
			}
			stop, err := s.readResults(ctx, last, do, func(r *wire.Result, seq uint64, at time.Time) { s.ledger.fold(r, seq, at) }, nil)
			if err != nil {
				return err
			}
			defer stop()
		}
	}
}

// readRecords brings the ledger up to date with the stored records.
func (c *coordinator) readRecords(ctx context.Context, records broker.Bucket) error {
	err := records.WatchFrom(ctx, broker.KeyJobs, c.ledger.seen+1, func(e *broker.Entry) (more bool) {
		if e != nil {
			c.ledger.record(e)
		}
		return e != nil
	})
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("read job records: %w", err)
	}
	return c.readFolds(ctx, records)
}

// readResults has do run fold for every result that the ledger doesn't know, and
// through, unless that is nil, when those stored before have been folded. Last is the
// place of the newest result.
func (c *coordinator) readResults(ctx context.Context, last uint64, do func(context.Context, func()), fold func(*wire.Result, uint64, time.Time), through func()) (stop func(), err error) {
	return c.Broker.FollowResults(ctx, c.ledger.readFrom(last), func(ctx context.Context, m *broker.Stored) {
		switch {
		case m == nil && through != nil:
			do(ctx, through)
		case m == nil:
		default:
			if job, task, ok := broker.TaskOfResult(m.Subject); ok {
				c.roll.Stored(job, task)
				r := wire.ReceiveResult(job, task, m.Data)
				do(ctx, func() { fold(r, m.Seq, m.At) })
			}
		}
	})
}
