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

func (a *app) dlqCommand() *cobra.Command {
	cmd := group("dlq", "dead letters, tasks that failed for good: ls, show, retry", a.dlqLs(), a.dlqShow(), a.dlqRetry())
	cmd.Long = `A task that fails is tried again, later each time and on other workers where there are
any, and after the last try (--max-attempts of the workers) it becomes a dead letter:
what it was, what was tried where, and how it failed. Its job goes on without it and ends
as done_with_failures. Deaths of workers are counted apart from failures of the task.`
	return cmd
}

// maxLetters is the most dead letters that a list has.
const maxLetters = 1000

func (a *app) dlqLs() *cobra.Command {
	var asJSON bool
	var job, after uint64
	var limit int
	cmd := &cobra.Command{
		Use: "ls", Short: "list dead letters, oldest first", Args: nargs(0),
		Example: "  idunno dlq ls\n  idunno dlq ls --job 12 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || limit > maxLetters {
				return usage(cmd, "--limit %d: choose 1 to %d", limit, maxLetters)
			}
			return a.withClient(cmd, func(ctx context.Context, api *client.Client) error {
				letters, next, err := allLetters(ctx, api, wire.DLQRequest{Job: job, After: after, Limit: limit})
				if err != nil {
					return err
				}
				if asJSON {
					return render.JSON(a.stdout, struct {
						Schema  int               `json:"schema_version"`
						Letters []wire.DeadLetter `json:"letters"`
						Next    uint64            `json:"next,omitempty"`
					}{render.Schema, list(letters), next})
				}
				if len(letters) == 0 {
					a.talk("no dead letters")
					return nil
				}
				a.printLetters(letters)
				if next > 0 {
					a.talk("newer ones: `idunno dlq ls --after %d`", next)
				}
				return nil
			})
		},
	}
	cmd.Flags().Uint64Var(&job, "job", 0, "only those of job `N`")
	cmd.Flags().IntVar(&limit, "limit", 50, "`N` letters at most")
	cmd.Flags().Uint64Var(&after, "after", 0, "only letters behind place `N`, as the list before told")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// allLetters reads as many letters as are asked for, in as many pages as it takes.
func allLetters(ctx context.Context, api *client.Client, req wire.DLQRequest) (letters []wire.DeadLetter, next uint64, err error) {
	limit := req.Limit
	for {
		req.Limit = limit - len(letters)
		page, err := api.DeadLetters(ctx, req)
		if err != nil {
			return nil, 0, err
		}
		letters = append(letters, page.Letters...)
		if page.Next == 0 || len(letters) >= limit {
			return letters, page.Next, nil
		}
		req.After = page.Next
	}
}

func (a *app) printLetters(letters []wire.DeadLetter) {
	var rows [][]string
	for i := range letters {
		l := &letters[i]
		retried := ""
		if l.RetriedBy > 0 {
			retried = "job " + strconv.FormatUint(l.RetriedBy, 10)
		}
		rows = append(rows, []string{strconv.FormatUint(l.Job, 10), strconv.Itoa(l.Task), letterModel(l), letterBatches(l), strconv.Itoa(l.Failures),
			strconv.Itoa(l.Crashes), strings.Join(l.Nodes, " "), render.Time(l.Time), retried, brief(l.Error)})
	}
	render.Table(a.stdout, []render.Column{render.R("JOB"), render.R("TASK"), render.L("MODEL"), render.L("BATCHES"), render.R("FAILURES"),
		render.R("CRASHES"), render.L("NODES"), render.L("TIME"), render.L("RETRIED"), render.L("ERROR")}, rows)
}

func letterModel(l *wire.DeadLetter) string {
	switch {
	case l.Train != "":
		return "train " + l.Train
	case l.ModelVersion > 0 && !strings.Contains(l.Model, "@"):
		return fmt.Sprintf("%s@%d", l.Model, l.ModelVersion)
	}
	return l.Model
}

func letterBatches(l *wire.DeadLetter) string {
	if l.Train != "" {
		return ""
	}
	return fmt.Sprintf("%d-%d", l.From, l.To)
}

// brief is the beginning of an error, for a table.
func brief(s string) string {
	const most = 80
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

func (a *app) dlqShow() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show JOB TASK", Short: "show a dead letter with everything that was tried", Args: nargs(2),
		Example: "  idunno dlq show 12 3\n  idunno dlq show 12 3 --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			job, err := jobNumber(cmd, args[0])
			if err != nil {
				return err
			}
			tasks, err := taskNumbers(cmd, args[1:])
			if err != nil {
				return err
			}
			return a.withClient(cmd, func(ctx context.Context, api *client.Client) error {
				reply, err := api.DeadLetters(ctx, wire.DLQRequest{Job: job, Task: tasks[0]})
				if err != nil {
					return err
				}
				if len(reply.Letters) != 1 {
					return fmt.Errorf("the coordinator answers with %d letters", len(reply.Letters))
				}
				if asJSON {
					return render.JSON(a.stdout, struct {
						Schema int              `json:"schema_version"`
						Letter *wire.DeadLetter `json:"letter"`
					}{render.Schema, &reply.Letters[0]})
				}
				a.printLetter(&reply.Letters[0])
				return nil
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) printLetter(l *wire.DeadLetter) {
	add := func(name, format string, args ...any) {
		fmt.Fprintf(a.stdout, "%-9s %s\n", name, render.Clean(fmt.Sprintf(format, args...)))
	}
	add("job", "%d", l.Job)
	add("task", "%d", l.Task)
	if l.Train != "" {
		add("train", "%s", l.Train)
	} else {
		add("model", "%s%s", l.Model, versionNote(l.ModelVersion, l.ModelDigest))
		add("batches", "%d to %d", l.From, l.To)
	}
	add("data", "%s%s", l.Data, versionNote(l.DataVersion, l.DataDigest))
	add("failures", "%d", l.Failures)
	add("crashes", "%d", l.Crashes)
	add("nodes", "%s", strings.Join(l.Nodes, ", "))
	add("time", "%s", render.Time(l.Time))
	if l.RetriedBy > 0 {
		add("retried", "by job %d", l.RetriedBy)
	}
	add("error", "%s", l.Error)
	if len(l.Tried) == 0 {
		return
	}
	var rows [][]string
	for i := range l.Tried {
		t := &l.Tried[i]
		where := "worker"
		if t.Isolated {
			where = "own process"
		}
		rows = append(rows, []string{strconv.Itoa(i + 1), render.Time(t.Time), t.Node, string(t.Cause), where, t.Error})
	}
	fmt.Fprintln(a.stdout)
	render.Table(a.stdout, []render.Column{render.R("TRY"), render.L("TIME"), render.L("NODE"), render.L("CAUSE"), render.L("WHERE"), render.L("ERROR")}, rows)
}

func (a *app) dlqRetry() *cobra.Command {
	var asJSON, watch, newest bool
	cmd := &cobra.Command{
		Use: "retry JOB [TASK...]", Short: "do failed tasks of a job again, in a new job", Args: between(1, 1+wire.MaxRetryTasks),
		Long: `Submits a job that does the failed tasks of an ended job again, all of them or those
named: the same batches of the same data with the same model, as they were frozen
then. With --newest it takes what the names of model and data stand for now, for
instance a model that has been mended. Prints the number of the new job.`,
		Example: "  idunno dlq retry 12\n  idunno dlq retry 12 3 7 --newest --watch",
		RunE: func(cmd *cobra.Command, args []string) error {
			job, err := jobNumber(cmd, args[0])
			if err != nil {
				return err
			}
			tasks, err := taskNumbers(cmd, args[1:])
			if err != nil {
				return err
			}
			return a.withClient(cmd, func(ctx context.Context, api *client.Client) error {
				return a.submit(ctx, api, wire.JobDoc{Retry: job, Tasks: tasks, Newest: newest}, watch, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&newest, "newest", false, "take the newest versions of model and data")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "stay until the job has ended; exit with 3 when batches failed again")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// taskNumbers reads numbers of tasks; none give none.
func taskNumbers(cmd *cobra.Command, args []string) ([]int, error) {
	var tasks []int
	for _, s := range args {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > wire.MaxTasks {
			return nil, usage(cmd, "%q is not a task number; `idunno dlq ls` lists them", s)
		}
		tasks = append(tasks, n)
	}
	return tasks, nil
}
