package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"idunno/broker/wire"
	"idunno/coordinator/client"
	"idunno/coordinator/cluster"
)

// FailoverConfig says what [Failover] measures.
type FailoverConfig struct {
	// Program is the path of the idunno program that the cluster is started
	// with. Required.
	Program string
	// Kills is the number of faults of each kind; default 100.
	Kills int
	// Kinds are the kinds of faults, by the name of their result; default all of
	// [FailoverKinds].
	Kinds []string
	// Workers is the number of workers, one slot each or more; default 3, and six
	// where three are killed.
	Workers int
	// Repeats is how often a job takes the batches of mnist; default so often that a
	// job takes some seconds on this machine's cores.
	Repeats int
	// Seed chooses whom and when to kill; default 1.
	Seed uint64
	// Progress is told of every fault.
	Progress Progress
}

// Kinds of faults, named as their results.
const (
	workerKill  = "worker_kill_to_resumed"
	workersKill = "workers3_kill_to_resumed"
	workerStop  = "worker_stop_to_resumed"
	leaderKill  = "leader_kill_to_submit"
	// Measured along with the kind that each begins with.
	workerAll     = "worker_kill_to_all_resumed"
	workersAll    = "workers3_kill_to_all_resumed"
	stopAll       = "worker_stop_to_all_resumed"
	workerClosed  = "worker_kill_to_closed"
	workersClosed = "workers3_kill_to_closed"
	resultGap     = "leader_kill_result_gap"
)

// FailoverKinds are the kinds of faults that [Failover] knows.
func FailoverKinds() []string { return []string{workerKill, workersKill, workerStop, leaderKill} }

// Failover measures how long work stands still after a fault, in a real cluster of
// processes on this machine that is busy with jobs:
//
//	worker_kill_to_resumed    SIGKILL of a worker until its task is computed by another one
//	..._to_all_resumed        the same for the last of all tasks that it held, also those that
//	                          waited there, of which some wait for others now
//	worker_kill_to_closed     the part of it until the broker tells that the connection closed: the
//	                          system's time to end the process
//	workers3_kill_to_resumed  SIGKILL of three of six workers until the last of their tasks is
//	workers3_kill_to_closed   the part of it until the last of their connections closed
//	worker_stop_to_resumed    SIGSTOP of a worker until its task is computed by another one
//	leader_kill_to_submit     SIGKILL of the leading coordinator until the next submission is accepted
//	leader_kill_result_gap    the longest time without a result in the three seconds after that
//
// A task's time is taken from its result: there is one for every task, and it says
// which node computed it and from when on. What a worker held is what its queues gave
// it, whether it came to say so or not. Every job's results are counted: lost or double
// ones make the document not OK.
func Failover(ctx context.Context, c FailoverConfig) (*Document, error) {
	if c.Program == "" {
		return nil, fmt.Errorf("%w: no program", ErrConfig)
	}
	if c.Kills <= 0 {
		c.Kills = 100
	}
	if c.Workers == 1 || c.Workers < 0 {
		return nil, fmt.Errorf("%w: %d workers: somebody must be there to go on", ErrConfig, c.Workers)
	}
	if len(c.Kinds) == 0 {
		c.Kinds = FailoverKinds()
	}
	if c.Seed == 0 {
		c.Seed = 1
	}
	d := newDocument("failover")
	for _, kind := range c.Kinds {
		f := &failover{FailoverConfig: c, d: d, rng: rand.New(rand.NewPCG(c.Seed, uint64(len(kind))))}
		if err := f.measure(ctx, kind); err != nil {
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
	}
	d.OK = d.Counts.Lost == 0 && d.Counts.Duplicates == 0
	return d, nil
}

const (
	// faultWait bounds the wait for what a fault should lead to.
	faultWait = 30 * time.Second
	// gapSpan is the time after a leader's death in which gaps count.
	gapSpan = 3 * time.Second
	// calm is the longest random pause before a fault.
	calm = 300 * time.Millisecond
)

var errNotResumed = errors.New("the work did not go on")

type failover struct {
	FailoverConfig
	d    *Document
	rng  *rand.Rand
	load *load
}

func (f *failover) measure(ctx context.Context, kind string) error {
	store, err := os.MkdirTemp("", "idunno-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(store) }()
	workers, work := cmp.Or(f.Workers, 3), longTasks
	switch kind {
	case workersKill:
		workers = max(6, f.Workers)
	case leaderKill:
		work = shortTasks
	case workerKill, workerStop:
	default:
		return fmt.Errorf("%w: no such kind of fault", ErrConfig)
	}
	if f.Repeats > 0 {
		work.repeats = f.Repeats
	}
	f.Progress.tell("%s: starting a cluster", kind)
	local, err := cluster.Start(ctx, cluster.Config{Program: f.Program, Store: store, Temporary: true, Port: -1, Workers: workers, Coordinators: 2})
	if err != nil {
		return err
	}
	defer local.Stop()
	if f.load, err = startLoad(ctx, local, work); err != nil {
		return err
	}
	samples := []*sample{newSample(kind, "ms", 1000)}
	switch kind {
	case workerKill:
		samples = append(samples, newSample(workerAll, "ms", 1000), newSample(workerClosed, "ms", 1000))
	case workersKill:
		samples = append(samples, newSample(workersAll, "ms", 1000), newSample(workersClosed, "ms", 1000))
	case workerStop:
		samples = append(samples, newSample(stopAll, "ms", 1000))
	case leaderKill:
		samples = append(samples, newSample(resultGap, "ms", 1000))
	}
	for n := 0; n < f.Kills && err == nil; {
		var took []time.Duration
		switch kind {
		case workerKill:
			took, err = f.killWorkers(ctx, local, 1)
		case workersKill:
			took, err = f.killWorkers(ctx, local, 3)
		case workerStop:
			took, err = f.stopWorker(ctx, local)
		case leaderKill:
			took, err = f.killLeader(ctx, local)
		}
		f.d.Counts.Faults++
		if took == nil {
			continue // there was nothing to resume
		}
		n++
		for i, t := range took {
			samples[i].add(float64(t) / float64(time.Millisecond))
		}
		f.Progress.tell("%s, %d of %d: %v", kind, n, f.Kills, took)
	}
	outcome, endErr := f.load.end(ctx)
	if err := errors.Join(err, endErr); err != nil {
		return err
	}
	f.d.Counts.Lost += outcome.Missing
	f.d.Counts.Duplicates += outcome.Duplicates
	for _, s := range samples {
		f.d.Results = append(f.d.Results, s.result())
	}
	return nil
}

// pause waits for a random moment.
func (f *failover) pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(time.Duration(f.rng.Int64N(int64(calm)))):
		return nil
	}
}

// killWorkers kills n workers and returns the time until each task that they were
// computing is computed by others, and until the last connection closed; nil when all
// had just ended.
func (f *failover) killWorkers(ctx context.Context, local *cluster.Local, n int) ([]time.Duration, error) {
	victims, err := f.victims(ctx, local, n)
	if err != nil {
		return nil, err
	}
	f.load.strikes(victims)
	at := time.Now()
	for _, name := range victims {
		if _, err := local.Signal(name, os.Kill); err != nil {
			return nil, err
		}
	}
	begun, all, err := f.load.resumed(ctx, at)
	closed := f.load.lastClosed()
	for _, name := range victims {
		if _, killErr := local.Kill(name); killErr != nil && !errors.Is(killErr, cluster.ErrNoSuchChild) { // waits until it is gone
			err = errors.Join(err, killErr)
		}
		err = errors.Join(err, local.Restart(ctx, name))
	}
	took := since(at, begun, all)
	if took != nil {
		took = append(took, closed.Sub(at))
	}
	return took, err
}

// stopWorker is killWorkers with a worker that freezes.
func (f *failover) stopWorker(ctx context.Context, local *cluster.Local) ([]time.Duration, error) {
	victims, err := f.victims(ctx, local, 1)
	if err != nil {
		return nil, err
	}
	f.load.strikes(victims)
	at, err := local.Signal(victims[0], cluster.SignalStop)
	if err != nil {
		return nil, err
	}
	begun, all, err := f.load.resumed(ctx, at)
	_, wakeErr := local.Signal(victims[0], cluster.SignalContinue)
	return since(at, begun, all), errors.Join(err, wakeErr)
}

func since(at, begun, all time.Time) []time.Duration {
	if begun.IsZero() {
		return nil
	}
	return []time.Duration{begun.Sub(at), all.Sub(at)}
}

// victims chooses n workers once all of them compute.
func (f *failover) victims(ctx context.Context, local *cluster.Local, n int) ([]string, error) {
	all := local.Names(wire.RoleWorker)
	if err := f.load.busy(ctx, all); err != nil {
		return nil, err
	}
	if err := f.pause(ctx); err != nil {
		return nil, err
	}
	f.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:n], nil
}

// killLeader kills the leader, and returns the time until the next submission is
// accepted and the longest time without a result.
func (f *failover) killLeader(ctx context.Context, local *cluster.Local) ([]time.Duration, error) {
	api := client.New(local.Broker())
	leader, err := f.ready(ctx, api, local)
	if err != nil {
		return nil, err
	}
	if err := f.load.flowing(ctx); err != nil {
		return nil, err
	}
	if err := f.pause(ctx); err != nil {
		return nil, err
	}
	doc, err := json.Marshal(wire.JobDoc{Model: "mlp", Data: wire.DefaultData, From: 1, To: 1})
	if err != nil {
		return nil, err
	}
	at, err := local.Signal(leader, os.Kill)
	if err != nil {
		return nil, err
	}
	submitted, err := api.Submit(ctx, doc)
	accepted := time.Since(at)
	if err == nil && submitted.Stored {
		err = fmt.Errorf("%w: no coordinator took over", errNotResumed)
	}
	if err != nil {
		return nil, err
	}
	if err := f.load.await(ctx, func() bool { return time.Since(at) > gapSpan }); err != nil {
		return nil, err
	}
	gap := f.load.gap(at, at.Add(gapSpan))
	if _, err := local.Kill(leader); err != nil && !errors.Is(err, cluster.ErrNoSuchChild) {
		return nil, err
	}
	return []time.Duration{accepted, gap}, local.Restart(ctx, leader)
}

// ready waits until a coordinator leads and the other stands by, and returns the
// leader's name.
func (f *failover) ready(ctx context.Context, api *client.Client, local *cluster.Local) (leader string, err error) {
	err = f.load.await(ctx, func() bool {
		reply, err := api.Nodes(ctx)
		if err != nil {
			return false
		}
		leader = reply.Leader
		alive := 0
		for _, n := range reply.Nodes {
			if n.Role == wire.RoleCoordinator && n.State == wire.NodeAlive && time.Since(n.Since) > time.Second {
				alive++
			}
		}
		return alive == len(local.Names(wire.RoleCoordinator))
	})
	return leader, err
}
