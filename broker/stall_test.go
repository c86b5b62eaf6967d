package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// A batch costs the server several syncs, during which everybody else waits. Many small
// ones of many connections once kept it from answering for seconds; so none is smaller
// than what is worth its cost, however many connections there are, also more than the
// server takes batches of at once. Every result is stored, once.
func TestManyConnectionsMakeNoSmallBatches(t *testing.T) {
	for _, c := range []struct {
		name string
		// conns connections store so many results each, so many of them at a time.
		conns, each, atOnce int
		shared              bool
		least               int
	}{
		{"many results each", 100, groupLeast + 6, groupLeast + 6, false, groupLeast},
		{"few results each", 100, 20, 4, true, sharedLeast},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGrouped(t)
			first := g.connect()
			stop, err := first.ShareStores()
			g.must(err)
			defer stop()
			var group sync.WaitGroup
			for i := range c.conns {
				b, err := Connect(g.ctx, Config{Servers: g.url, StoreAlone: !c.shared})
				g.must(err)
				t.Cleanup(b.Close)
				b.group.stored = func(n int) { g.sizes[n].Add(1) }
				for from := range c.atOnce {
					group.Go(func() {
						for n := from; n < c.each; n += c.atOnce {
							task := i*c.each + n + 1
							if err := b.StoreResult(g.ctx, 1, task, fmt.Append(nil, task)); err != nil {
								t.Errorf("task %d: %v", task, err)
							}
						}
					})
				}
			}
			group.Wait()
			got := g.contents(first, 1)
			for task := 1; task <= c.conns*c.each; task++ {
				if len(got[task]) != 1 || got[task][0] != fmt.Sprint(task) {
					t.Fatalf("task %d has %q", task, got[task])
				}
			}
			for n := 2; n < c.least; n++ {
				if writes := g.sizes[n].Load(); writes > 0 {
					t.Errorf("%d batches of %d results", writes, n)
				}
			}
			if g.largest() < c.least {
				t.Errorf("the largest write had %d results", g.largest())
			}
		})
	}
}

// The stream takes results and doesn't say a word for a while. Whoever stores tries
// again, by itself or through a broker, and every result is stored, once.
func TestStalledStreamIsTriedAgain(t *testing.T) {
	const results, try = 100, 400 * time.Millisecond
	for name, shared := range map[string]bool{"alone": false, "through a broker": true} {
		t.Run(name, func(t *testing.T) {
			g := newGrouped(t)
			taker, b := g.connect(), g.connect()
			taker.group.wait, b.group.wait = try, try
			stop, err := taker.ShareStores()
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			b.cfg.StoreAlone = !shared
			g.must(b.JS.DeleteStream(g.ctx, streamResults))
			var heard atomic.Int64 // messages that nobody answers
			silent, err := taker.NC.Subscribe(prefixResults+"*.*", func(*nats.Msg) { heard.Add(1) })
			g.must(err)
			g.must(taker.NC.Flush())

			var failed atomic.Int64
			stalled := make(chan struct{})
			var group sync.WaitGroup
			for task := 1; task <= results; task++ {
				group.Go(func() {
					for first := true; ; first = false {
						if shared {
							b.crowd.until.Store(time.Now().Add(time.Hour).UnixNano())
						}
						within, cancel := context.WithTimeout(g.ctx, try)
						err := b.StoreResult(within, 1, task, fmt.Append(nil, task))
						cancel()
						if err == nil || errors.Is(err, ErrExists) {
							return
						}
						if g.ctx.Err() != nil {
							t.Errorf("task %d: %v", task, err)
							return
						}
						if first && failed.Add(1) == results {
							close(stalled)
						}
					}
				})
			}
			select {
			case <-stalled:
			case <-g.ctx.Done():
				t.Fatal("a result doesn't come back from a stream that says nothing")
			}
			g.must(silent.Unsubscribe())
			g.must(taker.Ensure(g.ctx))
			group.Wait()
			got := g.contents(b, 1)
			for task := 1; task <= results; task++ {
				if len(got[task]) != 1 || got[task][0] != fmt.Sprint(task) {
					t.Fatalf("task %d has %q", task, got[task])
				}
			}
			if heard.Load() == 0 {
				t.Error("the stream that says nothing was asked nothing")
			}
		})
	}
}
