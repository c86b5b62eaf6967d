package bench_test

import (
	"context"
	"os"
	"testing"
	"time"

	"idunno/bench"
)

// Nothing that was acknowledged is lost with the power, unless one asks for it; and
// when one does, it shows: the cut is real.
func TestPowerloss(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d, err := bench.Powerloss(ctx, bench.PowerlossConfig{Program: program, Cuts: 1, Span: 2 * time.Second,
		Progress: func(line string) { t.Log(line) }})
	if err != nil {
		t.Fatal(err)
	}
	if !d.OK || d.Counts.Lost != 0 || d.Counts.Faults != 2 {
		t.Errorf("document: ok %v, counts %+v", d.OK, d.Counts)
	}
	shares := make(map[string]bench.Ratio)
	for _, r := range d.Ratios {
		shares[r.Name] = r
	}
	grouped := make(map[string]float64)
	for _, r := range d.Results {
		grouped[r.Name] = r.Max
	}
	if grouped["grouped/always"] == 0 || grouped["grouped/interval"] == 0 {
		t.Errorf("no result shared a durable write: %v", grouped)
	}
	if r := shares["lost_to_acknowledged/always"]; r.Value != 0 || r.N == 0 {
		t.Errorf("with every write synced: %+v", r)
	}
	if r := shares["lost_to_acknowledged/interval"]; r.Value < 0.5 || r.N == 0 {
		t.Errorf("with a sync every two minutes: %+v", r)
	}
}
