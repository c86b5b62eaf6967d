package worker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"idunno/broker/wire"
)

// status counts what this worker has computed, for its own line a second and
// its heartbeats. Results, not these counts, are what the cluster goes by.
type status struct {
	mu              sync.Mutex
	jobs            map[uint64]*jobStatus
	batches, images int64
}

type jobStatus struct {
	model           string
	batches, images int64
	labeled         int64
	correct         int64
	loss            float64
	// images and labels since the last line
	fresh int64
	idle  int
}

func newStatus() *status { return &status{jobs: make(map[uint64]*jobStatus)} }

func (s *status) add(t *wire.Task, b *wire.BatchResult) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.jobs[t.Job]
	if j == nil {
		j = &jobStatus{model: t.Model}
		s.jobs[t.Job] = j
	}
	s.batches++
	s.images += int64(b.Images)
	j.batches++
	j.images += int64(b.Images)
	j.fresh += int64(b.Images)
	if b.Labeled {
		j.labeled += int64(b.Images)
		j.correct += int64(b.Correct)
		j.loss += b.LossSum
	}
}

func (s *status) totals() (batches, images int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.batches, s.images
}

// run gives print a line a second for every job worked on in that second.
func (s *status) run(ctx context.Context, print func(string)) {
	if print == nil {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			s.lines(time.Since(last), print)
			return
		case now := <-tick.C:
			s.lines(now.Sub(last), print)
			last = now
		}
	}
}

func (s *status) lines(span time.Duration, print func(string)) {
	// A job that this worker has not served for a minute is forgotten.
	const forget = 60
	s.mu.Lock()
	defer s.mu.Unlock()
	for job, j := range s.jobs {
		if j.fresh == 0 {
			if j.idle++; j.idle > forget {
				delete(s.jobs, job)
			}
			continue
		}
		line := fmt.Sprintf("job %d %s: %d batches, %d images, %.0f images/s", job, j.model, j.batches, j.images, float64(j.fresh)/span.Seconds())
		if j.labeled > 0 {
			line += fmt.Sprintf(", accuracy %.4f, loss %.4f", float64(j.correct)/float64(j.labeled), j.loss/float64(j.labeled))
		}
		j.fresh, j.idle = 0, 0
		print(line)
	}
}
