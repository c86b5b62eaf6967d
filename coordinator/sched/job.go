package sched

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"idunno/broker/wire"
)

// Window is how many tasks of a job are published and unfinished at most: far
// more than 10 s of work for a cluster of hundreds of nodes, so that running
// jobs outlive a coordinator, and little enough that memory does not grow with a
// job's length.
const Window = 4096

// Job is a job's progress: its record and the results folded so far.
type Job struct {
	Rec  *wire.JobRecord
	done bitset
	// next is the first task never published by this coordinator; again are
	// tasks to publish once more.
	next     int
	again    []int
	finished int
	failed   int
	// computed are the batches of all results, images and nanos what they add up to.
	computed, images, nanos int64
	lastError               string
	// letters are the dead letters to store, in order; the first filing of them are
	// being stored.
	letters []*wire.DeadLetter
	filing  int
	trained *wire.Trained
	nodes   map[string]*nodeShare
	window  window
	first   time.Time
	last    time.Time
	// Check is set for tasks that an earlier coordinator may have published.
	check bool
	// places is where the rounds of a job that runs for ever begin.
	places roundMarks
}

type nodeShare struct {
	tally  *Tally
	window window
}

// NewJob returns the progress of a job without results. With resumed set, its
// tasks may have been carried out already and are marked so.
func NewJob(rec *wire.JobRecord, resumed bool) *Job {
	return &Job{Rec: rec, done: newBitset(rec.Tasks() + 1), next: 1, nodes: make(map[string]*nodeShare), check: resumed}
}

// Fold takes a result into account and reports whether it was new. A second
// result of a task, or one of another job, changes nothing. A result that doesn't
// fit its task makes the task failed: no other can ever be stored. at is when the
// result was stored.
func (j *Job) Fold(r *wire.Result, at time.Time) bool {
	if r.Job != j.Rec.Job || r.Task < 1 || r.Task > j.Rec.Tasks() || j.done.has(r.Task) {
		return false
	}
	want := Task(j.Rec, r.Task)
	j.done.set(r.Task)
	j.finished++
	if at.After(j.last) {
		j.last = at
	}
	failure := r.Error
	if failure == "" && (r.From != want.From || r.To != want.To || (r.Trained != nil) != j.Rec.Doc.Training()) {
		failure = "the stored result is not that of the task: was it written by another program?"
	}
	if failure != "" {
		j.failed += want.To - want.From + 1
		j.lastError = failure
		j.letters = append(j.letters, wire.NewDeadLetter(j.Rec, want, r, failure, at))
		return true
	}
	if j.first.IsZero() || r.Started.Before(j.first) {
		j.first = r.Started
	}
	j.trained = r.Trained
	share := j.share(r.Node)
	var images int64
	for i := range r.Batches {
		share.tally.Batch(&r.Batches[i])
		images += int64(r.Batches[i].Images)
		j.nanos += r.Batches[i].Nanos
	}
	j.computed += int64(len(r.Batches))
	j.images += images
	share.tally.raw.Tasks++
	share.window.add(at, int64(len(r.Batches)), images)
	j.window.add(at, int64(len(r.Batches)), images)
	return true
}

// maxShares bounds the nodes that a job's statistics tell apart: each takes a
// histogram, and a name costs whoever writes results nothing.
const maxShares = 2000

// share returns the statistics of a node; those beyond [maxShares] have one in common.
func (j *Job) share(node string) *nodeShare {
	if s := j.nodes[node]; s != nil {
		return s
	}
	if len(j.nodes) >= maxShares {
		node = "others"
	}
	s := j.nodes[node]
	if s == nil {
		s = &nodeShare{tally: NewTally()}
		j.nodes[node] = s
	}
	return s
}

// Next returns the tasks to publish now, at most limit, so that [Window] tasks
// are published and unfinished. They count as published from then on.
func (j *Job) Next(limit int) []*wire.Task {
	var tasks []*wire.Task
	for len(j.again) > 0 && len(tasks) < limit {
		n := j.again[0]
		j.again = j.again[1:]
		if !j.done.has(n) {
			t := Task(j.Rec, n)
			t.Check = true
			tasks = append(tasks, t)
		}
	}
	j.next = max(j.next, 64*j.done.full) // however many rounds that is
	for j.next <= j.Rec.Tasks() && j.Outstanding() < Window && len(tasks) < limit {
		if !j.done.has(j.next) {
			t := Task(j.Rec, j.next)
			t.Check = j.check
			tasks = append(tasks, t)
		}
		j.next++
	}
	return tasks
}

// Letters returns the next dead letters to store, at most limit, and none while
// others are being stored.
func (j *Job) Letters(limit int) []*wire.DeadLetter {
	if j.filing > 0 {
		return nil
	}
	j.filing = min(limit, len(j.letters))
	return j.letters[:j.filing:j.filing]
}

// Filed says that what Letters returned has been stored, except left.
func (j *Job) Filed(left []*wire.DeadLetter) {
	j.letters = append(slices.Clone(left), j.letters[j.filing:]...)
	j.filing = 0
}

// Unfiled returns all dead letters that are not known to be stored.
func (j *Job) Unfiled() []*wire.DeadLetter { return j.letters }

// AllFiled reports whether every dead letter is stored. A job must not end before:
// nobody looks at the results of an ended one again.
func (j *Job) AllFiled() bool { return len(j.letters) == 0 }

// Again has tasks published once more: the queue lost them, or never got them.
func (j *Job) Again(tasks ...int) {
	j.again = append(j.again, tasks...)
}

// Resume has the job published anew from its first task on: another coordinator
// led meanwhile, and what it did is known from the results alone.
func (j *Job) Resume() {
	j.next, j.again, j.check = 1, nil, true
	j.filing = 0 // who filed them can't tell any more
}

// Unfinished lists the published tasks without a result.
func (j *Job) Unfinished() []int {
	var tasks []int
	for n := max(1, 64*j.done.full); n < j.next; n++ {
		if !j.done.has(n) {
			tasks = append(tasks, n)
		}
	}
	return tasks
}

// Outstanding is the number of published tasks without a result.
func (j *Job) Outstanding() int {
	return j.next - 1 - j.done.below(j.next)
}

// Finished reports whether every task has a result.
func (j *Job) Finished() bool { return j.finished == j.Rec.Tasks() }

// Experience is what the job's results show of its batches, zero before the first.
func (j *Job) Experience() Experience {
	if j.computed == 0 {
		return Experience{}
	}
	return Experience{Time: time.Duration(j.nanos / j.computed), Images: float64(j.images) / float64(j.computed)}
}

// Slowest is the [Experience.Slowest] that the job's results show.
func (j *Job) Slowest() (slowest time.Duration) {
	for _, share := range j.nodes {
		if share.tally.raw.Batches >= fewBatches {
			slowest = max(slowest, time.Duration(share.tally.times.quantiles(50)[0]))
		}
	}
	return slowest
}

// SlowestOf is the [Experience.Slowest] of a job that has ended.
func SlowestOf(s *wire.JobStats) (slowest time.Duration) {
	for i := range s.Nodes {
		if s.Nodes[i].Batches >= fewBatches {
			slowest = max(slowest, time.Duration(s.Nodes[i].P50Ms*float64(time.Millisecond)))
		}
	}
	return slowest
}

// Counted is how much has been computed in a unit of rates: batches, images, or
// nanoseconds.
func (j *Job) Counted(fair string) float64 {
	switch fair {
	case wire.FairImages:
		return float64(j.images)
	case wire.FairTime:
		return float64(j.nanos)
	}
	return float64(j.computed)
}

// Ending reports whether all tasks have been published, and few have no result yet.
func (j *Job) Ending(few int) bool {
	return j.next > j.Rec.Tasks() && len(j.again) == 0 && j.Rec.Tasks()-j.finished <= few && !j.Finished()
}

// Has reports whether a task has a result.
func (j *Job) Has(task int) bool { return j.done.has(task) }

// Outcome is the state that a finished job ends in, and why.
func (j *Job) Outcome() (wire.State, string) {
	if j.failed > 0 {
		return wire.StateDoneWithFailures, j.lastError
	}
	if j.Rec.Doc.Forever && j.Rec.Retry == nil {
		return wire.StateDone, fmt.Sprintf("it has run %d rounds, as many as a job can have", j.Rec.Rounds())
	}
	return wire.StateDone, ""
}

// Trained is the model that a training job stored, or nil.
func (j *Job) Trained() *wire.Trained { return j.trained }

// LastResult is when the job's last result was stored, zero before the first.
func (j *Job) LastResult() time.Time { return j.last }

// Stats computes the job's statistics.
func (j *Job) Stats(now time.Time) *wire.JobStats {
	s := Describe(j.Rec)
	s.Failed, s.Started, s.Last = j.failed, j.first, j.last
	if s.Reason == "" {
		s.Reason = j.lastError
	}
	total := NewTally()
	for _, name := range sortedKeys(j.nodes) {
		share := j.nodes[name]
		total.Merge(share.tally)
		ns := wire.NodeStats{Node: name, Stats: share.tally.Stats(), Tasks: share.tally.raw.Tasks}
		ns.BatchRate, ns.Rate = share.window.rate(now, j.first)
		ns.ImagesPerSecond = overall(ns.Images, j.first, j.last)
		s.Nodes = append(s.Nodes, ns)
	}
	s.Stats = total.Stats()
	s.BatchRate, s.Rate = j.window.rate(now, j.first)
	s.ImagesPerSecond = overall(s.Images, j.first, j.last)
	return s
}

// Summary is [Job.Stats] with the sums that later merges need, for the record.
func (j *Job) Summary(now time.Time) (*wire.JobStats, error) {
	s, k := j.Stats(now), new(packer)
	for i := range s.Nodes {
		raw, err := j.nodes[s.Nodes[i].Node].tally.pack(k)
		if err != nil {
			return nil, err
		}
		s.Nodes[i].Raw = raw
		s.Nodes[i].Rate, s.Nodes[i].BatchRate = 0, 0
	}
	s.Rate, s.BatchRate = 0, 0
	return s, nil
}

// Tallies gives the per-node sums, to be merged over jobs. They must not be changed.
func (j *Job) Tallies() map[string]*Tally {
	m := make(map[string]*Tally, len(j.nodes))
	for name, share := range j.nodes {
		m[name] = share.tally
	}
	return m
}

// Describe is what a record tells of a job without any results.
func Describe(rec *wire.JobRecord) *wire.JobStats {
	return &wire.JobStats{Job: rec.Job, Model: rec.Doc.Model, Data: rec.Doc.Data, From: rec.Doc.From, To: rec.Doc.To,
		Train: rec.Doc.Train, Retry: rec.Doc.Retry, Rounds: rec.Doc.Rounds, Forever: rec.Doc.Forever, BatchSize: rec.BatchSize, State: rec.State, Reason: rec.Reason, Total: rec.Batches(), Nodes: []wire.NodeStats{}}
}

func overall(images int64, from, to time.Time) float64 {
	if d := to.Sub(from).Seconds(); d > 0 {
		return float64(images) / d
	}
	return 0
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, strings.Compare)
	return keys
}
