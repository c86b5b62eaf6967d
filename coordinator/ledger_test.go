package coordinator

import (
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
)

// A standby that was away while results were removed takes what it has missed from the
// checkpoint, and reads on behind it.
func TestLedgerThatWasAway(t *testing.T) {
	rec := &wire.JobRecord{Schema: wire.Schema, Job: 1, Doc: wire.JobDoc{Model: "m", From: 1, To: 2, Terms: wire.Terms{Forever: true}},
		TaskSize: 1, State: wire.StateRunning, Started: time.Unix(1000, 0), ResultsFrom: 1}
	result := func(task int) *wire.Result {
		return &wire.Result{Schema: wire.Schema, Job: 1, Task: task, From: 2 - task%2, To: 2 - task%2, Node: "a", Started: time.Unix(1000, 0),
			Batches: []wire.BatchResult{{Batch: 2 - task%2, Images: 1, Nanos: int64(task)}}}
	}
	revision := uint64(0)
	write := func(g *ledger) {
		p, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		revision++
		g.record(&broker.Entry{Key: broker.KeyJob(1), Value: p, Revision: revision})
	}
	leader, away := newLedger(slog.New(slog.DiscardHandler)), newLedger(slog.New(slog.DiscardHandler))
	write(leader)
	write(away)
	for task := 1; task <= 20; task++ {
		leader.fold(result(task), uint64(task), time.Unix(1000, 0))
		if task <= 3 || task == 20 {
			away.fold(result(task), uint64(task), time.Unix(1000, 0))
		}
	}
	j := leader.jobs[1]
	p, err := j.Checkpoint(18, 1)
	if err != nil {
		t.Fatal(err)
	}
	from, before, ok := j.Forgettable(2, 18, 18)
	if !ok || from != 15 || before != 15 {
		t.Fatalf("from task %d, place %d, %v", from, before, ok)
	}
	rec.KeptFrom, rec.ResultsFrom = from, before
	write(leader)
	write(away)
	e := &broker.Entry{Key: broker.KeyFold(1), Value: p, Revision: 9}
	leader.restore(e, 20)
	away.restore(e, 20)
	if n := leader.readFrom(20); n != 21 || leader.folds[1].through != 20 {
		t.Errorf("who has all reads from %d, checkpoint through %d", n, leader.folds[1].through)
	}
	if n := away.readFrom(20); n != 19 {
		t.Errorf("who was away reads from %d", n)
	}
	away.fold(result(19), 19, time.Unix(1000, 0))
	away.fold(result(20), 20, time.Unix(1000, 0))
	at := time.Unix(1100, 0) // rates are of the last ten seconds
	if got, want := away.jobs[1].Stats(at).Stats, leader.jobs[1].Stats(at).Stats; got != want || want.Batches != 20 {
		t.Errorf("statistics %+v, want %+v", got, want)
	}
	// Garbage for a checkpoint: nothing is done twice.
	lost := newLedger(slog.New(slog.DiscardHandler))
	write(lost)
	lost.restore(&broker.Entry{Key: e.Key, Value: []byte("garbage"), Revision: 10}, 20)
	if !lost.jobs[1].Missing() {
		t.Error("it doesn't know that something is missing")
	}
}
