package lease_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"idunno/broker"
	"idunno/broker/brokertest"
	"idunno/coordinator/lease"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// leases is the bucket as a coordinator hands it over.
type leases struct{ broker.Bucket }

func (b leases) Get(ctx context.Context, key string) ([]byte, uint64, error) {
	e, err := b.Bucket.Get(ctx, key)
	if err != nil {
		return nil, 0, err
	}
	return e.Value, e.Revision, nil
}

type candidate struct {
	stop  context.CancelFunc
	led   chan uint64
	ended chan error
}

// run starts a candidate; leaders counts who leads at the moment.
func run(t *testing.T, b *broker.Broker, name string, leaders *atomic.Int32) *candidate {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	bucket, err := b.Leases(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := &candidate{stop: cancel, led: make(chan uint64, 10), ended: make(chan error, 1)}
	go func() {
		c.ended <- lease.Run(ctx, lease.Config{Bucket: leases{bucket}, Key: broker.KeyLeader, Holder: name, TTL: broker.LeaseTTL},
			func(ctx context.Context, epoch uint64) error {
				if n := leaders.Add(1); n != 1 {
					t.Errorf("%d leaders at once", n)
				}
				c.led <- epoch
				<-ctx.Done()
				leaders.Add(-1)
				return nil
			})
	}()
	t.Cleanup(cancel)
	return c
}

func (c *candidate) wait(t *testing.T) uint64 {
	t.Helper()
	select {
	case epoch := <-c.led:
		return epoch
	case <-time.After(time.Minute):
		t.Fatal("nobody leads")
		return 0
	}
}

func TestOneLeadsAndHandsOver(t *testing.T) {
	url := brokertest.Start(t)
	b := brokertest.Connect(t, url)
	if err := b.Ensure(context.Background()); err != nil {
		t.Fatal(err)
	}
	var leaders atomic.Int32
	first := run(t, b, "first", &leaders)
	before := first.wait(t)
	second := run(t, brokertest.Connect(t, url), "second", &leaders)

	bucket, err := b.Leases(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	first.stop()
	if err := <-first.ended; err != nil {
		t.Fatal(err)
	}
	// It doesn't leave its key behind to expire.
	if e, err := bucket.Get(context.Background(), broker.KeyLeader); err == nil && string(e.Value) == "first" {
		t.Error("the leader that stopped still holds the lease")
	}
	after := second.wait(t)
	if after <= before {
		t.Fatalf("epoch %d after %d", after, before)
	}
	second.stop()
	if err := <-second.ended; err != nil {
		t.Fatal(err)
	}
}

func TestDeadLeadersLeaseExpires(t *testing.T) {
	b := brokertest.New(t)
	bucket, err := b.Leases(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	// A leader that was killed: its key is there and nobody renews it.
	epoch, err := bucket.Create(context.Background(), broker.KeyLeader, []byte("dead"))
	if err != nil {
		t.Fatal(err)
	}
	var leaders atomic.Int32
	c := run(t, b, "heir", &leaders)
	if got := c.wait(t); got <= epoch {
		t.Fatalf("epoch %d after %d", got, epoch)
	}
	c.stop()
	<-c.ended
}

func TestLostLeaseEndsTheTerm(t *testing.T) {
	b := brokertest.New(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	bucket, err := b.Leases(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cause, done := make(chan error, 1), make(chan error, 1)
	go func() {
		done <- lease.Run(ctx, lease.Config{Bucket: leases{bucket}, Key: broker.KeyLeader, Holder: "old", TTL: broker.LeaseTTL, Poll: time.Minute},
			func(ctx context.Context, epoch uint64) error {
				// Somebody else takes the key, as after a freeze.
				e, err := bucket.Get(ctx, broker.KeyLeader)
				if err != nil {
					return err
				}
				if _, err := bucket.Update(ctx, broker.KeyLeader, []byte("new"), e.Revision); err != nil {
					return err
				}
				<-ctx.Done()
				cause <- context.Cause(ctx)
				return nil
			})
	}()
	select {
	case err := <-cause:
		if !errors.Is(err, lease.ErrLost) {
			t.Fatalf("term ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the term goes on without a lease")
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// mute is a bucket whose answers to updates get lost while the switch is on; what
// was asked is done if done is set.
type mute struct {
	lease.Bucket
	on, done atomic.Bool
	lost     atomic.Int32
}

func (b *mute) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	if !b.on.Load() {
		return b.Bucket.Update(ctx, key, value, revision)
	}
	b.lost.Add(1)
	if b.done.Load() {
		if _, err := b.Bucket.Update(ctx, key, value, revision); err != nil {
			return 0, err
		}
	}
	<-ctx.Done()
	return 0, ctx.Err()
}

// lead runs a candidate over a mute bucket and returns what tells of its terms.
func lead(t *testing.T, b *mute) (began chan time.Time, ended chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	began, ended = make(chan time.Time, 1), make(chan error, 1)
	done := make(chan error, 1)
	go func() {
		done <- lease.Run(ctx, lease.Config{Bucket: b, Key: broker.KeyLeader, Holder: "mute", TTL: broker.LeaseTTL, Poll: time.Minute},
			func(ctx context.Context, _ uint64) error {
				began <- time.Now()
				<-ctx.Done()
				ended <- context.Cause(ctx)
				return nil
			})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return began, ended
}

func newMute(t *testing.T) *mute {
	t.Helper()
	bucket, err := brokertest.New(t).Leases(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return &mute{Bucket: leases{bucket}}
}

// The answer to a renewal got lost, not the lease.
func TestLostAnswersDontCostTheLease(t *testing.T) {
	b := newMute(t)
	began, ended := lead(t, b)
	<-began
	b.done.Store(true)
	b.on.Store(true)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for b.lost.Load() == 0 {
		<-tick.C
	}
	b.on.Store(false)
	select {
	case err := <-ended:
		t.Fatalf("the term ended: %v", err)
	case <-time.After(broker.LeaseTTL + broker.LeaseTTL/2):
	}
}

// Without an answer the term ends before anybody else can take the lease.
func TestTheTermEndsWithTheLease(t *testing.T) {
	b := newMute(t)
	b.on.Store(true)
	taken := time.Now()
	began, ended := lead(t, b)
	<-began
	select {
	case err := <-ended:
		if took := time.Since(taken); !errors.Is(err, lease.ErrLost) || took > broker.LeaseTTL+broker.LeaseTTL/4 {
			t.Errorf("the term ended after %v: %v", took, err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the term goes on without a lease")
	}
}
