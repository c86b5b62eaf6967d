package coordinator_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"idunno/broker/wire"
	"idunno/objectstore"
)

// put stores a file as a new version.
func (r *rig) put(name, content string) objectstore.Version {
	r.t.Helper()
	v, err := r.files().Put(r.ctx, name, strings.NewReader(content))
	r.must(err)
	return v
}

// train submits a training job.
func (r *rig) train(model string) uint64 {
	r.t.Helper()
	s, err := r.c.Submit(r.ctx, fmt.Appendf(nil, `{"train":%q,"data":"set"}`, model))
	r.must(err)
	return s.Job
}

// trained carries a training job out.
func (r *rig) trained(job uint64, content string) objectstore.Version {
	r.t.Helper()
	msg, task := r.pull(job)
	v := r.put(wire.ModelFolder+task.Train, content)
	res := &wire.Result{Schema: wire.Schema, Job: job, Task: task.Task, Node: "one", Attempt: 1, Started: time.Now(),
		Trained: &wire.Trained{Model: task.Train, Version: v.Version, Digest: v.Digest}}
	r.must(r.b.StoreResult(r.ctx, job, task.Task, res.Marshal()))
	r.must(msg.Ack())
	return v
}

// after submits a query of a model for the time after a job.
func (r *rig) after(job uint64, model string) uint64 {
	r.t.Helper()
	s, err := r.c.Submit(r.ctx, fmt.Appendf(nil, `{"model":%q,"data":"set","from":1,"to":10,"after":%d}`, model, job))
	r.must(err)
	return s.Job
}

// digest is the model that a job's next task is to be computed with.
func (r *rig) digest(job uint64) string {
	r.t.Helper()
	msg, task := r.pull(job)
	r.must(msg.Nak())
	return task.ModelDigest
}

// What waits for a training job runs the model that it leaves, whoever leads meanwhile,
// and keeps it from then on.
func TestJobAfterATrainingHasItsModel(t *testing.T) {
	r := newRig(t)
	stop := r.coordinator("c1")
	old := r.put("models/mlp", "the model as it was")
	training := r.train("mlp")
	next, pinned := r.after(training, "mlp"), r.after(training, "mlp@1")
	last := r.after(next, "mlp")
	// What is learned of the old model meanwhile changes the plan of what waits: a
	// standby knows it by the old one.
	s, err := r.c.Submit(r.ctx, []byte(`{"model":"mlp","data":"set","from":1,"to":10}`))
	r.must(err)
	r.coordinator("c2")
	r.work(s.Job, 10, "one")
	r.wait(s.Job, ended)
	v := r.trained(training, "the model that was trained")
	if got := r.digest(next); got != v.Digest {
		t.Errorf("runs %.8s, trained %.8s, before %.8s", got, v.Digest, old.Digest)
	}
	if got := r.digest(pinned); got != old.Digest {
		t.Errorf("version 1 was asked for and %.8s runs", got)
	}
	_, task := r.pull(next)
	if task.To-task.From != 1 {
		t.Errorf("a task has batches %d to %d: it isn't known what the model takes", task.From, task.To)
	}
	newer := r.put("models/mlp", "a later model")
	r.must(r.answer(task, "one"))
	stop()
	r.leads("c2")
	r.work(next, 4, "two")
	if s := r.wait(next, ended); s.State != wire.StateDone || s.Batches != 10 || s.Failed != 0 {
		t.Errorf("summary %+v", s)
	}
	reply, err := r.c.Job(r.ctx, next)
	r.must(err)
	if rec := reply.Record; rec.ModelDigest != v.Digest || rec.ModelVersion != v.Version || rec.NamesOpen() {
		t.Errorf("record %+v", rec)
	}
	if got := r.digest(last); got != newer.Digest {
		t.Errorf("the last one runs %.8s, the newest is %.8s", got, newer.Digest)
	}
}

// A model that isn't there yet can be asked for when a job that is waited for trains it.
func TestJobAfterATrainingThatMakesTheModel(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	training := r.train("cnn")
	next := r.after(training, "cnn")
	last := r.after(next, "cnn")
	_, err := r.c.Submit(r.ctx, fmt.Appendf(nil, `{"model":"other","data":"set","from":1,"to":1,"after":%d}`, training))
	r.refused(err, wire.CodeUnknownModel, "model")
	_, err = r.c.Submit(r.ctx, []byte(`{"model":"cnn","data":"set","from":1,"to":1}`))
	r.refused(err, wire.CodeUnknownModel, "model")
	_, err = r.c.Submit(r.ctx, fmt.Appendf(nil, `{"model":"cnn","data":"set","from":1,"to":11,"after":%d}`, training))
	r.refused(err, wire.CodeBadRange, "to")
	v := r.trained(training, "the first")
	if got := r.digest(next); got != v.Digest {
		t.Errorf("runs %.8s, trained %.8s", got, v.Digest)
	}
	// What can't be run when its time comes ends with the reason.
	r.must(r.files().Remove(r.ctx, "models/cnn"))
	r.work(next, 10, "one")
	s := r.wait(last, ended)
	if want := fmt.Sprintf("job %d has ended, and this one can't start after it: model \"cnn\" is not stored", next); s.State != wire.StateCancelled || !strings.Contains(s.Reason, want) {
		t.Errorf("%s: %s", s.State, s.Reason)
	}
	// A training that is cancelled takes what waits for it along.
	training = r.train("cnn")
	next = r.after(training, "cnn")
	_, err = r.c.Cancel(r.ctx, training)
	r.must(err)
	if s := r.wait(next, ended); s.State != wire.StateCancelled || !strings.Contains(s.Reason, "is cancelled") {
		t.Errorf("%s: %s", s.State, s.Reason)
	}
}
