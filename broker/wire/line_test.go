package wire

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

// The usual form of a message is what encoding/json makes of it, and is read as
// encoding/json reads it.
func TestLinesAreJSON(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	some := func(list ...string) string { return list[random.IntN(len(list))] }
	number := func() int { return []int{0, 1, 7, 1 << 20, math.MaxInt32, -3}[random.IntN(6)] }
	names := []string{"", "w1", "a<b", `q"q`, "ä", "\n", "$JS.ACK.TASKS.job-1-x.1.2.3.4.5"}
	for range 2000 {
		task := &Task{Schema: Schema, Job: random.Uint64N(50), Task: number(), Model: some(names...), ModelDigest: some(names...), DataDigest: some(names...),
			From: number(), To: number(), Outputs: some("", "", OutputsProbs), BatchSize: number(), Check: random.IntN(2) == 0, Train: some("", "", "mlp")}
		sameLine(t, task.Marshal(), task, new(Task), func(p []byte, v any) error { return v.(*Task).readLine(p) })
		r := &Result{Schema: Schema, Job: random.Uint64N(1 << 62), Task: number(), From: number(), To: number(), Node: some(names...), Attempt: number(),
			Started: time.Unix(random.Int64N(1<<33), random.Int64N(3)*1000).In([]*time.Location{time.UTC, time.FixedZone("x", 3600)}[random.IntN(2)]), Error: some("", "", "", "no")}
		for range random.IntN(4) {
			b := BatchResult{Batch: number(), Images: number(), Labeled: random.IntN(2) == 0, Correct: number(), LossSum: []float64{0, 1, 1e-9, 123.456, 1e30, -2.5}[random.IntN(6)],
				Nanos: random.Int64(), Probs: random.IntN(2) == 0, Narrow: random.IntN(2) == 0}
			if random.IntN(9) == 0 {
				b.Output = &Output{Unscored: true}
			}
			r.Batches = append(r.Batches, b)
		}
		sameLine(t, r.line(0), r, new(Result), func(p []byte, v any) error { return v.(*Result).readLine(p) })
		h := &Heartbeat{Schema: Schema, Node: "w1", Role: RoleWorker, Conn: some(names...), Slots: number(), Batches: int64(number()), Images: int64(number())}
		for range random.IntN(3) {
			h.InFlight = append(h.InFlight, InFlight{Job: random.Uint64N(50), Task: number(), Reply: some(names...), Started: random.IntN(2) == 0, Copy: random.IntN(2) == 0})
		}
		sameLine(t, h.Marshal(), h, new(Heartbeat), json.Unmarshal)
	}
}

// sameLine compares what was made of a value with what encoding/json makes of it, and
// how both read it, whole and with a byte changed.
func sameLine(t *testing.T, p []byte, v, into any, read func([]byte, any) error) {
	t.Helper()
	want, err := json.Marshal(v)
	if err != nil || string(p) != string(want) {
		t.Fatalf("%s\nwant %s, %v", p, want, err)
	}
	for i := range 4 {
		if i > 0 {
			p[rand.IntN(len(p))] = "0123456789\"{}[],:.-eE \\tfx"[rand.IntN(26)]
		}
		other := reflect.New(reflect.TypeOf(v).Elem()).Interface()
		err, wanted := read(p, into), json.Unmarshal(p, other)
		if (err == nil) != (wanted == nil) || err == nil && !reflect.DeepEqual(into, other) {
			t.Fatalf("%s\nread as %+v, %v\nwant    %+v, %v", p, into, err, other, wanted)
		}
		if err != nil {
			return
		}
		into = reflect.New(reflect.TypeOf(v).Elem()).Interface()
	}
}
