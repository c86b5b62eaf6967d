package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"idunno/broker/wire"
	"idunno/coordinator/cli/render"
	"idunno/coordinator/client"
	"idunno/coordinator/cluster"
)

const (
	demoWorkers = 3
	demoLimit   = 5 * time.Minute
)

// demoQueries are the queries of the demonstration.
func demoQueries() []wire.JobDoc {
	return []wire.JobDoc{
		{Model: "mlp", From: 1, To: 50},
		{Model: "mlp", From: 51, To: 200},
		{Model: "cnn", From: 1, To: 50},
		{Model: "cnn", From: 51, To: 200},
	}
}

var errDemoLate = errors.New("the demo did not end within " + demoLimit.String())

func (a *app) demoCommand() *cobra.Command {
	var asJSON, verbose bool
	cmd := &cobra.Command{
		Use: "demo", Short: "see it all: a cluster, four queries, a killed worker, everything checked", Args: nargs(0),
		Long: `Starts a cluster of its own on this machine (a broker, a coordinator and three
workers, as processes, on a free port), stores MNIST's 21,000 test images and two
models, and submits four queries: mlp 1-50, mlp 51-200, cnn 1-50, cnn 51-200.
Half-way it kills a busy worker with SIGKILL. At the end it checks that every batch
has exactly one result, and that all predictions equal, bit for bit, those of a run
in a single process without any cluster.

Nothing is left behind: no process, no file. The exit code is 0 only when every
check holds.`,
		Example: "  idunno demo\n  idunno demo --json > demo.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), demoLimit, errDemoLate)
			defer cancel()
			d := &demo{app: a, json: asJSON, log: io.Discard}
			if verbose {
				d.log = a.stderr
			}
			return d.run(ctx)
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show what the processes say")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// demo is a run of the demonstration.
type demo struct {
	*app
	json bool
	log  io.Writer

	local    *cluster.Local
	api      *client.Client
	jobs     []*demoJob
	progress *render.Progress
	victim   victim
}

// demoJob is one of the queries.
type demoJob struct {
	doc   wire.JobDoc
	job   uint64
	bar   *render.Bar
	stats wire.JobStats
}

// victim is the worker that is killed, and what became of its work.
type victim struct {
	node    string
	at      time.Time
	held    []wire.InFlight
	by      string        // who carried on first
	resumed time.Duration // when, after the kill
}

func (d *demo) run(ctx context.Context) error {
	began := time.Now()
	dir, err := os.MkdirTemp("", "idunno-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	d.talk("Starting a broker, a coordinator and %d workers, each its own process.", demoWorkers)
	d.local, err = cluster.Start(ctx, cluster.Config{Program: program, Store: dir, Temporary: true, Port: -1, Workers: demoWorkers, Log: d.log})
	if err != nil {
		return err
	}
	defer d.local.Stop()
	d.api = client.New(d.local.Broker())
	if err := d.seed(ctx, d.local.Broker()); err != nil {
		return err
	}
	if err := d.submitAll(ctx); err != nil {
		return err
	}
	if err := d.follow(ctx); err != nil {
		return err
	}
	stats, err := d.api.Stats(ctx, 0)
	if err != nil {
		return err
	}
	verdict, err := d.check(ctx, stats)
	if err != nil {
		return err
	}
	if err := d.show(stats, verdict); err != nil {
		return err
	}
	d.local.Stop()
	if err := verdict.failure(); err != nil {
		return err
	}
	d.talk("\nEverything checked out, in %s.", render.Duration(time.Since(began)))
	return nil
}

func (d *demo) submitAll(ctx context.Context) error {
	d.talk("\nSubmitting the four queries; half-way a busy worker will be killed.")
	for _, doc := range demoQueries() {
		body, err := json.Marshal(doc)
		if err != nil {
			return err
		}
		sub, err := d.api.Submit(ctx, body)
		if err != nil {
			return fmt.Errorf("submit %s %d-%d: %w", doc.Model, doc.From, doc.To, err)
		}
		d.jobs = append(d.jobs, &demoJob{doc: doc, job: sub.Job})
	}
	return nil
}
