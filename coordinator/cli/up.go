package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/cli/render"
	"idunno/coordinator/cluster"
	"idunno/worker"
)

func (a *app) upCommand() *cobra.Command {
	var cfg cluster.Config
	var maxStore string
	var limits limits
	var tied, asJSON, quiet bool
	cmd := &cobra.Command{
		Use: "up", Short: "run a local cluster that stays up", Args: nargs(0),
		Long: `Starts a broker, coordinators and workers as processes on this machine, stores the
data set mnist and the models mlp and cnn in the SDFS when they are not there yet,
and stays until Ctrl-C, which stops them in order. No process survives this one.

The cores are shared out to the workers, at least one each. The data is kept under
--store, by default $XDG_DATA_HOME/idunno or ~/.local/share/idunno, and found there
again the next time.

With --servers 3 there are three brokers, each with all of the data in a directory of
its own; any one of them may die. A store made by one server can't be opened by
three, nor the reverse.`,
		Example: `  idunno up
  idunno up --workers 2 --coordinators 2 --port 4333 --store ./data
  idunno up --port -1 --json       any free port; the URL on stdout`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkUp(cmd, cfg); err != nil {
				return err
			}
			if maxStore != "" {
				var err error
				if cfg.MaxStore, err = parseSize(maxStore); err != nil {
					return usage(cmd, "--max-store: %v", err)
				}
			}
			if err := limits.into(cmd, &worker.Config{}); err != nil {
				return err
			}
			cfg.WorkerArgs = limits.args()
			if !quiet {
				cfg.Log = a.stderr
			}
			return a.runRole(cmd, tied, func(ctx context.Context) error { return a.up(ctx, cfg, asJSON) })
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&cfg.Workers, "workers", min(3, runtime.NumCPU()), "`N` worker processes")
	flags.IntVar(&cfg.Coordinators, "coordinators", 1, "`N` coordinator processes; one leads, the others stand by")
	flags.IntVar(&cfg.Servers, "servers", 1, "`N` NATS servers, 1 or 3; three keep everything three times and survive the death of one")
	flags.StringVar(&cfg.Store, "store", "", "`DIR` of the data (default: see above)")
	flags.StringVar(&maxStore, "max-store", "", "`SIZE` of everything that a server stores at most (default: what its disk has room for)")
	flags.StringVar(&cfg.Host, "host", "127.0.0.1", "`ADDRESS` to listen on")
	flags.IntVar(&cfg.Port, "port", 4222, "`PORT` to listen on, -1 for any free one; three servers take the next two as well")
	limits.flags(cmd)
	flags.BoolVarP(&quiet, "quiet", "q", false, "do not show what the processes say")
	flags.BoolVar(&asJSON, "json", false, "print the URL as one line of JSON when ready")
	untilStdinEnds(cmd, &tied)
	return cmd
}

// mostProcesses bounds what a slip of the finger can start.
const mostProcesses = 256

func checkUp(cmd *cobra.Command, cfg cluster.Config) error {
	switch {
	case cfg.Workers < 1 || cfg.Workers > mostProcesses:
		return usage(cmd, "--workers %d: choose 1 to %d", cfg.Workers, mostProcesses)
	case cfg.Coordinators < 1 || cfg.Coordinators > mostProcesses:
		return usage(cmd, "--coordinators %d: choose 1 to %d", cfg.Coordinators, mostProcesses)
	case cfg.Servers != 1 && cfg.Servers != 3:
		return usage(cmd, "--servers %d: choose 1 or 3; for more, run `idunno broker` on machines of their own", cfg.Servers)
	}
	return nil
}

func (a *app) up(ctx context.Context, cfg cluster.Config, asJSON bool) error {
	var err error
	if cfg.Program, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if cfg.Store == "" {
		if cfg.Store, err = a.dataDir(); err != nil {
			return err
		}
	}
	if cfg.Store, err = filepath.Abs(cfg.Store); err != nil {
		return err
	}
	local, err := cluster.Start(ctx, cfg)
	if err != nil {
		return err
	}
	defer local.Stop()
	if err := a.seed(ctx, local.Broker()); err != nil {
		return err
	}
	ready := cluster.Ready{Schema: render.Schema, Role: "cluster", Name: "up", URL: local.URL(), PID: os.Getpid()}
	if asJSON {
		if err := printLine(a.stdout, ready); err != nil {
			return err
		}
	} else {
		a.talk("\nThe cluster is up at %s with %d workers; the data is in %s.\n", local.URL(), cfg.Workers, cfg.Store)
		at := ""
		if local.URL() != broker.DefaultURL {
			at = " --server " + local.URL()
		}
		a.talk("  idunno submit mlp 1-50 --watch%s\n  idunno stats%s\n  idunno nodes%s", at, at, at)
		a.talk("  nats req %s '{\"model\":\"mlp\",\"from\":1,\"to\":50}'%s\n\nCtrl-C stops it.", broker.SubjectSubmit, at)
	}
	return a.attend(ctx, local, cfg)
}

// attend stays until ctx ends, telling of processes that die. Without most of its
// brokers there is no cluster.
func (a *app) attend(ctx context.Context, local *cluster.Local, cfg cluster.Config) error {
	for {
		select {
		case <-ctx.Done():
			a.talk("stopping workers, coordinators, broker")
			return nil
		case err := <-local.Died():
			brokers := local.Names(wire.RoleBroker)
			running := 0
			for _, name := range brokers {
				if local.PID(name) != 0 {
					running++
				}
			}
			if 2*running <= len(brokers) {
				return err
			}
			a.talk("%v; the others go on", err)
		}
	}
}

// seed stores what the program carries in the SDFS.
func (a *app) seed(ctx context.Context, b *broker.Broker) error {
	store, err := cluster.OpenStore(ctx, b)
	if err != nil {
		return err
	}
	p := render.NewProgress(a.stderr)
	defer p.Close()
	var bar *render.Bar
	stored, err := cluster.Seed(ctx, store, func(done, total int) {
		if bar == nil {
			bar = p.Bar("store data/mnist", int64(total))
		}
		bar.Set(int64(done), "batches")
	})
	if err != nil {
		return fmt.Errorf("seed the SDFS: %w", err)
	}
	p.Close()
	if len(stored) > 0 {
		a.talk("stored in the SDFS: %s", strings.Join(stored, ", "))
	}
	return nil
}
