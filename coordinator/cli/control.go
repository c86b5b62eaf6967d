package cli

import (
	"context"

	"github.com/spf13/cobra"

	"idunno/broker/wire"
	"idunno/coordinator/client"
)

func (a *app) cancelCommand() *cobra.Command {
	return a.controlCommand(&cobra.Command{
		Use: "cancel N", Short: "end a job before it is done",
		Long:    "Ends a job. What it has computed so far stays readable with `idunno results N`.",
		Example: "  idunno cancel 12",
	}, (*client.Client).Cancel)
}

func (a *app) pauseCommand() *cobra.Command {
	return a.controlCommand(&cobra.Command{
		Use: "pause N", Short: "keep a job from running until it is resumed",
		Long: `Takes a job from the workers: what is being computed for it is given up, its results
stay, and others get its share. A training run begins anew when it is resumed. A
job that waits can be paused too; its deadline comes all the same.`,
		Example: "  idunno pause 12\n  idunno resume 12",
	}, (*client.Client).Pause)
}

func (a *app) resumeCommand() *cobra.Command {
	return a.controlCommand(&cobra.Command{
		Use: "resume N", Short: "let a paused job go on",
		Long:    "Lets a paused job go on with what has no result yet.",
		Example: "  idunno resume 12",
	}, (*client.Client).Resume)
}

// controlCommand makes a command that changes a job.
func (a *app) controlCommand(cmd *cobra.Command, change func(*client.Client, context.Context, uint64) (*wire.JobReply, error)) *cobra.Command {
	var asJSON bool
	cmd.Args = nargs(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		n, err := jobNumber(cmd, args[0])
		if err != nil {
			return err
		}
		return a.withClient(cmd, func(ctx context.Context, api *client.Client) error {
			reply, err := change(api, ctx, n)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printReply(reply)
			}
			a.talk("job %d is %s", n, stateWord(reply.Record.State))
			return nil
		})
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
