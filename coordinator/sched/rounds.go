package sched

import "slices"

// A job that runs for ever keeps the results of its last rounds only. Results lie in
// the stream in the order in which tasks were done, not in that of the plan, and are
// removed by their place: everything before the first result of round n, or of a later
// one, belongs to rounds before n. What came late of these lies behind, and goes the
// next time.

// roundMarks remembers where rounds begin in the stream of results.
type roundMarks struct {
	// marks say that before a place there is no result of a round or of a later one,
	// ascending in both; reached is the highest round that has a result.
	marks   []mark
	reached int
}

type mark struct {
	round int
	seq   uint64
}

// maxMarks bounds the marks: when there are more, every other one goes.
const maxMarks = 1024

// Placed notes where a result lies that is news to the job.
func (j *Job) Placed(task int, seq uint64) {
	if !j.Rec.Endless() {
		return
	}
	p, round := &j.places, j.Rec.Round(task)
	// Results that had to be read once more may lie before others that are known.
	for i := len(p.marks) - 1; i >= 0 && p.marks[i].seq > seq; i-- {
		if p.marks[i].round <= round {
			p.marks[i].seq = seq
		}
	}
	if round <= p.reached {
		return
	}
	p.reached = round
	p.marks = append(p.marks, mark{round, seq})
	if len(p.marks) > maxMarks {
		for i := range maxMarks / 2 {
			p.marks[i] = p.marks[2*i+1]
		}
		p.marks = append(p.marks[:maxMarks/2], p.marks[maxMarks])
	}
}

// Forgettable returns the first task whose result a job that runs for ever keeps when
// it keeps so many whole rounds, and the place of the stream before which nothing is
// that it keeps; false when there is nothing to forget. Nothing is forgotten that the
// last checkpoint doesn't know: it goes to the place covered, and has all tasks to the
// one given as through.
func (j *Job) Forgettable(keep int, covered uint64, through int) (from int, before uint64, ok bool) {
	if !j.Rec.Endless() {
		return 0, 0, false
	}
	first := j.Rec.Round(through+1) - keep // the one that isn't done counts in addition
	marks := j.places.marks
	n := 0
	for n < len(marks) && marks[n].round <= first && marks[n].seq <= covered+1 {
		n++
	}
	if n == 0 || j.Rec.FirstOf(marks[n-1].round) <= max(j.Rec.KeptFrom, 1) {
		return 0, 0, false
	}
	return j.Rec.FirstOf(marks[n-1].round), marks[n-1].seq, true
}

// Forgot drops what was remembered for what has been forgotten.
func (j *Job) Forgot() {
	j.places.marks = slices.DeleteFunc(j.places.marks, func(p mark) bool { return j.Rec.FirstOf(p.round) <= j.Rec.KeptFrom })
}

// Through is the task up to which all have a result, 0 when the first has none.
func (j *Job) Through() int { return j.done.through() }

// Missing reports whether results are not known to the job that are kept no longer:
// whoever folded it was away for long.
func (j *Job) Missing() bool { return j.done.through() < j.Rec.Forgotten() }

// Concede takes tasks for done whose results are neither known nor kept. Their
// statistics are lost.
func (j *Job) Concede() {
	for n := j.done.through() + 1; n <= j.Rec.Forgotten(); n++ {
		if !j.done.has(n) {
			j.done.set(n)
			j.finished++
		}
	}
	j.places.reached = max(j.places.reached, j.roundOf(j.done.highest()))
}

// roundOf is the round of a task, 0 of none.
func (j *Job) roundOf(task int) int {
	if task == 0 {
		return 0
	}
	return j.Rec.Round(task)
}
