package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"idunno/broker/wire"
	"idunno/coordinator/cli/render"
	"idunno/coordinator/client"
)

func (a *app) assignmentsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "assignments", Short: "which nodes work for which job, and why", Args: nargs(0),
		Long: `Lists for every running job the workers that serve it, the number of their slots, the
part of the cluster's computing time that the job is to get, and the reason. A small job
gets few nodes, a large one all. A node that has nothing else to do helps with other
jobs too, unless a job's --max-nodes forbids it. The table is kept in the store: it is
shown also while no coordinator answers, as it was last.`,
		Example: "  idunno assignments\n  idunno assignments --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd, func(ctx context.Context, api *client.Client) error {
				table, err := api.Assignments(ctx)
				if err != nil {
					return err
				}
				if asJSON {
					table.Schema, table.Jobs = render.Schema, list(table.Jobs)
					return render.JSON(a.stdout, table)
				}
				a.printAssignments(table)
				return nil
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// shownNodes is how many nodes' names a line of the table has.
const shownNodes = 8

func (a *app) printAssignments(table *wire.Assignments) {
	var rows [][]string
	for _, j := range table.Jobs {
		names := strings.Join(j.Nodes[:min(len(j.Nodes), shownNodes)], " ")
		if more := len(j.Nodes) + j.More - shownNodes; more > 0 {
			names += fmt.Sprintf(" and %s more", render.Count(int64(more)))
		}
		rows = append(rows, []string{strconv.FormatUint(j.Job, 10), j.Model, render.Count(int64(len(j.Nodes) + j.More)), render.Count(int64(j.Slots)),
			render.Percent(j.Share), names, j.Reason})
	}
	render.Table(a.stdout, []render.Column{render.R("JOB"), render.L("MODEL"), render.R("NODES"), render.R("SLOTS"), render.R("SHARE"),
		render.L("WHICH"), render.L("WHY")}, rows)
}
