package worker_test

import (
	"bytes"
	"errors"
	"testing"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/models/zoo"
)

// taken takes the next task as a worker that dies with it.
func (r *rig) taken() broker.Delivery {
	r.t.Helper()
	tasks, err := r.b.Tasks(r.ctx, "node", r.queue)
	r.must(err)
	for {
		d, err := tasks.Next(r.ctx)
		r.must(err)
		if d != nil {
			return d
		}
	}
}

// rescue hands a taken task to a worker and returns its answer.
func (r *rig) rescue(worker string, task *wire.Task, reply string) string {
	r.t.Helper()
	request := wire.Rescue{Schema: wire.Schema, Task: task, Reply: reply}
	answer, err := r.b.Ask(r.ctx, broker.SubjectRescue(worker), request.Marshal())
	if errors.Is(err, broker.ErrNobody) {
		return "" // it has not begun to listen
	}
	r.must(err)
	return string(answer)
}

func (r *rig) taskOf(d broker.Delivery) *wire.Task {
	r.t.Helper()
	task, err := wire.ParseTask(d.Data())
	r.must(err)
	return task
}

func TestRescuedTaskIsDoneOnceAndLeavesTheQueue(t *testing.T) {
	r := newRig(t)
	r.patient()
	r.publish(3, nil)
	dead := []broker.Delivery{r.taken(), r.taken(), r.taken()}
	r.must(r.b.StoreResult(r.ctx, job, r.taskOf(dead[1]).Task, (&wire.Result{Schema: wire.Schema, Job: job, Task: r.taskOf(dead[1]).Task,
		Node: "dead", Error: "stored just before the end"}).Marshal()))
	drain := r.start("one", 1)
	defer drain()
	r.active(wire.ActiveJob{Job: job, Model: "mlp"})
	for _, d := range dead {
		for r.rescue("one", r.taskOf(d), d.Reply()) != wire.RescueTaken { // it may not know of the job yet
			if r.ctx.Err() != nil {
				t.Fatal("the worker never takes the task")
			}
		}
	}
	// The second one has a result: whoever gets it back from the rescuer finds that.
	r.must(r.b.Wake())
	r.drained()
	for n, res := range r.results(3) {
		if want := map[bool]string{true: "dead", false: "one"}[n == r.taskOf(dead[1]).Task]; res.Node != want {
			t.Errorf("task %d: result of %s, want %s", n, res.Node, want)
		}
	}
}

// copyTo asks a worker to compute a task that another one has, and returns its answer.
func (r *rig) copyTo(worker string, task *wire.Task) string {
	r.t.Helper()
	request := wire.Rescue{Schema: wire.Schema, Task: task, Copy: true}
	answer, err := r.b.Ask(r.ctx, broker.SubjectRescue(worker), request.Marshal())
	if errors.Is(err, broker.ErrNobody) {
		return ""
	}
	r.must(err)
	return string(answer)
}

// A copy of a task stores its result and says nothing to the queue; one that fails
// leaves no trace.
func TestCopyIsComputedAndLeavesTheQueueAlone(t *testing.T) {
	r := newRig(t)
	r.publish(1, nil)
	d := r.taken()
	drain := r.start("one", 1)
	defer drain()
	r.active(wire.ActiveJob{Job: job, Model: "mlp", Nodes: []string{"another"}, Only: true})
	bad := *r.taskOf(d)
	bad.ModelDigest = r.storeBad()
	bad.Task = 2
	for _, task := range []*wire.Task{&bad, r.taskOf(d)} {
		for r.copyTo("one", task) != wire.RescueTaken { // it may not know of the job yet, or be busy with the other
			if r.ctx.Err() != nil {
				t.Fatal("the worker never takes the copy")
			}
		}
	}
	if res := r.results(1)[1]; res.Node != "one" || res.Error != "" || len(res.Batches) != 1 {
		t.Errorf("result %+v", res)
	}
	depth, err := r.b.QueueDepth(r.ctx, job)
	r.must(err)
	tried, err := r.b.Attempts(r.ctx, job, 2)
	r.must(err)
	has, err := r.b.HasResult(r.ctx, job, 2)
	r.must(err)
	if depth != 1 || len(tried) != 0 || has {
		t.Errorf("%d tasks in the queue, want the one that another worker has; tries %v, result %v of the copy that failed", depth, tried, has)
	}
}

func TestRescuesThatAreRefused(t *testing.T) {
	r := newRig(t)
	r.publish(1, nil)
	d := r.taken()
	drain := r.start("one", 1)
	defer drain()
	r.active(wire.ActiveJob{Job: job, Model: "mlp"})
	task := r.taskOf(d)
	for r.rescue("one", task, d.Reply()) != wire.RescueTaken {
		if r.ctx.Err() != nil {
			t.Fatal("the worker never takes the task")
		}
	}
	r.results(1)
	other := *task
	other.Job++
	for what, answer := range map[string]string{
		"of a job that has no work":        r.rescue("one", &other, d.Reply()),
		"with a reply subject of no queue": r.rescue("one", task, broker.SubjectJobs),
	} {
		if answer == wire.RescueTaken {
			t.Errorf("a rescue %s is taken", what)
		}
	}
	if answer, err := r.b.Ask(r.ctx, broker.SubjectRescue("one"), []byte("garbage")); err != nil || string(answer) == wire.RescueTaken {
		t.Errorf("garbage: %s, %v", answer, err)
	}
}

// A rescued task goes before the batches that are left of the slot's own one.
func TestRescueGoesBetweenTwoBatches(t *testing.T) {
	r := newRig(t)
	cnn, err := r.files.Put(r.ctx, "models/cnn", bytes.NewReader(zoo.CNN()))
	r.must(err)
	data := r.storeSet("long", 100, 100)
	r.active(wire.ActiveJob{Job: job, Model: "cnn"})
	drain := r.start("one", 1)
	defer drain()
	beats := make(chan *wire.Heartbeat, 1000)
	stop, err := r.b.Listen(broker.SubjectHeartbeats, func(m *broker.Message) {
		if h, err := wire.ParseHeartbeat(m.Data); err == nil {
			beats <- h
		}
	})
	r.must(err)
	defer stop()
	// The long one may be over before the other arrives: then once more.
	for n := 1; r.ctx.Err() == nil; n += 2 {
		r.publishTask(n+1, nil)
		d := r.taken()
		r.publishTask(n, func(t *wire.Task) { t.ModelDigest, t.DataDigest, t.From, t.To = cnn.Digest, data.Digest, 1, 100 })
		r.must(r.b.Wake())
		for begun := false; !begun; {
			h := <-beats
			for _, f := range h.InFlight {
				begun = begun || f.Task == n && f.Started
			}
		}
		if r.rescue("one", r.taskOf(d), d.Reply()) != wire.RescueTaken {
			t.Fatal("refused")
		}
		got := r.results(n + 1)
		long, rescued := got[n], got[n+1]
		if rescued.Started.After(long.Started) && r.before(n+1, n) {
			return
		}
	}
	t.Fatal("the rescued task always waits for the other")
}

// before reports whether the result of a was stored before that of b.
func (r *rig) before(a, b int) bool {
	r.t.Helper()
	var order []int
	r.must(r.b.ReadResults(r.ctx, job, func(_ string, p []byte) (bool, error) {
		res, err := wire.ParseResult(p)
		if err == nil && (res.Task == a || res.Task == b) {
			order = append(order, res.Task)
		}
		return true, err
	}))
	return len(order) == 2 && order[0] == a
}
