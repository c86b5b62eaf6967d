// Package coordinator turns submissions into tasks and results into statistics.
// Several coordinators may run: one leads, the others stand by and take over
// when its lease ends.
//
// The leader keeps nothing that it can't derive again. What a job is stands in
// its record, what is done stands in the results stream; the leader's memory is
// the fold of both (package sched), and the task queue is filled from it. The
// standbys read both along. So a new leader needs the last few messages only and
// goes on, while workers never noticed: their tasks are published ahead.
//
//	JOBS ──admit──> record (STATE) ──plan──> TASKS ──> workers ──> RESULTS ──fold──> record
//
// One goroutine owns the leader's state; everything else (messages, requests,
// timers) hands it functions to run. The membership list has a lock of its own,
// so that a death is dealt with at once. It computes no predictions and knows no model.
package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/lease"
	"idunno/coordinator/roll"
	"idunno/objectstore"
)

// Config says who this coordinator is. Broker and Name are required.
type Config struct {
	Broker broker.Core
	// Name of the node, unique in the cluster.
	Name string
	// Version of the program, shown in the membership list.
	Version string
	// Address is where the node runs, shown in the membership list.
	Address string
	// MaxQueued is how many admitted jobs may wait while the service takes more;
	// default [DefaultMaxQueued].
	MaxQueued int
	// CheckpointEvery is how many results there are between two checkpoints of a
	// running job; default [DefaultCheckpointEvery].
	CheckpointEvery int
	// CompactAfter is how long after a job's end its results are moved into the SDFS,
	// negative for never; default [DefaultCompactAfter]. DropAfter is how long after it
	// they are removed from the stream of results; default [DefaultDropAfter].
	CompactAfter, DropAfter time.Duration
	// Log is told what happens; default: nothing is logged.
	Log *slog.Logger
}

// DefaultMaxQueued is how many jobs may wait unless the user chooses.
const DefaultMaxQueued = 1000

// Run stands by, and leads whenever no other coordinator does. It returns when
// ctx ends, after handing the lease back, or when the broker's streams can't be
// created.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxQueued == 0 {
		cfg.MaxQueued = DefaultMaxQueued
	}
	if cfg.CheckpointEvery <= 0 {
		cfg.CheckpointEvery = DefaultCheckpointEvery
	}
	if cfg.CompactAfter == 0 {
		cfg.CompactAfter = DefaultCompactAfter
	}
	if cfg.DropAfter == 0 {
		cfg.DropAfter = DefaultDropAfter
	}
	if !wire.ValidNodeName(cfg.Name) {
		return fmt.Errorf("coordinator name %q: use letters, digits, - and _ (at most 64)", cfg.Name)
	}
	c := &coordinator{Config: cfg, ledger: newLedger(cfg.Log), changed: make(chan struct{}, 1), started: time.Now()}
	var bucket broker.Bucket
	err := broker.Patiently(ctx, func(ctx context.Context) (err error) {
		bucket, err = c.open(ctx)
		return err
	})
	if ctx.Err() != nil {
		return nil // stopped before it stood by
	}
	if err != nil {
		return err
	}
	c.roll = roll.New(cfg.Broker, cfg.Log)
	announce, stopAnnounce := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAnnounce()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return broker.Announce(announce, cfg.Broker, c.changed, c.heartbeat) })
	group.Go(func() error { return c.roll.Follow(ctx) })
	group.Go(func() error {
		defer stopAnnounce() // it leaves when it no longer leads
		c.standby = &standby{coordinator: c, ctx: ctx}
		c.standby.start()
		defer func() { c.standby.stop() }()
		return lease.Run(ctx, lease.Config{Bucket: leases{bucket, cfg.Broker}, Key: broker.KeyLeader, Holder: c.holder(), TTL: broker.LeaseTTL,
			Prepare: c.prepare, Dead: c.isDead, Poke: c.roll.Died()}, c.lead)
	})
	return group.Wait()
}

// open creates what there isn't yet, and opens the SDFS and the lease's bucket.
func (c *coordinator) open(ctx context.Context) (broker.Bucket, error) {
	if err := c.Broker.Ensure(ctx); err != nil {
		return nil, err
	}
	objects, index, err := c.Broker.Files(ctx)
	if err != nil {
		return nil, err
	}
	c.files = objectstore.Open(objects, index)
	bucket, err := c.Broker.Leases(ctx)
	if err != nil {
		return nil, fmt.Errorf("open lease: %w", err)
	}
	return bucket, nil
}

// holder is how the lease names this process.
func (c *coordinator) holder() string {
	return c.Name + " " + strconv.FormatInt(c.started.UnixNano(), 10)
}

// parseHolder is the inverse of holder.
func parseHolder(holder string) (name string, incarnation int64, ok bool) {
	name, number, ok := strings.Cut(holder, " ")
	incarnation, err := strconv.ParseInt(number, 10, 64)
	return name, incarnation, ok && err == nil
}

// isDead reports whether the process that took the lease under the given name is known
// to be no more.
func (c *coordinator) isDead(holder string) bool {
	name, incarnation, ok := parseHolder(holder)
	return ok && c.roll.Dead(name, incarnation)
}

// leases is the lease's bucket.
type leases struct {
	broker.Bucket
	core broker.Core
}

// errAway is why the lease is not renewed.
var errAway = errors.New("no connection")

// Update doesn't ask without a connection. The client would ask when it has the next
// one, long after the lease has ended; and where somebody has deleted the bucket
// meanwhile, its revisions count from 1 again, and the one meant is another leader's.
func (b leases) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	if !b.core.Connected() {
		return 0, errAway
	}
	return b.Bucket.Update(ctx, key, value, revision)
}

func (b leases) Get(ctx context.Context, key string) (holder []byte, revision uint64, err error) {
	e, err := b.Bucket.Get(ctx, key)
	if err != nil {
		return nil, 0, err
	}
	return e.Value, e.Revision, nil
}

// coordinator is a process that may lead.
type coordinator struct {
	Config
	files   *objectstore.Store
	roll    *roll.Roll
	ledger  *ledger
	standby *standby
	cards   cards
	shapes  shapes
	leading atomic.Bool
	changed chan struct{}
	started time.Time
}

func (c *coordinator) heartbeat() wire.Heartbeat {
	return wire.Heartbeat{Schema: wire.Schema, Node: c.Name, Role: wire.RoleCoordinator, Incarnation: c.started.UnixNano(),
		Version: c.Version, Address: c.Address, PID: os.Getpid(), Cores: runtime.NumCPU(), Leader: c.leading.Load()}
}

// prepareWait bounds one attempt to create what is missing.
const prepareWait = 5 * time.Second

// prepare creates again what a restarted server has forgotten.
func (c *coordinator) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, prepareWait)
	defer cancel()
	return errors.Join(c.revive(ctx), c.Broker.Ensure(ctx))
}

func (c *coordinator) setLeading(v bool) {
	c.leading.Store(v)
	select {
	case c.changed <- struct{}{}:
	default:
	}
}
