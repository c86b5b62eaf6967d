package sched

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"idunno/broker/wire"
)

// known is all that is known of a job but its rates, which a checkpoint leaves out.
func known(t *testing.T, j *Job) string {
	t.Helper()
	s, err := j.Summary(time.Unix(5000, 0))
	if err != nil {
		t.Fatal(err)
	}
	words := j.done.words
	for len(words) > 0 && words[len(words)-1] == 0 {
		words = words[:len(words)-1]
	}
	p, err := json.Marshal([]any{s, j.finished, j.failed, j.lastError, j.trained, j.first, j.last, words, j.done.full})
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

// Wherever the stream of results is cut, and however many of them are read once more, the
// fold from a checkpoint is the fold of all, to the bit.
func TestCheckpointIsTheFold(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for round := range 60 {
		rec := record(1, 1+rng.IntN(900), 1+rng.IntN(7))
		if round%10 == 9 {
			rec.Retry = &wire.Retry{Of: 1, Tasks: wire.Ranges{{1, min(rec.Tasks(), 70)}}}
		}
		type stored struct {
			r  *wire.Result
			at time.Time
		}
		var stream []stored
		for _, n := range rng.Perm(rec.Tasks()) {
			r := resultOf(Task(rec, n+1), []string{"a", "b", "c"}[rng.IntN(3)], rng)
			for i := range r.Batches {
				r.Batches[i].LossSum = rng.Float64()
			}
			if rng.IntN(20) == 0 {
				r.Error, r.Batches = "it failed", nil
			}
			stream = append(stream, stored{r, time.Unix(1000+int64(len(stream)), 0)})
		}
		whole, part := NewJob(rec, false), NewJob(rec, false)
		for _, s := range stream {
			whole.Fold(s.r, s.at)
		}
		cut := rng.IntN(len(stream) + 1)
		for _, s := range stream[:cut] {
			part.Fold(s.r, s.at)
		}
		p, err := part.Checkpoint(uint64(cut), 3)
		if err != nil {
			t.Fatal(err)
		}
		restored, place, err := Restore(rec, p)
		if err != nil || place != uint64(cut) || CheckpointEpoch(p) != 3 {
			t.Fatalf("restored place %d, epoch %d, error %v; want %d and 3", place, CheckpointEpoch(p), err, cut)
		}
		if got, want := known(t, restored), known(t, part); got != want {
			t.Fatalf("after %d of %d results\n got %s\nwant %s", cut, len(stream), got, want)
		}
		for _, s := range stream[rng.IntN(cut+1):] {
			restored.Fold(s.r, s.at)
		}
		if got, want := known(t, restored), known(t, whole); got != want {
			t.Fatalf("from %d of %d results on\n got %s\nwant %s", cut, len(stream), got, want)
		}
		if !restored.Finished() || len(restored.Next(10)) > 0 {
			t.Errorf("the job has all results, and goes on: %v", restored.Next(10))
		}
	}
}

// A long job's checkpoint takes what is unfinished and its nodes' times, not its length.
func TestCheckpointIsSmall(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	size := func(done int) int {
		j := NewJob(record(1, 1_000_000, 1), false)
		for n := 1; n <= done; n++ {
			j.Fold(&wire.Result{Job: 9, Task: n, From: n, To: n, Node: "a", Started: time.Unix(1000, 0),
				Batches: []wire.BatchResult{{Batch: n, Images: 1, Nanos: 1e6 + rng.Int64N(1e5)}}}, time.Unix(1000, 0))
		}
		p, err := j.Checkpoint(1, 1)
		if err != nil {
			t.Fatal(err)
		}
		return len(p)
	}
	if short, long := size(5_000), size(400_000); long > 2*short || long > 4096 {
		t.Errorf("%d bytes after 5,000 tasks, %d after 400,000", short, long)
	}
}

func TestRestoreRefusesOthers(t *testing.T) {
	rec := record(1, 500, 2)
	j := NewJob(rec, false)
	j.Fold(resultOf(Task(rec, 3), "a", rand.New(rand.NewPCG(1, 1))), time.Unix(1000, 0))
	p, err := j.Checkpoint(4, 1)
	if err != nil {
		t.Fatal(err)
	}
	other := record(1, 500, 3)
	for name, try := range map[string]func() error{
		"another plan": func() error { _, _, err := Restore(other, p); return err },
		"nothing":      func() error { _, _, err := Restore(rec, nil); return err },
		"cut off":      func() error { _, _, err := Restore(rec, p[:len(p)-9]); return err },
		"no words":     func() error { b := newBitset(100); return b.restore(3, nil, 99) },
		"odd bytes":    func() error { b := newBitset(100); return b.restore(0, []byte{1}, 99) },
		"beyond": func() error {
			b := newBitset(100)
			return b.restore(1, slices.Repeat([]byte{255}, 8), 99)
		},
	} {
		if err := try(); !errors.Is(err, ErrCheckpoint) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b := newBitset(100); b.restore(1, []byte{255, 255, 255, 255, 15, 0, 0, 0}, 99) != nil || b.count() != 99 || !reflect.DeepEqual(b.has(99), true) {
		t.Errorf("a full set has %d members", b.count())
	}
}
