package worker

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"idunno/broker/wire"
)

func TestShelfKeepsWhatWasUsedLast(t *testing.T) {
	ctx := context.Background()
	s := shelf[int]{most: 10, cost: func(v int) int64 { return int64(v) }}
	made := 0
	get := func(key string, v int) {
		got, err := s.get(ctx, key, func() (int, error) { made++; return v, nil })
		if err != nil || got != v {
			t.Fatalf("%s: %d, %v", key, got, err)
		}
	}
	for _, step := range []struct {
		key  string
		v    int
		made int
	}{
		{"a", 4, 1}, {"b", 4, 2}, {"a", 4, 2}, {"c", 4, 3}, // pushes b out
		{"a", 4, 3}, {"b", 4, 4}, // pushes c out
		{"a", 4, 4}, {"huge", 11, 5}, {"huge", 11, 6}, // never kept, and returned all the same
	} {
		if get(step.key, step.v); made != step.made {
			t.Errorf("%s: %d made, want %d", step.key, made, step.made)
		}
		if s.total > s.most || len(s.items) != s.order.Len() {
			t.Errorf("%s: %d bytes in %d items, %d in order", step.key, s.total, len(s.items), s.order.Len())
		}
	}
}

func TestShelfMakesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := shelf[int]{most: 1}
		made, start := 0, make(chan struct{})
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				v, err := s.get(context.Background(), "a", func() (int, error) { <-start; made++; return 7, nil })
				if v != 7 || err != nil {
					t.Errorf("%d, %v", v, err)
				}
			})
		}
		synctest.Wait()
		// Others don't push out what is being made.
		if _, err := s.get(context.Background(), "b", func() (int, error) { return 1, nil }); err != nil {
			t.Error(err)
		}
		close(start)
		all.Wait()
		if made != 1 {
			t.Errorf("made %d times", made)
		}
	})
}

func TestShelfSurvivesFailures(t *testing.T) {
	ctx := context.Background()
	s := shelf[int]{most: 1}
	if _, err := s.get(ctx, "a", func() (int, error) { panic("broken") }); !isFault(err) || !strings.Contains(err.Error(), "broken") {
		t.Errorf("panic became %v", err)
	}
	away := errors.New("away")
	if _, err := s.get(ctx, "a", func() (int, error) { return 0, away }); !errors.Is(err, away) {
		t.Errorf("error became %v", err)
	}
	if v, err := s.get(ctx, "a", func() (int, error) { return 3, nil }); v != 3 || err != nil || s.total != 1 {
		t.Errorf("%d, %v, cost %d", v, err, s.total)
	}
}

func TestPanicIsTheTasksFault(t *testing.T) {
	var broken *library // everything about it panics
	out := make(chan fetched, fetchAhead)
	broken.stream(t.Context(), &wire.Task{}, true, out)
	if f := <-out; !isFault(f.err) {
		t.Errorf("prefetch: %v", f.err)
	}
	w := &worker{library: broken}
	w.Log = slog.New(slog.DiscardHandler)
	task := &held{ctx: t.Context(), task: &wire.Task{Job: 1, Task: 1, From: 1, To: 1}}
	if _, err := w.carryOut(task, nil); !isFault(err) || !strings.Contains(err.Error(), "panic") {
		t.Errorf("compute: %v", err)
	}
}
