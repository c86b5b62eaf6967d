package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"idunno/broker/wire"
	"idunno/coordinator/cli/render"
	"idunno/coordinator/client"
	"idunno/coordinator/cluster"
	"idunno/models/train"
	"idunno/worker"
)

// trainFlags are the options of a training run.
type trainFlags struct {
	data   string
	epochs int
	seed   uint64
	terms  wire.Terms
	local  bool
	idx    string
	out    string
	json   bool
}

func (a *app) trainCommand() *cobra.Command {
	var f trainFlags
	cmd := &cobra.Command{
		Use: "train " + strings.Join(wire.Archs(), "|"), Short: "train a model on a worker and store it in the SDFS", Args: nargs(1),
		Long: `Trains a network on a worker of the cluster, a task like any other, and stores the
model in the SDFS as a new version. Shows loss and accuracy of every epoch.

It runs beside inference, and jobs that were admitted before keep the model that
they were admitted with. It has one task and begins anew where it is interrupted.

The training set must be in the SDFS: idunno data fetch mnist, or without a network
idunno data import mnist-train --idx DIR.

With --local it trains here, without a cluster, on the training files in the
directory that --idx names, and writes the model to a file. They must be MNIST's,
unless --data gives another name. The same seed gives the same model.`,
		Example: `  idunno train mlp
  idunno train cnn --epochs 3 --seed 7
  idunno train mlp --local --idx ~/mnist --out mlp.onnx`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd, args[0]); err != nil {
				return err
			}
			if f.epochs == 0 {
				f.epochs = wire.DefaultEpochs(args[0])
			}
			if f.local {
				return a.trainHere(cmd.Context(), args[0], f)
			}
			return a.trainOnCluster(cmd, args[0], f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.data, "data", "", "data `SET` to train on (default mnist-train)")
	flags.IntVar(&f.epochs, "epochs", 0, "`N` passes over the data (default "+defaultEpochs()+")")
	flags.Uint64Var(&f.seed, "seed", wire.DefaultSeed, "`N` that every random choice comes from")
	termFlags(cmd, &f.terms)
	flags.BoolVar(&f.local, "local", false, "train here, without a cluster")
	flags.StringVar(&f.idx, "idx", "", "`DIR` with MNIST's files, for --local")
	flags.StringVar(&f.out, "out", "", "`FILE` to write, for --local (default mlp.onnx or cnn.onnx)")
	jsonFlag(cmd, &f.json)
	return cmd
}

func (f *trainFlags) check(cmd *cobra.Command, arch string) error {
	switch {
	case !slices.Contains(wire.Archs(), arch):
		return usage(cmd, "can't train %q; choose %s", arch, strings.Join(wire.Archs(), " or "))
	case cmd.Flags().Changed("epochs") && f.epochs < 1 || f.epochs > wire.MaxEpochs:
		return usage(cmd, "--epochs %d: choose 1 to %d", f.epochs, wire.MaxEpochs)
	case f.seed < 1 || f.seed > 1<<31-1:
		return usage(cmd, "--seed %d: choose 1 to %d", f.seed, 1<<31-1)
	case f.local && f.idx == "":
		return usage(cmd, "--local needs --idx DIR, a directory with MNIST's four files")
	case !f.local && (f.idx != "" || f.out != ""):
		return usage(cmd, "--idx and --out belong to --local; a cluster trains on a data set in the SDFS: idunno data import mnist-train --idx DIR")
	case f.local && f.terms != wire.Terms{}:
		return usage(cmd, "--weight, --priority, --deadline, --after and --id are for jobs of a cluster, not for --local")
	}
	if err := checkTerms(cmd); err != nil {
		return usage(cmd, "%v", err)
	}
	return nil
}

// defaultEpochs tells the default of every architecture.
func defaultEpochs() string {
	var out []string
	for _, arch := range wire.Archs() {
		out = append(out, fmt.Sprintf("%d for %s", wire.DefaultEpochs(arch), arch))
	}
	return strings.Join(out, ", ")
}

// trainedDoc is what train --json prints.
type trainedDoc struct {
	Schema  int               `json:"schema_version"`
	Job     uint64            `json:"job,omitempty"`
	Model   string            `json:"model"`
	Version int               `json:"version,omitempty"`
	Digest  string            `json:"digest,omitempty"`
	File    string            `json:"file,omitempty"`
	Seed    uint64            `json:"seed"`
	HeldOut float64           `json:"held_out,omitempty"`
	Epochs  []wire.EpochStats `json:"epochs"`
}

func epochLine(e *wire.EpochStats, of int) string {
	return fmt.Sprintf("epoch %2d/%d  loss %.4f  accuracy %s  %.1f s", e.Epoch, of, e.Loss, render.Percent(e.Accuracy), e.Seconds)
}

func (a *app) trainHere(ctx context.Context, arch string, f trainFlags) error {
	set, err := loadSet(cmp.Or(f.data, wire.DefaultTrainData), f.idx, "train")
	if err != nil {
		return err
	}
	if f.out == "" {
		f.out = arch + ".onnx"
	}
	p := render.NewProgress(a.stderr)
	defer p.Close()
	bar := p.Share("train " + arch)
	var epochs []wire.EpochStats
	r, err := train.Run(ctx, set, train.Config{Arch: arch, Epochs: f.epochs, Seed: f.seed,
		Step: func(epoch int, done float64) {
			bar.SetShare((float64(epoch-1)+done)/float64(f.epochs), fmt.Sprintf("epoch %d/%d", epoch, f.epochs))
		},
		Progress: func(e train.Epoch) {
			s := wire.EpochStats{Epoch: e.Epoch, Loss: e.Loss, Accuracy: e.Accuracy, Seconds: e.Seconds}
			epochs = append(epochs, s)
			p.Line("%s", epochLine(&s, f.epochs))
		}})
	if err != nil {
		return err
	}
	bar.SetShare(1, "done")
	p.Close()
	if r.ONNX, err = worker.TrainedCard(r.ONNX, set); err != nil {
		return err
	}
	if err := os.WriteFile(f.out, r.ONNX, 0o644); err != nil {
		return err
	}
	if f.json {
		return render.JSON(a.stdout, trainedDoc{Schema: render.Schema, Model: arch, File: f.out, Seed: f.seed, Epochs: epochs})
	}
	a.talk("store it in a cluster with `idunno model add %s %s`", arch, f.out)
	_, err = fmt.Fprintln(a.stdout, f.out)
	return err
}

func (a *app) trainOnCluster(cmd *cobra.Command, arch string, f trainFlags) error {
	b, err := a.connect(cmd)
	if err != nil {
		return err
	}
	defer b.Close()
	ctx := cmd.Context()
	store, err := cluster.OpenStore(ctx, b)
	if err != nil {
		return err
	}
	doc := wire.JobDoc{Train: arch, Data: f.data, Epochs: f.epochs, Seed: f.seed, Terms: f.terms}
	if f.data == "" {
		has, err := cluster.Has(ctx, store, wire.DataFolder+wire.DefaultTrainData)
		if err != nil {
			return err
		}
		if !has {
			return errors.New("the training set mnist-train is not in the SDFS: get it with `idunno data fetch mnist`, or without a network with `idunno data import mnist-train --idx DIR`")
		}
	}
	body, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	api := client.New(b)
	sub, err := api.Submit(ctx, body)
	if err != nil {
		return err
	}
	if sub.Duplicate {
		a.talk("job %d has this id already: it isn't run again", sub.Job)
	}
	rec, err := a.followTraining(ctx, api, sub.Job, arch, f.epochs)
	if err != nil {
		return err
	}
	if rec.State != wire.StateDone || rec.Trained == nil {
		return &codeError{ExitFailed, fmt.Sprintf("job %d is %s: %s", rec.Job, stateWord(rec.State), render.Clean(rec.Reason))}
	}
	t := rec.Trained
	if f.json {
		return render.JSON(a.stdout, trainedDoc{Schema: render.Schema, Job: rec.Job, Model: t.Model, Version: t.Version, Digest: t.Digest, Seed: f.seed,
			HeldOut: t.HeldOut, Epochs: list(t.Epochs)})
	}
	if t.HeldOut > 0 {
		a.talk("accuracy on held-out images: %s", render.Percent(t.HeldOut))
	}
	_, err = fmt.Fprintf(a.stdout, "%s@%d  sha256:%s\n", t.Model, t.Version, t.Digest)
	return err
}

// followTraining shows a training job until it has ended and returns its record.
func (a *app) followTraining(ctx context.Context, api *client.Client, job uint64, arch string, epochs int) (*wire.JobRecord, error) {
	p := render.NewProgress(a.stderr)
	defer p.Close()
	noun := "epochs"
	if epochs == 1 {
		noun = "epoch"
	}
	p.Line("job %d: train %s, %d %s", job, arch, epochs, noun)
	bar := p.Share("train " + arch)
	live, stop := context.WithCancel(ctx)
	defer stop()
	shown, began := 0, time.Now()
	followed := make(chan error, 1)
	go func() {
		followed <- api.Progress(live, job, func(pr *wire.Progress) {
			eta := ""
			if pr.Done >= 0.02 { // earlier it would be a guess from the time of getting started
				eta = render.ETA(1-pr.Done, pr.Done/time.Since(began).Seconds())
			}
			bar.SetShare(pr.Done, "on "+render.Clean(pr.Node)+"  "+eta)
			if e := pr.Epoch; e != nil && e.Epoch > shown {
				shown = e.Epoch
				p.Line("%s", epochLine(e, epochs))
			}
		})
	}()
	_, err := api.Wait(ctx, job, nil)
	stop()
	lost := <-followed // joins the goroutine: shown is ours now
	if err != nil {
		if ctx.Err() != nil {
			p.Close()
			a.talk("job %d goes on: `idunno job %d` shows it, `idunno cancel %d` ends it", job, job, job)
		}
		return nil, err
	}
	if lost != nil {
		p.Line("the training's progress could not be followed: %v", lost)
	}
	reply, err := api.Job(ctx, job)
	if err != nil {
		return nil, err
	}
	if t := reply.Record.Trained; t != nil {
		for i := range t.Epochs {
			if t.Epochs[i].Epoch > shown {
				p.Line("%s", epochLine(&t.Epochs[i], epochs))
			}
		}
		bar.SetShare(1, "stored")
	}
	return reply.Record, nil
}
