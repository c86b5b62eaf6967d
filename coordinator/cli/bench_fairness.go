package cli

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"idunno/bench"
)

func (a *app) benchFairnessCommand() *cobra.Command {
	var asJSON bool
	var c bench.FairnessConfig
	cmd := &cobra.Command{
		Use: "fairness", Short: "how equal the rates of jobs are that run together", Args: nargs(0),
		Long: `Starts a cluster of its own, runs mixes of two, three and five jobs of different cost
in it, with equal weights and with weights 1, 2 and 4, and measures over every window
of --window how far their query rates lie apart, counted from stored results; how
soon a second job begins and has its share; how soon rates are equal again after a
worker's death; and what five jobs do together against each alone. Nothing else
should run meanwhile.`,
		Example: "  idunno bench fairness\n  idunno bench fairness --span 10s --joins 10 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			for flag, n := range map[string]int{"joins": c.Joins, "kills": c.Kills, "pairs": c.Pairs} {
				if n < 1 {
					return usage(cmd, "--%s %d: at least 1", flag, n)
				}
			}
			switch {
			case c.Workers == 1 || c.Workers < 0:
				return usage(cmd, "--workers %d: at least 2, so that somebody goes on", c.Workers)
			case c.Window < time.Second:
				return usage(cmd, "--window %v: at least 1s", c.Window)
			case c.Span < 100*time.Millisecond:
				return usage(cmd, "--span %v: at least 100ms", c.Span)
			}
			if err := a.benchInputs(&c.Models, &c.Set); err != nil {
				return err
			}
			var err error
			if c.Program, err = os.Executable(); err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			c.Progress = a.benchProgress
			return a.benchRun(cmd, asJSON, func(ctx context.Context) (*bench.Document, error) { return bench.Fairness(ctx, c) })
		},
	}
	cmd.Flags().IntVar(&c.Workers, "workers", 0, "`N` workers (default one a core, at least 2)")
	cmd.Flags().DurationVar(&c.Window, "window", 10*time.Second, "`TIME` that rates are taken over")
	cmd.Flags().DurationVar(&c.Span, "span", 20*time.Second, "`TIME` that each mix runs beyond the first window")
	cmd.Flags().IntVar(&c.Joins, "joins", 50, "`N` times that a second job joins")
	cmd.Flags().IntVar(&c.Kills, "kills", 5, "`N` workers to kill, one after the other")
	cmd.Flags().IntVar(&c.Pairs, "pairs", 5, "`N` pairs of five jobs and each alone")
	cmd.Flags().Uint64Var(&c.Seed, "seed", 1, "`SEED` of the moments of joins and kills")
	jsonFlag(cmd, &asJSON)
	return cmd
}
