package coordinator_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
)

// fail stores a failed result of a task.
func (r *rig) fail(job uint64, task int) {
	r.t.Helper()
	tried := []wire.Attempt{{Schema: wire.Schema, Cause: wire.CauseError, Node: "one", Delivery: 1, Time: time.Now(), Error: "bad"}}
	res := &wire.Result{Schema: wire.Schema, Job: job, Task: task, Node: "one", Attempt: 1, Error: fmt.Sprint("bad task ", task), Tried: tried}
	if err := r.b.StoreResult(r.ctx, job, task, res.Marshal()); err != nil {
		r.t.Fatal(err)
	}
}

// letters are the dead letters of a job, by task.
func (r *rig) letters(job uint64) []int {
	r.t.Helper()
	list, _, err := r.b.DeadLetters(r.ctx, job, 0, 1000)
	r.must(err)
	var tasks []int
	for _, l := range list {
		if l.Error != fmt.Sprint("bad task ", l.Task) || l.Failures != 1 || !slices.Equal(l.Nodes, []string{"one"}) {
			r.t.Errorf("letter %+v", l)
		}
		tasks = append(tasks, l.Task)
	}
	slices.Sort(tasks)
	return tasks
}

// Leaders come and go between a failed result and its dead letter: each task has
// one in the end, and the job has not ended before.
func TestDeadLettersSurviveTheirLeader(t *testing.T) {
	r := newRig(t)
	stop := r.coordinator("c1")
	job := r.submit(1, 6)
	r.wait(job, func(s *wire.JobStats) bool { return s.State == wire.StateRunning })
	r.fail(job, 2)
	r.wait(job, func(s *wire.JobStats) bool { return s.Failed == 1 })
	stop()
	r.fail(job, 5) // nobody is there to see it
	r.coordinator("c2")
	r.wait(job, func(s *wire.JobStats) bool { return s.Failed == 2 })
	r.coordinator("c3") // reads along
	_, err := r.c.Submit(r.ctx, fmt.Appendf(nil, `{"retry":%d}`, job))
	var refusal *wire.Error
	if !errors.As(err, &refusal) || refusal.Code != wire.CodeJobRuns || refusal.Field != "retry" {
		t.Fatalf("retry of a running job: %v", err)
	}
	r.work(job, 6, "two")
	for r.letters(job) == nil && r.ctx.Err() == nil {
		if s := r.wait(job, func(*wire.JobStats) bool { return true }); s.State.Ended() && r.letters(job) == nil {
			t.Fatal("the job has ended without its dead letters")
		}
	}
	if s := r.wait(job, ended); s.State != wire.StateDoneWithFailures || s.Failed != 2 || s.Batches != 4 {
		t.Fatalf("summary %+v", s)
	}
	if got := r.letters(job); !slices.Equal(got, []int{2, 5}) {
		t.Fatalf("dead letters of %v, want 2 and 5", got)
	}
}

// A cancelled job has the dead letters of what failed before.
func TestCancelledJobKeepsItsDeadLetters(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	job := r.submit(1, 6)
	r.wait(job, func(s *wire.JobStats) bool { return s.State == wire.StateRunning })
	for task := 1; task <= 5; task++ {
		r.fail(job, task)
	}
	r.wait(job, func(s *wire.JobStats) bool { return s.Failed == 5 })
	_, err := r.c.Cancel(r.ctx, job)
	r.must(err)
	if got := r.letters(job); len(got) != 5 {
		t.Fatalf("dead letters of %v", got)
	}
}

// A retry covers what failed, with what was frozen then, and can be retried itself.
func TestRetry(t *testing.T) {
	r := newRig(t)
	stop := r.coordinator("c1")
	job := r.submit(3, 9) // tasks of one batch each
	r.wait(job, func(s *wire.JobStats) bool { return s.State == wire.StateRunning })
	for _, task := range []int{2, 3, 6} {
		r.fail(job, task)
	}
	r.work(job, 7, "two")
	r.wait(job, ended)
	old, err := r.c.Job(r.ctx, job)
	r.must(err)
	retry := func(doc string) uint64 {
		t.Helper()
		s, err := r.c.Submit(r.ctx, []byte(doc))
		r.must(err)
		return s.Job
	}
	again := retry(fmt.Sprintf(`{"retry":%d,"tasks":[6,2,6]}`, job))
	r.wait(again, func(s *wire.JobStats) bool { return s.State == wire.StateRunning })
	// Another leader plans the same.
	stop()
	r.coordinator("c2")
	r.fail(again, 1)
	msg, task := r.pull(again)
	for task.Task != 2 {
		r.must(msg.Ack())
		msg, task = r.pull(again)
	}
	if task.From != 8 || task.To != 8 || task.ModelDigest != old.Record.ModelDigest || task.DataDigest != old.Record.DataDigest {
		t.Fatalf("task %+v", task)
	}
	r.must(r.answer(task, "two"))
	r.must(msg.Ack())
	if s := r.wait(again, ended); s.Retry != job || s.Total != 2 || s.Batches != 1 || s.Failed != 1 {
		t.Fatalf("summary %+v", s)
	}
	third := retry(fmt.Sprintf(`{"retry":%d,"newest":true}`, again))
	if _, task := r.pull(third); task.From != 4 || task.To != 4 {
		t.Fatalf("the retry of a retry has task %+v", task)
	}
	// Stored without anybody looking, a wrong one becomes a rejected job.
	for _, doc := range []string{`{"retry":999}`, fmt.Sprintf(`{"retry":%d,"tasks":[4]}`, job), fmt.Sprintf(`{"retry":%d}`, third)} {
		ack, err := r.b.JS.Publish(r.ctx, broker.SubjectJobs, []byte(doc))
		r.must(err)
		if s := r.wait(ack.Sequence, ended); s.State != wire.StateRejected || s.Reason == "" {
			t.Errorf("%s became %+v", doc, s)
		}
	}
	list, _, err := r.b.DeadLetters(r.ctx, 0, 0, 100)
	if err != nil || len(list) != 4 {
		t.Fatalf("%d dead letters, %v", len(list), err)
	}
	for _, l := range list {
		page, err := r.c.DeadLetters(r.ctx, wire.DLQRequest{Job: l.Job, Task: l.Task})
		r.must(err)
		want := map[[2]uint64]uint64{{job, 2}: again, {job, 6}: again, {again, 1}: third}[[2]uint64{l.Job, uint64(l.Task)}]
		if got := page.Letters[0]; got.RetriedBy != want {
			t.Errorf("job %d task %d is retried by %d, want %d", l.Job, l.Task, got.RetriedBy, want)
		}
	}
}
