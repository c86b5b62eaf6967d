package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"idunno/broker/wire"
	"idunno/coordinator/client"
)

func (a *app) phaseCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "phase [" + strings.Join(wire.Phases(), "|") + "]", Short: "choose what runs: training, inference, or both", Args: between(0, 1),
		Long: `Restricts what the cluster runs. Jobs of the other kind go back to those that wait,
keep their results, and go on when the phase lets them; a training run begins
anew. Without an argument it tells the phase.`,
		Example: "  idunno phase train\n  idunno phase both",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && !slices.Contains(wire.Phases(), args[0]) {
				return usage(cmd, "no phase %q; choose %s", args[0], strings.Join(wire.Phases(), ", "))
			}
			return a.withClient(cmd, func(ctx context.Context, api *client.Client) error {
				if len(args) > 0 {
					return a.set(ctx, api, map[string]any{"phase": args[0]}, asJSON)
				}
				s, err := api.Settings(ctx)
				if err != nil {
					return err
				}
				if asJSON {
					return a.printSettings(s, true)
				}
				_, err = fmt.Fprintln(a.stdout, cmp.Or(s.Phase, wire.PhaseBoth))
				return err
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
