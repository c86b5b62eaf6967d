package sched

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"idunno/broker/wire"
)

// The line is by priority, then by deadline, then by number, in whatever order jobs
// come and go.
func TestLineIsInOrder(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	want := []Turn{
		{Priority: 5, Job: 9},
		{Priority: 0, Deadline: at(10), Job: 8}, {Priority: 0, Deadline: at(20), Job: 3}, {Priority: 0, Deadline: at(20), Job: 4},
		{Priority: 0, Job: 1}, {Priority: 0, Job: 2},
		{Priority: -1, Deadline: at(1), Job: 5}, {Priority: -1, Job: 7},
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		var l Line
		for _, i := range rng.Perm(len(want)) {
			l.Add(want[i])
			l.Add(want[i])
		}
		if got := l.First(100); !slices.Equal(got, want) || l.Len() != len(want) {
			t.Fatalf("got %v\nwant %v", got, want)
		}
		gone := rng.IntN(len(want))
		l.Remove(want[gone])
		l.Remove(Turn{Job: 77})
		if got := l.First(3); !slices.Equal(got, slices.Delete(slices.Clone(want), gone, gone+1)[:3]) {
			t.Fatalf("without %v: %v", want[gone], got)
		}
	}
}

// A task has at most a round, and the plan at most as many tasks as one may have.
func TestSizeOfRounds(t *testing.T) {
	fast := Experience{Time: time.Microsecond, Images: 1}
	for _, c := range []struct {
		batches, rounds int
		forever         bool
		known           Experience
	}{
		{10, 1, false, Experience{}}, {10, 1000, false, fast}, {101, 198_019, false, Experience{}}, {21, 990_000, false, Experience{}},
		{100_000_000, 0, false, Experience{}}, {210, 0, true, fast}, {3, 0, true, Experience{}},
	} {
		rec := record(1, c.batches, 0)
		rec.Doc.Rounds, rec.Doc.Forever = c.rounds, c.forever
		Size(rec, c.known, 0, 2)
		if rec.TaskSize < 1 || rec.TaskSize > c.batches || rec.Tasks() > wire.MaxTasks || rec.Tasks() < 1 {
			t.Errorf("%+v: %d tasks of %d batches", c, rec.Tasks(), rec.TaskSize)
		}
	}
	for each, tail := range map[time.Duration]int{0: 0, time.Millisecond: 0, 2 * time.Millisecond: 2} {
		rec := record(1, 200, 0) // 25 a task
		if Size(rec, Experience{Time: each, Images: 1}, 0, 2); rec.Tail != tail {
			t.Errorf("batches of %v: a tail for %d slots, want %d", each, rec.Tail, tail)
		}
	}
	rec := record(1, 10, 0)
	rec.Doc.Rounds = 1000
	if Size(rec, fast, 0, 2); rec.TaskSize != 10 {
		t.Errorf("fast batches of many short rounds: %d a task, want a round", rec.TaskSize)
	}
}

// Each round's results count once.
func TestRoundsAreFolded(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	rec := record(1, 4, 2)
	rec.Doc.Forever = true
	j := NewJob(rec, false)
	if words := cap(j.done.words); words > 1 {
		t.Errorf("a job that waits takes %d words", words)
	}
	const done = 20_000
	for n := 1; n <= done; n++ {
		j.Next(1)
		if !j.Fold(resultOf(Task(rec, n), "a", rng), time.Unix(2000, 0)) {
			t.Fatalf("task %d is not new", n)
		}
	}
	if j.Fold(resultOf(Task(rec, 7), "b", rng), time.Unix(2000, 0)) {
		t.Fatal("a round's result came twice")
	}
	if s := j.Stats(time.Unix(2001, 0)); s.Batches != 2*done || !s.Forever {
		t.Fatalf("%d batches", s.Batches)
	}
	if j.Finished() || j.Outstanding() != 0 {
		t.Fatalf("finished %v, %d outstanding", j.Finished(), j.Outstanding())
	}
}

func TestExperienceOfAnotherBatchSize(t *testing.T) {
	e := Experience{Time: 20 * time.Millisecond, Images: 100}
	if got := e.Of(25); got.Time != 5*time.Millisecond || got.Images != 25 {
		t.Errorf("%+v", got)
	}
	if got := (Experience{}).Of(25); got != (Experience{}) {
		t.Errorf("%+v", got)
	}
}
