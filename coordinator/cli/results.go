package cli

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"idunno/broker/wire"
	"idunno/coordinator/cli/render"
	"idunno/coordinator/client"
	"idunno/coordinator/cluster"
)

func (a *app) resultsCommand() *cobra.Command {
	var format string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "results N", Short: "print a job's predictions, one line an image", Args: nargs(1),
		Long: `Prints what a job has predicted so far: for every image its index in the data set
(from 0), its batch (from 1), its true label (null when the data has none), the
prediction and its probability. The order is that of the images, whoever computed
them and when, and the bytes are the same in every run.

When batches have failed it says so on standard error and exits with 3.`,
		Example: "  idunno results 12 > predictions.jsonl\n  idunno results 12 --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := jobNumber(cmd, args[0])
			if err != nil {
				return err
			}
			if format != "jsonl" {
				return usage(cmd, "--format %q: choose jsonl", format)
			}
			b, err := a.connect(cmd)
			if err != nil {
				return err
			}
			defer b.Close()
			api := client.New(b)
			reply, err := api.Job(cmd.Context(), n)
			if err != nil {
				return err
			}
			rec := reply.Record
			if rec.Doc.Training() || rec.State == wire.StateRejected {
				return fmt.Errorf("job %d has no predictions: it is a %s; `idunno job %d` tells its outcome", n, kind(rec), n)
			}
			store, err := cluster.OpenStore(cmd.Context(), b)
			if err != nil {
				return err
			}
			m, err := cluster.Manifest(cmd.Context(), store, rec.DataDigest)
			if err != nil {
				return fmt.Errorf("read data set %s of job %d: %w", rec.Doc.Data, n, err)
			}
			w := &resultWriter{out: bufio.NewWriterSize(a.stdout, 1<<16), doc: asJSON, batchSize: cmp.Or(rec.BatchSize, m.BatchSize)}
			return a.printResults(cmd.Context(), api, reply, w)
		},
	}
	cmd.Flags().StringVar(&format, "format", "jsonl", "`FORMAT`: jsonl, an object a line")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func kind(r *wire.JobRecord) string {
	if r.Doc.Training() {
		return "training job"
	}
	return "rejected job"
}

func (a *app) printResults(ctx context.Context, api *client.Client, job *wire.JobReply, w *resultWriter) error {
	rec := job.Record
	if err := w.begin(rec.Job); err != nil {
		return err
	}
	var failed []string
	order := inOrder{next: 1, emit: func(r *wire.Result) error {
		if r.Error != "" {
			failed = append(failed, r.Error)
			return nil
		}
		return w.result(r)
	}}
	if err := api.Results(ctx, rec.Job, order.add); err != nil {
		return err
	}
	if err := order.flush(); err != nil {
		return err
	}
	if err := w.end(); err != nil {
		return err
	}
	if len(failed) > 0 {
		return &codeError{ExitFailures, fmt.Sprintf("job %d: %d tasks failed, the first: %s", rec.Job, len(failed), render.Clean(failed[0]))}
	}
	if rec.State != wire.StateDone {
		a.talk("job %d is %s: these are the predictions so far", rec.Job, stateWord(rec.State))
	}
	return nil
}

// inOrder passes results on in the order of their tasks. Results arrive nearly in
// that order, so it holds few, unless a task was lost and is done much later.
type inOrder struct {
	next    int
	waiting map[int]*wire.Result
	emit    func(*wire.Result) error
}

func (o *inOrder) add(r *wire.Result) error {
	if o.waiting == nil {
		o.waiting = make(map[int]*wire.Result)
	}
	o.waiting[r.Task] = r
	for {
		r, ok := o.waiting[o.next]
		if !ok {
			return nil
		}
		delete(o.waiting, o.next)
		o.next++
		if err := o.emit(r); err != nil {
			return err
		}
	}
}

// flush passes on what waits behind tasks that have no result.
func (o *inOrder) flush() error {
	tasks := make([]int, 0, len(o.waiting))
	for t := range o.waiting {
		tasks = append(tasks, t)
	}
	slices.Sort(tasks)
	for _, t := range tasks {
		if err := o.emit(o.waiting[t]); err != nil {
			return err
		}
	}
	return nil
}

// resultWriter prints predictions, as lines or as one document.
type resultWriter struct {
	out       *bufio.Writer
	doc       bool
	batchSize int
	line      []byte
	some      bool
}

func (w *resultWriter) begin(job uint64) error {
	if !w.doc {
		return nil
	}
	_, err := fmt.Fprintf(w.out, "{\"schema_version\":%d,\"job\":%d,\"results\":[\n", render.Schema, job)
	return err
}

func (w *resultWriter) end() error {
	if w.doc {
		if w.some {
			_ = w.out.WriteByte('\n') // Flush reports the first error
		}
		_, _ = w.out.WriteString("]}\n")
	}
	return w.out.Flush()
}

func (w *resultWriter) result(r *wire.Result) error {
	for i := range r.Batches {
		if err := w.batch(&r.Batches[i]); err != nil {
			return err
		}
	}
	return nil
}

func (w *resultWriter) batch(b *wire.BatchResult) error {
	for i := range b.Class {
		p := w.line[:0]
		if w.doc && w.some {
			p = append(p, ",\n"...)
		}
		p = append(p, `{"index":`...)
		p = strconv.AppendInt(p, int64(b.Batch-1)*int64(w.batchSize)+int64(i), 10)
		p = append(p, `,"batch":`...)
		p = strconv.AppendInt(p, int64(b.Batch), 10)
		p = append(p, `,"label":`...)
		if b.Labeled {
			p = strconv.AppendInt(p, int64(b.Labels[i]), 10)
		} else {
			p = append(p, "null"...)
		}
		p = append(p, `,"prediction":`...)
		p = strconv.AppendInt(p, int64(b.Class[i]), 10)
		p = append(p, `,"probability":`...)
		if b.Prob != nil {
			p = appendFloat(p, b.Prob[i])
		} else {
			p = append(p, "null"...)
		}
		p = append(p, '}')
		if !w.doc {
			p = append(p, '\n')
		}
		w.line, w.some = p, true
		if _, err := w.out.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// appendFloat writes the shortest decimal that reads back as the same bits; JSON
// has no word for what is not finite.
func appendFloat(p []byte, f float32) []byte {
	if math.IsNaN(float64(f)) || math.IsInf(float64(f), 0) {
		return append(p, "null"...)
	}
	return strconv.AppendFloat(p, float64(f), 'g', -1, 32)
}
