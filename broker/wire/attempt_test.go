package wire_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"idunno/broker/wire"
)

func TestAttemptsAreCountedApart(t *testing.T) {
	at := time.Now()
	crash := wire.Attempt{Schema: wire.Schema, Cause: wire.CauseCrash, Node: "a", Incarnation: 1, Time: at}
	again := crash
	again.Time = at.Add(time.Second) // told by two leaders
	other := crash
	other.Incarnation = 2
	failed := wire.Attempt{Schema: wire.Schema, Cause: wire.CauseTimeout, Node: "a", Incarnation: 2, Delivery: 3, Time: at, Error: "too slow"}
	tried := wire.Distinct([]wire.Attempt{crash, again, other, failed, failed})
	if len(tried) != 3 || wire.Crashes(tried) != 2 || wire.Failures(tried) != 1 {
		t.Fatalf("%d crashes, %d failures of %+v", wire.Crashes(tried), wire.Failures(tried), tried)
	}
	for _, a := range tried {
		got, err := wire.ParseAttempt(a.Marshal())
		if err != nil || got.Cause != a.Cause || got.Error != a.Error {
			t.Errorf("%+v, %v", got, err)
		}
	}
	for _, bad := range []string{"", "{}", `{"v":1,"cause":"mood","node":"a"}`, `{"v":1,"cause":"error","node":"a b"}`, `{"v":2,"cause":"error","node":"a"}`,
		`{"v":1,"cause":"error","node":"a","error":"` + strings.Repeat("x", 600) + `"}`} {
		if _, err := wire.ParseAttempt([]byte(bad)); err == nil {
			t.Errorf("accepted %.60s", bad)
		}
	}
	if s := wire.Shorten(strings.Repeat("é", 600)); len(s) > wire.MaxTryError+len("…") || strings.ContainsRune(s, '\uFFFD') {
		t.Errorf("shortened to %d bytes", len(s))
	}
}

func TestRetriedTasksKeepTheirBatches(t *testing.T) {
	ranges := wire.RangesOf([]int{2, 3, 3, 4, 9})
	if len(ranges) != 2 || ranges.Len() != 4 {
		t.Fatalf("%v", ranges)
	}
	var got []int
	for n := 1; n <= 5; n++ {
		got = append(got, ranges.At(n))
	}
	if !slices.Equal(got, []int{2, 3, 4, 9, 0}) {
		t.Fatalf("%v", got)
	}
	rec := &wire.JobRecord{Doc: wire.JobDoc{Model: "m", From: 11, To: 35}, TaskSize: 3} // nine tasks, the last of one batch
	if rec.Tasks() != 9 || rec.Batches() != 25 {
		t.Fatalf("%d tasks, %d batches", rec.Tasks(), rec.Batches())
	}
	rec.Retry = &wire.Retry{Of: 1, Tasks: ranges}
	if rec.Tasks() != 4 || rec.Batches() != 10 {
		t.Fatalf("%d tasks, %d batches", rec.Tasks(), rec.Batches())
	}
	for n, want := range [][2]int{{14, 16}, {17, 19}, {20, 22}, {35, 35}} {
		if from, to := rec.Span(n + 1); from != want[0] || to != want[1] {
			t.Errorf("task %d: batches %d to %d, want %v", n+1, from, to, want)
		}
	}
}

func TestDeadLetterTellsWhatWasTried(t *testing.T) {
	at := time.Now().UTC()
	rec := &wire.JobRecord{Job: 7, Doc: wire.JobDoc{Model: "m", Data: "d", From: 1, To: 9}, ModelDigest: "md", DataDigest: "dd", TaskSize: 3}
	tried := []wire.Attempt{
		{Schema: wire.Schema, Cause: wire.CauseCrash, Node: "a", Time: at},
		{Schema: wire.Schema, Cause: wire.CauseError, Node: "b", Time: at, Error: "one"},
		{Schema: wire.Schema, Cause: wire.CauseError, Node: "b", Time: at, Error: "two"},
	}
	r := &wire.Result{Schema: wire.Schema, Job: 7, Task: 2, Node: "b", Error: "two", Tried: tried}
	l, err := wire.ParseDeadLetter(wire.NewDeadLetter(rec, &wire.Task{Task: 2, From: 4, To: 6}, r, r.Error, at).Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if l.Attempts != 3 || l.Failures != 2 || l.Crashes != 1 || !slices.Equal(l.Nodes, []string{"a", "b"}) || l.From != 4 || l.To != 6 ||
		l.ModelDigest != "md" || l.DataDigest != "dd" || l.Error != "two" || !l.Time.Equal(at) || len(l.Tried) != 3 {
		t.Fatalf("%+v", l)
	}
	for _, bad := range []string{"", "{}", `{"schema_version":1,"job":1}`, `{"schema_version":1,"job":1,"task":-1}`} {
		if _, err := wire.ParseDeadLetter([]byte(bad)); err == nil {
			t.Errorf("accepted %s", bad)
		}
	}
	for _, bad := range []string{"x", `{"task":3}`, `{"job":1,"limit":-1}`} {
		if _, err := wire.ParseDLQRequest([]byte(bad)); err == nil {
			t.Errorf("accepted %s", bad)
		}
	}
}
