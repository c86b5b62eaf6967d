package main

import (
	"bytes"
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"idunno/bench"
	"idunno/models/dataset"
)

func TestAgreement(t *testing.T) {
	var a agreement
	a.add([]float32{1, 2, 4, 1}, []float32{1, 2, 4, 1}, 2)
	if a != (agreement{images: 2}) {
		t.Errorf("equal outputs: %+v", a)
	}
	a.add([]float32{1, 2.5, 3, 4}, []float32{1, 2, 5, 4}, 2)
	if a.images != 4 || a.differing != 1 || a.worst != 2.0/5 || a.element != 2.0/5 {
		t.Errorf("unequal outputs: %+v", a)
	}
	a.add([]float32{float32(math.NaN()), 1}, []float32{0, 1}, 1)
	if !math.IsInf(a.worst, 1) {
		t.Errorf("not a number: %+v", a)
	}
}

func TestRate(t *testing.T) {
	var now time.Duration
	calls := 0
	run := func() error {
		calls++
		now += 30 * time.Millisecond
		return nil
	}
	clock := func() time.Duration { return now }
	got, err := rate(context.Background(), clock, 100*time.Millisecond, 6, run)
	if err != nil || calls != 4 || math.Abs(got-200) > 1e-9 {
		t.Errorf("%v images/s after %d calls (%v), want 200 after 4", got, calls, err)
	}
	if _, err := rate(context.Background(), clock, 0, 6, run); err != nil || calls != 5 {
		t.Errorf("%d calls (%v), want one more", calls-4, err)
	}
	broken := errors.New("broken")
	if _, err := rate(context.Background(), clock, time.Second, 6, func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}

// Every name can be loaded, takes its samples and gives a row for each.
func TestNetworks(t *testing.T) {
	set, err := dataset.MNISTTest()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"mlp", "cnn", "lstm", "squeezenet"} {
		n, err := load(name, set)
		if err != nil {
			t.Fatal(err)
		}
		out, err := n.program.NewSession().Run(context.Background(), n.batches(2)[0])
		if err != nil || len(out) != 1 || out[0].Shape[0] != 2 {
			t.Errorf("%s: %v", name, err)
		}
		if n.shipped && len(n.batches(10000)) != 2 {
			t.Errorf("%s: %d batches of 10,000 images, want 2", name, len(n.batches(10000)))
		}
	}
	if _, err := load("alexnet", set); err == nil || !strings.Contains(err.Error(), "mlp, cnn, resnet18") {
		t.Errorf("error %v", err)
	}
}

func TestUsage(t *testing.T) {
	var out bytes.Buffer
	if err := run(context.Background(), []string{"-lib", ""}, &out, &out); err == nil || !strings.Contains(err.Error(), "-lib") {
		t.Errorf("without a library: %v", err)
	}
	if _, err := numbers("1,x", 10); err == nil {
		t.Error("x is a batch size")
	}
	if _, err := numbers("11", 10); err == nil {
		t.Error("11 is at most 10")
	}
	table(&out, &bench.Document{Ratios: []bench.Ratio{{Name: "engine_to_ort/mlp/1", Value: 1.25, N: 15}}, Results: []bench.Result{{P50: 10}, {P50: 8}}})
	if !strings.Contains(out.String(), "1.250     15") {
		t.Errorf("table %q", out.String())
	}
}
