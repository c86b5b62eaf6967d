package cli

import (
	"context"

	"github.com/spf13/cobra"

	"idunno/broker/wire"
	"idunno/coordinator"
	"idunno/coordinator/cluster"
)

func (a *app) coordinatorCommand() *cobra.Command {
	var name string
	var maxQueued int
	var tied, asJSON bool
	cmd := &cobra.Command{
		Use: "coordinator", Short: "run a coordinator: it admits jobs, plans tasks, follows results", Args: nargs(0),
		Long: `Runs a coordinator. Several may run: one leads, the others stand by and take over
when it dies. It joins the cluster that --server names.`,
		Example: `  idunno coordinator
  idunno coordinator --server nats://10.0.0.1:4222 --name standby`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			node, err := nodeName(cmd, name, wire.RoleCoordinator)
			if err != nil {
				return err
			}
			if maxQueued < 1 {
				return usage(cmd, "--max-queued %d: at least 1", maxQueued)
			}
			return a.runRole(cmd, tied, func(ctx context.Context) error { return a.runCoordinator(ctx, node, maxQueued, tied, asJSON) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "name", "", "`NAME` of the node (default: made from the machine's name)")
	flags.IntVar(&maxQueued, "max-queued", coordinator.DefaultMaxQueued, "`N` jobs that may wait; while so many do, submissions are refused")
	flags.BoolVar(&asJSON, "json", false, "print one line of JSON when connected")
	untilStdinEnds(cmd, &tied)
	return cmd
}

func (a *app) runCoordinator(ctx context.Context, name string, maxQueued int, tied, asJSON bool) error {
	b, err := a.join(ctx, name)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := a.announce(tied, asJSON, cluster.Ready{Role: wire.RoleCoordinator, Name: name, URL: b.NC.ConnectedUrlRedacted()}); err != nil {
		return err
	}
	return coordinator.Run(ctx, coordinator.Config{Broker: b, Name: name, Version: version(), Address: localAddress(b), MaxQueued: maxQueued, Log: a.logger()})
}
