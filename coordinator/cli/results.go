package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"idunno/broker/wire"
	"idunno/coordinator/cli/export"
	"idunno/coordinator/cli/render"
	"idunno/coordinator/client"
	"idunno/coordinator/cluster"
	"idunno/models/dataset"
	"idunno/objectstore"
)

// resultFlags are the flags of `idunno results`.
type resultFlags struct {
	format, out           string
	probs, follow, asJSON bool
}

func (a *app) resultsCommand() *cobra.Command {
	var f resultFlags
	cmd := &cobra.Command{
		Use: "results N", Short: "print or write a job's predictions, a row for each image", Args: nargs(1),
		Long: `Prints what a job has predicted so far: for every image its index in the data set
(from 0), its batch (from 1), its true label (null when the data has none), the
prediction and its probability. The order is that of the images, whoever computed
them and when, and the bytes are the same in every run.

Where the model's card or the data set names the classes, and not just by their
numbers, "label_name" and "prediction_name" come with the numbers, but in npy. A job
of several rounds has "round" in front (from 1), one round behind the other; of one
that runs for ever the last rounds are kept, as ` + "`idunno set forever-rounds`" + ` says.

Jobs submitted with --outputs probs keep the probability of every class: --probs
writes them too. Jobs submitted with --outputs raw keep the numbers that the model
gives, which are written as "output", whatever the model is for.

Formats: jsonl, an object a line; csv, with a line of names; parquet; npy, an array of
records, or of the probabilities or outputs alone, the first dimension the image.

With --follow rows come as they are computed, in order, until the job ends.

When batches have failed it says so on standard error and exits with 3.`,
		Example: `  idunno results 12 > predictions.jsonl
  idunno results 12 --format parquet --out predictions.parquet
  idunno results 12 --probs --format npy --out probabilities.npy
  idunno results 12 --follow | head -5`,
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := jobNumber(cmd, args[0])
			if err != nil {
				return err
			}
			if err := a.checkResultFlags(cmd, &f); err != nil {
				return err
			}
			b, err := a.connect(cmd)
			if err != nil {
				return err
			}
			defer b.Close()
			p := &resultPrinter{app: a, api: client.New(b), resultFlags: f, job: n}
			p.open = func() (*objectstore.Store, error) { return cluster.OpenStore(cmd.Context(), b) }
			return p.run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&f.format, "format", export.JSONL, "`FORMAT`: "+strings.Join(export.Formats(), ", "))
	cmd.Flags().StringVar(&f.out, "out", "", "write to `FILE` instead of standard output")
	cmd.Flags().BoolVar(&f.probs, "probs", false, "the probability of every class, of a job submitted with --outputs probs")
	cmd.Flags().BoolVar(&f.follow, "follow", false, "go on until the job has ended")
	jsonFlag(cmd, &f.asJSON)
	return cmd
}

// checkResultFlags refuses what can't be carried out.
func (a *app) checkResultFlags(cmd *cobra.Command, f *resultFlags) error {
	switch {
	case !slices.Contains(export.Formats(), f.format):
		return usage(cmd, "--format %q: choose %s", f.format, strings.Join(export.Formats(), ", "))
	case f.asJSON && f.format != export.JSONL:
		return usage(cmd, "--json is one JSON document: it can't be %s too", f.format)
	case export.Binary(f.format) && f.out == "" && render.IsTerminal(a.stdout):
		return usage(cmd, "--format %s is nothing for a terminal: give --out FILE", f.format)
	}
	return nil
}

// resultPrinter writes the results of a job.
type resultPrinter struct {
	*app
	resultFlags
	api  *client.Client
	job  uint64
	open func() (*objectstore.Store, error)

	rec *wire.JobRecord
	w   export.Writer
	// batchSize is the number of images in the job's batches.
	batchSize int
	failed    int
	failure   string
}

func (p *resultPrinter) run(ctx context.Context) error {
	rec, err := p.record(ctx)
	if err != nil {
		return err
	}
	p.rec = rec
	if rec.Doc.Training() || rec.State == wire.StateRejected {
		return fmt.Errorf("job %d has no predictions: it is a %s; `idunno job %d` tells its outcome", p.job, kind(rec), p.job)
	}
	table := export.Table{Rounds: rec.Doc.Forever || rec.Doc.Rounds > 1}
	if table.Values, err = p.values(); err != nil {
		return err
	}
	if err := p.lookUp(ctx, &table); err != nil {
		return err
	}
	if err := p.write(ctx, table); err != nil {
		return err
	}
	if p.failed > 0 {
		return &codeError{ExitFailures, fmt.Sprintf("job %d: %d tasks failed, the first: %s", p.job, p.failed, render.Clean(p.failure))}
	}
	if p.rec.State != wire.StateDone {
		p.talk("job %d is %s: these are the predictions so far", p.job, stateWord(p.rec.State))
	}
	return nil
}

// lookUp reads of the job's model and data what its rows need: how many images a batch
// has, and what the classes are called.
func (p *resultPrinter) lookUp(ctx context.Context, table *export.Table) error {
	p.batchSize = p.rec.BatchSize
	store, err := p.open()
	if err != nil {
		return err
	}
	data, err := cluster.Manifest(ctx, store, p.rec.DataDigest)
	if err != nil && p.batchSize == 0 {
		return fmt.Errorf("read data set %s of job %d: %w", p.rec.Doc.Data, p.job, err)
	}
	if err == nil {
		p.batchSize = cmp.Or(p.batchSize, data.BatchSize)
	}
	if err == nil && p.rec.ModelDigest != "" { // without one it has never run
		table.Classes, table.Labels, err = cluster.ClassNames(ctx, store, p.rec.ModelDigest, data)
	}
	switch {
	case errors.Is(err, objectstore.ErrNotFound), errors.Is(err, objectstore.ErrCorrupt), errors.Is(err, wire.ErrCard), errors.Is(err, dataset.ErrFormat):
		p.talk("without names of classes: %v", err)
	case err != nil:
		return err
	}
	if onlyNumbers(table.Classes) && onlyNumbers(table.Labels) {
		table.Classes, table.Labels = nil, nil
	}
	return nil
}

// onlyNumbers reports whether names say no more than the numbers of the classes.
func onlyNumbers(names []string) bool {
	for i, name := range names {
		if name != strconv.Itoa(i) {
			return false
		}
	}
	return true
}

func kind(r *wire.JobRecord) string {
	if r.Doc.Training() {
		return "training job"
	}
	return "rejected job"
}

// record is the job's record. One that has just been accepted has none yet: it is
// waited for with --follow.
func (p *resultPrinter) record(ctx context.Context) (*wire.JobRecord, error) {
	find := p.api.Record
	if p.follow {
		find = p.api.AwaitRecord
	}
	rec, err := find(ctx, p.job)
	if err != nil || rec != nil {
		return rec, err
	}
	// The coordinator knows which jobs there are.
	reply, err := p.api.Job(ctx, p.job)
	if err != nil {
		return nil, err
	}
	return reply.Record, nil
}

// values are what the job has kept of what is asked for.
func (p *resultPrinter) values() (export.Values, error) {
	kept := p.rec.Doc.Outputs
	switch {
	case p.probs && kept == wire.OutputsProbs:
		return export.Probabilities, nil
	case p.probs && kept == wire.OutputsRaw:
		return 0, fmt.Errorf("job %d keeps the model's raw outputs, and no probabilities: leave --probs out, or submit it with --outputs probs", p.job)
	case p.probs:
		return 0, fmt.Errorf("job %d keeps the best class of each image and its probability: for all of them submit it with --outputs probs", p.job)
	case kept == wire.OutputsRaw:
		return export.Output, nil
	}
	return export.Plain, nil
}

// write writes the table to where it belongs. A file is there whole or, but for
// --follow, not at all.
func (p *resultPrinter) write(ctx context.Context, table export.Table) error {
	if p.out == "" {
		return p.rows(ctx, p.stdout, table)
	}
	if p.follow {
		f, err := os.Create(p.out)
		if err != nil {
			return err
		}
		return errors.Join(p.rows(ctx, f, table), f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(p.out), "."+filepath.Base(p.out)+"-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // it has another name when all went well
	if err := errors.Join(p.rows(ctx, f, table), f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), p.out)
}

// rows writes all rows.
func (p *resultPrinter) rows(ctx context.Context, out io.Writer, table export.Table) (err error) {
	if p.asJSON {
		p.w = export.NewJSON(out, table, p.job)
	} else if p.w, err = export.New(p.format, out, table); err != nil {
		return err
	}
	rec, err := p.api.InOrder(ctx, p.job, p.follow, p.result)
	if rec != nil {
		p.rec = rec
	}
	if err != nil {
		return errors.Join(err, p.w.Flush())
	}
	return p.w.Close()
}

// result writes the rows of a task.
func (p *resultPrinter) result(r *wire.Result) error {
	if r.Error != "" {
		if p.failed++; p.failed == 1 {
			p.failure = r.Error
		}
		return nil
	}
	round := p.rec.Round(r.Task)
	for i := range r.Batches {
		if err := p.batch(&r.Batches[i], round); err != nil {
			return err
		}
	}
	if p.follow {
		return p.w.Flush()
	}
	return nil
}

func (p *resultPrinter) batch(b *wire.BatchResult, round int) error {
	each := 0
	row := export.Row{Round: round, Batch: b.Batch, Labeled: b.Labels != nil, Scored: len(b.Class) > 0, HasProb: b.Prob != nil}
	if b.Output != nil && b.Images > 0 {
		row.Shape, each = b.Output.Shape, len(b.Values)/b.Images
	}
	for i := range b.Images {
		row.Index = int64(b.Batch-1)*int64(p.batchSize) + int64(i)
		if row.Labeled {
			row.Label = b.Labels[i]
		}
		if row.Scored {
			row.Class = b.Class[i]
		}
		if row.HasProb {
			row.Prob = b.Prob[i]
		}
		row.Values = b.Values[i*each : (i+1)*each]
		if err := p.w.Row(&row); err != nil {
			return err
		}
	}
	return nil
}
