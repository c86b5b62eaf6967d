// Package coordinator turns submissions into tasks and results into statistics.
// Several coordinators may run: one leads, the others stand by and take over
// when its lease ends.
//
// The leader keeps nothing that it can't derive again. What a job is stands in
// its record, what is done stands in the results stream; the leader's memory is
// the fold of both (package sched), and the task queue is filled from it. So a
// new leader reads the records, replays the results of unfinished jobs and goes
// on, while workers never noticed: their tasks are published ahead.
//
//	JOBS ──admit──> record (STATE) ──plan──> TASKS ──> workers ──> RESULTS ──fold──> record
//
// One goroutine owns the leader's state; everything else (messages, requests,
// timers) hands it functions to run. It computes no predictions and knows no model.
package coordinator

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/lease"
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
	// Log is told what happens; default: nothing is logged.
	Log *slog.Logger
}

// Run stands by, and leads whenever no other coordinator does. It returns when
// ctx ends, after handing the lease back, or when the broker's streams can't be
// created.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if !wire.ValidNodeName(cfg.Name) {
		return fmt.Errorf("coordinator name %q: use letters, digits, - and _ (at most 64)", cfg.Name)
	}
	if err := cfg.Broker.Ensure(ctx); err != nil {
		return err
	}
	bucket, err := cfg.Broker.Leases(ctx)
	if err != nil {
		return fmt.Errorf("open lease: %w", err)
	}
	objects, index, err := cfg.Broker.Files(ctx)
	if err != nil {
		return err
	}
	c := &coordinator{Config: cfg, files: objectstore.Open(objects, index), changed: make(chan struct{}, 1), started: time.Now()}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return broker.Announce(ctx, cfg.Broker, c.changed, c.heartbeat) })
	group.Go(func() error {
		return lease.Run(ctx, lease.Config{Bucket: bucket, Key: broker.KeyLeader, Holder: cfg.Name, TTL: broker.LeaseTTL, Prepare: c.prepare}, c.lead)
	})
	return group.Wait()
}

// coordinator is a process that may lead.
type coordinator struct {
	Config
	files   *objectstore.Store
	leading atomic.Bool
	changed chan struct{}
	started time.Time
}

func (c *coordinator) heartbeat() wire.Heartbeat {
	return wire.Heartbeat{Schema: wire.Schema, Node: c.Name, Role: wire.RoleCoordinator, Incarnation: c.started.UnixNano(),
		Version: c.Version, Address: c.Address, PID: os.Getpid(), Cores: runtime.NumCPU(), Leader: c.leading.Load()}
}

// prepare creates again what a restarted server has forgotten.
func (c *coordinator) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, broker.LeaseTTL)
	defer cancel()
	return c.Broker.Ensure(ctx)
}

func (c *coordinator) setLeading(v bool) {
	c.leading.Store(v)
	select {
	case c.changed <- struct{}{}:
	default:
	}
}
