package worker

import (
	"context"
	"testing"
)

// Two urgent tasks both begin soon: one goes before the other's next batch, not before
// its first, unless that is far away.
func TestUrgentTasksBeginOneAfterTheOther(t *testing.T) {
	for _, c := range []struct {
		name          string
		urgent, first bool
		// far says that the batch comes only when the other task is through.
		far  bool
		want bool // the other one goes before
	}{
		{"the first batch", true, true, false, false},
		{"the first batch, far away", true, true, true, true},
		{"the next batch", true, false, false, true},
		{"the first batch of one that isn't urgent", false, true, false, true},
	} {
		w := &worker{urgent: make(chan *held, 1)}
		task := &held{urgent: c.urgent, batches: make(chan fetched, 1), ctx: context.Background()}
		other := new(held)
		w.urgent <- other
		if !c.far {
			task.batches <- fetched{}
		}
		before := false
		_, err := w.nextBatch(task, c.first, func(u *held) {
			if before = u == other; c.far {
				task.batches <- fetched{}
			}
		})
		if err != nil || before != c.want {
			t.Errorf("%s: the other goes before: %v, want %v; %v", c.name, before, c.want, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	w := &worker{urgent: make(chan *held)}
	if _, err := w.nextBatch(&held{urgent: true, ctx: ctx}, true, func(*held) {}); err == nil {
		t.Error("the batch of a task that was given up")
	}
}
