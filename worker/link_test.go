package worker

import (
	"context"
	"errors"
	"testing"
	"time"

	"idunno/broker/brokertest"
	"idunno/broker/embedded"
)

func TestLostRequestsAreRepeated(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cfg := embedded.Config{Port: brokertest.FreePort(t), Store: t.TempDir()}
	first, err := embedded.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Stop()
	l := newLink(brokertest.Connect(t, first.URL()))
	following, stop := context.WithCancel(ctx)
	followed := make(chan struct{})
	go func() { defer close(followed); l.follow(following) }()
	b := l.broker
	before := b.ServerID()

	asked, answer := make(chan int, 10), make(chan error, 1)
	calls := 0
	go func() {
		answer <- l.retry(ctx, func(ctx context.Context) error {
			calls++
			asked <- calls
			if calls > 1 {
				return nil
			}
			<-ctx.Done() // a reply that never comes
			return context.Cause(ctx)
		})
	}()
	<-asked
	first.Stop()
	again, err := embedded.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Stop()
	if err := <-answer; err != nil || calls != 2 {
		t.Errorf("%d calls, %v", calls, err)
	}
	if after := b.ServerID(); before == "" || after == "" || before == after {
		t.Errorf("server %q, then %q", before, after)
	}

	// What fails for other reasons isn't repeated, and neither is what was stopped.
	full := errors.New("disk full")
	if err := l.retry(ctx, func(context.Context) error { return full }); !errors.Is(err, full) {
		t.Errorf("retry: %v", err)
	}
	again.Stop()
	gone, cancelGone := context.WithCancel(ctx)
	if err := l.retry(gone, func(ctx context.Context) error { cancelGone(); <-ctx.Done(); return ctx.Err() }); !errors.Is(err, context.Canceled) {
		t.Errorf("retry: %v", err)
	}
	// Nobody waits for a link that nobody follows any more.
	stop()
	<-followed
	l.wait(ctx)
	if ctx.Err() != nil {
		t.Error("wait hung")
	}
}
