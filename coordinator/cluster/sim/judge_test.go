package sim_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/cluster/sim"
	"idunno/coordinator/sched"
)

// term is the time that one leads.
type term struct {
	epoch uint64
	by    string
}

// judge watches a run: what must never happen is noted at once, what must have
// happened in the end is checked by verdict. The world's lock protects it.
type judge struct {
	w     *sim.World
	clean []wire.BatchResult
	wrong []string
	// epochs are those seen in records, by who wrote them; of is the term that wrote
	// a record last.
	epochs map[uint64]string
	of     map[string]term
	// held is when each connection last had a write of the lease accepted, holder
	// who was the last; lost says that the lease was once forgotten.
	held   map[string]time.Time
	holder string
	lost   bool
	ended  map[string]bool
	steps  map[string]int
}

func newJudge(w *sim.World, clean []wire.BatchResult) *judge {
	j := &judge{w: w, clean: clean, epochs: make(map[uint64]string), of: make(map[string]term), held: make(map[string]time.Time),
		ended: make(map[string]bool), steps: make(map[string]int)}
	w.Observe = j.step
	return j
}

func (j *judge) blame(format string, args ...any) {
	if len(j.wrong) < 20 {
		j.wrong = append(j.wrong, fmt.Sprintf(format, args...))
	}
}

func (j *judge) step(s sim.Step) {
	j.steps[s.Kind]++
	if s.Refused {
		j.steps[s.Kind+" refused"]++
	}
	switch s.Kind {
	case "lease":
		if !s.Refused {
			j.lease(s)
		}
	case "record":
		if !s.Refused && strings.HasPrefix(s.Key, "job.") {
			j.record(s)
		}
	case "task":
		j.task(s)
	case "result":
		if !s.Refused {
			j.result(s)
		}
	case "ack":
		job, task := taskOf(s.Key)
		if !j.w.HasResult(broker.SubjectResult(job, task)) {
			j.blame("%s acknowledged %s, which has no result", s.Conn, s.Key)
		}
	}
}

// lease checks that nobody takes the lease from one who holds it and is well.
func (j *judge) lease(s sim.Step) {
	if s.Data == nil {
		j.holder = ""
		return
	}
	if j.holder != "" && j.holder != s.Conn && time.Since(j.held[j.holder]) < broker.LeaseTTL && j.w.Well(j.holder) > broker.LeaseTTL {
		j.blame("%s took the lease that %s had renewed %v before", s.Conn, j.holder, time.Since(j.held[j.holder]))
	}
	j.holder, j.held[s.Conn] = s.Conn, time.Now()
}

// forgotten is told when the lease's bucket is lost.
func (j *judge) forgotten() { j.holder, j.lost = "", true }

// begins is told when a coordinator begins to write a record.
func (j *judge) begins(conn, key string) {
	if since := time.Since(j.held[conn]); since > broker.LeaseTTL {
		j.blame("%s began to write %s %v after it last had the lease", conn, key, since)
	}
}

// record checks the writes of job records: whoever comes later wins for good.
func (j *judge) record(s sim.Step) {
	var rec wire.JobRecord
	if err := json.Unmarshal(s.Data, &rec); err != nil {
		j.blame("%s wrote an unreadable record %s: %v", s.Conn, s.Key, err)
		return
	}
	// A former leader may still make a record that its successor has not seen, and
	// can't have decided anything about. It shares its epoch with another only when
	// the lease was forgotten.
	if by, known := j.epochs[rec.Epoch]; known && by != s.Conn && !j.lost {
		j.blame("epoch %d belongs to %s and %s", rec.Epoch, by, s.Conn)
	}
	j.epochs[rec.Epoch] = s.Conn
	if was := j.of[s.Key]; rec.Epoch < was.epoch || rec.Epoch == was.epoch && s.Conn != was.by {
		j.blame("%s wrote %s under epoch %d, after %s did under epoch %d", s.Conn, s.Key, rec.Epoch, was.by, was.epoch)
	}
	j.of[s.Key] = term{rec.Epoch, s.Conn}
	if j.ended[s.Key] {
		j.blame("%s wrote %s, which had ended, as %s", s.Conn, s.Key, rec.State)
	}
	if rec.State.Ended() {
		j.ended[s.Key] = true
	}
}

// task checks that a published task is one of the plan.
func (j *judge) task(s sim.Step) {
	got, err := wire.ParseTask(s.Data)
	if err != nil {
		j.blame("%s published an unreadable task %s: %v", s.Conn, s.Key, err)
		return
	}
	job, number := taskOf(s.Key)
	var rec wire.JobRecord
	if p := j.w.Record(broker.KeyJob(job)); p == nil || json.Unmarshal(p, &rec) != nil {
		j.blame("%s published %s of a job without a record", s.Conn, s.Key)
		return
	}
	if number < 1 || number > rec.Tasks() || got.Job != job || got.Task != number {
		j.blame("%s published %s as task %d of %d", s.Conn, s.Key, got.Task, rec.Tasks())
		return
	}
	want := sched.Task(&rec, number)
	want.Check = got.Check
	if string(want.Marshal()) != string(got.Marshal()) {
		j.blame("%s published %s, planned was %s", s.Conn, got.Marshal(), want.Marshal())
	}
}

// result checks a task's result against the clean run.
func (j *judge) result(s sim.Step) {
	job, number, _ := broker.TaskOfResult(s.Key)
	r, err := wire.ParseResult(s.Data)
	if err != nil {
		j.blame("%s stored an unreadable result %s: %v", s.Conn, s.Key, err)
		return
	}
	var rec wire.JobRecord
	if p := j.w.Record(broker.KeyJob(job)); p == nil || json.Unmarshal(p, &rec) != nil {
		j.blame("%s stored a result of job %d, which has no record", s.Conn, job)
		return
	}
	want := sched.Task(&rec, number)
	if r.Error != "" || r.From != want.From || r.To != want.To || len(r.Batches) != want.To-want.From+1 {
		j.blame("%s stored for %s batches %d to %d (%d), error %q", s.Conn, s.Key, r.From, r.To, len(r.Batches), r.Error)
		return
	}
	for i := range r.Batches {
		if got, want := r.Batches[i], j.clean[want.From+i-1]; !equal(got, want) {
			j.blame("%s stored for batch %d %+v, want %+v", s.Conn, want.Batch, got, want)
		}
	}
}

func equal(x, y wire.BatchResult) bool {
	return x.Batch == y.Batch && x.Images == y.Images && x.Correct == y.Correct && x.LossSum == y.LossSum &&
		slices.Equal(x.Class, y.Class) && slices.Equal(x.Prob, y.Prob) && slices.Equal(x.Labels, y.Labels)
}

// taskOf reads a task's subject, which differs from its result's in the prefix.
func taskOf(subject string) (job uint64, task int) {
	tokens := strings.Split(subject, ".")
	if len(tokens) < 2 {
		return 0, 0
	}
	_, _ = fmt.Sscan(tokens[len(tokens)-2], &job)
	_, _ = fmt.Sscan(tokens[len(tokens)-1], &task)
	return job, task
}

// submitted is a job and what it asks for.
type submitted struct {
	job      uint64
	from, to int
}

// finished reports whether all jobs have ended.
func finished(w *sim.World, jobs []submitted) bool {
	records := w.Records()
	for _, s := range jobs {
		var rec wire.JobRecord
		if p := records[broker.KeyJob(s.job)]; p == nil || json.Unmarshal(p, &rec) != nil || !rec.State.Ended() {
			return false
		}
	}
	return true
}

// verdict says what is wrong at the end of a run.
func (j *judge) verdict(jobs []submitted) []string {
	records := j.w.Records()
	for _, s := range jobs {
		var rec wire.JobRecord
		if p := records[broker.KeyJob(s.job)]; p == nil || json.Unmarshal(p, &rec) != nil {
			j.blame("job %d has no record", s.job)
			continue
		}
		if rec.State != wire.StateDone {
			j.blame("job %d is %s (%s) in the end", s.job, rec.State, rec.Reason)
			continue
		}
		results := 0
		for _, r := range j.w.Results() {
			if job, _, _ := broker.TaskOfResult(r.Subject); job == s.job {
				results++
			}
		}
		if results != rec.Tasks() {
			j.blame("job %d has %d results of %d tasks", s.job, results, rec.Tasks())
		}
		j.statistics(s, rec.Summary)
	}
	return j.wrong
}

// statistics compares what is counted with the clean run.
func (j *judge) statistics(s submitted, got *wire.JobStats) {
	if got == nil {
		j.blame("job %d has no statistics", s.job)
		return
	}
	var count, images, correct int64
	for _, b := range j.clean[s.from-1 : s.to] {
		count++
		images += int64(b.Images)
		correct += int64(b.Correct)
	}
	accuracy := float64(correct) / float64(images)
	if int64(got.Batches) != count || got.Images != images || got.Failed != 0 || got.Accuracy != accuracy {
		j.blame("job %d counts %d batches, %d images, %d failed, accuracy %v; want %d, %d, 0, %v",
			s.job, got.Batches, got.Images, got.Failed, got.Accuracy, count, images, accuracy)
	}
	nodes := int64(0)
	for _, n := range got.Nodes {
		nodes += int64(n.Batches)
	}
	if nodes != count {
		j.blame("job %d counts %d batches over its nodes, want %d", s.job, nodes, count)
	}
}
