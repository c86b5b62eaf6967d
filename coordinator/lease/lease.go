// Package lease lets one of several coordinators lead at a time. The lease is a
// key in a bucket whose entries expire; it is taken by creating the key and kept
// by updating it at the revision last written, so leadership is decided by the
// server's compare-and-set alone and never by a read.
//
//	          create ok                     update refused, or
//	standby ─────────────> leading ──────── no update for TTL ──> standby
//	   ^  create refused      │
//	   └──────────────────────┘ lead returned: key deleted
//
// A leader trusts its lease until TTL after it *began* its last successful
// update: the entry can't expire before that, because the server received the
// update later. When an update fails by time-out the leader keeps trying until
// that moment and then stops leading by itself, whatever its work waits for, so
// with clocks that run equally fast two leaders overlap only when one was taken for
// dead that lives. Such a one, and a frozen process that wakes up too late, is
// fenced by the epoch: every record it would write has been rewritten at a higher
// revision by its successor, and its compare-and-set fails.
//
//	failure                        what happens
//	leader killed                  known to be dead: a standby updates the entry at once; else it expires after TTL
//	leader stops in order          key deleted, a standby creates it within Poll
//	leader frozen beyond TTL       its next update is refused; its writes are fenced
//	answer to an update lost       the next try recognizes its own write and goes on
//	server unreachable             leader steps down after TTL, all stand by
package lease

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrLost is the cause of a leading context's end when the lease was lost.
var ErrLost = errors.New("coordinator lease lost")

// Bucket is where the lease is kept: a bucket whose entries expire.
type Bucket interface {
	// Get reads a key.
	Get(ctx context.Context, key string) (holder []byte, revision uint64, err error)
	// Create writes a key that has no value, or returns [jetstream.ErrKeyExists].
	Create(ctx context.Context, key string, value []byte) (revision uint64, err error)
	// Update writes a key that has the given revision, or returns
	// [jetstream.ErrKeyRevisionMismatch].
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	// Delete removes a key that has the given revision.
	Delete(ctx context.Context, key string, revision uint64) error
}

// Config names the lease.
type Config struct {
	// Bucket holds the key; its entries expire after TTL.
	Bucket Bucket
	// Key of the lease.
	Key string
	// Holder is who we are, for people to read.
	Holder string
	// TTL of the bucket.
	TTL time.Duration
	// Poll is the pause between attempts to take the lease; default TTL/20.
	Poll time.Duration
	// Prepare is called after an attempt that failed for another reason than
	// that somebody else holds the lease: a restarted server has forgotten the
	// bucket. May be nil.
	Prepare func(context.Context) error
	// Dead reports whether a holder is known to be no more: its lease is taken over
	// without waiting for its end. It must not err about a process that lives. May be nil.
	Dead func(holder string) bool
	// Poke asks for an attempt now. May be nil.
	Poke <-chan struct{}
}

// Run takes the lease whenever it is free and calls lead while it holds it, with
// an epoch that grows from leader to leader as long as the bucket lives. It returns
// when ctx ends, after lead has returned, or with lead's error when it fails while
// leading.
func Run(ctx context.Context, cfg Config, lead func(ctx context.Context, epoch uint64) error) error {
	if cfg.Poll <= 0 {
		cfg.Poll = cfg.TTL / 20
	}
	for {
		began := time.Now()
		rev, err := cfg.take(ctx)
		switch {
		case err == nil:
			err = cfg.hold(ctx, rev, began, lead)
			if err != nil && !errors.Is(err, ErrLost) && ctx.Err() == nil {
				return err
			}
		case !errors.Is(err, jetstream.ErrKeyExists) && cfg.Prepare != nil && ctx.Err() == nil:
			// It may fail as well; the next attempt comes soon.
			_ = cfg.Prepare(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-cfg.Poke:
		case <-time.After(cfg.Poll):
		}
	}
}

// hold leads until the lease is lost, lead returns or ctx ends.
func (cfg Config) hold(ctx context.Context, rev uint64, began time.Time, lead func(context.Context, uint64) error) error {
	leading, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- lead(leading, rev) }()

	h := held{rev: rev, expires: began.Add(cfg.TTL)}
	tick := time.NewTicker(cfg.TTL / 5)
	defer tick.Stop()
	end := time.NewTimer(time.Until(h.expires))
	defer end.Stop()
	lose := func(why error) error {
		cancel(fmt.Errorf("%w: %w", ErrLost, why))
		<-done
		return ErrLost
	}
	for {
		select {
		case err := <-done:
			cfg.release(ctx, h.rev)
			return err
		case <-end.C:
			if ctx.Err() == nil {
				return lose(errUnheard)
			}
			// lead sees the end of its context; wait for it above.
		case <-tick.C:
			if err := cfg.renew(leading, &h); err != nil && ctx.Err() == nil {
				return lose(err)
			}
			end.Reset(time.Until(h.expires))
		}
	}
}

// errUnheard ends a term whose lease could not be renewed in time.
var errUnheard = errors.New("no renewal was confirmed in time")

// held is a lease that is held.
type held struct {
	rev     uint64
	expires time.Time
	// asked is when the first renewal was sent whose answer is missing; zero for none.
	asked time.Time
}

// renew makes one try, short enough for others before the lease ends: an answer
// that got lost shall not cost the lease. It returns an error when the lease is
// somebody else's.
func (cfg Config) renew(ctx context.Context, h *held) error {
	began := time.Now()
	within, cancel := context.WithTimeout(ctx, min(cfg.TTL/5, time.Until(h.expires)))
	defer cancel()
	next, err := cfg.Bucket.Update(within, cfg.Key, []byte(cfg.Holder), h.rev)
	if err == nil {
		*h = held{rev: next, expires: began.Add(cfg.TTL)}
		return nil
	}
	if !errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		if h.asked.IsZero() {
			h.asked = began
		}
		return nil // the next tick tries again
	}
	if h.asked.IsZero() {
		return err
	}
	// It may be a renewal of ours that was refused the answer. If so it was stored
	// after it was sent, and the lease lasts from then on.
	holder, rev, getErr := cfg.Bucket.Get(within, cfg.Key)
	switch {
	case errors.Is(getErr, jetstream.ErrKeyNotFound) || getErr == nil && string(holder) != cfg.Holder:
		return err
	case getErr == nil && rev > h.rev:
		*h = held{rev: rev, expires: h.asked.Add(cfg.TTL)}
	}
	return nil
}

// take creates the key, or takes it over from a dead holder. It doesn't wait longer
// than the lease would last.
func (cfg Config) take(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.TTL/2)
	defer cancel()
	rev, err := cfg.Bucket.Create(ctx, cfg.Key, []byte(cfg.Holder))
	if !errors.Is(err, jetstream.ErrKeyExists) {
		return rev, err
	}
	holder, was, getErr := cfg.Bucket.Get(ctx, cfg.Key)
	// It is our own when we were not told that we had taken or lost it.
	free := getErr == nil && (string(holder) == cfg.Holder || cfg.Dead != nil && cfg.Dead(string(holder)))
	if !free {
		return 0, err
	}
	// Whoever is first wins; for the others the key exists.
	if rev, getErr = cfg.Bucket.Update(ctx, cfg.Key, []byte(cfg.Holder), was); getErr != nil {
		return 0, err
	}
	return rev, nil
}

// release gives the lease up so that a standby need not wait for its end.
func (cfg Config) release(ctx context.Context, rev uint64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.TTL)
	defer cancel()
	_ = cfg.Bucket.Delete(ctx, cfg.Key, rev)
}
