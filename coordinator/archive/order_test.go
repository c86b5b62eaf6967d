package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"idunno/coordinator/archive"
)

func message(task int) *archive.Message {
	return &archive.Message{Task: task, Data: bytes.Repeat([]byte{byte(task)}, 100)}
}

// Whatever the order in which results come, and however few have room to wait, they
// come out in the order of their tasks, each once.
func TestOrder(t *testing.T) {
	const tasks = 300
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var came []int
		for n := 1; n <= tasks; n++ {
			if seed%4 != 3 || n%7 > 0 { // some jobs have tasks without a result
				came = append(came, n)
			}
		}
		switch seed % 3 {
		case 0:
			rng.Shuffle(len(came), func(i, j int) { came[i], came[j] = came[j], came[i] })
		case 1: // the first comes last
			came = append(came[1:], came[0])
		}
		want := len(came)
		came = append(came, came[:rng.IntN(20)]...) // some twice
		came = append(came, 0, -1, tasks+1)         // and some that are none
		var got []int
		fetched := atomic.Int64{}
		here := archive.Set{}
		o := &archive.Order{Tasks: tasks, Held: 100 * (1 + rng.IntN(50)),
			Fetch: func(_ context.Context, task int) (*archive.Message, error) {
				fetched.Add(1)
				if !here.Has(task) {
					return nil, fmt.Errorf("task %d was fetched and has not come", task)
				}
				return message(task), nil
			},
			Emit: func(m *archive.Message) error {
				if m.Data[0] != byte(m.Task) {
					return fmt.Errorf("task %d has the result of another", m.Task)
				}
				got = append(got, m.Task)
				return nil
			}}
		for _, n := range came {
			here.Add(n)
			if err := o.Add(t.Context(), message(n)); err != nil {
				t.Fatal(err)
			}
		}
		if err := o.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(got) != want || o.Seen() != want {
			t.Fatalf("seed %d: %d of %d results came out, %d seen", seed, len(got), want, o.Seen())
		}
		for i := 1; i < len(got); i++ {
			if got[i] <= got[i-1] {
				t.Fatalf("seed %d: task %d after %d", seed, got[i], got[i-1])
			}
		}
		if seed%3 == 2 && fetched.Load() > 0 && seed%4 != 3 {
			t.Errorf("seed %d: %d results fetched although they came in order", seed, fetched.Load())
		}
		if seed%3 == 1 && fetched.Load() == 0 {
			t.Errorf("seed %d: %d bytes held of %d results", seed, o.Held, want)
		}
	}
}

func TestOrderPassesErrorsOn(t *testing.T) {
	broken := errors.New("broken")
	o := &archive.Order{Tasks: 3, Held: 1, Fetch: func(context.Context, int) (*archive.Message, error) { return nil, broken },
		Emit: func(m *archive.Message) error { return nil }}
	if err := o.Add(t.Context(), message(2)); err != nil {
		t.Fatal(err)
	}
	if err := o.Add(t.Context(), message(1)); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	o = &archive.Order{Tasks: 3, Held: 1, Fetch: func(context.Context, int) (*archive.Message, error) { return nil, nil },
		Emit: func(m *archive.Message) error { return nil }}
	_ = o.Add(t.Context(), message(2))
	if err := o.Flush(t.Context()); err == nil {
		t.Error("a result that is gone was passed over")
	}
}

// Results that are kept no longer hold up none behind them, whether they never came or
// were taken away while they had no room to wait.
func TestOrderForgets(t *testing.T) {
	var got []int
	gone := archive.Set{}
	o := &archive.Order{Tasks: 1000, From: 5, Held: 1, Fetch: func(_ context.Context, task int) (*archive.Message, error) {
		if gone.Has(task) {
			return &archive.Message{Task: task}, nil
		}
		return message(task), nil
	}, Emit: func(m *archive.Message) error { got = append(got, m.Task); return nil }}
	check := func(what string, err error, want ...int) {
		t.Helper()
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v, want %v", what, got, err, want)
		}
		got = nil
	}
	add := func(tasks ...int) (err error) {
		for _, n := range tasks {
			err = errors.Join(err, o.Add(t.Context(), message(n)))
		}
		return err
	}
	check("before the first", add(1, 4))
	check("the first", add(5), 5)
	check("behind a gap", add(8, 9, 12))
	for _, n := range []int{6, 7, 8} {
		gone.Add(n)
	}
	check("the gap won't be filled", o.Forget(t.Context(), 9), 9)
	check("what comes too late", add(6, 7))
	check("once more", o.Forget(t.Context(), 3))
	gone.Add(12)
	check("removed while it waited for its turn", add(10, 11), 10, 11)
	check("the end", o.Flush(t.Context()))
	if o.Seen() != 6 {
		t.Errorf("%d have come", o.Seen())
	}
}
