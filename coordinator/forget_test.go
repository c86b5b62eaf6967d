package coordinator_test

import (
	"testing"

	"idunno/broker"
	"idunno/broker/brokertest"
	"idunno/broker/wire"
	"idunno/coordinator"
)

// forgetful starts a coordinator that writes a checkpoint every two results and moves
// results of ended jobs at once.
func (r *rig) forgetful(name string) (stop func()) {
	return r.coordinatorWith(coordinator.Config{Broker: brokertest.Connect(r.t, r.url), Name: name, CheckpointEvery: 2, CompactAfter: now, DropAfter: now})
}

// A job that runs for ever keeps the results of its last rounds, and everything else
// stays right: its statistics, what the next leader knows, and the archive at the end.
func TestForeverJobKeepsItsLastRounds(t *testing.T) {
	r := newRig(t)
	stop := r.forgetful("c1")
	_, err := r.c.Set(r.ctx, []byte(`{"forever_rounds":2}`))
	r.must(err)
	s, err := r.c.Submit(r.ctx, []byte(`{"model":"net","data":"set","from":1,"to":2,"forever":true}`))
	r.must(err)
	job, done := s.Job, 0
	work := func(n int) { r.work(job, n, "one"); done += n }
	work(9)
	for r.kept(job) < 5 { // whenever there is a checkpoint
		work(2)
	}
	rec := r.record(job, "forgot its first rounds", func(rec *wire.JobRecord) bool { return rec.KeptFrom >= 5 })
	if rec.KeptFrom%2 != 1 || done-rec.KeptFrom+1 < 4 {
		t.Errorf("%d tasks are done, results kept from %d", done, rec.KeptFrom)
	}
	r.until(func() bool { return r.inStream(job) <= done-rec.KeptFrom+1 })
	check := func(when string) {
		t.Helper()
		tasks, last := r.stored(job), 0
		kept := r.kept(job)
		for task := kept; task <= done; task++ {
			if tasks[task] == "" {
				t.Errorf("%s: task %d has no result, kept from %d", when, task, kept)
			}
		}
		_, err := r.c.InOrder(r.ctx, job, false, func(res *wire.Result) error {
			if res.Task <= last || res.Task < kept {
				t.Errorf("%s: task %d behind task %d", when, res.Task, last)
			}
			last = res.Task
			return nil
		})
		if r.must(err); last != done {
			t.Errorf("%s: the last task is %d of %d", when, last, done)
		}
	}
	check("while it runs")
	// Another leader, which starts cold, knows all of it.
	stop()
	stop = r.forgetful("c2")
	if s := r.wait(job, func(s *wire.JobStats) bool { return s.Batches > 0 }); s.Batches != int64(done) {
		t.Errorf("the next leader counts %d batches of %d", s.Batches, done)
	}
	next := func() {
		t.Helper()
		msg, task := r.pull(job)
		if done++; task.Task != done {
			t.Errorf("its next task is %d, %d are done", task.Task, done-1)
		}
		r.must(r.answer(task, "two"))
		r.must(msg.Ack())
	}
	next()
	// Without a checkpoint that can be used, nothing is done twice all the same.
	r.wait(job, func(s *wire.JobStats) bool { return s.Batches == int64(done) })
	stop()
	state, err := r.b.State(r.ctx)
	r.must(err)
	_, err = state.Put(r.ctx, broker.KeyFold(job), []byte("garbage"))
	r.must(err)
	r.forgetful("c3")
	r.leads("c3")
	next()
	_, err = r.c.Cancel(r.ctx, job)
	r.must(err)
	rec = r.record(job, "moved", moved)
	r.gone(job)
	check("in the archive")
	if want := done - rec.Forgotten(); rec.Results.Tasks != want {
		t.Errorf("the archive has %d results, %d are kept", rec.Results.Tasks, want)
	}
}

// kept is the first task whose result a job keeps, 0 while it keeps all.
func (r *rig) kept(job uint64) int {
	r.t.Helper()
	rec, err := r.c.Record(r.ctx, job)
	r.must(err)
	return rec.KeptFrom
}
