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
		rows = append(rows, []string{n.Node, role, string(n.State), render.Duration(time.Since(n.Since)), slots, busy,
			render.Count(n.Batches), n.Address, strconv.Itoa(n.PID), n.Version})
	}
	render.Table(a.stdout, []render.Column{render.L("NODE"), render.L("ROLE"), render.L("STATE"), render.R("FOR"), render.R("SLOTS"),
		render.R("TASKS"), render.R("BATCHES"), render.L("ADDRESS"), render.R("PID"), render.L("VERSION")}, rows)
}
