package coordinator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"idunno/broker"
	"idunno/broker/brokertest"
	"idunno/broker/wire"
	"idunno/coordinator"
	"idunno/coordinator/archive"
	"idunno/coordinator/client"
	"idunno/objectstore"
)

// Times of the tests: at once, and not within them.
const (
	now   = time.Millisecond
	never = time.Hour
)

// compactor starts a coordinator that moves results of ended jobs so long after their
// end, and removes them from the stream.
func (r *rig) compactor(name string, compact, drop time.Duration) (stop func()) {
	return r.coordinatorWith(coordinator.Config{Broker: brokertest.Connect(r.t, r.url), Name: name, CompactAfter: compact, DropAfter: drop})
}

// stored are a job's results as they are stored, by task, wherever they are.
func (r *rig) stored(job uint64) map[int]string {
	r.t.Helper()
	got := make(map[int]string)
	r.must(r.c.StoredResults(r.ctx, job, func(task int, at time.Time, data []byte) error {
		if got[task] != "" {
			r.t.Errorf("task %d comes twice", task)
		}
		got[task] = at.UTC().String() + string(data)
		return nil
	}))
	return got
}

// inStream counts a job's results in the stream.
func (r *rig) inStream(job uint64) (n int) {
	r.t.Helper()
	r.must(r.b.ReadResults(r.ctx, job, func(string, []byte) (bool, error) { n++; return true, nil }))
	return n
}

// record waits for the record of a job to be so.
func (r *rig) record(job uint64, what string, ok func(*wire.JobRecord) bool) (rec *wire.JobRecord) {
	r.t.Helper()
	if !r.poll(func() bool {
		var err error
		rec, err = r.c.Record(r.ctx, job)
		return err == nil && rec != nil && ok(rec)
	}) {
		r.t.Fatalf("job %d never %s: %+v", job, what, rec)
	}
	return rec
}

func moved(rec *wire.JobRecord) bool { return rec.Results != nil }

// gone waits until the stream has none of a job's results.
func (r *rig) gone(job uint64) {
	r.t.Helper()
	if !r.poll(func() bool { return r.inStream(job) == 0 }) {
		r.t.Fatalf("job %d has %d results in the stream for ever", job, r.inStream(job))
	}
}

// endedJob has a job of six tasks done, by a leader that moves nothing and is gone.
func (r *rig) endedJob() (job uint64, want map[int]string) {
	r.t.Helper()
	stop := r.compactor("before", -1, 0)
	job = r.submit(1, 6)
	r.work(job, 6, "one")
	r.wait(job, ended)
	stop()
	if want = r.stored(job); len(want) != 6 {
		r.t.Fatalf("%d results", len(want))
	}
	return job, want
}

func (r *rig) same(job uint64, want map[int]string, when string) {
	r.t.Helper()
	got := r.stored(job)
	for task, text := range want {
		if got[task] != text {
			r.t.Errorf("%s: task %d is %q, was %q", when, task, got[task], text)
		}
	}
	if len(got) != len(want) {
		r.t.Errorf("%s: %d results, were %d", when, len(got), len(want))
	}
}

// Whenever a leader dies while it moves results, they can be read all the time, the
// same bytes, and the next leader ends what it began.
func TestResultsMoveIntoTheStore(t *testing.T) {
	r := newRig(t)
	// Dead before the archive is stored.
	job, want := r.endedJob()
	stop := r.compactor("c1", now, never)
	rec := r.record(job, "moved", moved)
	if rec.State != wire.StateDone || rec.Results.Tasks != 6 || rec.Results.File != "results/1@1" || rec.Results.Bytes < 600 {
		t.Errorf("record %+v", rec.Results)
	}
	if n := r.inStream(job); n != 6 {
		t.Errorf("%d results in the stream before their time", n)
	}
	r.same(job, want, "in both places")
	if s := r.wait(job, ended); s.Batches != 6 || s.State != wire.StateDone {
		t.Errorf("statistics %+v", s)
	}
	// Dead before the stream is emptied.
	stop()
	stop = r.compactor("c2", now, now)
	r.gone(job)
	r.same(job, want, "in the archive")

	// A result that comes too late changes nothing and doesn't stay.
	late := wire.Result{Schema: wire.Schema, Job: job, Task: 2, Node: "late", Error: "late"}
	r.must(r.b.StoreResult(r.ctx, job, 2, late.Marshal()))
	r.gone(job)
	r.same(job, want, "after a late result")
	stop()

	// Dead when the archive was stored and the record didn't say so.
	job, want = r.endedJob()
	digest := r.archive(job)
	r.same(job, want, "with an archive that no record knows")
	stop = r.compactor("c3", now, now)
	if rec := r.record(job, "moved", moved); rec.Results.Digest != digest || rec.Results.File != "results/2@1" {
		t.Errorf("another archive: %+v, want %s", rec.Results, digest)
	}
	r.gone(job)
	r.same(job, want, "in the archive")
	r.until(func() (none bool) {
		r.table(func(table *wire.ActiveJobs) { none = len(table.Kept) == 0 })
		return none
	})
	stop()

	// Dead between the record of the end and the table.
	job, want = r.endedJob()
	r.table(func(table *wire.ActiveJobs) {
		if len(table.Kept) != 1 || table.Kept[0] != [2]uint64{job, job} {
			t.Errorf("the table keeps %v", table.Kept)
		}
		table.Kept, table.Jobs = nil, []wire.ActiveJob{{Job: job, Model: "net", Queue: "gone"}}
	})
	r.compactor("c4", now, now)
	r.gone(job)
	r.same(job, want, "in the archive")
	r.table(func(table *wire.ActiveJobs) {
		if len(table.Jobs) != 0 {
			t.Errorf("the table has %v", table.Jobs)
		}
	})
}

// archive stores a job's archive as a leader does.
func (r *rig) archive(job uint64) (digest string) {
	r.t.Helper()
	w := archive.NewWriter(r.files(), job)
	var all []*archive.Message
	r.must(r.c.StoredResults(r.ctx, job, func(task int, at time.Time, data []byte) error {
		all = append(all, &archive.Message{Task: task, At: at, Data: data})
		return nil
	}))
	slices.SortFunc(all, func(x, y *archive.Message) int { return x.Task - y.Task })
	for _, m := range all {
		r.must(w.Add(r.ctx, m))
	}
	stored, err := w.Close(r.ctx)
	r.must(err)
	return stored.Digest
}

// table reads the table of active jobs, and writes it back as change leaves it.
func (r *rig) table(change func(*wire.ActiveJobs)) {
	r.t.Helper()
	state, err := r.b.State(r.ctx)
	r.must(err)
	entry, err := state.Get(r.ctx, broker.KeyActive)
	r.must(err)
	var table wire.ActiveJobs
	r.must(json.Unmarshal(entry.Value(), &table))
	change(&table)
	p, err := json.Marshal(table)
	r.must(err)
	if !bytes.Equal(p, entry.Value()) {
		_, err = state.Put(r.ctx, broker.KeyActive, p)
		r.must(err)
	}
}

// A cancelled job's archive waits for results that are on their way.
func TestResultsOfACancelledJobMoveLast(t *testing.T) {
	r := newRig(t)
	r.compactor("c1", now, time.Second)
	job := r.submit(1, 10)
	r.work(job, 3, "one")
	msg, task := r.pull(job)
	_, err := r.c.Cancel(r.ctx, job)
	r.must(err)
	r.must(r.answer(task, "two"))
	r.must(msg.Ack())
	want := r.stored(job)
	r.record(job, "moved", moved)
	r.gone(job)
	r.same(job, want, "in the archive")
	if len(want) != 4 {
		t.Errorf("%d results", len(want))
	}
	// One that was never begun has none, and none is looked for.
	r.same(r.unborn(), map[int]string{}, "of a job that was never begun")
}

// unborn is a job that was cancelled while it waited.
func (r *rig) unborn() uint64 {
	r.t.Helper()
	for range 16 { // as many as run at a time
		r.submit(1, 10)
	}
	job := r.submit(1, 10)
	r.wait(job, func(*wire.JobStats) bool { return true }) // it is admitted
	_, err := r.c.Cancel(r.ctx, job)
	r.must(err)
	if s := r.wait(job, ended); s.Batches != 0 {
		r.t.Errorf("it has begun: %+v", s)
	}
	return job
}

// Results are kept as long as the setting says; then the record tells that they are
// gone, and so do those who ask for them.
func TestResultsAreRemovedInTime(t *testing.T) {
	r := newRig(t)
	state, err := r.b.State(r.ctx)
	r.must(err)
	settings := wire.Settings{Schema: wire.Schema, ResultRetention: time.Second}
	_, err = state.Put(r.ctx, broker.KeySettings, settings.Marshal())
	r.must(err)
	r.compactor("c1", now, now)
	job := r.submit(1, 2)
	r.work(job, 2, "one")
	r.record(job, "lost its results", func(rec *wire.JobRecord) bool { return rec.Results != nil && !rec.Results.Removed.IsZero() })
	err = r.c.Results(r.ctx, job, func(*wire.Result) error { return nil })
	if !errors.Is(err, client.ErrResultsRemoved) {
		t.Errorf("%v", err)
	}
	if !r.poll(func() bool {
		_, err := r.files().Versions(r.ctx, wire.ResultsFile(job))
		return errors.Is(err, objectstore.ErrNotFound)
	}) {
		t.Fatal("the archive stays")
	}
	if s := r.wait(job, ended); s.Batches != 2 {
		t.Errorf("its statistics went too: %+v", s)
	}
}

// Results come in the order of the tasks while the job runs, whoever leads meanwhile,
// and from the archive afterwards.
func TestResultsAreFollowedInOrder(t *testing.T) {
	r := newRig(t)
	stop := r.compactor("c1", now, now)
	got := make(chan int, 100)
	job := r.submit(1, 10)
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		rec, err := r.c.InOrder(ctx, job, true, func(res *wire.Result) error { got <- res.Task; return nil })
		if err == nil && rec.State != wire.StateDone {
			err = errors.New("followed to " + string(rec.State))
		}
		done <- err
	}()
	first, one := r.pull(job)
	r.work(job, 4, "one")
	select {
	case task := <-got:
		t.Errorf("task %d came before task %d", task, one.Task)
	default:
	}
	r.must(r.answer(one, "two"))
	r.must(first.Ack())
	for want := 1; want <= 5; want++ {
		if task := <-got; task != want {
			t.Errorf("task %d where %d belongs", task, want)
		}
	}
	stop()
	r.compactor("c2", now, now)
	r.work(job, 5, "one")
	r.must(<-done)
	for want := 6; want <= 10; want++ {
		if task := <-got; task != want {
			t.Errorf("task %d where %d belongs", task, want)
		}
	}
	r.gone(job)
	next := 1
	_, err := r.c.InOrder(r.ctx, job, true, func(res *wire.Result) error {
		if res.Task != next {
			t.Errorf("task %d where %d belongs", res.Task, next)
		}
		next++
		return nil
	})
	if r.must(err); next != 11 {
		t.Errorf("%d tasks from the archive", next-1)
	}
}

// Values that lie in objects of their own come with their results, before and after
// these are moved; the file that kept them goes then.
func TestOutputsComeWithTheirResults(t *testing.T) {
	r := newRig(t)
	r.compactor("c1", time.Second, 1500*time.Millisecond)
	s, err := r.c.Submit(r.ctx, []byte(`{"model":"net","data":"set","from":1,"to":1,"outputs":"raw"}`))
	r.must(err)
	job := s.Job
	msg, task := r.pull(job)
	if task.Outputs != wire.OutputsRaw {
		t.Fatalf("task %+v", task)
	}
	want := []float32{1, 2, 3}
	res := &wire.Result{Schema: wire.Schema, Job: job, Task: 1, From: 1, To: 1, Node: "one", Attempt: 1, Started: time.Now(), Batches: []wire.BatchResult{
		{Batch: 1, Images: 1, Class: []int32{2}, Output: &wire.Output{Kind: wire.OutputsRaw, Shape: []int{3}}, Values: want}}}
	message, values := res.Split(res.Marshal(), func(p []byte) string {
		v, err := r.files().Put(r.ctx, wire.OutputsFile(job, 1), bytes.NewReader(p))
		r.must(err)
		return v.Digest
	})
	r.must(r.b.StoreResult(r.ctx, job, 1, message))
	r.must(msg.Ack())
	check := func(when string) {
		t.Helper()
		_, err := r.c.InOrder(r.ctx, job, false, func(got *wire.Result) error {
			if b := got.Batches[0]; got.Outside != nil || !slices.Equal(b.Values, want) || !slices.Equal(b.Class, []int32{2}) {
				t.Errorf("%s: %+v", when, b)
			}
			return nil
		})
		r.must(err)
	}
	r.wait(job, ended)
	check("in the stream")
	rec := r.record(job, "moved", moved)
	if rec.Results.Outside != 1 || rec.Results.Bytes != int64(len(message)+len(values)) {
		t.Errorf("record %+v", rec.Results)
	}
	r.gone(job)
	check("in the archive")
	r.until(func() bool {
		_, err := r.files().Versions(r.ctx, wire.OutputsFile(job, 1))
		return errors.Is(err, objectstore.ErrNotFound)
	})
	check("without the file that kept them")
}
