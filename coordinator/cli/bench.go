package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"idunno/bench"
	"idunno/coordinator/cli/render"
	"idunno/models/arch"
	"idunno/models/dataset"
	"idunno/models/zoo"
)

var errBenchNotOK = errors.New("results were lost, doubled or differed: see counts")

// benchCommand is a thin shell over package bench.
func (a *app) benchCommand() *cobra.Command {
	return group("bench SCENARIO", "measure: ratios that hold on any machine, and this one's figures",
		a.benchEngineCommand(), a.benchPipelineCommand(), a.benchFailoverCommand(), a.benchFairnessCommand(), a.benchChaosCommand(), a.benchPowerlossCommand(), a.benchScaleCommand())
}

func (a *app) benchEngineCommand() *cobra.Command {
	var asJSON bool
	var names []string
	var c bench.EngineConfig
	cmd := &cobra.Command{
		Use: "engine", Short: "the inference engine by itself, per model and batch size", Args: nargs(0),
		Long: `Runs models in this process, one slot on one core: images and floating-point
operations per second, their share of what the core can multiply and add at most,
the time of a batch, allocations, for each batch size; then pairs a slot on every
core with one slot.

MODELS are shipped ones (` + strings.Join(zoo.Names(), ", ") + `), standard architectures with random weights
(` + strings.Join(imageArchitectures(), ", ") + `), or ONNX files. Models that
can take MNIST's images get its test images, others noise. Nothing else should run
on the machine meanwhile.`,
		Example: "  idunno bench engine\n  idunno bench engine --models mlp,digits.onnx --sizes 1,100 --span 1s --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.benchInputs(&c.Models, &c.Set); err != nil {
				return err
			}
			for flag, sizes := range map[string][]int{"sizes": c.Sizes, "other-sizes": c.OtherSizes} {
				for _, size := range sizes {
					if size < 1 || size > c.Set.Len() {
						return usage(cmd, "--%s %d: choose 1 to %d", flag, size, c.Set.Len())
					}
				}
			}
			if c.Pairs < 1 {
				return usage(cmd, "--pairs %d: at least 1", c.Pairs)
			}
			var err error
			if c.Models, err = benchModels(cmd, names); err != nil {
				return err
			}
			c.Progress = a.benchProgress
			return a.benchRun(cmd, asJSON, func(ctx context.Context) (*bench.Document, error) { return bench.Engine(ctx, c) })
		},
	}
	cmd.Flags().StringSliceVar(&names, "models", []string{"mlp", "cnn", "resnet18", "mobilenetv2"}, "`MODELS` to measure: names or ONNX files")
	cmd.Flags().IntSliceVar(&c.Sizes, "sizes", []int{1, 8, 32, 100, 256}, "batch `SIZES` for models that take MNIST's images")
	cmd.Flags().IntSliceVar(&c.OtherSizes, "other-sizes", []int{8}, "batch `SIZES` for other models")
	cmd.Flags().DurationVar(&c.Span, "span", 2*time.Second, "`TIME` to measure each model and size")
	cmd.Flags().IntVar(&c.Pairs, "pairs", 5, "`N` pairs behind each ratio")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) benchPipelineCommand() *cobra.Command {
	var asJSON bool
	var c bench.PipelineConfig
	cmd := &cobra.Command{
		Use: "pipeline", Short: "the whole way of a query against the engine alone", Args: nargs(0),
		Long: `Starts a cluster of its own (broker, coordinator, one worker with a slot on every
core, as processes), and pairs runs of the engine alone on all cores with jobs over
the same batches. The ratio says what share of the engine's speed arrives at the end of
the pipeline, durable results included. Nothing else should run meanwhile.`,
		Example: "  idunno bench pipeline\n  idunno bench pipeline --pairs 5 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.Pairs < 1 {
				return usage(cmd, "--pairs %d: at least 1", c.Pairs)
			}
			if err := a.benchInputs(&c.Models, &c.Set); err != nil {
				return err
			}
			var err error
			if c.Program, err = os.Executable(); err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			c.Progress = a.benchProgress
			return a.benchRun(cmd, asJSON, func(ctx context.Context) (*bench.Document, error) { return bench.Pipeline(ctx, c) })
		},
	}
	cmd.Flags().IntVar(&c.Pairs, "pairs", 15, "`N` pairs of jobs and a run of the engine, per model")
	cmd.Flags().DurationVar(&c.Span, "span", 3*time.Second, "`TIME` that each half of a pair takes, about")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) benchFailoverCommand() *cobra.Command {
	var asJSON bool
	var c bench.FailoverConfig
	cmd := &cobra.Command{
		Use: "failover", Short: "how long work stands still when workers and coordinators die", Args: nargs(0),
		Long: `Starts busy clusters of processes on this machine, kills workers, three workers at
once and the leading coordinator with SIGKILL, freezes workers with SIGSTOP, at random
moments, and measures the time until the work goes on. Nothing else should run
meanwhile.`,
		Example: "  idunno bench failover\n  idunno bench failover --kills 20 --kinds worker_kill_to_resumed --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.Kills < 1 {
				return usage(cmd, "--kills %d: at least 1", c.Kills)
			}
			if c.Workers == 1 || c.Workers < 0 {
				return usage(cmd, "--workers %d: at least 2, so that somebody goes on", c.Workers)
			}
			for _, kind := range c.Kinds {
				if !slices.Contains(bench.FailoverKinds(), kind) {
					return usage(cmd, "--kinds %q: choose from %s", kind, strings.Join(bench.FailoverKinds(), ", "))
				}
			}
			var err error
			if c.Program, err = os.Executable(); err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			c.Progress = a.benchProgress
			return a.benchRun(cmd, asJSON, func(ctx context.Context) (*bench.Document, error) { return bench.Failover(ctx, c) })
		},
	}
	cmd.Flags().IntVar(&c.Workers, "workers", 0, "`N` workers (default 3, and 6 where three are killed)")
	cmd.Flags().IntVar(&c.Kills, "kills", 100, "`N` faults of each kind")
	cmd.Flags().StringSliceVar(&c.Kinds, "kinds", bench.FailoverKinds(), "`KINDS` of faults")
	cmd.Flags().Uint64Var(&c.Seed, "seed", 1, "`SEED` of who is killed and when")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// imageArchitectures are the standard architectures that take images.
func imageArchitectures() []string {
	return slices.DeleteFunc(arch.Names(), func(name string) bool { return name == "bert" })
}

// benchModels finds models by name, or reads them.
func benchModels(cmd *cobra.Command, names []string) (map[string][]byte, error) {
	found := make(map[string][]byte)
	for _, name := range names {
		p, ok := zoo.Model(name)
		if !ok && slices.Contains(imageArchitectures(), name) {
			p, ok = arch.Build(name, arch.Config{})
		}
		if !ok {
			if !strings.HasSuffix(name, ".onnx") {
				return nil, usage(cmd, "there is no model %q: choose from %s, or give a file NAME.onnx", name,
					strings.Join(slices.Concat(zoo.Names(), imageArchitectures()), ", "))
			}
			var err error
			if p, err = os.ReadFile(name); err != nil {
				return nil, err
			}
			name = strings.TrimSuffix(filepath.Base(name), ".onnx")
		}
		if found[name] != nil {
			return nil, usage(cmd, "two models are named %q", name)
		}
		found[name] = p
	}
	return found, nil
}

// benchInputs are the shipped models and test images.
func (a *app) benchInputs(onnx *map[string][]byte, set **dataset.Set) error {
	*onnx = make(map[string][]byte)
	for _, name := range zoo.Names() {
		(*onnx)[name], _ = zoo.Model(name)
	}
	var err error
	*set, err = dataset.MNISTTest()
	return err
}

func (a *app) benchProgress(line string) { a.talk("%s", line) }

func (a *app) benchRun(cmd *cobra.Command, asJSON bool, run func(context.Context) (*bench.Document, error)) error {
	d, err := run(cmd.Context())
	if err != nil {
		return err
	}
	if asJSON {
		err = render.JSON(a.stdout, d)
	} else {
		printBench(a.stdout, d)
	}
	if err == nil && !d.OK {
		err = errBenchNotOK
	}
	return err
}

func printBench(w io.Writer, d *bench.Document) {
	fmt.Fprintf(w, "%s on %s, %d cores, %s\n\n", d.Scenario, d.Machine.CPU, d.Machine.Cores, d.Machine.Go)
	rows := make([][]string, 0, len(d.Results))
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', 4, 64) }
	for _, r := range d.Results {
		if r.P50 >= 1000 {
			rows = append(rows, []string{r.Name, r.Unit, render.Count(int64(r.N)), render.Count(int64(r.P50)), render.Count(int64(r.Mean)), render.Count(int64(r.P99))})
			continue
		}
		rows = append(rows, []string{r.Name, r.Unit, render.Count(int64(r.N)), number(r.P50), number(r.Mean), number(r.P99)})
	}
	render.Table(w, []render.Column{render.L("RESULT"), render.L("UNIT"), render.R("N"), render.R("P50"), render.R("MEAN"), render.R("P99")}, slices.Clip(rows))
	fmt.Fprintln(w)
	rows = rows[:0]
	for _, r := range d.Ratios {
		rows = append(rows, []string{r.Name, render.Count(int64(r.N)), strconv.FormatFloat(r.Value, 'f', 3, 64)})
	}
	render.Table(w, []render.Column{render.L("RATIO"), render.R("PAIRS"), render.R("MEDIAN")}, rows)
}
