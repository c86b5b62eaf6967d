package chaos_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"idunno/bench/chaos"
	"idunno/broker/wire"
)

var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func at(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }

func sum(model string, batch int) string { return fmt.Sprintf("%s-%d", model, batch) }

func truth() chaos.Truth {
	tr := chaos.Truth{Sums: map[string]map[int]string{"mlp": {}, "cnn": {}}, BadModels: map[string]bool{"bad": true},
		BadBatches: map[string]map[int]bool{"holes": {3: true}}}
	for model, sums := range tr.Sums {
		for batch := 1; batch <= 20; batch++ {
			sums[batch] = sum(model, batch)
		}
	}
	return tr
}

// story is a history that is made up.
type story struct {
	events      []chaos.Event
	submissions int
}

func (s *story) add(e chaos.Event) *story {
	if e.Time.IsZero() {
		e.Time = at(10 * len(s.events))
	}
	s.events = append(s.events, e)
	return s
}

func begin() *story {
	return new(story).add(chaos.Event{What: chaos.WhatRun, Plan: &chaos.Header{Schema: 1, Seed: 5, LeaseTTL: 2 * time.Second}})
}

func doc(model, data string, from, to int) *wire.JobDoc {
	return &wire.JobDoc{Model: model, Data: data, From: from, To: to}
}

// submit adds a submission with its answer.
func (s *story) submit(job uint64, d *wire.JobDoc, answer chaos.What) *story {
	s.submissions++
	s.add(chaos.Event{What: chaos.WhatSubmit, Submission: s.submissions, Doc: d})
	return s.add(chaos.Event{What: answer, Submission: s.submissions, Job: job})
}

func (s *story) stored(job uint64, d *wire.JobDoc, size int, state wire.State) *story {
	return s.add(chaos.Event{What: chaos.WhatStored, Job: job, Doc: d, State: state, TaskSize: size, Written: at(0)})
}

func (s *story) result(job uint64, model string, task, from, to int) *story {
	e := chaos.Event{What: chaos.WhatResult, Job: job, Task: task, From: from, To: to, Node: "w", Written: at(100 * task), Sum: fmt.Sprintf("%s-%d-%d", model, from, to)}
	for i := from; i <= to; i++ {
		e.Sums = append(e.Sums, sum(model, i))
	}
	return s.add(e)
}

func (s *story) end() *story { return s.add(chaos.Event{What: chaos.WhatEnd}) }

// good is a history of a job of four batches in two tasks.
func good() *story {
	d := doc("mlp", "mnist", 1, 4)
	return begin().submit(1, d, chaos.WhatAccepted).stored(1, d, 2, wire.StateDone).result(1, "mlp", 1, 1, 2).result(1, "mlp", 2, 3, 4)
}

func lease(holder string, bucket, rev, written int) chaos.Event {
	return chaos.Event{What: chaos.WhatLease, Holder: holder, Bucket: at(bucket), Revision: uint64(rev), Written: at(written)}
}

func record(job uint64, rev, epoch, written int) chaos.Event {
	return chaos.Event{What: chaos.WhatRecord, Job: job, Revision: uint64(rev), Epoch: uint64(epoch), Written: at(written)}
}

func restart(ms int, name string) chaos.Event {
	return chaos.Event{What: chaos.WhatFault, Time: at(ms), Fault: &chaos.Fault{Number: ms, Kind: chaos.KillServer, Targets: []string{name}}}
}

func failure(job uint64, task, from, to int) chaos.Event {
	return chaos.Event{What: chaos.WhatResult, Job: job, Task: task, From: from, To: to, Error: "no model", Sum: fmt.Sprint(job, task)}
}

func letter(job uint64, task int) chaos.Event {
	return chaos.Event{What: chaos.WhatLetter, Job: job, Task: task}
}

func refused(s *story, busy bool) *story {
	s.submit(0, doc("mlp", "mnist", 1, 4), chaos.WhatRefused)
	s.events[len(s.events)-1].Busy = busy
	return s
}

func three(s *story) *story { s.events[0].Plan.Servers = 3; return s }

func released(holder string, bucket, rev, written int) chaos.Event {
	e := lease(holder, bucket, rev, written)
	e.Deleted = true
	return e
}

// judge writes a history and reads it again, as a run does.
func judge(t *testing.T, s *story) *chaos.Verdict {
	t.Helper()
	var file bytes.Buffer
	rec := chaos.NewRecorder(&file)
	for _, e := range s.events {
		rec.Add(e)
	}
	if err := rec.Flush(); err != nil {
		t.Fatal(err)
	}
	c := chaos.NewChecker(truth())
	if err := chaos.ReadHistory(&file, c.Event); err != nil {
		t.Fatal(err)
	}
	return c.Verdict()
}

func TestGoodHistories(t *testing.T) {
	poisoned, holed, lost := doc("bad", "mnist", 1, 2), doc("cnn", "holes", 1, 6), doc("cnn", "mnist", 5, 6)
	long := doc("mlp", "mnist", 1, 6)
	for name, s := range map[string]*story{
		"nothing at all": begin(),
		"a job":          good(),
		"poison": begin().submit(1, poisoned, chaos.WhatAccepted).stored(1, poisoned, 2, wire.StateDoneWithFailures).add(failure(1, 1, 1, 2)).
			submit(2, holed, chaos.WhatAccepted).stored(2, holed, 2, wire.StateDoneWithFailures).result(2, "cnn", 1, 1, 2).add(failure(2, 2, 3, 4)).result(2, "cnn", 3, 5, 6).add(letter(1, 1)).add(letter(2, 2)),
		"the cluster is full":        refused(good(), true),
		"no answer, and a job":       begin().submit(0, lost, chaos.WhatUnknown).stored(1, lost, 2, wire.StateDone).result(1, "cnn", 1, 5, 6),
		"no answer, and no job":      good().submit(0, lost, chaos.WhatUnknown),
		"no end of the submission":   good().add(chaos.Event{What: chaos.WhatSubmit, Submission: 9, Doc: lost}).stored(2, lost, 2, wire.StateDone).result(2, "cnn", 1, 5, 6),
		"cancelled with one result":  begin().submit(1, long, chaos.WhatAccepted).add(chaos.Event{What: chaos.WhatCancel, Job: 1}).add(chaos.Event{What: chaos.WhatCancelled, Job: 1}).stored(1, long, 2, wire.StateCancelled).result(1, "mlp", 2, 3, 4),
		"cancelled too late":         good().add(chaos.Event{What: chaos.WhatCancel, Job: 1}),
		"seen as it is":              good().add(chaos.Event{What: chaos.WhatSeen, Job: 1, Task: 1, Sum: "mlp-1-2"}).add(chaos.Event{What: chaos.WhatState, Job: 1, State: wire.StateDone}),
		"a client that is told late": good().add(chaos.Event{What: chaos.WhatRecord, Job: 1, State: wire.StateDone, Revision: 9}).add(chaos.Event{What: chaos.WhatState, Job: 1, State: wire.StateRunning}),
		"a dead leader's lease": good().add(lease("a 1", 0, 1, 0)).add(chaos.Event{What: chaos.WhatFault, Time: at(90), Fault: &chaos.Fault{Number: 1, Kind: chaos.KillCoordinator, Targets: []string{"a"}}}).
			add(chaos.Event{What: chaos.WhatHeal, Time: at(500), Fault: &chaos.Fault{Number: 1}}).add(lease("b 1", 0, 2, 100)),
		"a term that is seen late": good().add(lease("a", 0, 7, 0)).add(record(1, 5, 7, 100)).add(lease("b", 900, 3, 1500)).add(record(1, 6, 1, 1000)).add(record(1, 7, 3, 1600)),
		"two terms": good().add(lease("a", 0, 8, 0)).add(lease("b", 900, 1, 1000)).add(record(1, 5, 8, 500)).add(record(1, 6, 1, 1200)).add(record(1, 7, 1, 1300)).
			add(lease("c", 900, 5, 5000)).add(record(1, 8, 4, 5100)), // of a term that was not seen
		"servers that forget":       three(good()).add(lease("a", 0, 8, 0)).add(restart(100, "broker-1")).add(restart(500, "broker-2")).add(lease("a", 0, 1, 3000)),
		"a lease that runs out":     good().add(lease("a", 0, 1, 0)).add(lease("a", 0, 2, 400)).add(lease("b", 0, 3, 2400)),
		"a lease that is handed on": good().add(lease("a", 0, 1, 0)).add(released("a", 0, 2, 400)).add(lease("b", 0, 3, 500)),
		"a lease that is forgotten": good().add(lease("a", 0, 7, 0)).add(lease("b", 900, 1, 1000)).add(lease("b", 900, 1, 1000)),
	} {
		if v := judge(t, s.end()); !v.OK() || v.Seed != 5 {
			t.Errorf("%s: %+v", name, v.Findings)
		}
	}
}

func TestBadHistories(t *testing.T) {
	d, other, bad1 := doc("mlp", "mnist", 1, 4), doc("cnn", "mnist", 5, 6), doc("bad", "mnist", 1, 2)
	bad := func(job uint64, task, from, to int) *story { return good().result(job, "mlp", task, from, to) }
	differing := func(change func(*chaos.Event)) *story {
		s := good()
		change(&s.events[len(s.events)-1])
		return s
	}
	state := func(state wire.State) *story { s := good(); s.events[3].State = state; return s }
	without := func(last int) *story { s := good(); s.events = s.events[:len(s.events)-last]; return s }
	for name, c := range map[string]struct {
		s    *story
		want []chaos.Flaw
	}{
		"a job is lost":             {good().submit(2, other, chaos.WhatAccepted), []chaos.Flaw{chaos.LostJob}},
		"a job runs for ever":       {state(wire.StateRunning), []chaos.Flaw{chaos.LostJob}},
		"a job has no record":       {state(""), []chaos.Flaw{chaos.LostJob}},
		"a job is rejected":         {state(wire.StateRejected), []chaos.Flaw{chaos.LostJob}},
		"a job fails":               {state(wire.StateDoneWithFailures), []chaos.Flaw{chaos.LostJob}},
		"a job cancels itself":      {state(wire.StateCancelled), []chaos.Flaw{chaos.LostJob}},
		"a number is given twice":   {good().submit(1, d, chaos.WhatAccepted), []chaos.Flaw{chaos.LostJob}},
		"a job is another one":      {good().submit(2, other, chaos.WhatAccepted).stored(2, d, 2, wire.StateDone).result(2, "mlp", 1, 1, 2).result(2, "mlp", 2, 3, 4), []chaos.Flaw{chaos.LostJob}},
		"a cancelled job goes on":   {good().add(chaos.Event{What: chaos.WhatCancel, Job: 1}).add(chaos.Event{What: chaos.WhatCancelled, Job: 1}), []chaos.Flaw{chaos.LostJob}},
		"a task is lost":            {without(1), []chaos.Flaw{chaos.LostBatch, chaos.LostBatch}},
		"a seen result is lost":     {good().add(chaos.Event{What: chaos.WhatSeen, Job: 1, Task: 3, Sum: "x"}), []chaos.Flaw{chaos.LostResult}},
		"a seen result changes":     {good().add(chaos.Event{What: chaos.WhatSeen, Job: 1, Task: 2, Sum: "x"}), []chaos.Flaw{chaos.ChangedResult}},
		"a task has two results":    {bad(1, 2, 3, 4), []chaos.Flaw{chaos.DoubledBatch}},
		"a result is another":       {differing(func(e *chaos.Event) { e.Sums[1] = "x" }), []chaos.Flaw{chaos.Differing}},
		"a result is shifted":       {differing(func(e *chaos.Event) { e.From, e.To = 2, 3 }), []chaos.Flaw{chaos.LostBatch, chaos.LostBatch, chaos.ForeignResult}},
		"a result is short":         {differing(func(e *chaos.Event) { e.Sums = e.Sums[:1] }), []chaos.Flaw{chaos.LostBatch, chaos.LostBatch, chaos.ForeignResult}},
		"a batch fails":             {differing(func(e *chaos.Event) { e.Sums, e.Error = nil, "out of luck" }).add(letter(1, 2)), []chaos.Flaw{chaos.WrongFailure}},
		"a result of no job":        {bad(7, 1, 1, 2), []chaos.Flaw{chaos.ForeignResult}},
		"a result of no task":       {bad(1, 3, 5, 6), []chaos.Flaw{chaos.ForeignResult}},
		"a job that nobody wants":   {good().stored(2, other, 2, wire.StateDone).result(2, "cnn", 1, 5, 6), []chaos.Flaw{chaos.ForeignJob}},
		"a refused job runs":        {good().submit(0, other, chaos.WhatRefused).stored(2, other, 2, wire.StateDone).result(2, "cnn", 1, 5, 6), []chaos.Flaw{chaos.Refused, chaos.ForeignJob}},
		"an unanswered one twice":   {good().submit(0, other, chaos.WhatUnknown).stored(2, other, 2, wire.StateDone).result(2, "cnn", 1, 5, 6).stored(3, other, 2, wire.StateDone).result(3, "cnn", 1, 5, 6), []chaos.Flaw{chaos.ForeignJob}},
		"poison is computed":        {good().submit(2, doc("bad", "mnist", 1, 1), chaos.WhatAccepted).stored(2, doc("bad", "mnist", 1, 1), 1, wire.StateDone).result(2, "bad", 1, 1, 1), []chaos.Flaw{chaos.LostJob, chaos.WrongFailure}},
		"an end that is taken back": {good().add(chaos.Event{What: chaos.WhatState, Job: 1, State: wire.StateDoneWithFailures}), []chaos.Flaw{chaos.ChangedEnd}},
		"a record after the end":    {good().add(chaos.Event{What: chaos.WhatRecord, Job: 1, State: wire.StateDone, Revision: 5}).add(chaos.Event{What: chaos.WhatRecord, Job: 1, State: wire.StateRunning, Revision: 6}), []chaos.Flaw{chaos.ChangedEnd}},
		"two holders":               {good().add(lease("a", 0, 1, 0)).add(lease("b", 0, 2, 1900)), []chaos.Flaw{chaos.TwoHolders}},
		"two holders, renewed":      {good().add(lease("a", 0, 1, 0)).add(lease("a", 0, 2, 1500)).add(lease("b", 0, 3, 2100)), []chaos.Flaw{chaos.TwoHolders}},
		"an epoch twice":            {good().add(lease("a", 0, 5, 0)).add(lease("b", 0, 5, 3000)), []chaos.Flaw{chaos.EpochRepeats}},
		"a server that forgets":     {three(good()).add(lease("a", 0, 8, 0)).add(restart(100, "broker-1")).add(lease("a", 0, 1, 3000)), []chaos.Flaw{chaos.EpochRepeats}},
		"an epoch that goes back":   {good().add(lease("a", 0, 5, 0)).add(released("a", 0, 6, 1)).add(lease("b", 0, 4, 3000)), []chaos.Flaw{chaos.EpochRepeats}},
		"an old leader writes":      {good().add(lease("a", 0, 1, 0)).add(lease("b", 0, 2, 2000)).add(record(1, 5, 2, 2100)).add(record(1, 6, 1, 2200)), []chaos.Flaw{chaos.OldEpoch}},
		"a dead one of before":      {good().add(lease("a", 0, 1, 0)).add(record(1, 5, 1, 1000)).add(lease("b", 900, 1, 1100)).add(record(1, 6, 1, 1200)).add(lease("c", 5000, 9, 6000)).add(record(1, 7, 9, 6100)).add(record(1, 8, 1, 6200)), []chaos.Flaw{chaos.OldEpoch}},
		"one of a life before":      {good().add(lease("a", 0, 50, 0)).add(lease("b", 900, 1, 1100)).add(lease("b", 900, 2, 3000)).add(record(1, 7, 1, 1200)).add(record(1, 8, 50, 1300)), []chaos.Flaw{chaos.OldEpoch}},
		"a healthy leader's lease": {good().add(lease("a 1", 0, 1, 9000)).add(chaos.Event{What: chaos.WhatFault, Time: at(90), Fault: &chaos.Fault{Number: 1, Kind: chaos.KillCoordinator, Targets: []string{"a"}}}).
			add(chaos.Event{What: chaos.WhatHeal, Time: at(500), Fault: &chaos.Fault{Number: 1}}).add(lease("b 1", 0, 2, 9100)), []chaos.Flaw{chaos.TwoHolders}},
		"another one's lease": {good().add(lease("a 1", 0, 1, 0)).add(chaos.Event{What: chaos.WhatFault, Time: at(90), Fault: &chaos.Fault{Number: 1, Kind: chaos.KillCoordinator, Targets: []string{"b"}}}).
			add(lease("b 2", 0, 2, 100)), []chaos.Flaw{chaos.TwoHolders}},
		"a letter of nothing":      {good().add(letter(1, 2)), []chaos.Flaw{chaos.WrongLetter}},
		"a failure without letter": {begin().submit(1, bad1, chaos.WhatAccepted).stored(1, bad1, 2, wire.StateDoneWithFailures).add(failure(1, 1, 1, 2)), []chaos.Flaw{chaos.WrongLetter}},
		"a refusal for no reason":  {refused(good(), false), []chaos.Flaw{chaos.Refused}},
		"a process dies":           {good().add(chaos.Event{What: chaos.WhatDied, Error: "worker-1"}), []chaos.Flaw{chaos.Died}},
		"an answer to nothing":     {good().add(chaos.Event{What: chaos.WhatAccepted, Submission: 77, Job: 1}), []chaos.Flaw{chaos.BadHistory}},
	} {
		v := judge(t, c.s.end())
		var got []chaos.Flaw
		for _, f := range v.Findings {
			got = append(got, f.Flaw)
		}
		if !slices.Equal(got, c.want) || v.OK() {
			t.Errorf("%s: %v, want %v", name, v.Findings, c.want)
		}
	}
	if v := judge(t, good()); v.Flaws[chaos.BadHistory] != 1 {
		t.Errorf("a history without an end: %v", v.Findings)
	}
}

func TestFlawsAreCounted(t *testing.T) {
	s := good()
	s.result(1, "mlp", 2, 3, 4)                                // twice
	s.submit(2, doc("cnn", "mnist", 1, 4), chaos.WhatAccepted) // lost
	s.stored(3, doc("cnn", "mnist", 1, 2), 2, wire.StateDone)  // nobody's
	s.result(3, "mlp", 1, 1, 2)                                // and wrong
	s.add(chaos.Event{What: chaos.WhatFault, Fault: &chaos.Fault{Number: 1, Kind: chaos.Stop}})
	s.add(chaos.Event{What: chaos.WhatFault, Fault: &chaos.Fault{Number: 2, Kind: chaos.Stop}, Skipped: true})
	v := judge(t, s.end())
	if v.Lost() != 1 || v.Doubled() != 2 || v.Differ() != 2 || v.Total() != 1 || v.Skipped != 1 || v.Accepted != 2 || v.Jobs != 2 {
		t.Errorf("%+v", v)
	}
	for _, f := range v.Findings {
		if !strings.Contains(f.String(), string(f.Flaw)) || !strings.Contains(f.String(), fmt.Sprint(f.Job)) {
			t.Errorf("%q", f.String())
		}
	}
}

func TestFindingsAreBounded(t *testing.T) {
	s := good()
	for i := range 1000 {
		s.result(uint64(100+i), "mlp", 1, 1, 1)
	}
	if v := judge(t, s.end()); v.Flaws[chaos.ForeignResult] != 1000 || len(v.Findings) > 200 {
		t.Errorf("%d flaws, %d findings", v.Flaws[chaos.ForeignResult], len(v.Findings))
	}
}

func TestPausesWhileWorkIsThere(t *testing.T) {
	s := begin()
	job := func(number uint64, from int, results ...int) {
		d := doc("mlp", "mnist", 1, len(results))
		s.submit(number, d, chaos.WhatAccepted)
		s.add(chaos.Event{What: chaos.WhatStored, Job: number, Doc: d, State: wire.StateDone, TaskSize: 1, Written: at(from)})
		for i, ms := range results {
			s.result(number, "mlp", i+1, i+1, i+1)
			s.events[len(s.events)-1].Written = at(ms)
		}
	}
	fault := func(number int, kind chaos.Kind, from, to int) {
		s.add(chaos.Event{What: chaos.WhatFault, Time: at(from), Fault: &chaos.Fault{Number: number, Kind: kind}})
		s.add(chaos.Event{What: chaos.WhatHeal, Time: at(to), Fault: &chaos.Fault{Number: number, Kind: kind}})
	}
	fault(1, chaos.KillWorker, 350, 400)
	fault(2, chaos.Stop, 30_000, 31_000)
	job(1, 0, 100, 200, 1000)
	job(2, 150, 300, 1100)
	job(3, 20_000, 20_500) // nothing was there to do before
	v := judge(t, s.end())
	if !v.OK() || len(v.Pauses) < 3 || v.Pauses[0] != (chaos.Pause{At: 300 * time.Millisecond, Long: 700 * time.Millisecond}) || v.Pauses[1].Long > v.Pauses[0].Long {
		t.Errorf("longest pauses %v, findings %v", v.Pauses, v.Findings)
	}
	if got := v.After[chaos.KillWorker]; !slices.Equal(got, []time.Duration{700 * time.Millisecond}) {
		t.Errorf("after the killed worker: %v", got)
	}
	if got := v.After[chaos.Stop]; !slices.Equal(got, []time.Duration{0}) {
		t.Errorf("after the frozen process: %v", got)
	}
}

func TestSumBatchTellsEveryBitApart(t *testing.T) {
	sums := map[string]string{}
	for what, s := range map[string]string{
		"": chaos.SumBatch([]int32{1, 2}, []float32{0.5, 0.25}, []int32{1, 2}), "class": chaos.SumBatch([]int32{1, 3}, []float32{0.5, 0.25}, []int32{1, 2}),
		"bit": chaos.SumBatch([]int32{1, 2}, []float32{0.5, 0.25000003}, []int32{1, 2}), "label": chaos.SumBatch([]int32{1, 2}, []float32{0.5, 0.25}, []int32{1, 1}),
		"no labels": chaos.SumBatch([]int32{1, 2}, []float32{0.5, 0.25}, nil), "moved": chaos.SumBatch([]int32{1}, []float32{0.5, 0.25}, []int32{2, 1, 2}),
	} {
		if before, twice := sums[s]; twice {
			t.Errorf("%q and %q have the same sum", before, what)
		}
		sums[s] = what
	}
}
