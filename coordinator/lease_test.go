package coordinator

import (
	"context"
	"errors"
	"testing"
	"time"

	"idunno/broker"
	"idunno/broker/brokertest"
	"idunno/broker/embedded"
)

// A renewal that is tried while there is no connection doesn't reach the server when it
// is back, where it might find another leader's lease at the same revision.
func TestNoRenewalIsLeftBehind(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cfg := embedded.Config{Port: brokertest.FreePort(t), Store: t.TempDir()}
	server, err := embedded.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	open := func(b *broker.Broker) leases {
		if err := b.Ensure(ctx); err != nil {
			t.Fatal(err)
		}
		bucket, err := b.Leases(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return leases{bucket, b}
	}
	away := brokertest.Connect(t, server.URL())
	lost := open(away)
	was, err := lost.Create(ctx, broker.KeyLeader, []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	changes, stop := away.ConnectionChanges()
	defer stop()
	server.Stop()
	for <-changes { // until it knows
	}
	within, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := lost.Update(within, broker.KeyLeader, []byte("one"), was); !errors.Is(err, errAway) {
		t.Errorf("renewed without a connection: %v", err)
	}
	cfg.Store = t.TempDir() // nothing is left of the bucket
	if server, err = embedded.Start(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	other := brokertest.Connect(t, server.URL())
	now, err := open(other).Create(ctx, broker.KeyLeader, []byte("two"))
	if err != nil || now != was {
		t.Fatalf("revision %d, want %d again: %v", now, was, err)
	}
	for !<-changes { // until it is back
	}
	if err := away.NC.FlushWithContext(ctx); err != nil {
		t.Fatal(err)
	}
	if holder, rev, err := open(other).Get(ctx, broker.KeyLeader); err != nil || string(holder) != "two" || rev != now {
		t.Errorf("the lease is %q's at revision %d, %v; want two's at %d", holder, rev, err, now)
	}
}
