package cli

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"idunno/worker"
)

// limits are what a worker allows a task; workers take them as flags, and so does
// whatever starts workers.
type limits struct {
	timeout  time.Duration
	memory   string
	attempts int
}

func (l *limits) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.DurationVar(&l.timeout, "batch-timeout", worker.DefaultBatchTimeout, "`TIME` that a model may take for a batch")
	flags.StringVar(&l.memory, "task-memory", "1GiB", "`SIZE` that a model's weights may take, and what it computes for a batch")
	flags.IntVar(&l.attempts, "max-attempts", worker.DefaultMaxAttempts, "`N` tries of a task that fails; then it is a dead letter (`idunno dlq ls`)")
}

// into checks the limits and puts them into a worker's configuration.
func (l *limits) into(cmd *cobra.Command, cfg *worker.Config) error {
	memory, err := parseSize(l.memory)
	switch {
	case err != nil:
		return usage(cmd, "--task-memory: %v", err)
	case l.timeout < 10*time.Millisecond || l.timeout > 24*time.Hour:
		return usage(cmd, "--batch-timeout %v: choose 10ms to 24h", l.timeout)
	case l.attempts < 1 || l.attempts > worker.MostAttempts:
		return usage(cmd, "--max-attempts %d: choose 1 to %d", l.attempts, worker.MostAttempts)
	}
	cfg.BatchTimeout, cfg.TaskMemory, cfg.MaxAttempts = l.timeout, memory, l.attempts
	return nil
}

// args are the flags for a worker.
func (l *limits) args() []string {
	return []string{"--batch-timeout", l.timeout.String(), "--task-memory", l.memory, "--max-attempts", fmt.Sprint(l.attempts)}
}

// isolate is the command of a process that computes suspicious tasks.
func isolate() (worker.Command, error) {
	path, err := os.Executable()
	if err != nil {
		return worker.Command{}, fmt.Errorf("find this program: %w", err)
	}
	return worker.Command{Path: path, Args: []string{"idunno", "worker", "--isolated"}}, nil
}
