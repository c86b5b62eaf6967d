package wire_test

import (
	"errors"
	"testing"

	"idunno/broker/wire"
)

func planned(from, to, size, rounds int) *wire.JobRecord {
	return &wire.JobRecord{Job: 3, Doc: wire.JobDoc{Model: "m", From: from, To: to, Terms: wire.Terms{Rounds: rounds}}, TaskSize: size}
}

// The tasks of every round are the same batches in the same order.
func TestRoundsRepeatTheRange(t *testing.T) {
	for _, c := range [][4]int{{1, 1, 1, 1}, {1, 10, 3, 4}, {5, 16, 4, 3}, {7, 9, 100, 5}, {3, 30, 1, 2}} {
		rec := planned(c[0], c[1], c[2], c[3])
		if want := (c[1] - c[0] + 1) * c[3]; rec.Batches() != want || rec.Rounds() != c[3] {
			t.Fatalf("%v: %d batches in %d rounds, want %d", c, rec.Batches(), rec.Rounds(), want)
		}
		n := 0
		for round := 1; round <= c[3]; round++ {
			for next := c[0]; next <= c[1]; {
				n++
				from, to := rec.Span(n)
				if from != next || to < from || to-from >= c[2] || rec.Round(n) != round {
					t.Fatalf("%v: task %d has batches %d to %d of round %d, want %d of %d", c, n, from, to, rec.Round(n), next, round)
				}
				next = to + 1
			}
		}
		if n != rec.Tasks() {
			t.Fatalf("%v: %d tasks, want %d", c, rec.Tasks(), n)
		}
	}
}

// A retry may have tasks of several rounds, and runs of them that go from one into
// the next.
func TestRetryAcrossRounds(t *testing.T) {
	rec := planned(1, 10, 4, 3) // 4, 4, 2 batches a round
	numbers := []int{1, 3, 4, 5, 9}
	rec.Retry = &wire.Retry{Of: 1, Tasks: wire.RangesOf(numbers)}
	want, batches := [][3]int{{1, 4, 1}, {9, 10, 1}, {1, 4, 2}, {5, 8, 2}, {9, 10, 3}}, 0
	for i, w := range want {
		from, to := rec.Span(i + 1)
		if from != w[0] || to != w[1] || rec.Round(i+1) != w[2] {
			t.Errorf("task %d: batches %d to %d of round %d, want %v", i+1, from, to, rec.Round(i+1), w)
		}
		batches += to - from + 1
	}
	if rec.Tasks() != len(want) || rec.Batches() != batches {
		t.Errorf("%d tasks of %d batches, want %d of %d", rec.Tasks(), rec.Batches(), len(want), batches)
	}
}

// What runs for ever has a plan all the same, as long as one may be.
func TestForeverHasAnEnd(t *testing.T) {
	for _, size := range []int{0, 1, 7, 50} {
		rec := planned(1, 50, size, 0)
		rec.Doc.Forever = true
		if size > 0 && (rec.Tasks() > wire.MaxTasks || rec.Tasks() < wire.MaxTasks-50) {
			t.Errorf("size %d: %d tasks", size, rec.Tasks())
		}
		if rec.Batches() < wire.MaxTasks-50 {
			t.Errorf("size %d: %d batches", size, rec.Batches())
		}
	}
}

func TestSettingsAreChangedOneByOne(t *testing.T) {
	s := &wire.Settings{Phase: wire.PhaseTrain, BatchSizes: map[string]int{"mlp": 50, "cnn": 20}}
	next, err := s.Change([]byte(`{"fair":"images","batch_sizes":{"mlp":0,"net":7}}`))
	if err != nil {
		t.Fatal(err)
	}
	if next.Fair != wire.FairImages || next.Phase != wire.PhaseTrain || len(next.BatchSizes) != 2 || next.BatchSizes["net"] != 7 || next.BatchSizes["cnn"] != 20 {
		t.Errorf("%+v", next)
	}
	if s.Fair != "" || len(s.BatchSizes) != 2 || s.BatchSizes["mlp"] != 50 {
		t.Errorf("what was changed is the old one: %+v", s)
	}
	for _, c := range []struct{ field, change string }{
		{"settings", `7`}, {"settings", `{"fair":7}`}, {"colour", `{"colour":1}`}, {"fair", `{"fair":"luck"}`}, {"fair", `{"fair":"images","fair":"time"}`},
		{"batch_sizes", `{"batch_sizes":{"mlp":-1}}`}, {"batch_sizes", `{"batch_sizes":[1]}`}, {"batch_sizes", `{"batch_sizes":{"m l p":1}}`},
	} {
		var refusal *wire.Error
		if _, err := s.Change([]byte(c.change)); !errors.As(err, &refusal) || refusal.Field != c.field && refusal.Field != "settings" {
			t.Errorf("%s: %v", c.change, err)
		}
	}
}
