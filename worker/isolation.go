package worker

import (
	"context"
	"sync"
	"time"

	"idunno/broker/wire"
)

// idleFor is how long a process without work is kept for the next suspicious task.
const idleFor = 10 * time.Second

// isolation computes suspicious tasks in processes of their own, which can be
// killed, next to the slots. A task that takes long there holds up no other: there is
// one lane more than slots, and the last one free is for tasks that are not known
// to be slow. What finds no lane is handed back and comes again.
type isolation struct {
	w     *worker
	lanes int
	// most is the memory, in bytes, that a process may take.
	most int64

	mu      sync.Mutex
	busy    int
	idle    []*isolated
	closed  bool
	running sync.WaitGroup
}

// admit takes a lane for a task; false when none is free. The lane ends with compute.
func (s *isolation) admit(t *held) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	lanes := s.lanes
	if s.w.slowBefore(t) {
		lanes--
	}
	if s.busy >= lanes {
		return false
	}
	s.busy++
	return true
}

// compute carries an admitted task out, aside.
func (s *isolation) compute(ctx context.Context, t *held) {
	t.apart = true
	s.running.Go(func() {
		defer func() {
			s.mu.Lock()
			s.busy--
			s.mu.Unlock()
		}()
		if ctx.Err() != nil {
			s.w.handBack(t, 0)
			return
		}
		result, err := s.carryOut(t)
		s.w.done(t, result, err)
	})
}

// carryOut computes a task in a process and encodes its result.
func (s *isolation) carryOut(t *held) (result []byte, err error) {
	model, err := s.w.library.fetch(t.ctx, t.task.ModelDigest, maxModelFile)
	if err != nil {
		return nil, err
	}
	r := s.w.result(t)
	p, err := s.process(t.ctx)
	if err != nil {
		return nil, asFault(t.ctx, err)
	}
	if err = p.load(t.ctx, t.task.ModelDigest, model, s.w.TaskMemory, s.w.BatchTimeout); err == nil {
		err = s.w.batches(t, r, nil, func(n int, f fetched) (*wire.BatchResult, error) {
			return p.predict(t.ctx, n, f.batch, t.task.Outputs, s.w.BatchTimeout)
		})
	}
	s.release(p)
	if err != nil {
		return nil, err
	}
	s.w.table.done(t.task.Job, t.counted, r.Batches)
	return s.w.message(t, r)
}

// process returns an idle process, or starts one.
func (s *isolation) process(ctx context.Context) (*isolated, error) {
	s.mu.Lock()
	if n := len(s.idle); n > 0 {
		p := s.idle[n-1]
		s.idle = s.idle[:n-1]
		s.mu.Unlock()
		p.rest.Stop()
		return p, nil
	}
	s.mu.Unlock()
	return startIsolated(ctx, s.w.Isolate, s.most)
}

// release keeps a process for the next task, unless it is broken.
func (s *isolation) release(p *isolated) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.broken || s.closed {
		p.kill()
		return
	}
	p.rest = time.AfterFunc(idleFor, func() { s.drop(p) })
	s.idle = append(s.idle, p)
}

// drop ends a process that has been idle for long.
func (s *isolation) drop(p *isolated) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.idle {
		if s.idle[i] == p {
			s.idle = append(s.idle[:i], s.idle[i+1:]...)
			p.kill()
			return
		}
	}
}

// close waits for the tasks and ends all processes.
func (s *isolation) close() {
	s.running.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, p := range s.idle {
		p.rest.Stop()
		p.kill()
	}
	s.idle = nil
}
