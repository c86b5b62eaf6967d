package sched

import (
	"cmp"
	"slices"
	"time"

	"idunno/broker/wire"
)

// Turn is a job's place among those that want to run: a higher priority goes
// first, then the earlier deadline, one at all before none, then the lower number.
type Turn struct {
	Priority int
	Deadline time.Time
	Job      uint64
}

// TurnOf is the turn of the job with the given record.
func TurnOf(rec *wire.JobRecord) Turn {
	return Turn{Priority: rec.Doc.Priority, Deadline: rec.Deadline, Job: rec.Job}
}

// Compare is negative when t goes before u.
func (t Turn) Compare(u Turn) int {
	if c := cmp.Compare(u.Priority, t.Priority); c != 0 {
		return c
	}
	if t.Deadline.IsZero() != u.Deadline.IsZero() {
		if u.Deadline.IsZero() {
			return -1
		}
		return 1
	}
	return cmp.Or(t.Deadline.Compare(u.Deadline), cmp.Compare(t.Job, u.Job))
}

// Line is the jobs that wait for their turn, in that order. The zero value is empty.
type Line struct{ turns []Turn }

// Len is how many jobs wait.
func (l *Line) Len() int { return len(l.turns) }

// Add lines a job up; one that is there already stays.
func (l *Line) Add(t Turn) {
	if at, found := slices.BinarySearchFunc(l.turns, t, Turn.Compare); !found {
		l.turns = slices.Insert(l.turns, at, t)
	}
}

// Remove takes a job out, if it is there.
func (l *Line) Remove(t Turn) {
	if at, found := slices.BinarySearchFunc(l.turns, t, Turn.Compare); found {
		l.turns = slices.Delete(l.turns, at, at+1)
	}
}

// First returns the next jobs, at most n.
func (l *Line) First(n int) []Turn { return slices.Clone(l.turns[:min(n, len(l.turns))]) }
