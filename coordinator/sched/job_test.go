package sched

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"testing/quick"
	"time"

	"idunno/broker/wire"
)

func record(from, to, size int) *wire.JobRecord {
	return &wire.JobRecord{Schema: wire.Schema, Job: 9, Doc: wire.JobDoc{Model: "m", Data: "d", From: from, To: to}, TaskSize: size, State: wire.StateRunning}
}

func resultOf(t *wire.Task, node string, rng *rand.Rand) *wire.Result {
	r := &wire.Result{Schema: wire.Schema, Job: t.Job, Task: t.Task, From: t.From, To: t.To, Node: node, Started: time.Unix(1000, 0)}
	for n := t.From; n <= t.To; n++ {
		r.Batches = append(r.Batches, wire.BatchResult{Batch: n, Images: 10, Labeled: true, Correct: rng.IntN(11),
			LossSum: float64(rng.IntN(100)), Nanos: rng.Int64N(int64(time.Second))})
	}
	return r
}

// The tasks of a job cover its batches once, in order, whatever its size.
func TestPlanCoversEveryBatchOnce(t *testing.T) {
	cover := func(from, length uint16, size uint8) bool {
		rec := record(int(from)+1, int(from)+1+int(length%2000), int(size%40)+1)
		next := rec.Doc.From
		for n := 1; n <= rec.Tasks(); n++ {
			task := Task(rec, n)
			if task.From != next || task.To < task.From || task.To-task.From+1 > rec.TaskSize {
				return false
			}
			next = task.To + 1
		}
		return next == rec.Doc.To+1
	}
	if err := quick.Check(cover, nil); err != nil {
		t.Fatal(err)
	}
}

func TestTaskSize(t *testing.T) {
	of := func(d time.Duration, images float64) Experience { return Experience{Time: d, Images: images} }
	for _, c := range []struct {
		batches int
		known   Experience
		round   time.Duration
		slots   int
		want    int
	}{
		{1000, Experience{}, 0, 2, 1},
		{1000, of(30*time.Millisecond, 100), 0, 2, 3},
		{1000, of(time.Second, 100), 0, 2, 1},
		{10_000, of(time.Microsecond, 100), 0, 2, maxTaskSize},
		{1000, of(time.Microsecond, 100), 0, 2, 125},
		{1000, of(time.Microsecond, 16_000), 0, 2, 4},
		{1000, of(time.Microsecond, 1e9), 0, 2, 1},
		{16, of(time.Millisecond, 100), 0, 2, 2},
		{1, of(time.Millisecond, 100), 0, 0, 1},
		{50, of(time.Millisecond, 100), 0, 1000, 1},
		// Beside a job of 4 ms a batch two slots do 4,000 batches of each in ten seconds.
		{100_000, of(time.Millisecond, 100), 5 * time.Millisecond, 2, 20},
		{100_000, of(4*time.Millisecond, 100), 5 * time.Millisecond, 2, 20},
		{100_000, of(4*time.Millisecond, 100), 5 * time.Millisecond, 20, 25}, // 100 ms
		{100_000, of(time.Millisecond, 100), 50 * time.Millisecond, 2, 15},   // 15 ms
		{100_000, of(50*time.Millisecond, 100), 5 * time.Second, 2, 1},
		// Some nodes are slower: 100 ms there, as long as the others have 15 ms.
		{1000, Experience{Time: 2 * time.Millisecond, Images: 100, Slowest: 8 * time.Millisecond}, 0, 2, 12},
		{1000, Experience{Time: 2 * time.Millisecond, Images: 100, Slowest: time.Second}, 0, 2, 7},
		{1000, Experience{Time: 30 * time.Millisecond, Images: 100, Slowest: time.Second}, 0, 2, 1},
		{1000, Experience{Time: 2 * time.Millisecond, Images: 100, Slowest: time.Millisecond}, 0, 2, 50},
	} {
		if got := TaskSize(c.batches, c.known, c.round, c.slots); got != c.want {
			t.Errorf("TaskSize(%d, %v, %v, %d) = %d, want %d", c.batches, c.known, c.round, c.slots, got, c.want)
		}
	}
}

// What a job knows depends on the set of results alone: not on their order, nor
// on how often they come, nor on results that belong elsewhere.
func TestFoldIsAFunctionOfTheSet(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	rec := record(5, 1204, 7)
	var results []*wire.Result
	for n := 1; n <= rec.Tasks(); n++ {
		results = append(results, resultOf(Task(rec, n), fmt.Sprintf("node%d", n%3), rng))
	}
	var want *wire.JobStats
	for round := range 5 {
		j := NewJob(rec, round > 0)
		var news int
		for range 2 {
			rng.Shuffle(len(results), func(a, b int) { results[a], results[b] = results[b], results[a] })
			for _, r := range results {
				if j.Fold(r, time.Unix(2000, 0)) {
					news++
				}
				wrong := *r
				wrong.To++ // too late: the task has its result
				other := *r
				other.Job++
				if j.Fold(&wrong, time.Unix(2000, 0)) || j.Fold(&other, time.Unix(2000, 0)) {
					t.Fatal("a result of another plan was folded")
				}
			}
		}
		if news != rec.Tasks() || !j.Finished() {
			t.Fatalf("%d of %d results were new", news, rec.Tasks())
		}
		got := j.Stats(time.Unix(5000, 0))
		if want == nil {
			want = got
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("order matters:\n%+v\n%+v", got, want)
		}
	}
	if want.Batches != 1200 || want.Images != 12000 {
		t.Fatalf("%d batches, %d images", want.Batches, want.Images)
	}
}

// The slowest node counts by its usual batch, and not by the first ones of one that
// has just come.
func TestSlowestNode(t *testing.T) {
	j := NewJob(record(1, 41, 1), false)
	if j.Slowest() != 0 {
		t.Errorf("%v without results", j.Slowest())
	}
	for n := 1; n <= 41; n++ {
		task := Task(j.Rec, n)
		node, took := "fast", 2*time.Millisecond
		switch {
		case n > 40:
			node, took = "new", time.Minute
		case n == 40:
			node, took = "slow", time.Second
		case n > 20:
			node, took = "slow", 8*time.Millisecond
		}
		j.Fold(&wire.Result{Schema: wire.Schema, Job: task.Job, Task: n, From: task.From, To: task.To, Node: node,
			Batches: []wire.BatchResult{{Batch: task.From, Images: 10, Nanos: int64(took)}}}, time.Unix(2000, 0))
	}
	if !j.Finished() {
		t.Fatalf("%d tasks without a result", j.Outstanding())
	}
	for _, got := range []time.Duration{j.Slowest(), SlowestOf(j.Stats(time.Unix(2000, 0)))} {
		if got.Round(100*time.Microsecond) != 8*time.Millisecond {
			t.Errorf("the slowest node takes %v", got)
		}
	}
}

// Next publishes every task once, keeps the window, and goes on as results come.
func TestNextKeepsTheWindow(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	rec := record(1, 3*Window+17, 1)
	j := NewJob(rec, false)
	published := make(map[int]bool)
	var waiting []*wire.Task
	for !j.Finished() {
		for _, task := range j.Next(Window) {
			if published[task.Task] || task.Check {
				t.Fatalf("task %d published twice, or marked to be checked", task.Task)
			}
			published[task.Task] = true
			waiting = append(waiting, task)
		}
		if n := j.Outstanding(); n > Window || n != len(waiting) {
			t.Fatalf("%d outstanding, %d waiting, window %d", n, len(waiting), Window)
		}
		at := rng.IntN(len(waiting))
		j.Fold(resultOf(waiting[at], "n", rng), time.Unix(2000, 0))
		waiting[at] = waiting[len(waiting)-1]
		waiting = waiting[:len(waiting)-1]
	}
	if len(published) != rec.Tasks() || j.Outstanding() != 0 {
		t.Fatalf("%d of %d published, %d outstanding", len(published), rec.Tasks(), j.Outstanding())
	}
}

func TestAgainSkipsWhatIsDone(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	rec := record(1, 10, 1)
	j := NewJob(rec, false)
	tasks := j.Next(Window)
	for _, task := range tasks[:4] {
		j.Fold(resultOf(task, "n", rng), time.Unix(2000, 0))
	}
	j.Again(j.Unfinished()...)
	j.Fold(resultOf(tasks[4], "n", rng), time.Unix(2000, 0))
	again := j.Next(Window)
	if len(again) != 5 || again[0].Task != 6 || !again[0].Check {
		t.Fatalf("%d tasks again, first %+v", len(again), again[0])
	}
}

func TestFailuresDecideTheOutcome(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	rec := record(1, 4, 2)
	j := NewJob(rec, false)
	j.Fold(resultOf(Task(rec, 1), "n", rng), time.Unix(2000, 0))
	bad := resultOf(Task(rec, 2), "n", rng)
	bad.Batches, bad.Error = nil, "batch 3: no such input"
	j.Fold(bad, time.Unix(2000, 0))
	state, reason := j.Outcome()
	if s := j.Stats(time.Unix(3000, 0)); state != wire.StateDoneWithFailures || reason != bad.Error || s.Failed != 2 || s.Batches != 2 {
		t.Fatalf("%s, %q, %+v", state, reason, s)
	}
}

// Merged tallies equal the tally of everything, and survive being stored.
func TestTalliesMergeExactly(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	all, parts := NewTally(), []*Tally{NewTally(), NewTally(), NewTally()}
	var times []float64
	for range 5000 {
		b := &wire.BatchResult{Images: 3, Labeled: true, Correct: rng.IntN(4), LossSum: float64(rng.IntN(9)), Nanos: rng.Int64N(int64(time.Minute))}
		times = append(times, float64(b.Nanos)/1e6)
		all.Batch(b)
		parts[rng.IntN(3)].Batch(b)
	}
	merged := NewTally()
	for _, p := range parts {
		raw, err := p.Raw()
		if err != nil {
			t.Fatal(err)
		}
		back, err := restoreTally(raw)
		if err != nil {
			t.Fatal(err)
		}
		merged.Merge(back)
	}
	got, want := merged.Stats(), all.Stats()
	if got != want {
		t.Fatalf("merged %+v\nwhole  %+v", got, want)
	}
	var sum, squares float64
	for _, x := range times {
		sum += x
	}
	mean := sum / float64(len(times))
	for _, x := range times {
		squares += (x - mean) * (x - mean)
	}
	sd := math.Sqrt(squares / float64(len(times)))
	if math.Abs(got.MeanMs/mean-1) > 1e-9 || math.Abs(got.SdMs/sd-1) > 1e-9 || math.Abs(got.VarianceMs2/(sd*sd)-1) > 1e-9 {
		t.Fatalf("mean %v sd %v variance %v; direct %v %v", got.MeanMs, got.SdMs, got.VarianceMs2, mean, sd)
	}
	if math.Abs(got.P50Ms/30000-1) > 0.05 || math.Abs(got.P99Ms/59400-1) > 0.02 {
		t.Fatalf("percentiles of a uniform minute: p50 %v, p99 %v", got.P50Ms, got.P99Ms)
	}
}

func TestEmptyTally(t *testing.T) {
	if got := NewTally().Stats(); got != (wire.Stats{}) {
		t.Fatalf("statistics of nothing: %+v", got)
	}
}

func TestRateMovesWithTheWindow(t *testing.T) {
	var w window
	start := time.Unix(1_000_000, 0)
	for i := range 300 {
		w.add(start.Add(time.Duration(i)*100*time.Millisecond), 1, 50)
	}
	now := start.Add(299 * 100 * time.Millisecond)
	if b, i := w.rate(now, start); b != 10 || i != 500 {
		t.Fatalf("%v batches/s, %v images/s; want 10, 500", b, i)
	}
	if b, _ := w.rate(now.Add(5*time.Second), start); b != 5 {
		t.Fatalf("%v batches/s five seconds after the last one, want 5", b)
	}
	if b, _ := w.rate(now.Add(20*time.Second), start); b != 0 {
		t.Fatalf("%v batches/s long after", b)
	}
}

func TestBitsetCountsBelow(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	const n = 1000
	b, set := newBitset(n+1), make(map[int]bool)
	for range 3 * n {
		x := 1 + rng.IntN(n)
		b.set(x)
		set[x] = true
		y, want := 1+rng.IntN(n), 0
		for m := 1; m < y; m++ {
			if set[m] {
				want++
			}
		}
		if got := b.below(y); got != want || b.has(y) != set[y] {
			t.Fatalf("below(%d) = %d, want %d", y, got, want)
		}
	}
}

// Dead letters are handed out in batches, again when they could not be stored, and
// all of them by whoever leads next.
func TestDeadLettersAreHandedOutUntilStored(t *testing.T) {
	rec := record(1, 50, 5)
	j := NewJob(rec, false)
	for n := 1; n <= rec.Tasks(); n++ {
		j.Fold(&wire.Result{Job: rec.Job, Task: n, Error: "bad", Tried: []wire.Attempt{{Cause: wire.CauseError, Node: "a"}}}, time.Unix(2000, 0))
	}
	if !j.Finished() || j.AllFiled() {
		t.Fatal("a job with dead letters to store may end")
	}
	first := j.Letters(4)
	if len(first) != 4 || first[3].Task != 4 || first[3].From != 16 || first[3].To != 20 || j.Letters(4) != nil {
		t.Fatalf("%d letters", len(first))
	}
	j.Filed(first[2:])
	if second := j.Letters(4); len(second) != 4 || second[0].Task != 3 || second[3].Task != 6 {
		t.Fatalf("%+v", second)
	}
	j.Resume() // the one who had them is gone
	if all := j.Letters(100); len(all) != 8 || len(j.Unfiled()) != 8 {
		t.Fatalf("%d letters left, want 8", len(all))
	}
	j.Filed(nil)
	if !j.AllFiled() || len(j.Letters(4)) != 0 {
		t.Fatal("letters are left")
	}
}

// The tasks of a retry are those that failed, whatever their number and size.
func TestRetryCoversWhatFailed(t *testing.T) {
	cover := func(from, length uint16, size uint8, failed [7]uint16) bool {
		rec := record(int(from)+1, int(from)+1+int(length%2000), int(size%40)+1)
		numbers := []int{}
		for _, f := range failed {
			numbers = append(numbers, int(f)%rec.Tasks()+1)
		}
		slices.Sort(numbers)
		numbers = slices.Compact(numbers)
		again := *rec
		again.Job, again.Retry = 10, &wire.Retry{Of: 9, Tasks: wire.RangesOf(numbers)}
		batches := 0
		for i, n := range numbers {
			was, is := Task(rec, n), Task(&again, i+1)
			batches += is.To - is.From + 1
			if is.From != was.From || is.To != was.To || is.Task != i+1 || is.Job != 10 {
				return false
			}
		}
		return again.Tasks() == len(numbers) && again.Batches() == batches
	}
	if err := quick.Check(cover, nil); err != nil {
		t.Fatal(err)
	}
}
