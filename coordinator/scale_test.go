package coordinator_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
	"idunno/broker/brokertest"
	"idunno/broker/wire"
	"idunno/coordinator"
	"idunno/coordinator/sched"
)

// saving starts a coordinator that writes a checkpoint every two results.
func (r *rig) saving(name string) (stop func()) {
	b := brokertest.Connect(r.t, r.url)
	ctx, cancel := context.WithCancel(r.ctx)
	done := make(chan error, 1)
	go func() { done <- coordinator.Run(ctx, coordinator.Config{Broker: b, Name: name, CheckpointEvery: 2}) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("coordinator %s: %v", name, err)
		}
	}
	return stop
}

// fold is a job's stored checkpoint, nil for none.
func (r *rig) fold(job uint64) jetstream.KeyValueEntry {
	r.t.Helper()
	state, err := r.b.State(r.ctx)
	r.must(err)
	e, err := state.Get(r.ctx, broker.KeyFold(job))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil
	}
	r.must(err)
	return e
}

// place is how far a job's checkpoint goes, 0 when there is none.
func (r *rig) place(job uint64) uint64 {
	e := r.fold(job)
	if e == nil {
		return 0
	}
	reply, err := r.c.Job(r.ctx, job)
	r.must(err)
	_, place, err := sched.Restore(reply.Record, e.Value())
	if err != nil {
		return 0
	}
	return place
}

// comes waits for what must come.
func (r *rig) comes(what string, there func() bool) {
	r.t.Helper()
	if !r.poll(there) {
		r.t.Fatalf("%s: it doesn't come", what)
	}
}

// A coordinator that starts goes on from a checkpoint: results before it are not
// read again, here because they are no more, and the statistics are those of a job that
// one coordinator led from beginning to end.
func TestColdStartFromACheckpoint(t *testing.T) {
	r := newRig(t)
	stop := r.saving("c1")
	straight := r.submit(1, 10)
	r.work(straight, 10, "one")
	want := r.wait(straight, ended)
	job := r.submit(1, 10) // of tasks of two batches: it is known how long they take
	r.work(job, 3, "one")
	var place uint64
	r.comes("a checkpoint", func() bool { place = r.place(job); return place >= 12 })
	r.wait(job, func(s *wire.JobStats) bool { return s.Batches == 6 })
	stop()
	results, err := r.b.Results(r.ctx)
	r.must(err)
	for seq := uint64(11); seq <= place; seq++ {
		r.must(results.DeleteMsg(r.ctx, seq))
	}
	stop = r.saving("c2")
	defer func() { stop() }()
	if s := r.wait(job, func(s *wire.JobStats) bool { return s.Batches > 0 }); s.Batches != 6 {
		t.Fatalf("the new coordinator counts %d batches", s.Batches)
	}
	r.work(job, 2, "one")
	got := r.wait(job, ended)
	got.ImagesPerSecond, want.ImagesPerSecond = 0, 0 // how long it took
	if got.Stats != want.Stats || got.Failed != 0 || got.State != wire.StateDone {
		t.Errorf("statistics %+v, straight %+v", got.Stats, want.Stats)
	}
	r.comes("the end of the checkpoint", func() bool { return r.fold(job) == nil })
}

// What stands where a checkpoint belongs and is none costs nothing but the reading of
// all results, and is replaced by the next one.
func TestForeignCheckpoint(t *testing.T) {
	r := newRig(t)
	stop := r.saving("c1")
	job := r.submit(1, 10)
	r.work(job, 4, "one")
	r.comes("a checkpoint", func() bool { return r.place(job) > 0 })
	stop()
	state, err := r.b.State(r.ctx)
	r.must(err)
	_, err = state.Put(r.ctx, broker.KeyFold(job), []byte("garbage"))
	r.must(err)
	stop = r.saving("c2")
	defer func() { stop() }()
	if s := r.wait(job, func(s *wire.JobStats) bool { return s.Batches > 0 }); s.Batches != 4 {
		t.Fatalf("the new coordinator counts %d batches", s.Batches)
	}
	r.comes("a checkpoint over the foreign one", func() bool { return r.place(job) > 0 })
	_, err = state.Put(r.ctx, broker.KeyFold(job), []byte("garbage again"))
	r.must(err)
	r.work(job, 4, "one")
	r.comes("a checkpoint over what was written meanwhile", func() bool { return r.place(job) >= 7 })
	r.work(job, 2, "one")
	if s := r.wait(job, ended); s.Batches != 10 || s.State != wire.StateDone {
		t.Errorf("summary %+v", s)
	}
}

// Jobs that ended long ago are described and listed from their records; a coordinator
// keeps few of them.
func TestEndedJobsAreReadOnDemand(t *testing.T) {
	r := newRig(t)
	stop := r.coordinator("c1")
	first := r.submit(1, 2)
	r.work(first, 2, "one")
	want := r.wait(first, ended)
	const many = 300
	for range many {
		_, err := r.b.Submit(r.ctx, "", []byte(`{"model":"none","from":1,"to":2}`))
		r.must(err)
	}
	last := first + many
	check := func() {
		t.Helper()
		r.comes("the last job", func() bool { _, err := r.c.Job(r.ctx, last); return err == nil })
		reply, err := r.c.Job(r.ctx, first)
		r.must(err)
		if reply.Record.State != wire.StateDone || reply.Stats.Stats != want.Stats || len(reply.Stats.Nodes) != 1 || reply.Stats.Nodes[0].Raw != nil {
			t.Errorf("the first job is %s: %+v", reply.Record.State, reply.Stats)
		}
		next, page := last, uint64(0)
		for {
			list, err := r.c.Jobs(r.ctx, page, 100)
			r.must(err)
			for _, j := range list.Jobs {
				if j.Record.Job != next || (next > first) != (j.Record.State == wire.StateRejected) || j.Stats == nil {
					t.Fatalf("job %d is listed as %s where %d belongs", j.Record.Job, j.Record.State, next)
				}
				next--
			}
			if page = list.Next; page == 0 {
				break
			}
		}
		if next != 0 {
			t.Errorf("the list ends before job %d", next)
		}
		stats, err := r.c.Stats(r.ctx, 0)
		r.must(err)
		if len(stats.Nodes) != 1 || stats.Nodes[0].Batches != 2 {
			t.Errorf("over all jobs: %+v", stats.Nodes)
		}
		var refusal *wire.Error
		if _, err := r.c.Cancel(r.ctx, first); !errors.As(err, &refusal) || refusal.Code != wire.CodeJobEnded {
			t.Errorf("cancel an ended job: %v", err)
		}
		if _, err := r.c.Job(r.ctx, last+1); !errors.As(err, &refusal) || refusal.Code != wire.CodeNoSuchJob {
			t.Errorf("a job that isn't there: %v", err)
		}
	}
	check()
	stop()
	r.coordinator("c2")
	check()
}

// A retry that ended long ago is still known to whoever looks at the dead letter.
func TestRetriesAreFoundInRecords(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	job := r.submit(1, 2)
	r.wait(job, func(s *wire.JobStats) bool { return s.State == wire.StateRunning })
	failed := wire.Result{Schema: wire.Schema, Job: job, Task: 1, Node: "one", Attempt: 1, Started: time.Now(), Error: "it can't be done"}
	r.must(r.b.StoreResult(r.ctx, job, 1, failed.Marshal()))
	r.work(job, 2, "one")
	r.wait(job, ended)
	doc, err := json.Marshal(map[string]any{"retry": job})
	r.must(err)
	again, err := r.c.Submit(r.ctx, doc)
	r.must(err)
	r.work(again.Job, 1, "one")
	r.wait(again.Job, ended)
	for range 300 {
		_, err := r.b.Submit(r.ctx, "", []byte(`{"model":"none","from":1,"to":2}`))
		r.must(err)
	}
	r.comes("the last job", func() bool { _, err := r.c.Job(r.ctx, again.Job+300); return err == nil })
	list, err := r.c.DeadLetters(r.ctx, wire.DLQRequest{Job: job})
	r.must(err)
	if len(list.Letters) != 1 || list.Letters[0].RetriedBy != again.Job {
		t.Errorf("letters %+v, retried by %d", list.Letters, again.Job)
	}
}
