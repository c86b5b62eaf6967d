//go:build unix

package bench_test

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"idunno/bench"
	"idunno/bench/chaos"
)

func TestChaos(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	history := filepath.Join(t.TempDir(), "history.jsonl")
	d, err := bench.Chaos(ctx, chaos.Config{Program: program, Seed: 17, Duration: 12 * time.Second, Mean: 800 * time.Millisecond,
		Workers: 3, Coordinators: 2, Clients: 3, History: history, Progress: func(line string) { t.Log(line) }})
	if err != nil {
		t.Fatal(err)
	}
	if !d.OK || d.Counts.Lost+d.Counts.Duplicates+d.Counts.Differing > 0 {
		t.Errorf("%+v; findings %v", d.Counts, d.Chaos.Findings)
	}
	v := d.Chaos
	if d.Counts.Faults < 8 || v.Seed != 17 || v.Accepted < 5 || v.Batches < 100 || v.Terms < 1 || len(d.Results) < 4 {
		t.Errorf("it has not seen much: %+v", v)
	}
	for _, kind := range chaos.Kinds() {
		if v.Faults[kind] == 0 {
			t.Errorf("no fault %s in this schedule", kind)
		}
	}
	// The history is kept and can be read again, from its beginning to its end.
	f, err := os.Open(history)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seen := map[chaos.What]int{}
	if err := chaos.ReadHistory(f, func(e *chaos.Event) error { seen[e.What]++; return nil }); err != nil {
		t.Fatal(err)
	}
	for _, what := range []chaos.What{chaos.WhatRun, chaos.WhatCalm, chaos.WhatEnd} {
		if seen[what] != 1 {
			t.Errorf("%d events %q", seen[what], what)
		}
	}
	if seen[chaos.WhatStored] != v.Jobs || seen[chaos.WhatAccepted] != v.Accepted || seen[chaos.WhatSeen] == 0 || seen[chaos.WhatLease] == 0 || seen[chaos.WhatRecord] == 0 {
		t.Errorf("%d jobs, %d accepted; events %v", v.Jobs, v.Accepted, seen)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	again, err := bench.JudgeChaos(ctx, f, nil)
	if err != nil || again.Counts != d.Counts || again.OK != d.OK || !reflect.DeepEqual(again.Chaos, v) {
		t.Errorf("judged again: %+v, %v", again, err)
	}
	p, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Counts map[string]int `json:"counts"`
		Chaos  struct {
			Seed  uint64 `json:"seed"`
			Flaws map[string]int
		} `json:"chaos"`
	}
	if err := json.Unmarshal(p, &doc); err != nil || doc.Chaos.Seed != 17 || doc.Chaos.Flaws == nil || doc.Counts["faults"] != d.Counts.Faults {
		t.Errorf("document %s, %v", p, err)
	}
}

func TestChaosRefusesNonsense(t *testing.T) {
	if _, err := bench.Chaos(context.Background(), chaos.Config{}); err == nil {
		t.Error("a run of no time is accepted")
	}
}
