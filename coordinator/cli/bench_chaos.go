package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"idunno/bench"
	"idunno/bench/chaos"
	"idunno/coordinator/cli/render"
)

func (a *app) benchChaosCommand() *cobra.Command {
	var asJSON bool
	var c chaos.Config
	var faults []string
	var log, judge string
	cmd := &cobra.Command{
		Use: "chaos", Short: "kill, freeze and cut off processes under load, and prove that nothing was lost", Args: nargs(0),
		Long: `Starts a cluster of its own (brokers, coordinators and workers, as processes, each
connected through a proxy), has clients submit jobs all the time, and meanwhile
causes faults:

  kill-worker        SIGKILL of one to three workers at once
  kill-coordinator   SIGKILL of a coordinator, every other time of the one that leads
  kill-server        SIGKILL of a broker
  stop               SIGSTOP of any process, SIGCONT up to four seconds later
  partition          the way between a node and its broker is cut: both ways, one way,
                     by closing connections, or by a tenth of a second of latency
  restart-all        SIGKILL of everything at once
  poison             a job with a model that is broken, never ends or wants too much
                     memory, or with broken batches: they become dead letters

When and what is decided by --seed alone: the same seed gives the same schedule of
faults, which is printed. Everything that is submitted, answered and seen goes into
a history; when the faults are over and all accepted jobs have ended, the history
and the store are judged: every accepted job has ended, every batch has one result,
all predictions equal, bit for bit, those of a run without any cluster, there is
nothing that nobody asked for, and the lease had one holder at a time.

The exit code is 1 when anything is wrong. Nothing is left behind but --history.`,
		Example: `  idunno bench chaos
  idunno bench chaos --seed 7 --duration 30m --json > chaos.json
  idunno bench chaos --faults kill-worker,stop --duration 20s --history history.jsonl
  idunno bench chaos --judge history.jsonl`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if c.Kinds, err = chaos.ParseKinds(faults); err != nil {
				return usage(cmd, "--faults: %v", err)
			}
			if err := checkChaos(cmd, c); err != nil {
				return err
			}
			c.Progress = a.benchProgress
			if judge != "" {
				return a.judgeChaos(cmd.Context(), asJSON, judge)
			}
			if c.Program, err = os.Executable(); err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			if log != "" {
				f, err := os.Create(log)
				if err != nil {
					return fmt.Errorf("open the log: %w", err)
				}
				defer f.Close()
				c.Log = f
			}
			d, err := bench.Chaos(cmd.Context(), c)
			if err != nil {
				return err
			}
			return a.showChaos(asJSON, d)
		},
	}
	flags := cmd.Flags()
	flags.Uint64Var(&c.Seed, "seed", 1, "`S` decides the schedule of faults and the jobs")
	flags.DurationVar(&c.Duration, "duration", time.Minute, "`TIME` during which faults happen")
	flags.StringSliceVar(&faults, "faults", kindNames(), "`KINDS` of faults")
	flags.DurationVar(&c.Mean, "pause", 2500*time.Millisecond, "mean `TIME` between two faults")
	flags.IntVar(&c.Servers, "servers", 1, "`N` NATS servers, 1 or 3")
	flags.IntVar(&c.Workers, "workers", 4, "`N` worker processes")
	flags.IntVar(&c.Coordinators, "coordinators", 3, "`N` coordinator processes")
	flags.IntVar(&c.Clients, "clients", 4, "`N` clients, each with a job under way")
	flags.StringVar(&c.History, "history", "", "`FILE` for the history, JSON lines")
	flags.StringVar(&judge, "judge", "", "judge the history in `FILE` again instead, without any cluster")
	flags.StringVar(&log, "log", "", "`FILE` for what the processes say")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func kindNames() []string {
	var names []string
	for _, k := range chaos.Kinds() {
		names = append(names, string(k))
	}
	return names
}

func checkChaos(cmd *cobra.Command, c chaos.Config) error {
	switch {
	case c.Duration < time.Second || c.Duration > 24*time.Hour:
		return usage(cmd, "--duration %v: choose 1s to 24h", c.Duration)
	case c.Mean < 100*time.Millisecond:
		return usage(cmd, "--pause %v: at least 100ms", c.Mean)
	case c.Servers != 1 && c.Servers != 3:
		return usage(cmd, "--servers %d: choose 1 or 3", c.Servers)
	case c.Workers < 1 || c.Workers > mostProcesses:
		return usage(cmd, "--workers %d: choose 1 to %d", c.Workers, mostProcesses)
	case c.Coordinators < 1 || c.Coordinators > mostProcesses:
		return usage(cmd, "--coordinators %d: choose 1 to %d", c.Coordinators, mostProcesses)
	case c.Clients < 1 || c.Clients > mostProcesses:
		return usage(cmd, "--clients %d: choose 1 to %d", c.Clients, mostProcesses)
	}
	return nil
}

var errChaosNotOK = errors.New("the cluster did not keep its promises: see the findings")

func (a *app) judgeChaos(ctx context.Context, asJSON bool, history string) error {
	f, err := os.Open(history)
	if err != nil {
		return fmt.Errorf("open the history: %w", err)
	}
	defer f.Close()
	d, err := bench.JudgeChaos(ctx, f, a.benchProgress)
	if err != nil {
		return err
	}
	return a.showChaos(asJSON, d)
}

func (a *app) showChaos(asJSON bool, d *bench.Document) error {
	var err error
	if asJSON {
		err = render.JSON(a.stdout, d)
	} else {
		printChaos(a.stdout, d)
	}
	if err == nil && !d.OK {
		err = errChaosNotOK
	}
	return err
}

func printChaos(w io.Writer, d *bench.Document) {
	v := d.Chaos
	printBench(w, d)
	var kinds []string
	for _, k := range slices.Sorted(maps.Keys(v.Faults)) {
		kinds = append(kinds, fmt.Sprintf("%d %s", v.Faults[k], k))
	}
	fmt.Fprintf(w, "\nseed %d: %d faults (%s), %d found nothing to hit\n", v.Seed, v.Total(), strings.Join(kinds, ", "), v.Skipped)
	fmt.Fprintf(w, "%s jobs (%d cancelled, %d poisoned); submissions: %d accepted, %d refused, %d without an answer\n",
		render.Count(int64(v.Jobs)), v.Cancelled, v.Poisoned, v.Accepted, v.Refused, v.Unknown)
	fmt.Fprintf(w, "%s batches in %s results (%s were seen to share a durable write), %d failed as they had to; %d terms of leadership\n",
		render.Count(int64(v.Batches)), render.Count(int64(v.Results)), render.Count(int64(v.Grouped)), v.Failed, v.Terms)
	var pauses []string
	for _, p := range v.Pauses {
		pauses = append(pauses, fmt.Sprintf("%s at %s", render.Duration(p.Long), render.Duration(p.At)))
	}
	fmt.Fprintf(w, "longest pauses without a result while work was there: %s\n", strings.Join(pauses, ", "))
	for _, f := range v.Findings {
		fmt.Fprintf(w, "  %v\n", f)
	}
	verdict := "nothing lost, nothing twice, nothing different"
	if !d.OK {
		verdict = fmt.Sprintf("NOT OK: %d lost, %d doubled or unexpected, %d different", v.Lost(), v.Doubled(), v.Differ())
		for _, flaw := range slices.Sorted(maps.Keys(v.Flaws)) {
			verdict += fmt.Sprintf("; %d %s", v.Flaws[flaw], flaw)
		}
	}
	fmt.Fprintln(w, verdict)
}
