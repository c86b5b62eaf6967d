package sched

import (
	"math/rand/v2"
	"testing"
	"time"
)

// In whatever order tasks are done, everything before the place that may be emptied is
// of rounds that are kept no longer, the last rounds stay whole, and what is remembered
// for it stays small however many rounds there are.
func TestOldRoundsAreForgotten(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 3))
		rec := record(1, 1+rng.IntN(12), 1+rng.IntN(3))
		rec.Doc.Forever = true
		keep, window := 1+rng.IntN(4), 1+rng.IntN(60)
		j := NewJob(rec, false)
		var stream []int // the task of each place, from 1
		open, next := []int{}, 1
		var place uint64
		through, emptied := 0, uint64(0)
		for len(stream) < 3000 {
			for len(open) < window {
				open, next = append(open, next), next+1
			}
			at := rng.IntN(len(open))
			task := open[at]
			if len(stream)%3 == 0 {
				at, task = 0, open[0] // none waits for ever
			}
			open = append(open[:at], open[at+1:]...)
			stream = append(stream, task)
			if !j.Fold(resultOf(Task(rec, task), "a", rng), time.Unix(1000, 0)) {
				t.Fatalf("task %d is no news", task)
			}
			j.Placed(task, uint64(len(stream)))
			if rng.IntN(40) == 0 { // a checkpoint
				place, through = uint64(len(stream)), j.Through()
			}
			from, before, ok := j.Forgettable(keep, place, through)
			if !ok {
				continue
			}
			if before > place+1 || from-1 > through || from <= rec.KeptFrom || before < emptied {
				t.Fatalf("seed %d: from task %d, place %d of %d to %d, was %d", seed, from, before, place, through, rec.KeptFrom)
			}
			if rec.Round(j.Through()+1)-rec.Round(from) < keep || rec.FirstOf(rec.Round(from)) != from {
				t.Fatalf("seed %d: from task %d, %d are done", seed, from, j.Through())
			}
			for seq := emptied + 1; seq < before; seq++ {
				if stream[seq-1] >= from {
					t.Fatalf("seed %d: place %d has task %d, kept from %d", seed, seq, stream[seq-1], from)
				}
			}
			emptied = before - 1
			rec.KeptFrom = from
			j.Forgot()
		}
		if emptied == 0 || len(j.places.marks) > maxMarks {
			t.Errorf("seed %d: %d places emptied, %d marks", seed, emptied, len(j.places.marks))
		}
	}
	finite := NewJob(record(1, 3, 1), false)
	if _, _, ok := finite.Forgettable(1, 100, 3); ok {
		t.Error("a job with an end forgets")
	}
}

func TestMarksStayFew(t *testing.T) {
	rec := record(1, 1, 1)
	rec.Doc.Forever = true
	j := NewJob(rec, false)
	for task := 1; task <= 20*maxMarks; task++ {
		j.Placed(task, uint64(task))
	}
	from, before, ok := j.Forgettable(10, 1<<40, 20*maxMarks)
	if len(j.places.marks) > maxMarks || !ok || from != int(before) || from > 20*maxMarks-9 || from < 19*maxMarks {
		t.Errorf("%d marks, from task %d, place %d", len(j.places.marks), from, before)
	}
}

// A coordinator that restored a job from a checkpoint marks rounds that begin behind it
// only, and results that are read once more move marks back.
func TestMarksOfARestoredJob(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	rec := record(1, 4, 1) // four tasks a round
	rec.Doc.Forever = true
	j := NewJob(rec, false)
	for task := 1; task <= 10; task++ {
		j.Fold(resultOf(Task(rec, task), "a", rng), time.Unix(1000, 0))
	}
	p, err := j.Checkpoint(10, 1)
	if err != nil {
		t.Fatal(err)
	}
	restored, _, err := Restore(rec, p)
	if err != nil {
		t.Fatal(err)
	}
	restored.Placed(11, 11) // of the third round, which has begun before
	restored.Placed(14, 14)
	restored.Placed(13, 12) // read again
	if want := (mark{4, 12}); len(restored.places.marks) != 1 || restored.places.marks[0] != want {
		t.Errorf("marks %v", restored.places.marks)
	}
	// Who was away takes for done what is known nowhere.
	rec.KeptFrom = 9
	away := NewJob(rec, true)
	away.Fold(resultOf(Task(rec, 2), "a", rng), time.Unix(1000, 0))
	if !away.Missing() || restored.Missing() {
		t.Error("what is missing isn't seen")
	}
	away.Concede()
	if tasks := away.Next(2); away.Missing() || away.finished != 8 || tasks[0].Task != 9 || away.Stats(time.Unix(1000, 0)).Batches != 1 {
		t.Errorf("%d finished, next %+v", away.finished, tasks[0])
	}
}

func TestNextSkipsWhatIsDone(t *testing.T) {
	rec := record(1, 5, 1)
	rec.Doc.Forever = true
	j := NewJob(rec, false)
	rec.KeptFrom = 9_000_001
	j.Concede()
	j.Resume()
	if tasks := j.Next(3); len(tasks) != 3 || tasks[0].Task != 9_000_001 || tasks[0].From != 1 {
		t.Errorf("%+v", tasks[0])
	}
	if got := j.Unfinished(); len(got) != 3 || got[0] != 9_000_001 {
		t.Errorf("unfinished %v", got)
	}
	if j.Outstanding() != 3 {
		t.Errorf("%d outstanding", j.Outstanding())
	}
}
