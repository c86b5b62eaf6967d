package coordinator_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/objectstore"
)

// submitDoc submits a query of ten batches with more members.
func (r *rig) submitDoc(members string) uint64 {
	r.t.Helper()
	s, err := r.c.Submit(r.ctx, fmt.Appendf(nil, `{"model":"net","data":"set","from":1,"to":10%s}`, members))
	r.must(err)
	return s.Job
}

// state waits until a job is in a state.
func (r *rig) state(job uint64, want wire.State) *wire.JobStats {
	r.t.Helper()
	return r.wait(job, func(s *wire.JobStats) bool { return s.State == want })
}

// refused expects a *wire.Error.
func (r *rig) refused(err error, code, field string) {
	r.t.Helper()
	var refusal *wire.Error
	if !errors.As(err, &refusal) || refusal.Code != code || refusal.Field != field {
		r.t.Errorf("%v, want %s of %s", err, code, field)
	}
}

func TestPausedJobKeepsWhatItHas(t *testing.T) {
	r := newRig(t)
	stop := r.coordinator("c1")
	job := r.submitDoc("")
	r.work(job, 3, "one")
	held, task := r.pull(job)
	reply, err := r.c.Pause(r.ctx, job)
	r.must(err)
	if reply.Record.State != wire.StatePaused {
		t.Fatalf("state %s", reply.Record.State)
	}
	r.until(func() bool { return r.queueOf(job) == "" })
	r.emptied(job)
	// What was being computed may still be stored, and counts.
	r.must(r.answer(task, "late"))
	r.must(held.Ack())
	r.wait(job, func(s *wire.JobStats) bool { return s.Batches == 4 && s.State == wire.StatePaused })
	if _, err := r.c.Pause(r.ctx, job); err != nil {
		t.Errorf("paused twice: %v", err)
	}
	// It stays so under another leader.
	r.coordinator("c2")
	stop()
	r.leads("c2")
	r.state(job, wire.StatePaused)
	other := r.submit(1, 1)
	r.work(other, 1, "one")
	r.state(other, wire.StateDone)
	_, err = r.c.Resume(r.ctx, job)
	r.must(err)
	r.work(job, 6, "one")
	if s := r.wait(job, ended); s.State != wire.StateDone || s.Batches != 10 {
		t.Fatalf("summary %+v", s)
	}
	_, err = r.c.Pause(r.ctx, job)
	r.refused(err, wire.CodeJobEnded, "job")
	_, err = r.c.Resume(r.ctx, 99)
	r.refused(err, wire.CodeNoSuchJob, "job")
}

// The last results of a job that doesn't run any more end it.
func TestPausedJobThatHasAllResultsEnds(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	job := r.submit(1, 2)
	_, first := r.pull(job)
	_, second := r.pull(job)
	_, err := r.c.Pause(r.ctx, job)
	r.must(err)
	r.must(r.answer(first, "one"))
	r.must(r.answer(second, "one"))
	if s := r.wait(job, ended); s.State != wire.StateDone || s.Batches != 2 {
		t.Fatalf("summary %+v", s)
	}
}

func TestRoundsAreAllDone(t *testing.T) {
	r := newRig(t)
	stop := r.coordinator("c1")
	job := r.submitDoc(`,"rounds":3`)
	r.work(job, 12, "one")
	r.wait(job, func(s *wire.JobStats) bool { return s.Batches == 12 })
	r.coordinator("c2")
	stop()
	r.work(job, 18, "two")
	if s := r.wait(job, ended); s.State != wire.StateDone || s.Batches != 30 || s.Total != 30 || s.MeanMs != 5.5 {
		t.Fatalf("summary %+v", s)
	}
	forever := r.submitDoc(`,"forever":true`)
	r.work(forever, 25, "one")
	r.wait(forever, func(s *wire.JobStats) bool { return s.Batches >= 25 && s.State == wire.StateRunning })
	_, err := r.c.Cancel(r.ctx, forever)
	r.must(err)
	if s := r.wait(forever, ended); s.State != wire.StateCancelled || s.Batches < 25 {
		t.Fatalf("summary %+v", s)
	}
	_, err = r.c.Submit(r.ctx, []byte(`{"model":"net","data":"set","from":1,"to":10,"rounds":1000000}`))
	r.must(err) // as many as a job can have
}

func TestDeadlineEndsTheJob(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	job := r.submitDoc(`,"deadline":"700ms"`)
	r.work(job, 2, "one")
	s := r.wait(job, ended)
	if s.State != wire.StateCancelled || !strings.Contains(s.Reason, "deadline") || s.Batches != 2 || !strings.Contains(s.Reason, "2 of 10") {
		t.Fatalf("%s: %s, %d batches", s.State, s.Reason, s.Batches)
	}
	// One that comes late, and one that is paused.
	ack, err := r.b.JS.Publish(r.ctx, broker.SubjectJobs, []byte(`{"model":"net","data":"set","from":1,"to":10,"deadline":"2020-01-01T00:00:00Z"}`))
	r.must(err)
	if s := r.wait(ack.Sequence, ended); s.State != wire.StateCancelled || !strings.Contains(s.Reason, "2020-01-01T00:00:00Z") {
		t.Fatalf("%s: %s", s.State, s.Reason)
	}
	paused := r.submitDoc(`,"deadline":"500ms"`)
	_, err = r.c.Pause(r.ctx, paused)
	r.must(err)
	if s := r.wait(paused, ended); s.State != wire.StateCancelled || !strings.Contains(s.Reason, "deadline") {
		t.Fatalf("%s: %s", s.State, s.Reason)
	}
	_, err = r.c.Submit(r.ctx, []byte(`{"model":"net","data":"set","from":1,"to":10,"deadline":"2020-01-01T00:00:00Z"}`))
	r.refused(err, wire.CodeBadDocument, "deadline")
}

func TestJobAfterAnother(t *testing.T) {
	r := newRig(t)
	stop := r.coordinator("c1")
	first := r.submit(1, 2)
	second := r.submitDoc(fmt.Sprintf(`,"after":%d`, first))
	third := r.submitDoc(fmt.Sprintf(`,"after":%d`, second))
	if s := r.state(second, wire.StateQueued); !strings.Contains(s.Reason, fmt.Sprintf("job %d", first)) {
		t.Errorf("reason %q", s.Reason)
	}
	r.coordinator("c2")
	stop()
	r.work(first, 2, "one")
	r.work(second, 1, "one")
	r.state(third, wire.StateQueued)
	_, err := r.c.Cancel(r.ctx, second)
	r.must(err)
	if s := r.wait(third, ended); s.State != wire.StateCancelled || !strings.Contains(s.Reason, fmt.Sprintf("job %d, after which it was to run, is cancelled", second)) {
		t.Fatalf("%s: %s", s.State, s.Reason)
	}
	// One that has ended well is no reason to wait; one that hasn't is none to begin.
	fourth := r.submitDoc(fmt.Sprintf(`,"after":%d`, first))
	r.work(fourth, 1, "one")
	fifth := r.submitDoc(fmt.Sprintf(`,"after":%d`, third))
	if s := r.wait(fifth, ended); s.State != wire.StateCancelled {
		t.Fatalf("%s: %s", s.State, s.Reason)
	}
	_, err = r.c.Submit(r.ctx, []byte(`{"model":"net","data":"set","from":1,"to":1,"after":77}`))
	r.refused(err, wire.CodeNoSuchJob, "after")
	ack, err := r.b.JS.Publish(r.ctx, broker.SubjectJobs, []byte(`{"model":"net","data":"set","from":1,"to":1,"after":77}`))
	r.must(err)
	if s := r.wait(ack.Sequence, ended); s.State != wire.StateRejected || !strings.Contains(s.Reason, "after") {
		t.Fatalf("%s: %s", s.State, s.Reason)
	}
}

// A document with an id is one job, however often it comes, whatever way and after
// how long.
func TestSameIDRunsOnce(t *testing.T) {
	r := newRig(t)
	stop := r.coordinator("c1")
	doc := []byte(`{"model":"net","data":"set","from":1,"to":2,"id":"monday/1"}`)
	first, err := r.c.Submit(r.ctx, doc)
	r.must(err)
	r.work(first.Job, 2, "one")
	r.wait(first.Job, ended)
	again, err := r.c.Submit(r.ctx, doc)
	r.must(err)
	if again.Job != first.Job || !again.Duplicate || first.Duplicate {
		t.Fatalf("first %+v, again %+v", first, again)
	}
	// Straight into the stream, which doesn't know it: as by hand, or much later.
	r.coordinator("c2")
	stop()
	ack, err := r.b.JS.Publish(r.ctx, broker.SubjectJobs, doc)
	r.must(err)
	s := r.wait(ack.Sequence, ended)
	reply, err := r.c.Job(r.ctx, ack.Sequence)
	r.must(err)
	if ack.Sequence == first.Job || s.State != wire.StateRejected || reply.Record.DuplicateOf != first.Job || !strings.Contains(s.Reason, fmt.Sprintf("job %d", first.Job)) {
		t.Fatalf("job %d: %s, %s, %+v", ack.Sequence, s.State, s.Reason, reply.Record)
	}
	// Who waits for the repetition waits for the first one.
	after := r.submitDoc(fmt.Sprintf(`,"after":%d`, ack.Sequence))
	r.work(after, 1, "one")
	// Many at once are one.
	type outcome struct {
		job uint64
		err error
	}
	outcomes := make(chan outcome, 8)
	for range cap(outcomes) {
		go func() {
			s, err := r.c.Submit(r.ctx, []byte(`{"model":"net","data":"set","from":1,"to":2,"id":"tuesday"}`))
			outcomes <- outcome{s.Job, err}
		}()
	}
	jobs := make(map[uint64]bool)
	for range cap(outcomes) {
		o := <-outcomes
		r.must(o.err)
		jobs[o.job] = true
	}
	if len(jobs) != 1 {
		t.Fatalf("one id became jobs %v", jobs)
	}
}

// A document that was refused has not run: with its mistake mended it may.
func TestIDOfARefusedDocumentIsFree(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	bad := []byte(`{"model":"other","data":"set","from":1,"to":2,"id":"x"}`)
	_, err := r.b.Submit(r.ctx, broker.MessageID("x"), bad)
	r.must(err)
	r.state(1, wire.StateRejected)
	s, err := r.c.Submit(r.ctx, []byte(`{"model":"net","data":"set","from":1,"to":2,"id":"x"}`))
	r.must(err)
	if s.Job != 2 {
		t.Fatalf("job %d", s.Job)
	}
	r.work(2, 2, "one")
	r.state(2, wire.StateDone)
}

// With as many jobs running as may, one of a higher priority takes the place of the
// last, and an earlier deadline goes first among equals.
func TestPriorityTakesAPlace(t *testing.T) {
	const places = 16
	r := newRig(t)
	r.coordinator("c1")
	for job := uint64(1); job <= places; job++ {
		r.submit(1, 10)
		r.state(job, wire.StateRunning)
	}
	late, early := r.submitDoc(""), r.submitDoc(`,"deadline":"1h"`)
	urgent := r.submitDoc(`,"priority":3`)
	r.state(urgent, wire.StateRunning)
	r.state(places, wire.StateQueued)
	r.work(urgent, 10, "one")
	r.state(urgent, wire.StateDone)
	// The place goes to the one with a deadline, and then to the lowest number.
	r.state(early, wire.StateRunning)
	_, err := r.c.Cancel(r.ctx, 1)
	r.must(err)
	r.state(places, wire.StateRunning)
	r.state(late, wire.StateQueued)
	r.work(places, 10, "one")
	if s := r.wait(places, ended); s.State != wire.StateDone || s.Batches != 10 {
		t.Fatalf("summary %+v", s)
	}
}

func TestPhaseDecidesWhatRuns(t *testing.T) {
	r := newRig(t)
	stop := r.coordinator("c1")
	query := r.submitDoc("")
	r.work(query, 2, "one")
	s, err := r.c.Submit(r.ctx, []byte(`{"train":"mlp","data":"set"}`))
	r.must(err)
	training := s.Job
	r.state(training, wire.StateRunning)
	settings, err := r.c.Set(r.ctx, []byte(`{"phase":"train"}`))
	r.must(err)
	if settings.Phase != wire.PhaseTrain {
		t.Fatalf("settings %+v", settings)
	}
	if s := r.state(query, wire.StateQueued); s.Batches != 2 || !strings.Contains(s.Reason, "phase is train") {
		t.Fatalf("%+v", s)
	}
	later := r.submit(1, 1)
	r.state(later, wire.StateQueued)
	r.coordinator("c2")
	stop()
	r.leads("c2")
	r.state(query, wire.StateQueued)
	r.state(training, wire.StateRunning)
	_, err = r.c.Set(r.ctx, []byte(`{"phase":"infer"}`))
	r.must(err)
	r.state(training, wire.StateQueued)
	r.work(query, 8, "one")
	r.work(later, 1, "one")
	r.state(query, wire.StateDone)
	_, err = r.c.Set(r.ctx, []byte(`{"phase":"both"}`))
	r.must(err)
	r.state(training, wire.StateRunning)
	_, err = r.c.Set(r.ctx, []byte(`{"phase":"rest"}`))
	r.refused(err, wire.CodeBadDocument, "phase")
}

// storeShaped stores a set that says how its images are grouped.
func (r *rig) storeShaped(name string, images, size int) {
	objects, index, err := r.b.Files(r.ctx)
	r.must(err)
	files := objectstore.Open(objects, index)
	var parts []objectstore.Object
	for i := range (images-1)/size + 1 {
		o, err := files.PutObject(r.ctx, bytes.NewReader([]byte{byte(i)}))
		r.must(err)
		parts = append(parts, o)
	}
	manifest, err := json.Marshal(map[string]any{"objects": parts, "images": images, "batch_size": size, "shape": []int{3, 224, 224}, "dtype": "F32"})
	r.must(err)
	_, err = files.PutBundle(r.ctx, "data/"+name, manifest)
	r.must(err)
}

func TestBatchSizeIsChosen(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	r.storeShaped("grouped", 95, 10)
	submit := func(members string) (uint64, error) {
		s, err := r.c.Submit(r.ctx, fmt.Appendf(nil, `{"model":"net","data":"grouped"%s}`, members))
		return s.Job, err
	}
	check := func(job uint64, size int) {
		t.Helper()
		_, task := r.pull(job)
		if task.BatchSize != size {
			t.Errorf("job %d: task of batches of %d images, want %d", job, task.BatchSize, size)
		}
	}
	job, err := submit(`,"from":1,"to":24,"batch_size":4`)
	r.must(err)
	check(job, 4)
	job, err = submit(`,"from":1,"to":10,"batch_size":10`)
	r.must(err)
	check(job, 0)
	_, err = submit(`,"from":1,"to":25,"batch_size":4`)
	r.refused(err, wire.CodeBadRange, "to")
	_, err = submit(`,"from":1,"to":1,"batch_size":500`) // 0.6 MB an image
	r.refused(err, wire.CodeBadRange, "batch_size")
	_, err = r.c.Submit(r.ctx, []byte(`{"model":"net","data":"set","from":1,"to":1,"batch_size":5}`))
	r.refused(err, wire.CodeBadRange, "batch_size")
	// A model's default is for jobs that name no size.
	_, err = r.c.Set(r.ctx, []byte(`{"batch_sizes":{"net":19}}`))
	r.must(err)
	job, err = submit(`,"from":1,"to":5`)
	r.must(err)
	check(job, 19)
	_, err = submit(`,"from":1,"to":6`)
	r.refused(err, wire.CodeBadRange, "to")
	_, err = r.c.Set(r.ctx, []byte(`{"batch_sizes":{"net":0}}`))
	r.must(err)
	job, err = submit(`,"from":1,"to":10`)
	r.must(err)
	check(job, 0)
}

// Deadlines are kept by whoever leads when they come.
func TestDeadlineUnderAnotherLeader(t *testing.T) {
	r := newRig(t)
	stop := r.coordinator("c1")
	job := r.submitDoc(`,"deadline":"2s"`)
	r.work(job, 1, "one")
	r.coordinator("c2")
	stop()
	began := time.Now()
	if s := r.wait(job, ended); s.State != wire.StateCancelled || !strings.Contains(s.Reason, "deadline") {
		t.Fatalf("%s after %v: %s", s.State, time.Since(began), s.Reason)
	}
}

// A job keeps the model that it was admitted with, whatever is stored meanwhile, also
// when it is paused; the next one has the new model.
func TestJobsKeepTheirModel(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	job := r.submitDoc("")
	_, before := r.pull(job)
	objects, index, err := r.b.Files(r.ctx)
	r.must(err)
	v, err := objectstore.Open(objects, index).Put(r.ctx, "models/net", strings.NewReader("a better model"))
	r.must(err)
	_, err = r.c.Pause(r.ctx, job)
	r.must(err)
	_, err = r.c.Resume(r.ctx, job)
	r.must(err)
	r.state(job, wire.StateRunning)
	_, after := r.pull(job)
	_, next := r.pull(r.submitDoc(""))
	if after.ModelDigest != before.ModelDigest || after.ModelDigest == v.Digest || next.ModelDigest != v.Digest {
		t.Errorf("before %.8s, after %.8s, next job %.8s, new model %.8s", before.ModelDigest, after.ModelDigest, next.ModelDigest, v.Digest)
	}
}
