// Command ort measures the inference engine beside ONNX Runtime: the same models and inputs in the same process, in turn. README.md says
// how to run it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"idunno/bench"
	"idunno/models/dataset"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "ort:", err)
		os.Exit(1)
	}
}

// run parses the arguments and does what they say; the answer goes to stdout.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("ort", flag.ExitOnError)
	lib := f.String("lib", os.Getenv("ORT_LIB"), "shared library of ONNX Runtime; default $ORT_LIB")
	refs := f.String("references", "", "have ONNX Runtime compute the outputs of the cases in this `FOLDER`, and stop")
	checks := f.Bool("check", false, "compare outputs instead of speed")
	models := f.String("models", "", "`MODELS` with commas between; default mlp,cnn,resnet18,mobilenetv2, with -check all")
	sizes := f.String("sizes", "1,8,32,100,256", "batch `SIZES` of mlp and cnn")
	others := f.String("other-sizes", "8", "batch `SIZES` of other models")
	pairs := f.Int("pairs", 15, "`N` pairs behind each ratio")
	span := f.Duration("span", 200*time.Millisecond, "`TIME` that each half of a pair takes, about")
	all := f.Bool("all", true, "also compare on all cores")
	cpu := f.Bool("cpu", false, "count processor time instead of the clock's, one thread only: for a machine that is in use")
	asJSON := f.Bool("json", false, "print one JSON document")
	_ = f.Parse(args) // exits
	if err := initialize(*lib); err != nil {
		return err
	}
	if *refs != "" {
		return references(*refs)
	}
	set, err := dataset.MNISTTest()
	if err != nil {
		return err
	}
	if *checks {
		list := names()
		if *models != "" {
			list = strings.Split(*models, ",")
		}
		return check(ctx, stdout, list, set)
	}
	p := plan{names: []string{"mlp", "cnn", "resnet18", "mobilenetv2"}, all: *all && !*cpu, clock: wall()}
	scenario := "engine_to_ort"
	if *cpu {
		p.clock, scenario = processor, "engine_to_ort_cpu"
	}
	if *models != "" {
		p.names = strings.Split(*models, ",")
	}
	if p.sizes, err = numbers(*sizes, set.Len()); err != nil {
		return fmt.Errorf("-sizes: %w", err)
	}
	if p.others, err = numbers(*others, 1<<16); err != nil {
		return fmt.Errorf("-other-sizes: %w", err)
	}
	d, err := bench.Compare(ctx, bench.CompareConfig{
		Scenario: scenario, Comparisons: p.comparisons(ctx, set), Pairs: *pairs, Span: *span,
		Progress: func(line string) { fmt.Fprintln(stderr, line) },
	})
	if err != nil {
		return err
	}
	if *asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		return e.Encode(d)
	}
	table(stdout, d)
	return nil
}

// numbers reads batch sizes.
func numbers(list string, most int) ([]int, error) {
	var out []int
	for s := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > most {
			return nil, fmt.Errorf("%q is no batch size from 1 to %d", s, most)
		}
		out = append(out, n)
	}
	return out, nil
}

// table prints a line for each comparison: the medians of both rates, and the median of the ratios.
func table(w io.Writer, d *bench.Document) {
	fmt.Fprintf(w, "%-36s %12s %12s %7s %6s\n", "RATIO", "ENGINE img/s", "ORT img/s", "MEDIAN", "PAIRS")
	for i, r := range d.Ratios {
		fmt.Fprintf(w, "%-36s %12.1f %12.1f %7.3f %6d\n", r.Name, d.Results[2*i].P50, d.Results[2*i+1].P50, r.Value, r.N)
	}
}
