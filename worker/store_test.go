package worker_test

import (
	"testing"

	"idunno/broker"
	"idunno/broker/wire"
)

// A task whose result waits for the disk is not being computed: its worker's death would
// not be its fault, and nobody shall compute it again before its result was looked up.
func TestTaskThatIsBeingStoredIsNotComputed(t *testing.T) {
	const tasks = 4
	r := newRig(t)
	beats := make(chan *wire.Heartbeat, 1000)
	stop, err := r.b.Listen(broker.SubjectHeartbeats, func(m *broker.Message) {
		if h, err := wire.ParseHeartbeat(m.Data); err == nil {
			select {
			case beats <- h:
			default:
			}
		}
	})
	r.must(err)
	defer stop()
	// The stream of results takes them and says nothing.
	results, err := r.b.Results(r.ctx)
	r.must(err)
	cfg := results.CachedInfo().Config
	drain := r.start("one", 1)
	defer drain()
	select {
	case <-beats: // it has seen to it that the streams are there
	case <-r.ctx.Done():
		t.Fatal("no heartbeat")
	}
	r.must(r.b.JS.DeleteStream(r.ctx, cfg.Name))
	silent, err := r.b.NC.SubscribeSync(cfg.Subjects[0])
	r.must(err)
	r.must(r.b.NC.Flush())
	r.publish(tasks, nil)
	r.active(wire.ActiveJob{Job: job, Model: "mlp"})
	for {
		select {
		case h := <-beats:
			started := 0
			for _, f := range h.InFlight {
				if f.Started {
					started++
				}
			}
			if h.Node != "one" || h.Batches < tasks || len(h.InFlight) != tasks || started > 0 {
				continue
			}
		case <-r.ctx.Done():
			t.Fatal("the worker never says that it computes nothing, with all tasks computed and in hand")
		}
		break
	}
	r.must(silent.Unsubscribe())
	_, err = r.b.JS.CreateStream(r.ctx, cfg)
	r.must(err)
	r.results(tasks)
	r.drained()
}
