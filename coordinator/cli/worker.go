package cli

import (
	"context"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"idunno/broker/wire"
	"idunno/coordinator/cluster"
	"idunno/worker"
)

func (a *app) workerCommand() *cobra.Command {
	var name, cache, cacheSize, memory string
	var slots int
	var limits limits
	var tied, asJSON, isolated bool
	cmd := &cobra.Command{
		Use: "worker", Short: "run a worker: it pulls tasks and computes them", Args: nargs(0),
		Long: `Runs a worker. It joins the cluster that --server names, pulls tasks, keeps models
and batches in a cache on disk, and prints a line a second about its work while it
is busy. SIGTERM or Ctrl-C drains it: it finishes what it computes and hands the
rest back.

A task that fails is noted and handed back. One that took too long, or at which
workers have died, is computed in a process of its own, which can be killed.

The cache is by default $XDG_CACHE_HOME/idunno or ~/.cache/idunno; several workers
may share one.`,
		Example: `  idunno worker
  idunno worker --server nats://10.0.0.1:4222 --slots 4 --cache /var/cache/idunno --cache-size 20GiB`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if isolated {
				return worker.Isolated(a.stdin, a.stdout)
			}
			node, err := nodeName(cmd, name, wire.RoleWorker)
			if err != nil {
				return err
			}
			if slots < 1 || slots > 1024 {
				return usage(cmd, "--slots %d: choose 1 to 1024; a slot keeps one core busy", slots)
			}
			size, err := parseSize(cacheSize)
			if err != nil {
				return usage(cmd, "--cache-size: %v", err)
			}
			inMemory, err := parseSize(memory)
			if err != nil {
				return usage(cmd, "--memory: %v", err)
			}
			cfg := worker.Config{Name: node, Slots: slots, CacheDir: cache, CacheBytes: size, MemoryBytes: inMemory, Version: version()}
			if err := limits.into(cmd, &cfg); err != nil {
				return err
			}
			if cfg.Isolate, err = isolate(); err != nil {
				return err
			}
			return a.runRole(cmd, tied, func(ctx context.Context) error { return a.runWorker(ctx, cfg, tied, asJSON) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "name", "", "`NAME` of the node (default: made from the machine's name)")
	flags.IntVar(&slots, "slots", runtime.NumCPU(), "`N` tasks computed at once, one core each")
	flags.StringVar(&cache, "cache", "", "`DIR` for models and batches (default: see above)")
	flags.StringVar(&cacheSize, "cache-size", "4GiB", "`SIZE` the cache may grow to")
	flags.StringVar(&memory, "memory", "256MiB", "`SIZE` of the batches that may stay in memory")
	flags.BoolVar(&asJSON, "json", false, "print one line of JSON when connected")
	limits.flags(cmd)
	flags.BoolVar(&isolated, "isolated", false, "compute what a worker writes to standard input")
	_ = flags.MarkHidden("isolated") // it exists
	untilStdinEnds(cmd, &tied)
	return cmd
}

func (a *app) runWorker(ctx context.Context, cfg worker.Config, tied, asJSON bool) error {
	var err error
	if cfg.CacheDir == "" {
		if cfg.CacheDir, err = a.cacheDir(); err != nil {
			return err
		}
	}
	if cfg.CacheDir, err = filepath.Abs(cfg.CacheDir); err != nil {
		return err
	}
	b, err := a.join(ctx, cfg.Name)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := a.announce(tied, asJSON, cluster.Ready{Role: wire.RoleWorker, Name: cfg.Name, URL: b.NC.ConnectedUrlRedacted()}); err != nil {
		return err
	}
	cfg.Broker, cfg.Address, cfg.Log = b, localAddress(b), a.logger()
	cfg.Status = func(line string) { a.talk("%s", line) }
	go worker.HugePages(ctx)
	return worker.Run(ctx, cfg)
}
