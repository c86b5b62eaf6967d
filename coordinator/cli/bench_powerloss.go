package cli

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"idunno/bench"
)

func (a *app) benchPowerlossCommand() *cobra.Command {
	var asJSON bool
	var c bench.PowerlossConfig
	cmd := &cobra.Command{
		Use: "powerloss", Short: "cut a broker's power, and count what it had acknowledged and lost", Args: nargs(0),
		Long: `Starts a broker, has it store submissions, results and files, kills it, throws away
everything that it had not synced to disk, starts a broker on the rest, and counts
what had been acknowledged and is gone. It does so again and again, with every write
synced before it is acknowledged, which is the default, and with a sync every
--interval.

The broker runs under ptrace, which tells what it syncs and when. Linux on amd64
only; no privileges are needed. Names and sizes of files are taken to be durable
with the next sync of any file, as on file systems with a journal (ext4, XFS, btrfs);
what the kernel writes by itself after a while counts as lost.

The exit code is 1 when anything is lost with the default.`,
		Example: "  idunno bench powerloss\n  idunno bench powerloss --cuts 3 --span 1s --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case c.Cuts < 1:
				return usage(cmd, "--cuts %d: at least 1", c.Cuts)
			case c.Span < 100*time.Millisecond:
				return usage(cmd, "--span %v: at least 100ms", c.Span)
			case c.Interval < time.Second:
				return usage(cmd, "--interval %v: at least 1s", c.Interval)
			}
			var err error
			if c.Program, err = os.Executable(); err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			c.Progress = a.benchProgress
			return a.benchRun(cmd, asJSON, func(ctx context.Context) (*bench.Document, error) { return bench.Powerloss(ctx, c) })
		},
	}
	cmd.Flags().IntVar(&c.Cuts, "cuts", 10, "`N` cuts, for each way of syncing")
	cmd.Flags().DurationVar(&c.Span, "span", 3*time.Second, "`TIME` that the broker works before a cut, at most")
	cmd.Flags().DurationVar(&c.Interval, "interval", 2*time.Minute, "`TIME` between syncs, to compare with; nats-server's own default")
	cmd.Flags().Uint64Var(&c.Seed, "seed", 1, "`NUMBER` that decides when the cuts are")
	jsonFlag(cmd, &asJSON)
	return cmd
}
