package bench

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"idunno/coordinator/client"
	"idunno/coordinator/cluster"
)

// ScaleConfig says what [Scale] measures.
type ScaleConfig struct {
	// Program is the path of the idunno program that the cluster is started with.
	// Required.
	Program string
	// Parts are the names of what to measure; default all of [ScaleParts].
	Parts []string
	// Tasks is the number of tasks of each half of a pair of [PartDispatch]; default 20,000.
	Tasks int
	// Pairs is the number of those pairs; default 5.
	Pairs int
	// Batches is the length of the long job; default 1,000,000.
	Batches int
	// Sizes are the finished tasks of a running job when a coordinator starts cold;
	// default 10,000 and 100,000.
	Sizes []int
	// Starts is how often one starts at each size; default 5.
	Starts int
	// Jobs is the number of jobs that wait; default 10,000.
	Jobs int
	// Workers is the number of simulated workers; default 1,000.
	Workers int
	// Progress is told of every step.
	Progress Progress
}

// Parts of the scenario.
const (
	PartDispatch = "dispatch"
	PartLong     = "long"
	PartTakeover = "takeover"
	PartQueue    = "queue"
	PartWorkers  = "workers"
)

// ScaleParts are the parts that [Scale] knows.
func ScaleParts() []string {
	return []string{PartDispatch, PartLong, PartTakeover, PartQueue, PartWorkers}
}

// Scale measures what the cluster's bookkeeping costs, with a model that computes
// next to nothing, in clusters of processes on this machine. The workers are real
// ones too, but in this process, each with a connection of its own.
//
//	dispatch    tasks a second of one batch each, durable results included; paired with nats.go that
//	            moves the same messages in the same server: dispatch_to_jetstream is against the better
//	            of a write for each result and of batches of them, the ratios behind it against each;
//	            dispatch_cpu: CPU time for a task of broker, coordinator and workers
//	long        coordinator_mib: the most memory the coordinator had after a job of a million batches;
//	            its CPU time for a million batches; every prediction compared with that of the model alone
//	takeover    from the start of a coordinator's process to its answer with all results of a running
//	            job of so many finished tasks counted, when none stood by
//	queue       memory and CPU time of the coordinator for each waiting job, and a page of their list
//	workers     a coordinator with so many workers: its memory, its share of a core when nothing is to
//	            be done, and tasks a second
//
// Lost, doubled and differing results are counted, and make the document not OK.
func Scale(ctx context.Context, c ScaleConfig) (*Document, error) {
	if c.Program == "" {
		return nil, fmt.Errorf("%w: no program", ErrConfig)
	}
	for _, n := range []*int{&c.Tasks, &c.Pairs, &c.Batches, &c.Starts, &c.Jobs, &c.Workers} {
		if *n < 0 {
			return nil, fmt.Errorf("%w: %d of something", ErrConfig, *n)
		}
	}
	c.defaults()
	for _, part := range c.Parts {
		if !slices.Contains(ScaleParts(), part) {
			return nil, fmt.Errorf("%w: no part %q", ErrConfig, part)
		}
	}
	s := &scale{ScaleConfig: c, d: newDocument("scale")}
	for _, part := range c.Parts {
		if err := s.measure(ctx, part); err != nil {
			return nil, fmt.Errorf("%s: %w", part, err)
		}
	}
	counts := s.d.Counts
	s.d.OK = counts.Lost == 0 && counts.Duplicates == 0 && counts.Differing == 0
	return s.d, nil
}

func (c *ScaleConfig) defaults() {
	for _, d := range []struct {
		n *int
		v int
	}{{&c.Tasks, 20_000}, {&c.Pairs, 5}, {&c.Batches, 1_000_000}, {&c.Starts, 5}, {&c.Jobs, 10_000}, {&c.Workers, 1000}} {
		if *d.n == 0 {
			*d.n = d.v
		}
	}
	if len(c.Parts) == 0 {
		c.Parts = ScaleParts()
	}
	if len(c.Sizes) == 0 {
		c.Sizes = []int{10_000, 100_000}
	}
}

// scale is a run of the scenario, with the cluster of its present part.
type scale struct {
	ScaleConfig
	d     *Document
	dir   string
	local *cluster.Local
	api   *client.Client
	null  *nullData
}

func (s *scale) measure(ctx context.Context, part string) (err error) {
	if s.dir, err = os.MkdirTemp("", "idunno-bench-"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(s.dir) }()
	s.Progress.tell("%s: starting a cluster", part)
	s.local, err = cluster.Start(ctx, cluster.Config{Program: s.Program, Store: s.dir, Temporary: true, Port: -1, NoWorkers: true,
		CoordinatorArgs: []string{"--max-queued", fmt.Sprint(s.Jobs + 100)}})
	if err != nil {
		return err
	}
	defer s.local.Stop()
	s.api = client.New(s.local.Broker())
	files, err := cluster.OpenStore(ctx, s.local.Broker())
	if err != nil {
		return err
	}
	s.null = &nullData{files: files}
	return map[string]func(context.Context) error{PartDispatch: s.dispatch, PartLong: s.long, PartTakeover: s.takeover,
		PartQueue: s.queue, PartWorkers: s.workers}[part](ctx)
}

// leader is the coordinator's process.
const leader = "coordinator-1"

// usage is what a process has taken.
type usage struct {
	// mib is the memory that it has, most the most that it had.
	mib, most float64
	cpu       time.Duration
	at        time.Time
}

func (s *scale) usage() (usage, error) { return processUsage(s.local.PID(leader)) }

// add adds a result of one value.
func (s *scale) add(name, unit string, values ...float64) {
	s.d.Results = append(s.d.Results, counted(name, unit, values))
}
