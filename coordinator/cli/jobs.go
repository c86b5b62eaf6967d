package cli

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"idunno/broker/wire"
	"idunno/coordinator/cli/render"
	"idunno/coordinator/client"
)

func (a *app) jobsCommand() *cobra.Command {
	var asJSON bool
	var limit int
	var before uint64
	cmd := &cobra.Command{
		Use: "jobs", Short: "list jobs, newest first", Args: nargs(0),
		Example: "  idunno jobs\n  idunno jobs --limit 100 --before 4000 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || limit > 1000 {
				return usage(cmd, "--limit %d: choose 1 to 1000", limit)
			}
			return a.withClient(cmd, func(ctx context.Context, api *client.Client) error {
				reply, err := api.Jobs(ctx, before, limit)
				if err != nil {
					return err
				}
				if asJSON {
					return render.JSON(a.stdout, struct {
						Schema int             `json:"schema_version"`
						Jobs   []wire.JobReply `json:"jobs"`
						Next   uint64          `json:"next,omitempty"`
					}{render.Schema, list(reply.Jobs), reply.Next})
				}
				if len(reply.Jobs) == 0 {
					a.talk("no jobs yet: try `idunno submit mlp 1-50`")
					return nil
				}
				a.printJobs(reply.Jobs)
				if reply.Next > 0 {
					a.talk("older ones: `idunno jobs --before %d`", reply.Next)
				}
				return nil
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 50, "`N` jobs at most")
	cmd.Flags().Uint64Var(&before, "before", 0, "only jobs with a number below `N`")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// list makes an empty list of a nil one, which JSON would print as null.
func list[T any](v []T) []T {
	if v == nil {
		return []T{}
	}
	return v
}

func (a *app) printJobs(jobs []wire.JobReply) {
	var rows [][]string
	for _, j := range jobs {
		if j.Record == nil {
			continue
		}
		r, what, batches, done, accuracy := j.Record, j.Record.Doc.Model, "-", "-", "-"
		if r.Doc.Training() {
			what = "train " + r.Doc.Train
		} else if r.Doc.To > 0 {
			batches = fmt.Sprintf("%d-%d%s", r.Doc.From, r.Doc.To, rounds(r.Doc.Rounds, r.Doc.Forever))
		}
		if r.Doc.Retry > 0 {
			batches = fmt.Sprintf("retry of %d", r.Doc.Retry)
		}
		if s := j.Stats; s != nil && s.Batches > 0 {
			done = doneOf(s)
			accuracy = render.Percent(s.Accuracy)
		}
		rows = append(rows, []string{strconv.FormatUint(r.Job, 10), what, batches, r.Doc.Data, stateWord(r.State), done, accuracy, render.Time(r.Submitted)})
	}
	render.Table(a.stdout, []render.Column{render.R("JOB"), render.L("MODEL"), render.L("BATCHES"), render.L("DATA"),
		render.L("STATE"), render.R("DONE"), render.R("ACCURACY"), render.L("SUBMITTED")}, rows)
}
