//go:build linux

package bench_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"idunno/bench"
)

func TestScale(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	d, err := bench.Scale(ctx, bench.ScaleConfig{Program: program, Tasks: 200, Pairs: 1, Batches: 3000, Sizes: []int{150}, Starts: 1, Jobs: 40, Workers: 6})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(d.Ratios, func(r bench.Ratio) string { return r.Name }); !slices.Equal(got, []string{"dispatch_to_jetstream", "dispatch_to_jetstream/singles", "dispatch_to_jetstream/batches"}) {
		t.Errorf("ratios %v", got)
	}
	got := names(d.Results, func(r bench.Result) string { return r.Name })
	for _, want := range []string{"dispatch", "jetstream", "coordinator_mib", "coordinator_cpu_per_million_batches", "takeover", "takeover/150", "list_page", "dispatch/workers6"} {
		if !slices.Contains(got, want) {
			t.Errorf("no result %s in %v", want, got)
		}
	}
	for _, r := range d.Ratios {
		if r.Value <= 0 {
			t.Errorf("ratio %+v", r)
		}
	}
	if !d.OK || d.Counts != (bench.Counts{}) {
		t.Errorf("counts %+v", d.Counts)
	}
}

func TestScaleRefusesNonsense(t *testing.T) {
	for _, c := range []bench.ScaleConfig{{}, {Program: "x", Parts: []string{"nonsense"}}, {Program: "x", Jobs: -1}} {
		if _, err := bench.Scale(context.Background(), c); !errors.Is(err, bench.ErrConfig) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
