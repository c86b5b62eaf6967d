package chaos

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"idunno/broker/wire"
	"idunno/coordinator/sched"
)

// Truth is what a run without cluster gives.
type Truth struct {
	// Sums are those of the batches, by model and number; see [SumBatch]. Models of small
	// tasks have theirs under what their names begin with.
	Sums map[string]map[int]string
	// BadModels fail with every batch; BadBatches, by data set, fail with every model.
	BadModels  map[string]bool
	BadBatches map[string]map[int]bool
}

// SumBatch is a digest of a batch's classes, the bits of its probabilities, and its
// labels.
func SumBatch(class []int32, prob []float32, labels []int32) string {
	h := sha256.New()
	var word [4]byte
	write := func(v uint32) {
		binary.LittleEndian.PutUint32(word[:], v)
		h.Write(word[:])
	}
	for _, list := range [][]int32{class, labels} {
		write(uint32(len(list)))
		for _, v := range list {
			write(uint32(v))
		}
	}
	for _, v := range prob {
		write(math.Float32bits(v))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Checker judges a history. Feed it every event in order, then ask for the verdict.
// It keeps little per job and result, so that long histories can be judged.
type Checker struct {
	truth   Truth
	v       *Verdict
	header  *Header
	done    bool
	submits map[int]*Event    // without an answer so far
	unknown map[string]int    // documents that may have become a job
	jobs    map[uint64]*claim // by number
	seen    map[place]string  // sums of results that were seen
	stored  map[place]string  // of those that are there
	failed  map[place]bool    // tasks whose result is a failure
	letters map[place]bool
	lease   leaseWatch
	pauses  pauseWatch
}

type place struct {
	job  uint64
	task int
}

// claim is what a history says of a job.
type claim struct {
	accepted, stored bool
	doc              wire.JobDoc
	record           *Event
	// cancel says that it was asked to be cancelled, cancelled that it was so.
	cancel, cancelled bool
	ended             wire.State // as it was seen
	writes            []writing
	batches, failed   map[int]bool
}

// NewChecker returns a checker that knows the truth.
func NewChecker(truth Truth) *Checker {
	return &Checker{truth: truth, submits: make(map[int]*Event), unknown: make(map[string]int), jobs: make(map[uint64]*claim),
		seen: make(map[place]string), stored: make(map[place]string), failed: make(map[place]bool), letters: make(map[place]bool),
		v: &Verdict{Faults: make(map[Kind]int), After: make(map[Kind][]time.Duration), Flaws: make(map[Flaw]int), Findings: []Finding{}}}
}

// Event takes the next event into account. It returns no error; it is one for the
// sake of [ReadHistory].
func (c *Checker) Event(e *Event) error {
	switch e.What {
	case WhatRun:
		c.header, c.v.Seed, c.pauses.began = e.Plan, e.Plan.Seed, e.Time
	case WhatFault:
		if e.Skipped {
			c.v.Skipped++
			break
		}
		c.v.Faults[e.Fault.Kind]++
		c.pauses.fault(e)
	case WhatHeal:
		c.pauses.heal(e)
	case WhatDied:
		c.v.find(Died, 0, 0, "%s", e.Error)
	case WhatSubmit, WhatAccepted, WhatRefused, WhatUnknown:
		c.submission(e)
	case WhatCancel, WhatCancelled, WhatState, WhatRecord:
		c.progress(e)
	case WhatSeen:
		c.seen[place{e.Job, e.Task}] = e.Sum
		if e.Group != "" {
			c.v.Grouped++
		}
	case WhatLease:
		c.lease.write(e, c.header)
	case WhatStored:
		j := c.job(e.Job)
		j.stored, j.record = true, e
	case WhatResult:
		c.result(e)
	case WhatLetter:
		c.letters[place{e.Job, e.Task}] = true
	case WhatEnd:
		c.done = true
	}
	return nil
}

func (c *Checker) job(n uint64) *claim {
	j := c.jobs[n]
	if j == nil {
		j = &claim{batches: make(map[int]bool), failed: make(map[int]bool)}
		c.jobs[n] = j
	}
	return j
}

func (c *Checker) submission(e *Event) {
	if e.What == WhatSubmit {
		c.submits[e.Submission] = e
		return
	}
	s := c.submits[e.Submission]
	if s == nil {
		c.v.find(BadHistory, e.Job, 0, "submission %d has an answer and was never made", e.Submission)
		return
	}
	delete(c.submits, e.Submission)
	switch e.What {
	case WhatAccepted:
		c.v.Accepted++
		j := c.job(e.Job)
		if j.accepted {
			c.v.find(LostJob, e.Job, 0, "two submissions were told this number")
		}
		j.accepted, j.doc = true, *s.Doc
	case WhatRefused:
		c.v.Refused++
		if !e.Busy {
			c.v.find(Refused, 0, 0, "%s", e.Error)
		}
	case WhatUnknown:
		c.v.Unknown++
		c.unknown[docKey(s.Doc)]++
	}
}

func docKey(d *wire.JobDoc) string { return fmt.Sprintf("%s %s %d-%d", d.Model, d.Data, d.From, d.To) }

// progress takes into account what was seen of a job on its way.
func (c *Checker) progress(e *Event) {
	j := c.job(e.Job)
	switch e.What {
	case WhatCancel:
		j.cancel = true
	case WhatCancelled:
		j.cancelled = true
	}
	if e.What == WhatRecord {
		j.writes = append(j.writes, writing{e.Revision, e.Epoch, e.Written})
	}
	if j.ended != "" && e.State != "" && e.State != j.ended && (e.What == WhatRecord || e.State.Ended()) {
		c.v.find(ChangedEnd, e.Job, 0, "%s after %s", e.State, j.ended)
	}
	if e.State.Ended() {
		j.ended = e.State
	}
}

// result takes a stored result into account.
func (c *Checker) result(e *Event) {
	at := place{e.Job, e.Task}
	if c.stored[at] != "" {
		c.v.find(DoubledBatch, e.Job, e.From, "task %d has a second result", e.Task)
		return
	}
	c.stored[at] = e.Sum
	j := c.jobs[e.Job]
	if j == nil || !j.stored {
		c.v.find(ForeignResult, e.Job, 0, "task %d of a job that isn't there", e.Task)
		return
	}
	doc := j.record.Doc
	rec := &wire.JobRecord{Job: e.Job, Doc: *doc, TaskSize: j.record.TaskSize, Tail: j.record.Tail}
	if e.Task < 1 || e.Task > rec.Tasks() {
		c.v.find(ForeignResult, e.Job, 0, "task %d; the job has %d", e.Task, rec.Tasks())
		return
	}
	task := sched.Task(rec, e.Task)
	if e.Error != "" {
		c.failure(j, e, task)
		return
	}
	c.v.Results++
	if len(e.Sums) != e.To-e.From+1 || e.From != task.From || e.To != task.To {
		c.v.find(ForeignResult, e.Job, e.From, "task %d has batches %d to %d, not %d to %d", e.Task, e.From, e.To, task.From, task.To)
		return
	}
	for i, sum := range e.Sums {
		batch := e.From + i
		c.v.Batches++
		if j.batches[batch] || j.failed[batch] {
			c.v.find(DoubledBatch, e.Job, batch, "in task %d", e.Task)
		}
		j.batches[batch] = true
		switch want := c.truth.sums(doc.Model)[batch]; {
		case c.truth.BadModels[doc.Model] || c.truth.BadBatches[doc.Data][batch]:
			c.v.find(WrongFailure, e.Job, batch, "it has a result and can't have one")
		case sum != want:
			c.v.find(Differing, e.Job, batch, "by %s: %s, want %s", e.Node, sum, want)
		}
	}
	if !c.poisoned(doc) {
		c.pauses.result(e.Job, e.Written)
	}
}

// failure takes the result of a task that failed into account. It is right when the
// task has a batch that can't succeed.
func (c *Checker) failure(j *claim, e *Event, task *wire.Task) {
	if j.record.State != wire.StateCancelled { // its end doesn't wait for letters
		c.failed[place{e.Job, e.Task}] = true
	}
	bad := c.truth.BadModels[j.record.Doc.Model]
	for batch := task.From; batch <= task.To; batch++ {
		c.v.Failed++
		bad = bad || c.truth.BadBatches[j.record.Doc.Data][batch]
		j.failed[batch] = true
	}
	if !bad {
		c.v.find(WrongFailure, e.Job, task.From, "task %d on %s: %s", e.Task, e.Node, e.Error)
	}
}

func (c *Checker) poisoned(doc *wire.JobDoc) bool {
	if c.truth.BadModels[doc.Model] {
		return true
	}
	for batch := range c.truth.BadBatches[doc.Data] {
		if batch >= doc.From && batch <= doc.To {
			return true
		}
	}
	return false
}

// Verdict judges the history as a whole.
func (c *Checker) Verdict() *Verdict {
	if c.header == nil || !c.done {
		c.v.find(BadHistory, 0, 0, "it has no beginning or no end")
	}
	// A submission whose answer the history doesn't have is one without an answer.
	for _, s := range c.submits {
		c.v.Unknown++
		c.unknown[docKey(s.Doc)]++
	}
	c.lease.begin(c.pauses.faults)
	for _, number := range sortedJobs(c.jobs) {
		c.judge(number, c.jobs[number])
		for _, detail := range c.lease.stale(c.jobs[number].writes) {
			c.v.find(OldEpoch, number, 0, "%s", detail)
		}
	}
	for at, sum := range c.seen {
		switch stored := c.stored[at]; {
		case stored == "":
			c.v.find(LostResult, at.job, 0, "task %d", at.task)
		case stored != sum:
			c.v.find(ChangedResult, at.job, 0, "task %d: %s, was %s", at.task, stored, sum)
		}
	}
	for at := range c.failed {
		if !c.letters[at] {
			c.v.find(WrongLetter, at.job, 0, "task %d has failed and has none", at.task)
		}
	}
	for at := range c.letters {
		if j := c.jobs[at.job]; !c.failed[at] && (j == nil || j.record == nil || j.record.State != wire.StateCancelled) {
			c.v.find(WrongLetter, at.job, 0, "task %d has one and has not failed", at.task)
		}
	}
	for _, detail := range c.lease.judge(c.pauses.faults) {
		c.v.find(TwoHolders, 0, 0, "%s", detail)
	}
	for _, detail := range c.lease.repeats(c.pauses.faults, c.servers()) {
		c.v.find(EpochRepeats, 0, 0, "%s", detail)
	}
	c.v.Terms = c.lease.terms
	c.v.Pauses, c.v.After = c.pauses.judge()
	slices.SortStableFunc(c.v.Findings, func(a, b Finding) int { return strings.Compare(string(a.Flaw), string(b.Flaw)) })
	return c.v
}

func sortedJobs(jobs map[uint64]*claim) []uint64 {
	numbers := make([]uint64, 0, len(jobs))
	for n := range jobs {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return numbers
}

// servers is the number of servers of the run.
func (c *Checker) servers() int {
	if c.header == nil {
		return 1
	}
	return max(1, c.header.Servers)
}

// judge judges one job.
func (c *Checker) judge(number uint64, j *claim) {
	if !j.stored {
		if j.accepted {
			c.v.find(LostJob, number, 0, "acknowledged, and not in the store")
		}
		return
	}
	c.v.Jobs++
	doc := j.record.Doc
	switch key := docKey(doc); {
	case j.accepted && docKey(&j.doc) != key:
		c.v.find(LostJob, number, 0, "acknowledged as %s, stored as %s", docKey(&j.doc), key)
	case !j.accepted && c.unknown[key] > 0:
		c.unknown[key]--
	case !j.accepted:
		c.v.find(ForeignJob, number, 0, "%s", key)
	}
	state := j.record.State
	if j.ended != "" && j.ended != state {
		c.v.find(ChangedEnd, number, 0, "it is %s, was %s", state, j.ended)
	}
	poisoned := c.poisoned(doc)
	if poisoned {
		c.v.Poisoned++
	}
	want := wire.StateDone
	if poisoned {
		want = wire.StateDoneWithFailures
	}
	switch {
	case state == wire.StateCancelled && j.cancel:
		c.v.Cancelled++
		return // what it has results for has been judged
	case j.cancelled:
		c.v.find(LostJob, number, 0, "cancelled, and is %s", state)
	case !state.Ended():
		c.v.find(LostJob, number, 0, "it has not ended: %s with %d of %d batches", state, len(j.batches)+len(j.failed), doc.To-doc.From+1)
		return
	case state != want:
		c.v.find(LostJob, number, 0, "it is %s, not %s: %s", state, want, j.record.Error)
		return
	}
	if !poisoned {
		c.pauses.job(number, j.record.Written)
	}
	for batch := doc.From; batch <= doc.To; batch++ {
		if !j.batches[batch] && !j.failed[batch] {
			c.v.find(LostBatch, number, batch, "")
		}
	}
}
