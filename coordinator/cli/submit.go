package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"idunno/broker/wire"
	"idunno/coordinator/cli/render"
	"idunno/coordinator/client"
)

func (a *app) submitCommand() *cobra.Command {
	var data string
	var terms wire.Terms
	var watch, asJSON bool
	cmd := &cobra.Command{
		Use: "submit MODEL FROM-TO", Short: "ask for the predictions of a range of batches", Args: nargs(2),
		Long: `Submits a query: run MODEL over the batches FROM to TO, both included, counted
from 1. Prints the job's number.

With --watch it stays until the job has ended, shows its progress and prints its
statistics; Ctrl-C leaves the job running.

With --batch-size the set's images are grouped anew, and batch N is the N-th
group. Jobs of a higher --priority take the others' place; --weight shares the rate
among those of the same one. A job that has to wait for another one (--after) is
cancelled unless that one is done, and runs on what the names of model and data stand
for when it starts: a model that the other one has trained. Names in other jobs stand
for what they do at the submission. --forever ends after ten million tasks.`,
		Example: `  idunno submit mlp 1-50
  idunno submit cnn@2 51-200 --data mnist --watch
  idunno submit mlp 1-50 --rounds 10 --priority 5 --deadline 30m
  idunno submit mlp 1-50 --id monday --after 12
  idunno submit mlp 7              batch 7 alone`,
		RunE: func(cmd *cobra.Command, args []string) error {
			doc := wire.JobDoc{Model: args[0], Data: data, Terms: terms}
			err := checkTerms(cmd)
			if err != nil {
				return usage(cmd, "%v", err)
			}
			if doc.From, doc.To, err = parseRange(args[1]); err != nil {
				return usage(cmd, "%v", err)
			}
			return a.withClient(cmd, func(ctx context.Context, api *client.Client) error {
				return a.submit(ctx, api, doc, watch, asJSON)
			})
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "data `SET` in the SDFS (default mnist)")
	termFlags(cmd, &terms)
	inferenceFlags(cmd, &terms)
	cmd.Flags().BoolVar(&watch, "watch", false, "stay until the job has ended")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// parseRange reads "FROM-TO" or one number.
func parseRange(s string) (from, to int, err error) {
	lo, hi, found := strings.Cut(s, "-")
	if !found {
		hi = lo
	}
	from, err1 := strconv.Atoi(lo)
	to, err2 := strconv.Atoi(hi)
	if err1 != nil || err2 != nil {
		return 0, 0, fmt.Errorf("batches %q: give a range such as 1-50", s)
	}
	if from < 1 || to < from {
		return 0, 0, fmt.Errorf("batches %q: give a range from 1 upwards, the first not after the last, such as 1-50", s)
	}
	return from, to, nil
}

func (a *app) submit(ctx context.Context, api *client.Client, doc wire.JobDoc, watch, asJSON bool) error {
	body, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	sub, err := api.Submit(ctx, body)
	if err != nil {
		return err
	}
	if sub.Stored {
		a.talk("no coordinator answers; the job is stored and starts when one does")
	}
	if sub.Duplicate {
		a.talk("job %d has this id already: it isn't run again", sub.Job)
	}
	if !watch {
		if asJSON {
			return render.JSON(a.stdout, struct {
				Schema int    `json:"schema_version"`
				Job    uint64 `json:"job"`
				Stored bool   `json:"stored"`
				Again  bool   `json:"duplicate,omitempty"`
			}{render.Schema, sub.Job, sub.Stored, sub.Duplicate})
		}
		a.talk("follow it with `idunno job %d`", sub.Job)
		fmt.Fprintln(a.stdout, sub.Job)
		return nil
	}
	stats, err := a.watch(ctx, api, sub.Job)
	if err != nil {
		return err
	}
	if err := a.showJob(stats, asJSON); err != nil {
		return err
	}
	return verdict(stats)
}

// watch follows a job with a progress bar until it has ended.
func (a *app) watch(ctx context.Context, api *client.Client, job uint64) (*wire.JobStats, error) {
	p := render.NewProgress(a.stderr)
	defer p.Close()
	var bar *render.Bar
	stats, err := api.Wait(ctx, job, func(s *wire.JobStats) {
		if s.Total == 0 {
			return
		}
		total, done, note := int64(s.Total), s.Batches+int64(s.Failed), rateNote(s)
		if endless(s) { // the bar is that of a round
			total = int64(s.To - s.From + 1)
			note = fmt.Sprintf("round %d  %s", done/total+1, note)
			done %= total
		}
		if bar == nil {
			bar = p.Bar(jobTitle(s), total)
		}
		bar.Set(done, note)
	})
	if err != nil && ctx.Err() != nil {
		p.Close()
		a.talk("job %d goes on: `idunno job %d` shows it, `idunno cancel %d` ends it", job, job, job)
	}
	return stats, err
}

// jobTitle names a job on a progress bar.
func jobTitle(s *wire.JobStats) string {
	if s.Train != "" {
		return fmt.Sprintf("job %d  train %s", s.Job, s.Train)
	}
	if s.Retry > 0 {
		return fmt.Sprintf("job %d  %s, retry of job %d", s.Job, s.Model, s.Retry)
	}
	return fmt.Sprintf("job %d  %s %d-%d%s", s.Job, s.Model, s.From, s.To, rounds(s.Rounds, s.Forever))
}

// rateNote is a job's rate and remaining time, or its state when it has none.
func rateNote(s *wire.JobStats) string {
	if s.State.Ended() {
		return fmt.Sprintf("%s img/s  %s", render.Rate(s.ImagesPerSecond), stateWord(s.State))
	}
	if s.Batches == 0 || s.State == wire.StatePaused {
		return stateWord(s.State)
	}
	if endless(s) {
		return fmt.Sprintf("%s img/s  %s", render.Rate(s.Rate), stateWord(s.State))
	}
	left := float64(s.Total) - float64(s.Batches) - float64(s.Failed)
	return strings.TrimSpace(fmt.Sprintf("%s img/s  %s", render.Rate(s.Rate), render.ETA(left, s.BatchRate)))
}

// stateWord is a state for people.
func stateWord(s wire.State) string { return strings.ReplaceAll(string(s), "_", " ") }

// verdict is the exit code of a job that has ended.
func verdict(s *wire.JobStats) error {
	switch s.State {
	case wire.StateDone:
		return nil
	case wire.StateDoneWithFailures:
		return &codeError{ExitFailures, fmt.Sprintf("job %d finished with %d failed batches: %s", s.Job, s.Failed, render.Clean(s.Reason))}
	}
	return &codeError{ExitFailed, fmt.Sprintf("job %d is %s: %s", s.Job, stateWord(s.State), render.Clean(s.Reason))}
}
