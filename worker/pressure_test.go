package worker_test

import (
	"errors"
	"testing"

	"idunno/broker"
	"idunno/broker/brokertest"
	"idunno/broker/wire"
)

// Results that find no room are kept until there is some, and are computed once.
func TestResultsWaitForRoom(t *testing.T) {
	const tasks, other = 10, 7
	r := newRigAt(t, brokertest.StartLimited(t, 32<<20))
	if _, err := r.b.Tend(r.ctx); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{512 << 10, 10} { // to the last byte
		for i := 1; ; i++ {
			err := r.b.StoreResult(r.ctx, other, size+i, make([]byte, size))
			if errors.Is(err, broker.ErrFull) {
				break
			}
			r.must(err)
		}
	}
	drain := r.start("one", 1)
	defer drain()
	r.publish(tasks, nil)
	results, err := r.b.Results(r.ctx)
	r.must(err)
	r.active(wire.ActiveJob{Job: job, Model: "mlp"})
	began := make(chan struct{})
	stop, err := r.b.Listen(broker.SubjectResult(job, 1), func(*broker.Message) {
		select {
		case <-began:
		default:
			close(began)
		}
	})
	r.must(err)
	defer stop()
	select {
	case <-began: // it has tried
	case <-r.ctx.Done():
		t.Fatal("the worker didn't try to store a result")
	}
	if has, err := r.b.HasResult(r.ctx, job, 1); err != nil || has {
		t.Fatalf("a result without room is stored: %v, %v", has, err)
	}
	r.must(results.Purge(r.ctx))
	for _, res := range r.results(tasks) {
		if res.Error != "" || res.Attempt != 1 {
			t.Errorf("task %d: attempt %d, %s", res.Task, res.Attempt, res.Error)
		}
	}
	r.drained()
}
