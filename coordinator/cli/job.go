package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"idunno/broker/wire"
	"idunno/coordinator/cli/render"
	"idunno/coordinator/client"
)

func (a *app) jobCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "job N", Short: "show one job", Args: nargs(1),
		Long:    "Shows what a job asked for, what was frozen when it was admitted, and how far it is.",
		Example: "  idunno job 12\n  idunno job 12 --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := jobNumber(cmd, args[0])
			if err != nil {
				return err
			}
			return a.withClient(cmd, func(ctx context.Context, api *client.Client) error {
				reply, err := api.Job(ctx, n)
				if err != nil {
					return err
				}
				if asJSON {
					return a.printReply(reply)
				}
				a.printRecord(reply.Record, reply.Stats)
				return nil
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// printReply prints what is known of a job as a JSON document.
func (a *app) printReply(reply *wire.JobReply) error {
	return render.JSON(a.stdout, struct {
		Schema int `json:"schema_version"`
		*wire.JobReply
	}{render.Schema, reply})
}

func (a *app) printRecord(r *wire.JobRecord, s *wire.JobStats) {
	var rows [][]string
	add := func(name, format string, args ...any) {
		rows = append(rows, []string{name, fmt.Sprintf(format, args...)})
	}
	if r != nil {
		model, data := versionNotes(r)
		add("job", "%d", r.Job)
		add("state", "%s", stateWord(r.State))
		if r.Reason != "" {
			add("reason", "%s", r.Reason)
		}
		if r.Retry != nil {
			add("retry", "of job %d, %s of its tasks", r.Retry.Of, render.Count(int64(r.Retry.Tasks.Len())))
		}
		if r.Doc.Training() {
			add("train", "%s, %d epochs, seed %d", r.Doc.Train, r.Doc.Epochs, r.Doc.Seed)
		} else if r.Doc.Model != "" {
			add("model", "%s%s", r.Doc.Model, model)
			count := int64(r.Batches())
			if r.Doc.Forever && r.Retry == nil {
				count = int64(r.RoundBatches())
			}
			add("batches", "%d to %d (%s), %d to a task", r.Doc.From, r.Doc.To, render.Count(count), r.TaskSize)
			if often := rounds(r.Doc.Rounds, r.Doc.Forever); often != "" {
				add("rounds", "%s", strings.TrimPrefix(strings.TrimSpace(often), "x"))
			}
			if r.BatchSize > 0 {
				add("batch size", "%d images, regrouped from the stored ones", r.BatchSize)
			}
		}
		addTerms(add, r)
		if r.Doc.Data != "" {
			add("data", "%s%s", r.Doc.Data, data)
		}
		add("submitted", "%s", render.Time(r.Submitted))
		if !r.Ended.IsZero() {
			add("ended", "%s", render.Time(r.Ended))
		}
		if r.KeptFrom > 0 {
			add("kept", "results from round %d on", r.Round(r.KeptFrom))
		}
		switch s := r.Results; {
		case s == nil:
		case !s.Removed.IsZero():
			add("results", "removed %s", render.Time(s.Removed))
		case s.Tasks > 0:
			add("results", "%s in %s", render.Bytes(s.Bytes), s.File)
		}
		if t := r.Trained; t != nil {
			add("trained", "%s@%d, accuracy %s on its training data", t.Model, t.Version, render.Percent(t.Accuracy))
			if t.HeldOut > 0 {
				add("held out", "accuracy %s", render.Percent(t.HeldOut))
			}
		}
	}
	if s != nil && s.Total > 0 && s.Train == "" {
		if endless(s) {
			add("done", "%d batches, %d failed", s.Batches, s.Failed)
		} else {
			add("done", "%d of %d batches, %d failed", s.Batches, s.Total, s.Failed)
		}
		add("rate", "%s img/s over the last 10 s, %s img/s in all", render.Rate(s.Rate), render.Rate(s.ImagesPerSecond))
		add("accuracy", "%s", render.Percent(s.Accuracy))
		add("loss", "%.4f", s.Loss)
		add("batch time", "mean %s ms, sd %s, p50 %s, p95 %s, p99 %s", render.Millis(s.MeanMs), render.Millis(s.SdMs),
			render.Millis(s.P50Ms), render.Millis(s.P95Ms), render.Millis(s.P99Ms))
	}
	for _, row := range rows {
		fmt.Fprintf(a.stdout, "%-11s %s\n", row[0], render.Clean(row[1]))
	}
}

// addTerms adds how a job is to be run, where that is not as usual.
func addTerms(add func(name, format string, args ...any), r *wire.JobRecord) {
	t := r.Doc.Terms
	if t.Priority != 0 {
		add("priority", "%d", t.Priority)
	}
	if t.Weight != 0 {
		add("weight", "%g", t.Weight)
	}
	if t.MaxNodes > 0 {
		add("max nodes", "%d", t.MaxNodes)
	}
	if t.MaxInFlight > 0 {
		add("max tasks", "%d in flight", t.MaxInFlight)
	}
	if t.Outputs != "" {
		add("outputs", "%s", t.Outputs)
	}
	if t.After > 0 {
		add("after", "job %d", t.After)
	}
	if t.ID != "" {
		add("id", "%s", t.ID)
	}
	if r.DuplicateOf > 0 {
		add("same as", "job %d", r.DuplicateOf)
	}
	if !r.Deadline.IsZero() {
		add("deadline", "%s", render.Time(r.Deadline))
	}
}

// versionNote tells what "newest" meant when a job was admitted.
func versionNote(version int, digest string) string {
	if version == 0 {
		return ""
	}
	return fmt.Sprintf(" (version %d, %.12s)", version, digest)
}

// versionNotes are those of a job's model and data. Where they are looked up when the
// job starts there is nothing to tell before.
func versionNotes(r *wire.JobRecord) (model, data string) {
	if r.NamesOpen() {
		const open = " (what it is when the job starts)"
		return open, open
	}
	return versionNote(r.ModelVersion, r.ModelDigest), versionNote(r.DataVersion, r.DataDigest)
}
