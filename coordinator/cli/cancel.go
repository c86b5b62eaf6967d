package cli

import (
	"context"

	"github.com/spf13/cobra"

	"idunno/coordinator/client"
)

func (a *app) cancelCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "cancel N", Short: "end a job before it is done", Args: nargs(1),
		Long:    "Ends a job. What it has computed so far stays readable with `idunno results N`.",
		Example: "  idunno cancel 12",
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := jobNumber(cmd, args[0])
			if err != nil {
				return err
			}
			return a.withClient(cmd, func(ctx context.Context, api *client.Client) error {
				reply, err := api.Cancel(ctx, n)
				if err != nil {
					return err
				}
				if asJSON {
					return a.printReply(reply)
				}
				a.talk("job %d is cancelled", n)
				return nil
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
