package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"idunno/broker/wire"
	"idunno/models"
	"idunno/models/dataset"
	"idunno/models/train"
	"idunno/objectstore"
)

func TestWhoseFaultAnErrorIs(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{models.ErrUnsupported, true}, {models.ErrResult, true}, {train.ErrDiverged, true}, {dataset.ErrFormat, true},
		{objectstore.ErrNotFound, true}, {objectstore.ErrCorrupt, true}, {objectstore.ErrTooLarge, true},
		{panicked("compute", "x"), true}, {outOfRange(&dataset.Manifest{}, 3), true},
		{asFault(context.Background(), errors.New("run failed")), true},
		{objectstore.ErrInterrupted, false}, {objectstore.ErrBusy, false}, {nats.ErrTimeout, false}, {nats.ErrConnectionClosed, false},
		{context.DeadlineExceeded, false}, {errLost, false}, {&fs.PathError{Op: "open", Path: "x", Err: syscall.ENOSPC}, false},
	} {
		if got := isFault(fmt.Errorf("fetch batch 3: %w", c.err)); got != c.want {
			t.Errorf("%v: the task's own fault: %v, want %v", c.err, got, c.want)
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if isFault(asFault(ended, context.Canceled)) {
		t.Error("a task that was stopped is at fault")
	}
}

func TestFaultsAreFinalWhenConfirmed(t *testing.T) {
	k := taskKey{1, 2}
	for _, c := range []struct {
		name       string
		deliveries []int // of the faults that this worker sees, in order
		final      int   // which of them is final, 0 for none
	}{
		{"one worker", []int{1, 2, 3, 4, 5}, 5},
		{"deliveries that were drains", []int{5}, 0},
		{"the fault comes again", []int{5, 6}, 2},
		{"many workers", []int{10}, 1},
		{"queue made anew each time", []int{1, 1, 1, 1, 1}, 5},
	} {
		y := newTally()
		for i, d := range c.deliveries {
			if got, want := y.fault(k, d), i+1 == c.final; got != want {
				t.Errorf("%s: fault %d at delivery %d final: %v, want %v", c.name, i+1, d, got, want)
			}
		}
	}
	y := newTally()
	y.fault(k, 1)
	y.success(k)
	if y.fault(k, 5) {
		t.Error("a fault before a success counts")
	}
	for i := range 2 * maxTallied {
		y.fault(taskKey{1, i}, 1)
	}
	y.fault(taskKey{2, 1}, 1)
	if len(y.faults) > maxTallied {
		t.Errorf("%d faults kept", len(y.faults))
	}
	y.dropExcept(map[uint64]bool{2: true})
	if len(y.faults) != 1 {
		t.Errorf("%d faults kept of ended jobs", len(y.faults)-1)
	}
}

func TestSickWorkerPauses(t *testing.T) {
	y, now := newTally(), time.Now()
	for i, want := range []time.Duration{0, 0, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second, 10 * time.Second} {
		if got := y.failure(now); got != want || y.pause(now) != want {
			t.Errorf("failure %d: pause %v and %v, want %v", i+1, got, y.pause(now), want)
		}
	}
	if left := y.pause(now.Add(4 * time.Second)); left != 6*time.Second {
		t.Errorf("%v left of the pause, want 6s", left)
	}
	if y.pause(now.Add(time.Minute)) != 0 {
		t.Error("the pause has no end")
	}
	y.success(taskKey{1, 1})
	if pause := y.failure(now); pause != 0 {
		t.Errorf("pause of %v after the first failure since a success", pause)
	}
}

func TestOnlyFaultsBecomeResults(t *testing.T) {
	w, ctx := newBench(t, 1)
	queue(t, w, 2, nil)
	takeNext := func(delivery int) *held {
		p, err := w.next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		w.tokens <- struct{}{}
		h := w.take(ctx, ctx, p)
		h.attempt = delivery
		return h
	}
	h := takeNext(50)
	if p := w.failed(h, fmt.Errorf("fetch batch 1: %w", nats.ErrTimeout)); p != nil {
		t.Errorf("a time-out became the result %s", p)
	}
	if tasks, _ := w.hand.list(); len(tasks) != 0 || w.tally.row != 1 {
		t.Errorf("%d tasks in hand, %d failures in a row", len(tasks), w.tally.row)
	}
	h = takeNext(10)
	defer w.giveUp(h)
	r, err := wire.ParseResult(w.failed(h, fault{errors.New("no model at all")}))
	if err != nil || r.Error != "no model at all" || r.Attempt != 10 {
		t.Errorf("%+v, %v", r, err)
	}
}
