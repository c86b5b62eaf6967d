package chaos

import (
	"fmt"
	"time"
)

// Flaw is what a [Checker] may find.
type Flaw string

// The flaws.
const (
	LostJob       Flaw = "lost job"             // accepted, and isn't there, or has not ended, or ended wrongly
	LostBatch     Flaw = "lost batch"           // of a job that is done, without a result
	LostResult    Flaw = "lost result"          // was seen in the store, and isn't there
	DoubledBatch  Flaw = "doubled batch"        // has two results
	Differing     Flaw = "differing result"     // isn't that of the clean run
	ChangedResult Flaw = "changed result"       // was seen as another one
	ChangedEnd    Flaw = "changed end"          // was seen to have ended otherwise
	ForeignJob    Flaw = "unexpected job"       // nobody submitted it
	ForeignResult Flaw = "unexpected result"    // no job asked for it
	WrongFailure  Flaw = "unexpected failure"   // of a batch that nothing is wrong with, or none of one that can't succeed
	WrongLetter   Flaw = "wrong dead letter"    // of a task that has not failed, or none of one that has
	TwoHolders    Flaw = "two holders"          // of the lease at once
	EpochRepeats  Flaw = "epoch twice"          // of two terms
	OldEpoch      Flaw = "write of an old term" // after one of a later term
	Refused       Flaw = "refused submission"   // of a document that nothing is wrong with
	Died          Flaw = "process died"         // by itself
	BadHistory    Flaw = "incomplete history"
)

// Finding is a flaw and where it is.
type Finding struct {
	Flaw   Flaw   `json:"flaw"`
	Job    uint64 `json:"job,omitempty"`
	Batch  int    `json:"batch,omitempty"`
	Detail string `json:"detail,omitempty"`
}

func (f Finding) String() string {
	s := string(f.Flaw)
	if f.Job > 0 {
		s += fmt.Sprintf(" of job %d", f.Job)
	}
	if f.Batch > 0 {
		s += fmt.Sprintf(", batch %d", f.Batch)
	}
	if f.Detail != "" {
		s += ": " + f.Detail
	}
	return s
}

// Pause is a time without any result while work was there.
type Pause struct {
	// At is when it began, after the beginning of the history.
	At   time.Duration `json:"at_ns"`
	Long time.Duration `json:"ns"`
}

// Verdict is what a history shows.
type Verdict struct {
	Seed uint64 `json:"seed"`
	// Faults are those that hit something, by kind; Skipped found nothing to hit.
	Faults  map[Kind]int `json:"faults"`
	Skipped int          `json:"skipped"`
	// Jobs in the store, and submissions: acknowledged, refused, without an answer.
	Jobs     int `json:"jobs"`
	Accepted int `json:"accepted"`
	Refused  int `json:"refused"`
	Unknown  int `json:"unknown"`
	// Of the jobs: cancelled ones, and those with a poisoned model or batch.
	Cancelled int `json:"cancelled"`
	Poisoned  int `json:"poisoned"`
	// Batches and Results with predictions in the store, Failed batches.
	Batches int `json:"batches"`
	Results int `json:"results"`
	Failed  int `json:"failed"`
	// Grouped results were seen to share a durable write with others.
	Grouped int `json:"grouped"`
	// Terms are the terms of leadership that were seen.
	Terms int `json:"terms"`
	// Pauses are the longest ones, After the longest in the wake of each fault, by kind.
	Pauses []Pause                  `json:"longest_pauses"`
	After  map[Kind][]time.Duration `json:"-"`
	// Flaws counts what is wrong; Findings are the first of them.
	Flaws    map[Flaw]int `json:"flaws"`
	Findings []Finding    `json:"findings"`
}

// mostPauses is how many of the longest pauses are told.
const mostPauses = 5

// mostFindings bounds what is kept of a history where everything is wrong.
const mostFindings = 200

func (v *Verdict) find(flaw Flaw, job uint64, batch int, format string, args ...any) {
	v.Flaws[flaw]++
	if len(v.Findings) < mostFindings {
		v.Findings = append(v.Findings, Finding{Flaw: flaw, Job: job, Batch: batch, Detail: fmt.Sprintf(format, args...)})
	}
}

// OK reports whether nothing is wrong.
func (v *Verdict) OK() bool { return len(v.Flaws) == 0 }

// Total is the number of faults that hit something.
func (v *Verdict) Total() int {
	n := 0
	for _, count := range v.Faults {
		n += count
	}
	return n
}

// Lost counts accepted jobs, batches of done jobs and seen results that are not
// there, or have not ended.
func (v *Verdict) Lost() int { return v.Flaws[LostJob] + v.Flaws[LostBatch] + v.Flaws[LostResult] }

// Doubled counts what is there twice, or without having been asked for.
func (v *Verdict) Doubled() int {
	return v.Flaws[DoubledBatch] + v.Flaws[ForeignJob] + v.Flaws[ForeignResult]
}

// Differ counts what isn't that of the clean run, or of before.
func (v *Verdict) Differ() int {
	return v.Flaws[Differing] + v.Flaws[ChangedResult] + v.Flaws[ChangedEnd] + v.Flaws[WrongFailure] + v.Flaws[WrongLetter]
}
