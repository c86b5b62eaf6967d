package worker

import (
	"context"
	"fmt"
	"maps"
	"slices"
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
	// notes wait to be printed with the next lines.
	notes []string
}

// maxNotes bounds what waits while nothing can be printed.
const maxNotes = 100

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

// note has a line printed soon. It doesn't wait for the terminal.
func (s *status) note(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.notes) < maxNotes {
		s.notes = append(s.notes, line)
	}
}

// run gives print a line a second for every job worked on in that second. Print
// may block as long as it likes: nothing but further lines waits for it.
func (s *status) run(ctx context.Context, print func(string)) {
	if print == nil {
		print = func(string) {} // jobs are to be forgotten all the same
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			for _, line := range s.lines(time.Since(last)) {
				print(line)
			}
			return
		case now := <-tick.C:
			for _, line := range s.lines(now.Sub(last)) {
				print(line)
			}
			last = now
		}
	}
}

// lines returns what there is to print about the last span of time.
func (s *status) lines(span time.Duration) []string {
	// A job that this worker has not served for a minute is forgotten.
	const forget = 60
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := s.notes
	s.notes = nil
	for _, job := range slices.Sorted(maps.Keys(s.jobs)) {
		j := s.jobs[job]
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
		lines = append(lines, line)
	}
	return lines
}
