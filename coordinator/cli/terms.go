package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"idunno/broker/wire"
)

// termFlags adds the options that say how a job is to be run. What they may be is
// the document's business: it is checked when the job is submitted.
func termFlags(cmd *cobra.Command, t *wire.Terms) {
	flags := cmd.Flags()
	flags.Float64Var(&t.Weight, "weight", 0, "share `W` of the rate relative to other jobs' (default 1)")
	flags.IntVar(&t.Priority, "priority", 0, "`P` from -100 to 100: jobs of a higher one go first")
	flags.StringVar(&t.Deadline, "deadline", "", "`TIME` (2030-12-31T18:00:00Z) or duration (90m) at which it ends if it hasn't")
	flags.Uint64Var(&t.After, "after", 0, "start when `JOB` has ended well")
	flags.StringVar(&t.ID, "id", "", "`NAME` of the submission: the same one never runs twice")
}

// inferenceFlags adds those that only queries have.
func inferenceFlags(cmd *cobra.Command, t *wire.Terms) {
	flags := cmd.Flags()
	flags.IntVar(&t.Rounds, "rounds", 0, "do the range `N` times (default 1)")
	flags.BoolVar(&t.Forever, "forever", false, "do the range again and again until the job is cancelled")
	flags.IntVar(&t.BatchSize, "batch-size", 0, "`N` images in a batch (default as stored, or as `idunno set batch-size` says)")
	flags.IntVar(&t.MaxNodes, "max-nodes", 0, "at most `N` nodes work for it at a time (default all)")
	flags.IntVar(&t.MaxInFlight, "max-in-flight", 0, "at most `N` of its tasks are computed at a time (default no limit)")
	flags.StringVar(&t.Outputs, "outputs", "", "what results hold: `"+strings.Join(wire.Outputs(), "|")+"` (default "+wire.OutputsTop1+")")
}

// checkTerms refuses options that were given a value which the document could not
// tell from none.
func checkTerms(cmd *cobra.Command) error {
	flags := cmd.Flags()
	for _, name := range []string{"weight", "rounds", "batch-size", "max-nodes", "max-in-flight", "after"} {
		if f := flags.Lookup(name); f != nil && f.Changed && f.Value.String() == "0" {
			return fmt.Errorf("--%s 0: choose a positive number, or leave it out", name)
		}
	}
	for _, name := range []string{"deadline", "id", "outputs"} {
		if f := flags.Lookup(name); f != nil && f.Changed && f.Value.String() == "" {
			return fmt.Errorf("--%s needs a value", name)
		}
	}
	return nil
}

// endless reports whether a job goes on until it is cancelled.
func endless(s *wire.JobStats) bool { return s.Forever && s.Retry == 0 }

// doneOf tells how many of a job's batches are done.
func doneOf(s *wire.JobStats) string {
	if endless(s) {
		return strconv.FormatInt(s.Batches, 10)
	}
	return fmt.Sprintf("%d/%d", s.Batches, s.Total)
}

// rounds tells how often a range is done, "" for once.
func rounds(rounds int, forever bool) string {
	switch {
	case forever:
		return " forever"
	case rounds > 1:
		return fmt.Sprintf(" x%d", rounds)
	}
	return ""
}
