package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"idunno/broker/wire"
	"idunno/coordinator/cli/render"
	"idunno/coordinator/client"
)

func (a *app) statsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "stats [N]", Short: "statistics of all jobs or of one, per job and per node",
		Args: between(0, 1),
		Long: `Prints what was computed, how fast and how well, per job and per node: rates over
the last 10 s and in all, the times of processing one batch (mean, standard
deviation, variance, percentiles), accuracy and mean loss.`,
		Example: "  idunno stats\n  idunno stats 12 --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			var n uint64
			var err error
			if len(args) == 1 {
				if n, err = jobNumber(cmd, args[0]); err != nil {
					return err
				}
			}
			return a.withClient(cmd, func(ctx context.Context, api *client.Client) error {
				reply, err := api.Stats(ctx, n)
				if err != nil {
					return err
				}
				if asJSON {
					return render.JSON(a.stdout, statsDocument(reply))
				}
				if len(reply.Jobs) == 0 {
					a.talk("no jobs yet: try `idunno submit mlp 1-50`")
					return nil
				}
				printStats(a.stdout, reply.Jobs, reply.Nodes)
				return nil
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

type statsDoc struct {
	Schema int              `json:"schema_version"`
	Jobs   []wire.JobStats  `json:"jobs"`
	Nodes  []wire.NodeStats `json:"nodes"`
}

func statsDocument(r *wire.StatsReply) statsDoc {
	for i := range r.Jobs {
		r.Jobs[i].Nodes = list(r.Jobs[i].Nodes)
	}
	return statsDoc{render.Schema, list(r.Jobs), list(r.Nodes)}
}

// showJob prints the statistics of one job.
func (a *app) showJob(s *wire.JobStats, asJSON bool) error {
	if asJSON {
		return render.JSON(a.stdout, statsDocument(&wire.StatsReply{Jobs: []wire.JobStats{*s}, Nodes: s.Nodes}))
	}
	printStats(a.stdout, []wire.JobStats{*s}, s.Nodes)
	return nil
}

// printStats prints two tables a subject, so that each fits an ordinary terminal:
// what was done, and how long a batch took.
func printStats(w io.Writer, jobs []wire.JobStats, nodes []wire.NodeStats) {
	work := []render.Column{render.R("IMAGES"), render.R("IMG/S 10S"), render.R("IMG/S"), render.R("ACCURACY"), render.R("LOSS")}
	var done, times [][]string
	for i := range jobs {
		j := &jobs[i]
		id := []string{strconv.FormatUint(j.Job, 10), jobLabel(j)}
		done = append(done, append(append(id, stateWord(j.State), doneOf(j)), workCells(&j.Stats)...))
		times = append(times, append([]string{id[0], id[1]}, timeCells(&j.Stats)...))
	}
	render.Table(w, append([]render.Column{render.R("JOB"), render.L("QUERY"), render.L("STATE"), render.R("BATCHES")}, work...), done)
	fmt.Fprintln(w, "\nTime of one batch in ms")
	render.Table(w, append([]render.Column{render.R("JOB"), render.L("QUERY")}, timeColumns()...), times)
	if len(nodes) == 0 {
		return
	}
	done, times = nil, nil
	for i := range nodes {
		n := &nodes[i]
		done = append(done, append([]string{n.Node, render.Count(n.Tasks), render.Count(n.Batches)}, workCells(&n.Stats)...))
		times = append(times, append([]string{n.Node}, timeCells(&n.Stats)...))
	}
	fmt.Fprintln(w)
	render.Table(w, append([]render.Column{render.L("NODE"), render.R("TASKS"), render.R("BATCHES")}, work...), done)
	fmt.Fprintln(w, "\nTime of one batch in ms")
	render.Table(w, append([]render.Column{render.L("NODE")}, timeColumns()...), times)
}

func jobLabel(j *wire.JobStats) string {
	if j.Train != "" {
		return "train " + j.Train
	}
	if j.To == 0 {
		return j.Model
	}
	return fmt.Sprintf("%s %d-%d%s", j.Model, j.From, j.To, rounds(j.Rounds, j.Forever))
}

func workCells(s *wire.Stats) []string {
	accuracy, loss := "-", "-"
	if s.Images > 0 {
		accuracy, loss = render.Percent(s.Accuracy), fmt.Sprintf("%.4f", s.Loss)
	}
	return []string{render.Count(s.Images), render.Rate(s.Rate), render.Rate(s.ImagesPerSecond), accuracy, loss}
}

func timeColumns() []render.Column {
	var out []render.Column
	for _, name := range []string{"MEAN", "SD", "VARIANCE", "P50", "P90", "P95", "P99", "MIN", "MAX"} {
		out = append(out, render.R(name))
	}
	return out
}

func timeCells(s *wire.Stats) []string {
	out := make([]string, 0, 9)
	for _, ms := range []float64{s.MeanMs, s.SdMs, s.VarianceMs2, s.P50Ms, s.P90Ms, s.P95Ms, s.P99Ms, s.MinMs, s.MaxMs} {
		if s.Batches == 0 {
			out = append(out, "-")
			continue
		}
		out = append(out, render.Millis(ms))
	}
	return out
}
