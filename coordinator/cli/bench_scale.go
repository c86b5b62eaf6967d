package cli

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"idunno/bench"
)

func (a *app) benchScaleCommand() *cobra.Command {
	var asJSON bool
	var c bench.ScaleConfig
	cmd := &cobra.Command{
		Use: "scale", Short: "what the bookkeeping costs: many tasks, jobs, batches and workers", Args: nargs(0),
		Long: `Runs a model that computes next to nothing in clusters on this machine, and measures
durable tasks a second against nats.go that moves the same messages (dispatch), the
coordinator's memory and CPU time for a job of a million batches (long), how long a
coordinator takes that starts while a long job is running (takeover), jobs that wait
(queue), and many workers (workers: simulated, each with a connection of its own).
Results are counted and compared. Nothing else should run meanwhile. Linux only.`,
		Example: "  idunno bench scale\n  idunno bench scale --parts dispatch,takeover --pairs 3 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			for flag, n := range map[string]int{"tasks": c.Tasks, "pairs": c.Pairs, "batches": c.Batches, "jobs": c.Jobs, "workers": c.Workers, "starts": c.Starts} {
				if n < 1 {
					return usage(cmd, "--%s %d: at least 1", flag, n)
				}
			}
			for _, part := range c.Parts {
				if !slices.Contains(bench.ScaleParts(), part) {
					return usage(cmd, "--parts %q: choose from %s", part, strings.Join(bench.ScaleParts(), ", "))
				}
			}
			for _, size := range c.Sizes {
				if size < 1 {
					return usage(cmd, "--sizes %d: at least 1", size)
				}
			}
			var err error
			if c.Program, err = os.Executable(); err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			c.Progress = a.benchProgress
			return a.benchRun(cmd, asJSON, func(ctx context.Context) (*bench.Document, error) { return bench.Scale(ctx, c) })
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&c.Parts, "parts", bench.ScaleParts(), "`PARTS` to measure")
	flags.IntVar(&c.Tasks, "tasks", 20_000, "`N` tasks of each half of a pair (dispatch, workers)")
	flags.IntVar(&c.Pairs, "pairs", 5, "`N` pairs behind each ratio (dispatch)")
	flags.IntVar(&c.Batches, "batches", 1_000_000, "`N` batches of the long job (long)")
	flags.IntSliceVar(&c.Sizes, "sizes", []int{10_000, 100_000}, "finished `TASKS` of the running job (takeover)")
	flags.IntVar(&c.Starts, "starts", 5, "`N` coordinators started at each size (takeover)")
	flags.IntVar(&c.Jobs, "jobs", 10_000, "`N` jobs that wait (queue)")
	flags.IntVar(&c.Workers, "workers", 1000, "`N` simulated workers (workers)")
	jsonFlag(cmd, &asJSON)
	return cmd
}
