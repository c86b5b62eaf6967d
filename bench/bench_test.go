//go:build unix

package bench_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"idunno/bench"
	"idunno/broker/brokertest"
	"idunno/coordinator/cli"
	"idunno/models/arch"
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
	onnx["resnet18"], _ = arch.Build("resnet18", arch.Config{Width: 0.125, Size: 32})
	d, err := bench.Engine(context.Background(), bench.EngineConfig{
		Models: onnx, Set: set, Sizes: []int{1, 100}, OtherSizes: []int{2}, Span: 20 * time.Millisecond, Pairs: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	got := names(d.Results, func(r bench.Result) string { return r.Name })
	for _, want := range []string{"images_per_s/mlp/1", "images_per_s/mlp/100", "gflops/mlp/100", "batch_ms/mlp/100", "allocs_per_batch/mlp/1",
		"images_per_s/resnet18/2", "gflops/gemm512", "fma_limit"} {
		if !slices.Contains(got, want) {
			t.Errorf("no result %s in %v", want, got)
		}
	}
	for _, r := range d.Results {
		if r.N < 1 || r.P50 < r.Min || r.P99 < r.P50 || r.Max < r.P99*0.99 || r.Mean <= 0 {
			t.Errorf("distribution %+v", r)
		}
	}
	slots := fmt.Sprintf("slots%d_to_slots1/", runtime.NumCPU())
	want := []string{"fma_limit_share/gemm512", "fma_limit_share/mlp/1", "fma_limit_share/mlp/100", slots + "mlp", "fma_limit_share/resnet18/2", slots + "resnet18"}
	if got := names(d.Ratios, func(r bench.Ratio) string { return r.Name }); !slices.Equal(got, want) || !d.OK {
		t.Errorf("ratios %v, want %v", got, want)
	}
	for _, r := range d.Ratios {
		if r.Value <= 0 || r.N != 1 || math.IsInf(r.Value, 0) {
			t.Errorf("ratio %+v", r)
		}
	}
}

func TestEngineRefusesNonsense(t *testing.T) {
	onnx, set := inputs(t)
	for _, c := range []bench.EngineConfig{{Set: set}, {Models: onnx}, {Models: onnx, Set: set, Sizes: []int{0}}, {Models: onnx, Set: set, Sizes: []int{1 << 30}},
		{Models: onnx, Set: set, OtherSizes: []int{0}}} {
		if _, err := bench.Engine(context.Background(), c); !errors.Is(err, bench.ErrConfig) {
			t.Errorf("sizes %v: %v", c.Sizes, err)
		}
	}
}

// Sides take turns, and the ratio is the median of the pairs.
func TestCompare(t *testing.T) {
	var order string
	side := func(name string, rates ...float64) bench.Side {
		return bench.Side{Result: name, Rate: func(_ context.Context, span time.Duration) (float64, error) {
			if span == 0 {
				return 1, nil // the warm-up
			}
			order += name
			r := rates[0]
			rates = rates[1:]
			return r, nil
		}}
	}
	c := bench.CompareConfig{Scenario: "test", Pairs: 3, Comparisons: func(yield func(bench.Comparison, error) bool) {
		yield(bench.Comparison{Ratio: "a_to_b", A: side("a", 10, 40, 90), B: side("b", 10, 20, 30)}, nil)
	}}
	d, err := bench.Compare(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	if order != "abbaab" {
		t.Errorf("the sides took turns as %s", order)
	}
	if want := []bench.Ratio{{Name: "a_to_b", Value: 2, N: 3}}; !slices.Equal(d.Ratios, want) {
		t.Errorf("ratios %+v, want %+v", d.Ratios, want)
	}
	if len(d.Results) != 2 || d.Results[0].Name != "a" || d.Results[0].N != 3 || d.Results[1].Max < 29.9 || d.Results[1].Max > 30.1 {
		t.Errorf("results %+v", d.Results)
	}
	broken := errors.New("broken")
	c.Comparisons = func(yield func(bench.Comparison, error) bool) { yield(bench.Comparison{}, broken) }
	if _, err := bench.Compare(context.Background(), c); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if _, err := bench.Compare(context.Background(), bench.CompareConfig{}); !errors.Is(err, bench.ErrConfig) {
		t.Errorf("nothing to compare: %v", err)
	}
}

func TestPipeline(t *testing.T) {
	onnx, set := inputs(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	d, err := bench.Pipeline(ctx, bench.PipelineConfig{Program: program, Models: onnx, Set: set, Pairs: 1, Span: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(d.Ratios, func(r bench.Ratio) string { return r.Name }); !slices.Equal(got, []string{"pipeline_to_engine", "pipeline_to_engine/mlp", "small_jobs_to_engine/mlp"}) {
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

func TestFailover(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	d, err := bench.Failover(ctx, bench.FailoverConfig{Program: program, Kills: 1, Repeats: 5})
	if err != nil {
		t.Fatal(err)
	}
	want := append([]string(nil), "worker_kill_to_resumed", "worker_kill_to_all_resumed", "worker_kill_to_closed",
		"workers3_kill_to_resumed", "workers3_kill_to_all_resumed", "workers3_kill_to_closed",
		"worker_stop_to_resumed", "worker_stop_to_all_resumed", "leader_kill_to_submit", "leader_kill_result_gap")
	if got := names(d.Results, func(r bench.Result) string { return r.Name }); !slices.Equal(got, want) {
		t.Errorf("results %v, want %v", got, want)
	}
	for _, r := range d.Results {
		if r.N != 1 || r.Min <= 0 {
			t.Errorf("%+v", r)
		}
	}
	if !d.OK || d.Counts.Lost != 0 || d.Counts.Duplicates != 0 || d.Counts.Faults < len(bench.FailoverKinds()) {
		t.Errorf("counts %+v", d.Counts)
	}
	if _, err := bench.Failover(ctx, bench.FailoverConfig{Program: program, Kinds: []string{"nonsense"}}); !errors.Is(err, bench.ErrConfig) {
		t.Errorf("an unknown kind: %v", err)
	}
}

func TestFairness(t *testing.T) {
	onnx, set := inputs(t)
	onnx["cnn"] = zoo.CNN()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	d, err := bench.Fairness(ctx, bench.FairnessConfig{Program: program, Models: onnx, Set: set,
		Window: 200 * time.Millisecond, Span: 500 * time.Millisecond, Joins: 1, Kills: 1, Pairs: 1})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := names(d.Results, func(r bench.Result) string { return r.Name }), []string{"rate_gap_percent", "rate_gap_percent/jobs3",
		"rate_gap_percent/jobs5", "rate_gap_percent/weighted", "second_job_first_task", "refair_after_join", "joined_gap_percent", "refair_after_kill"}; !slices.Equal(got, want) {
		t.Errorf("results %v, want %v", got, want)
	}
	if len(d.Ratios) != 1 || d.Ratios[0].Name != "jobs5_to_job1_throughput" || d.Ratios[0].Value <= 0 {
		t.Errorf("ratios %+v", d.Ratios)
	}
	if !d.OK || d.Counts != (bench.Counts{Faults: 1}) {
		t.Errorf("counts %+v", d.Counts)
	}
	if _, err := bench.Fairness(ctx, bench.FairnessConfig{Program: program, Models: onnx, Set: set, Workers: 1}); !errors.Is(err, bench.ErrConfig) {
		t.Errorf("one worker: %v", err)
	}
}
