package worker

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"idunno/broker/wire"
)

func TestStatusDoesNotWaitForTheTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStatus()
		ctx, cancel := context.WithCancel(t.Context())
		printed, free := make(chan string), make(chan struct{})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.run(ctx, func(line string) {
				select {
				case printed <- line:
				case <-free:
				}
			})
		}()
		task := &wire.Task{Job: 3, Model: "mlp"}
		s.add(task, &wire.BatchResult{Images: 10, Labeled: true, Correct: 9, LossSum: 1})
		<-time.After(2 * time.Second) // in the bubble: no time passes
		synctest.Wait()
		// The printer is stuck now; nobody else may be.
		s.add(task, &wire.BatchResult{Images: 10})
		for range 2 * maxNotes {
			s.note("epoch")
		}
		if b, i := s.totals(); b != 2 || i != 20 {
			t.Errorf("%d batches, %d images", b, i)
		}
		if line := <-printed; !strings.HasPrefix(line, "job 3 mlp: 1 batches, 10 images, 10 images/s, accuracy 0.9000, loss 0.1000") {
			t.Errorf("line %q", line)
		}
		notes := 0
		for <-printed == "epoch" { // until the line of job 3
			notes++
		}
		if notes != maxNotes {
			t.Errorf("%d notes were kept, want %d", notes, maxNotes)
		}
		close(free)
		cancel()
		<-ended
	})
}

func TestStatusForgetsJobsWithoutTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStatus()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); s.run(ctx, nil) }()
		s.add(&wire.Task{Job: 3}, &wire.BatchResult{Images: 10})
		<-time.After(2 * time.Minute) // in the bubble: no time passes
		cancel()
		<-ended
		if len(s.jobs) != 0 {
			t.Errorf("%d jobs kept", len(s.jobs))
		}
	})
}
