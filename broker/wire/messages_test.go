package wire_test

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"idunno/broker/wire"
)

func someResult() *wire.Result {
	return &wire.Result{Schema: wire.Schema, Job: 3, Task: 2, From: 5, To: 6, Node: "w1", Attempt: 1,
		Started: time.Unix(1700000000, 5).UTC(),
		Batches: []wire.BatchResult{
			{Batch: 5, Images: 2, Labeled: true, Correct: 1, LossSum: 0.25, Nanos: 1000, Class: []int32{7, -1},
				Prob: []float32{0.5, float32(math.NaN())}, Labels: []int32{7, math.MinInt32}},
			{Batch: 6, Class: []int32{}},
		}}
}

func TestResultKeepsEveryBit(t *testing.T) {
	want := someResult()
	got, err := wire.ParseResult(want.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	// A NaN equals nothing, so its bits are compared.
	if a, b := math.Float32bits(got.Batches[0].Prob[1]), math.Float32bits(want.Batches[0].Prob[1]); a != b {
		t.Errorf("bits %x became %x", b, a)
	}
	got.Batches[0].Prob[1], want.Batches[0].Prob[1] = 0, 0
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v became %+v", want, got)
	}
	if !bytes.Contains(want.Marshal(), []byte("}\n\a\x00\x00\x00\xff\xff\xff\xff")) {
		t.Errorf("classes are not packed as documented: %s", want.Marshal())
	}
}

// Classes and labels that fit take a byte each.
func TestNarrowResult(t *testing.T) {
	want := someResult()
	b := &want.Batches[0]
	b.Class, b.Prob, b.Labels = []int32{7, 255}, []float32{0.5, 0.25}, []int32{0, 9}
	p := want.Marshal()
	if !bytes.HasSuffix(p, []byte("}\n\a\xff\x00\x00\x00\x3f\x00\x00\x80\x3e\x00\t")) {
		t.Errorf("values are not packed as documented: %q", p)
	}
	got, err := wire.ParseResult(p)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v became %+v", want, got)
	}
	b.Labels[1] = 256
	if got, err := wire.ParseResult(want.Marshal()); err != nil || got.Batches[0].Labels[1] != 256 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestBadResultsAreRefused(t *testing.T) {
	for what, change := range map[string]func(*wire.Result){
		"another version":          func(r *wire.Result) { r.Schema = 2 },
		"no job":                   func(r *wire.Result) { r.Job = 0 },
		"no task":                  func(r *wire.Result) { r.Task = 0 },
		"huge task":                func(r *wire.Result) { r.Task = wire.MaxTasks + 1 },
		"from zero":                func(r *wire.Result) { r.From, r.To = 0, 1 },
		"range backwards":          func(r *wire.Result) { r.From, r.To = 6, 5 },
		"a batch missing":          func(r *wire.Result) { r.Batches = r.Batches[:1] },
		"a huge range":             func(r *wire.Result) { r.From, r.To = 1, math.MaxInt },
		"batches out of order":     func(r *wire.Result) { r.Batches[0], r.Batches[1] = r.Batches[1], r.Batches[0] },
		"negative images":          func(r *wire.Result) { r.Batches[1].Images = -1 },
		"a class missing":          func(r *wire.Result) { r.Batches[0].Class = r.Batches[0].Class[:1] },
		"a probability missing":    func(r *wire.Result) { r.Batches[0].Prob = r.Batches[0].Prob[:1] },
		"a label missing":          func(r *wire.Result) { r.Batches[0].Labels = nil },
		"labels without a label":   func(r *wire.Result) { r.Batches[0].Labeled = false },
		"more correct than images": func(r *wire.Result) { r.Batches[0].Correct = 3 },
		"negative correct":         func(r *wire.Result) { r.Batches[0].Correct = -1 },
		"negative time":            func(r *wire.Result) { r.Batches[0].Nanos = -1 },
		"batches beside an error":  func(r *wire.Result) { r.Error = "failed" },
		"batches beside a model":   func(r *wire.Result) { r.Trained = &wire.Trained{} },
	} {
		r := someResult()
		change(r)
		if _, err := wire.ParseResult(r.Marshal()); err == nil || !strings.HasPrefix(err.Error(), "decode result: ") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, p := range []string{"", "null", "[]", `{"v":1,"job":-1}`, `{"v":1,"job":1,"task":1.5}`,
		`{"v":1,"job":1,"task":1,"from":1,"to":1,"node":"n","batches":[{"batch":1,"images":1}]}`,
		`{"v":1,"job":1,"task":1,"from":1,"to":1,"node":"n","batches":[{"batch":1,"images":9223372036854775807}]}` + "\nabcd",
		`{"v":1,"job":1,"task":1,"from":1,"to":1,"node":"n","batches":[{"batch":1,"images":1,"probs":true}]}` + "\nabcd",
		`{"v":1,"job":1,"task":1,"from":1,"to":1,"node":"n","batches":[{"batch":1,"images":1}]}` + "\nabcde",
		`{"v":1,"job":1,"task":1,"node":"n","error":"x"}` + "\nabcd",
		`{"v":1,"job":1,"task":1,"from":1,"to":1,"node":"n","batches":[{"batch":1,"loss_sum":1e999}]}`} {
		if _, err := wire.ParseResult([]byte(p)); err == nil {
			t.Errorf("accepted %s", p)
		}
	}
}

func FuzzParseResult(f *testing.F) {
	f.Add(someResult().Marshal())
	f.Add((&wire.Result{Schema: 1, Job: 1, Task: 1, Node: "n", Error: "no such model"}).Marshal())
	f.Add((&wire.Result{Schema: 1, Job: 1, Task: 1, Node: "n", Trained: &wire.Trained{Model: "mlp", Epochs: []wire.EpochStats{{Epoch: 1}}}}).Marshal())
	f.Add([]byte(`{"v":1,"job":1,"task":1,"from":1,"to":1,"node":"n","batches":[{"batch":1,"images":1,"labeled":true}]}` + "\nabcdabcd"))
	f.Add([]byte(`{"v":1,"job":1,"task":1,"node":"n","error":"x","started":"0000-01-01T00:00:00+23:59"}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := wire.ParseResult(p)
		if err != nil {
			return
		}
		again, err := wire.ParseResult(r.Marshal())
		if err != nil || !bytes.Equal(again.Marshal(), r.Marshal()) {
			t.Fatalf("%q became %+v, %v", p, again, err)
		}
		if r.Error == "" && r.Trained == nil && len(r.Batches) != r.To-r.From+1 {
			t.Fatalf("accepted %d batches for %d to %d", len(r.Batches), r.From, r.To)
		}
	})
}

func someTask() *wire.Task {
	return &wire.Task{Schema: wire.Schema, Job: 9, Task: 4, Model: "mlp", ModelDigest: "m", DataDigest: "d", From: 1, To: 8, Check: true}
}

func TestBadTasksAreRefused(t *testing.T) {
	if got, err := wire.ParseTask(someTask().Marshal()); err != nil || *got != *someTask() {
		t.Fatalf("a good task became %+v, %v", got, err)
	}
	training := &wire.Task{Schema: wire.Schema, Job: 9, Task: 1, Train: "mlp", Epochs: 3, Seed: 1, DataDigest: "d"}
	if got, err := wire.ParseTask(training.Marshal()); err != nil || *got != *training {
		t.Fatalf("a good training task became %+v, %v", got, err)
	}
	for what, change := range map[string]func(*wire.Task){
		"another version":    func(k *wire.Task) { k.Schema = 0 },
		"no job":             func(k *wire.Task) { k.Job = 0 },
		"no task":            func(k *wire.Task) { k.Task = 0 },
		"huge task":          func(k *wire.Task) { k.Task = wire.MaxTasks + 1 },
		"from zero":          func(k *wire.Task) { k.From = 0 },
		"range backwards":    func(k *wire.Task) { k.From = 9 },
		"beyond all batches": func(k *wire.Task) { k.To = wire.MaxBatch + 1 },
		"no epochs":          func(k *wire.Task) { k.Train = "mlp" },
		"too many epochs":    func(k *wire.Task) { k.Train, k.Epochs = "mlp", wire.MaxEpochs+1 },
	} {
		k := someTask()
		change(k)
		if _, err := wire.ParseTask(k.Marshal()); err == nil || !strings.HasPrefix(err.Error(), "decode task: ") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzParseTask(f *testing.F) {
	f.Add(someTask().Marshal())
	f.Add((&wire.Task{Schema: 1, Job: 1, Task: 1, Train: "cnn", Epochs: 2, Seed: math.MaxUint64}).Marshal())
	f.Add([]byte(`{"v":1,"job":1,"task":1,"from":1,"to":1e3}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		k, err := wire.ParseTask(p)
		if err != nil {
			return
		}
		again, err := wire.ParseTask(k.Marshal())
		if err != nil || *again != *k {
			t.Fatalf("%q became %+v, %v", p, again, err)
		}
	})
}

func FuzzParseHeartbeat(f *testing.F) {
	f.Add((&wire.Heartbeat{Schema: 1, Node: "w1", Role: wire.RoleWorker, Incarnation: 1700000000000000000, Version: "v",
		Address: "127.0.0.1", PID: 12, Cores: 2, Slots: 2, Batches: 5, Images: 500,
		InFlight: []wire.InFlight{{Job: 1, Task: 2, Reply: "reply.to"}}}).Marshal())
	f.Add((&wire.Heartbeat{Schema: 1, Node: "c", Role: wire.RoleCoordinator, Leader: true, Draining: true, Leaving: true}).Marshal())
	f.Add([]byte(`{"v":1,"node":"a.b"}`))
	f.Add([]byte(`{"v":1,"node":"a","in_flight":null}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		h, err := wire.ParseHeartbeat(p)
		if err != nil {
			return
		}
		again, err := wire.ParseHeartbeat(h.Marshal())
		if err != nil || !bytes.Equal(again.Marshal(), h.Marshal()) {
			t.Fatalf("%q became %+v, %v", p, again, err)
		}
		if !wire.ValidNodeName(h.Node) {
			t.Fatalf("accepted the name %q", h.Node)
		}
	})
}

func TestBadHeartbeatsAreRefused(t *testing.T) {
	for _, p := range []string{"", "null", `{"v":2,"node":"a"}`, `{"v":1}`, `{"v":1,"node":"a b"}`, `{"v":1,"node":"a.b"}`,
		`{"v":1,"node":">"}`, `{"v":1,"node":"` + strings.Repeat("n", 65) + `"}`, `{"v":1,"node":"a","in_flight":[{"job":-1}]}`} {
		if _, err := wire.ParseHeartbeat([]byte(p)); err == nil || len(err.Error()) > 200 {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func TestJobRequests(t *testing.T) {
	for body, want := range map[string]wire.JobRequest{"": {}, "{}": {}, `{"job":12}`: {Job: 12}, `{"before":9,"limit":5}`: {Before: 9, Limit: 5}} {
		if got, err := wire.ParseJobRequest([]byte(body)); err != nil || got != want {
			t.Errorf("%s: %+v, %v", body, got, err)
		}
	}
	for _, body := range []string{"12", "[]", `{"job":-1}`, `{"job":"1"}`, `{"job":1.5}`, "{", strings.Repeat(" ", wire.MaxJobDoc+1)} {
		_, err := wire.ParseJobRequest([]byte(body))
		var refusal *wire.Error
		if !errors.As(err, &refusal) || refusal.Code != wire.CodeBadRequest || !strings.Contains(refusal.Message, "allowed") {
			t.Errorf("%.20q: %v", body, err)
		}
	}
}

func TestJobRecordPlansAsManyTasksAsItsBatchesNeed(t *testing.T) {
	for _, c := range []struct{ from, to, size, want int }{{1, 50, 8, 7}, {1, 48, 8, 6}, {51, 51, 8, 1}, {1, 5, 0, 0}, {1, wire.MaxBatch, 1000, 100_000}} {
		r := wire.JobRecord{Doc: wire.JobDoc{Model: "m", From: c.from, To: c.to}, TaskSize: c.size}
		if got := r.Tasks(); got != c.want {
			t.Errorf("%d to %d by %d: %d tasks, want %d", c.from, c.to, c.size, got, c.want)
		}
	}
	training := wire.JobRecord{Doc: wire.JobDoc{Train: "mlp"}}
	if training.Tasks() != 1 || training.Batches() != 0 {
		t.Errorf("training: %d tasks, %d batches", training.Tasks(), training.Batches())
	}
}
