//go:build unix

package bench_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"idunno/bench"
	"idunno/broker/brokertest"
	"idunno/coordinator/cli"
	"idunno/models/dataset"
	"idunno/models/zoo"
)

// TestMain makes the test binary the program: the cluster's processes are started
// under its name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "idunno" {
		os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv))
	}
	goleak.VerifyTestMain(m, brokertest.Leaks()...)
}

func inputs(t *testing.T) (map[string][]byte, *dataset.Set) {
	t.Helper()
	set, err := dataset.MNISTTest()
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"mlp": zoo.MLP()}, set
}

func names[T any](list []T, name func(T) string) []string {
	var out []string
	for _, v := range list {
		out = append(out, name(v))
	}
	return out
}

func TestEngine(t *testing.T) {
	onnx, set := inputs(t)
	d, err := bench.Engine(context.Background(), bench.EngineConfig{Models: onnx, Set: set, Sizes: []int{1, 100}, Span: 20 * time.Millisecond, Pairs: 1})
	if err != nil {
		t.Fatal(err)
	}
	got := names(d.Results, func(r bench.Result) string { return r.Name })
	for _, want := range []string{"images_per_s/mlp/1", "images_per_s/mlp/100", "gflops/mlp/100", "batch_ms/mlp/100", "allocs_per_batch/mlp/1"} {
		if !slices.Contains(got, want) {
			t.Errorf("no result %s in %v", want, got)
		}
	}
	for _, r := range d.Results {
		if r.N < 1 || r.P50 < r.Min || r.P99 < r.P50 || r.Max < r.P99*0.99 || r.Mean <= 0 {
			t.Errorf("distribution %+v", r)
		}
	}
	if len(d.Ratios) != 1 || d.Ratios[0].Value <= 0 || !d.OK {
		t.Errorf("ratios %+v", d.Ratios)
	}
}

func TestEngineRefusesNonsense(t *testing.T) {
	onnx, set := inputs(t)
	for _, c := range []bench.EngineConfig{{Set: set}, {Models: onnx}, {Models: onnx, Set: set, Sizes: []int{0}}, {Models: onnx, Set: set, Sizes: []int{1 << 30}}} {
		if _, err := bench.Engine(context.Background(), c); !errors.Is(err, bench.ErrConfig) {
			t.Errorf("sizes %v: %v", c.Sizes, err)
		}
	}
}

func TestPipeline(t *testing.T) {
	onnx, set := inputs(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	d, err := bench.Pipeline(ctx, bench.PipelineConfig{Program: program, Models: onnx, Set: set, Pairs: 1, Span: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(d.Ratios, func(r bench.Ratio) string { return r.Name }); !slices.Equal(got, []string{"pipeline_to_engine", "pipeline_to_engine/mlp"}) {
		t.Errorf("ratios %v", got)
	}
	if d.Ratios[0].Value <= 0 || d.Counts != (bench.Counts{}) || !d.OK {
		t.Errorf("document %+v", d)
	}
}

// Programs read these names.
func TestDocumentIsTheContract(t *testing.T) {
	p, err := json.Marshal(bench.Document{})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"schema_version":0,"scenario":"","commit":"","machine":{"cpu":"","cores":0,"go":"","nats_server":"","sync":""},` +
		`"results":null,"ratios":null,"counts":{"faults":0,"lost":0,"duplicates":0,"differing":0},"ok":false}`
	if string(p) != want {
		t.Errorf("got  %s\nwant %s", p, want)
	}
}
