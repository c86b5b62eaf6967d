package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"time"

	"idunno/broker"
	"idunno/coordinator/client"
	"idunno/coordinator/cluster"
	"idunno/models/dataset"
	"idunno/models/zoo"
	"idunno/objectstore"
)

// Config says what cluster to hurt, and how.
type Config struct {
	// Program is the path of the idunno program. Required.
	Program string
	// Seed makes the schedule of faults and the jobs.
	Seed uint64
	// Duration of the faults; starting, settling and checking come on top. Required.
	Duration time.Duration
	// Kinds of faults; default all.
	Kinds []Kind
	// Mean pause between two faults; default 2.5 s.
	Mean time.Duration
	// Workers, Coordinators, Servers are numbers of processes; default 4, 3 and 1.
	Workers, Coordinators, Servers int
	// Clients is how many jobs are under way at a time; default 4.
	Clients int
	// History is the file that the history is written to; default one that is
	// removed at the end.
	History string
	// Log gets what the processes say, with the time since the beginning; default
	// nothing.
	Log io.Writer
	// Progress is told what happens, one line at a time; may be nil. Calls may come
	// from several goroutines.
	Progress func(line string)
	// Settle is how long accepted jobs may take to end when all faults are mended;
	// default 2 minutes.
	Settle time.Duration
}

// ErrNotHealed is returned when the cluster can't be brought back after the faults.
var ErrNotHealed = errors.New("the cluster can't be brought back")

func (cfg Config) withDefaults() Config {
	set := func(v *int, def int) {
		if *v <= 0 {
			*v = def
		}
	}
	set(&cfg.Workers, 4)
	set(&cfg.Coordinators, 3)
	set(&cfg.Servers, 1)
	set(&cfg.Clients, 4)
	if len(cfg.Kinds) == 0 {
		cfg.Kinds = Kinds()
	}
	if cfg.Settle <= 0 {
		cfg.Settle = 2 * time.Minute
	}
	return cfg
}

// Schedule is the schedule of faults of a run.
func (cfg Config) Schedule() ([]Fault, error) {
	cfg = cfg.withDefaults()
	servers := []string{"broker"}
	if cfg.Servers > 1 {
		servers = Numbered("broker", cfg.Servers)
	}
	return Plan{Seed: cfg.Seed, Duration: cfg.Duration, Kinds: cfg.Kinds, Mean: cfg.Mean, Servers: servers,
		Workers: Numbered("worker", cfg.Workers), Coordinators: Numbered("coordinator", cfg.Coordinators)}.Schedule()
}

// runner is one run.
type runner struct {
	Config
	schedule []Fault
	truth    Truth
	batches  int
	history  *os.File
	rec      *Recorder
	proxies  *proxies
	local    *cluster.Local
	began    time.Time
}

func (r *runner) say(format string, args ...any) {
	if r.Progress != nil {
		r.Progress(fmt.Sprintf(format, args...))
	}
}

// Run starts a cluster, hurts it for the duration, brings it back, and judges what
// became of it. It returns an error when it can't judge; that something is wrong is
// not an error but part of the verdict. It returns [ErrPlan] and [ErrNotHealed].
func Run(ctx context.Context, cfg Config) (*Verdict, error) {
	r := &runner{Config: cfg.withDefaults(), proxies: &proxies{of: make(map[string]*Proxy)}}
	var err error
	if r.schedule, err = r.Schedule(); err != nil {
		return nil, err
	}
	if err := r.openHistory(); err != nil {
		return nil, err
	}
	defer r.closeHistory()
	r.say("seed %d: %d faults in %v", r.Seed, len(r.schedule), r.Duration)
	for _, f := range r.schedule {
		r.say("  %v", f)
	}
	if err := r.cleanRun(ctx); err != nil {
		return nil, err
	}
	if err := r.hurt(ctx); err != nil {
		return nil, err
	}
	if _, err := r.history.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return r.judge(r.history)
}

func (r *runner) judge(history io.Reader) (*Verdict, error) {
	r.say("judging the history")
	checker := NewChecker(r.truth)
	if err := ReadHistory(history, checker.Event); err != nil {
		return nil, err
	}
	return checker.Verdict(), nil
}

// Judge judges the history of an earlier run, which hurts nothing. Progress may be
// nil.
func Judge(ctx context.Context, history io.Reader, progress func(line string)) (*Verdict, error) {
	r := &runner{Config: Config{Progress: progress}}
	if err := r.cleanRun(ctx); err != nil {
		return nil, err
	}
	return r.judge(history)
}

func (r *runner) openHistory() (err error) {
	if r.History != "" {
		r.history, err = os.Create(r.History)
	} else {
		r.history, err = os.CreateTemp("", "idunno-history-")
	}
	if err != nil {
		return fmt.Errorf("open the history: %w", err)
	}
	r.rec = NewRecorder(r.history)
	return nil
}

func (r *runner) closeHistory() {
	_ = r.history.Close() // written and read already
	if r.History == "" {
		_ = os.Remove(r.history.Name())
	}
}

// cleanRun computes in this process what every batch must give.
func (r *runner) cleanRun(ctx context.Context) error {
	r.say("computing in this process alone what must come out")
	set, err := dataset.MNISTTest()
	if err != nil {
		return err
	}
	r.batches = set.Batches(cluster.BatchSize)
	r.truth = Truth{Sums: make(map[string]map[int]string), BadModels: make(map[string]bool),
		BadBatches: map[string]map[int]bool{holedData: {}}}
	for name := range badModels() {
		r.truth.BadModels[name] = true
	}
	for _, batch := range holes() {
		r.truth.BadBatches[holedData][batch] = true
	}
	all := map[string][]byte{smallModels: smallModel(smallModels)}
	for _, name := range zoo.Names() {
		all[name], _ = zoo.Model(name)
	}
	for name, onnx := range all {
		alone, err := cluster.RunAlone(ctx, onnx, set, cluster.BatchSize, 1, r.batches, runtime.NumCPU(), nil)
		if err != nil {
			return fmt.Errorf("compute in a single process: %w", err)
		}
		sums := make(map[int]string, len(alone))
		for i, p := range alone {
			batch, err := set.Batch(i, cluster.BatchSize)
			if err != nil {
				return err
			}
			sums[i] = SumBatch(p.Class, p.Prob, batch.Y)
		}
		r.truth.Sums[name] = sums
	}
	return nil
}

// hurt starts the cluster, runs load and faults, and writes the history to its end.
func (r *runner) hurt(ctx context.Context) error {
	store, err := os.MkdirTemp("", "idunno-chaos-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(store) }()
	defer r.proxies.close()
	r.say("starting %d broker, %d coordinators, %d workers", r.Servers, r.Coordinators, r.Workers)
	cfg := cluster.Config{Program: r.Program, Store: store, Temporary: true, Port: -1, Servers: r.Servers, Workers: r.Workers, Coordinators: r.Coordinators,
		ServerFor: r.proxies.urlFor, WorkerArgs: workerArgs()}
	if r.Log != nil {
		cfg.Log = &stamped{out: r.Log, began: time.Now()}
	}
	if r.local, err = cluster.Start(ctx, cfg); err != nil {
		return err
	}
	defer r.local.Stop()
	files, err := cluster.OpenStore(ctx, r.local.Broker())
	if err != nil {
		return err
	}
	if _, err := cluster.Seed(ctx, files, nil); err != nil {
		return err
	}
	if err := storePoison(ctx, files); err != nil {
		return err
	}
	outside, err := broker.Connect(ctx, broker.Config{Servers: r.local.URL(), Name: "chaos"})
	if err != nil {
		return err
	}
	defer outside.Close()
	r.rec.Add(Event{What: WhatRun, Plan: &Header{Schema: 1, Seed: r.Seed, Duration: r.Duration, Kinds: r.Kinds, Workers: r.Workers,
		Coordinators: r.Coordinators, Servers: r.Servers, LeaseTTL: broker.LeaseTTL}})
	if err := r.strike(ctx, outside, files); err != nil {
		return err
	}
	r.say("reading the store")
	if err := gather(ctx, outside, r.rec); err != nil {
		return err
	}
	return r.rec.Flush()
}

// strike runs load, faults and observers together, and then waits until all jobs
// have ended.
func (r *runner) strike(ctx context.Context, outside *broker.Broker, files *objectstore.Store) error {
	observing, stopObserving := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer stopObserving()
	o := &observer{b: outside, rec: r.rec}
	failed := make(chan error, 1)
	watchers.Go(func() { failed <- o.run(observing) })

	l := &load{b: r.local.Broker(), api: client.New(r.local.Broker()), rec: r.rec, files: files, batches: r.batches}
	s := &striker{local: r.local, proxies: r.proxies, rec: r.rec, leads: o.leads, load: l, say: r.say}
	watchers.Go(func() { s.revive(observing) })
	loading, stopLoad := context.WithCancel(ctx)
	var clients sync.WaitGroup
	clients.Go(func() { l.run(loading, r.Clients, r.Seed) })

	r.began = time.Now()
	s.run(ctx, r.began, r.schedule, rand.New(rand.NewPCG(r.Seed, 0)))
	if left := time.Until(r.began.Add(r.Duration)); left > 0 && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(left):
		}
	}
	stopLoad()
	clients.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := s.heal(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrNotHealed, err)
	}
	r.rec.Add(Event{What: WhatCalm})
	r.say("everything is mended; waiting for the accepted jobs")
	r.settle(ctx, outside)
	stopObserving()
	return <-failed
}

// settle waits until all jobs have ended, or too long: the checker tells which have
// not.
func (r *runner) settle(ctx context.Context, outside *broker.Broker) {
	ctx, cancel := context.WithTimeout(ctx, r.Settle)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		h, err := readJobs(ctx, outside)
		if err == nil && h.running() == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// stamped puts the time since the beginning before every line.
type stamped struct {
	out   io.Writer
	began time.Time
}

func (s *stamped) Write(p []byte) (int, error) {
	if _, err := fmt.Fprintf(s.out, "%9.3f  %s", time.Since(s.began).Seconds(), p); err != nil {
		return 0, err
	}
	return len(p), nil
}
