package cli

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"idunno/broker/wire"
	"idunno/coordinator/cli/render"
	"idunno/coordinator/client"
)

func (a *app) nodesCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "nodes", Short: "the membership list: who is there, and in what state", Args: nargs(0),
		Long: `Lists every node that there is or has lately been: its role and state (alive,
suspect, draining, dead, left) and for how long, when it was heard last, its cores,
compute slots, tasks in hand and computed batches, how long its process has been up,
and where it runs. --json has the tasks in hand, each by its job and number, and the
node's incarnation too.`,
		Example: "  idunno nodes\n  idunno nodes --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd, func(ctx context.Context, api *client.Client) error {
				reply, err := api.Nodes(ctx)
				if err != nil {
					return err
				}
				if asJSON {
					return render.JSON(a.stdout, struct {
						Schema int         `json:"schema_version"`
						Leader string      `json:"leader"`
						Nodes  []wire.Node `json:"nodes"`
					}{render.Schema, reply.Leader, list(reply.Nodes)})
				}
				a.printNodes(reply)
				return nil
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) printNodes(reply *wire.NodesReply) {
	var rows [][]string
	for _, n := range reply.Nodes {
		role, slots, busy := string(n.Role), "-", "-"
		if n.Node == reply.Leader {
			role += " (leads)"
		}
		if n.Role == wire.RoleWorker {
			slots, busy = strconv.Itoa(n.Slots), strconv.Itoa(len(n.InFlight))
		}
		rows = append(rows, []string{n.Node, role, string(n.State), render.Duration(time.Since(n.Since)),
			render.Duration(time.Since(n.Seen)), strconv.Itoa(n.Cores), slots, busy, render.Count(n.Batches),
			render.Duration(time.Since(time.Unix(0, n.Incarnation))), n.Address, strconv.Itoa(n.PID), n.Version})
	}
	render.Table(a.stdout, []render.Column{render.L("NODE"), render.L("ROLE"), render.L("STATE"), render.R("FOR"), render.R("HEARD"),
		render.R("CORES"), render.R("SLOTS"), render.R("TASKS"), render.R("BATCHES"), render.R("UP"), render.L("ADDRESS"), render.R("PID"), render.L("VERSION")}, rows)
}
