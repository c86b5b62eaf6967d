package coordinator_test

import (
	"context"
	"sync/atomic"
	"testing"

	"idunno/broker"
	"idunno/broker/brokertest"
	"idunno/broker/wire"
	"idunno/coordinator"
)

// busyResults doesn't say what the newest result is while the stream is busy.
type busyResults struct {
	*broker.Broker
	busy atomic.Bool
}

func (b *busyResults) LastResult(ctx context.Context) (uint64, error) {
	if b.busy.Load() {
		<-ctx.Done()
		return 0, context.Cause(ctx)
	}
	return b.Broker.LastResult(ctx)
}

// The results of other jobs hold no new one up, and a coordinator that starts later
// finds those of both.
func TestJobBeginsWhileResultsAreStored(t *testing.T) {
	r := newRig(t)
	core := &busyResults{Broker: brokertest.Connect(t, r.url)}
	stop := r.coordinatorWith(coordinator.Config{Broker: core, Name: "c1"})
	first := r.submit(1, 4)
	r.work(first, 2, "one")
	r.wait(first, func(s *wire.JobStats) bool { return s.Batches == 2 })
	core.busy.Store(true)
	second := r.submit(1, 4)
	r.work(second, 3, "one")
	r.wait(second, func(s *wire.JobStats) bool { return s.Batches == 3 })
	stop()
	r.coordinator("c2")
	r.work(first, 2, "one")
	r.work(second, 1, "one")
	for _, job := range []uint64{first, second} {
		if s := r.wait(job, ended); s.State != wire.StateDone || s.Batches != 4 {
			t.Errorf("job %d: %+v", job, s)
		}
	}
}
