package broker_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"idunno/broker"
	"idunno/broker/brokertest"
	"idunno/broker/embedded"
)

// A reader goes on behind the last message it has read, whatever happens to the
// server: nothing is left out, repeated or out of order.
func TestReaderSurvivesRestarts(t *testing.T) {
	defer goleak.VerifyNone(t, append(brokertest.Leaks(), goleak.IgnoreCurrent())...)
	const rounds, perRound = 4, 30
	dir, ctx := t.TempDir(), testContext(t)
	s, err := embedded.Start(embedded.Config{Port: -1, Store: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Stop() }()
	b := brokertest.Connect(t, s.URL())
	if err := b.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	store := func(round int) {
		t.Helper()
		for i := range perRound {
			task := round*perRound + i + 1
			for {
				try, cancel := context.WithTimeout(ctx, time.Second)
				err := b.StoreResult(try, 1, task, fmt.Appendf(nil, "%d", task))
				cancel()
				if err == nil || broker.IsExists(err) {
					break // the answer to an earlier try may have been lost
				}
				if ctx.Err() != nil {
					t.Fatal(err)
				}
			}
		}
	}
	store(0)
	type event struct {
		seq  uint64
		data string
	}
	events := make(chan event, 2*rounds*perRound)
	stop, err := b.FollowResults(ctx, 11, func(_ context.Context, m *broker.Stored) {
		if m == nil {
			events <- event{}
			return
		}
		events <- event{m.Seq, string(m.Data)}
	})
	if err != nil {
		t.Fatal(err)
	}
	next, marks := uint64(11), 0
	read := func(upTo uint64) {
		t.Helper()
		for next <= upTo {
			select {
			case e := <-events:
				if e.seq == 0 {
					if marks++; next != perRound+1 {
						t.Errorf("caught up at %d", next)
					}
					continue
				}
				if e.seq != next || e.data != fmt.Sprint(next) {
					t.Fatalf("message %d %q, want %d", e.seq, e.data, next)
				}
				next++
			case <-ctx.Done():
				t.Fatalf("message %d never came", next)
			}
		}
	}
	for round := 1; round < rounds; round++ {
		port := portOf(t, s.URL())
		s.Stop()
		if s, err = embedded.Start(embedded.Config{Port: port, Store: dir}); err != nil {
			t.Fatal(err)
		}
		store(round)
		if round == 1 {
			continue // two restarts without a word in between
		}
		read(uint64((round + 1) * perRound))
	}
	stop()
	b.Close()
	if marks != 1 || len(events) != 0 {
		t.Errorf("told %d times that it has caught up, want once; %d messages too many", marks, len(events))
	}
}

// A reader is stopped at once, also while there is no server.
func TestReaderStopsWithoutAServer(t *testing.T) {
	defer goleak.VerifyNone(t, append(brokertest.Leaks(), goleak.IgnoreCurrent())...)
	ctx := testContext(t)
	s, err := embedded.Start(embedded.Config{Port: -1, Store: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	b := brokertest.Connect(t, s.URL())
	if err := b.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	caughtUp := make(chan struct{})
	stop, err := b.FollowResults(ctx, 1, func(_ context.Context, m *broker.Stored) {
		if m == nil {
			close(caughtUp)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	<-caughtUp
	lost, stopLost := b.ConnectionChanges()
	defer stopLost()
	s.Stop()
	for connected := range lost {
		if !connected {
			break
		}
	}
	began := time.Now()
	stop()
	if took := time.Since(began); took > time.Second {
		t.Errorf("stopping took %v", took)
	}
	b.Close()
}
