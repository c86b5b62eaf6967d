package broker_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
	"idunno/broker/brokertest"
)

func TestLeaseIsFollowedFromOutside(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b := brokertest.New(t)
	kv, err := b.Lease(ctx)
	if err != nil {
		t.Fatal(err)
	}
	first, err := kv.Create(ctx, broker.KeyLeader, []byte("a"))
	if err != nil {
		t.Fatal(err)
	}
	writes := make(chan broker.LeaseWrite, 10)
	watching, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.FollowLease(watching, func(w broker.LeaseWrite) { writes <- w })
	}()
	next := func() broker.LeaseWrite {
		t.Helper()
		select {
		case w := <-writes:
			return w
		case <-ctx.Done():
			t.Fatal("no write is seen")
			return broker.LeaseWrite{}
		}
	}
	if w := next(); w.Holder != "a" || w.Revision != first || w.Deleted || w.Bucket.IsZero() || w.At.Before(w.Bucket) {
		t.Fatalf("the lease at the beginning: %+v", w)
	}
	renewed, err := kv.Update(ctx, broker.KeyLeader, []byte("a"), first)
	if err != nil {
		t.Fatal(err)
	}
	if w := next(); w.Holder != "a" || w.Revision != renewed || w.Deleted {
		t.Fatalf("the renewal: %+v", w)
	}
	if err := kv.Delete(ctx, broker.KeyLeader, jetstream.LastRevision(renewed)); err != nil {
		t.Fatal(err)
	}
	if w := next(); !w.Deleted || w.Revision <= renewed {
		t.Fatalf("the end: %+v", w)
	}
	stop()
	<-done
}
