// Package bench measures iDunno: scenarios as functions that return one
// document, for the command line and for programs. Latencies are recorded in
// HdrHistograms.
//
// An absolute figure tells about a machine on a day. What the scenarios are for
// is their ratios: two things measured in the same run, in turn, A B A B, and the
// median of the pairs taken, so that a machine that slows down slows both.
package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"idunno/bench/chaos"
)

// Schema is the version of [Document].
const Schema = 1

// ErrConfig is returned for a configuration that measures nothing.
var ErrConfig = errors.New("bad benchmark configuration")

// Document is what every scenario returns.
type Document struct {
	Schema   int      `json:"schema_version"`
	Scenario string   `json:"scenario"`
	Commit   string   `json:"commit"`
	Machine  Machine  `json:"machine"`
	Results  []Result `json:"results"`
	Ratios   []Ratio  `json:"ratios"`
	Counts   Counts   `json:"counts"`
	// OK is false when something was lost, doubled or differed.
	OK bool `json:"ok"`
	// Chaos is what a run of faults showed; only in that scenario.
	Chaos *chaos.Verdict `json:"chaos,omitempty"`
}

// Machine says what the figures were taken on.
type Machine struct {
	CPU        string `json:"cpu"`
	Cores      int    `json:"cores"`
	Go         string `json:"go"`
	NATSServer string `json:"nats_server"`
	Sync       string `json:"sync"`
}

// Result is a distribution.
type Result struct {
	Name string  `json:"name"`
	Unit string  `json:"unit"`
	N    int     `json:"n"`
	Min  float64 `json:"min"`
	Mean float64 `json:"mean"`
	Sd   float64 `json:"sd"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P95  float64 `json:"p95"`
	P99  float64 `json:"p99"`
	Max  float64 `json:"max"`
}

// Ratio is the median of n pairs.
type Ratio struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	N     int     `json:"n"`
}

// Counts are what must be nought, and how many faults were caused.
type Counts struct {
	Faults     int `json:"faults"`
	Lost       int `json:"lost"`
	Duplicates int `json:"duplicates"`
	Differing  int `json:"differing"`
}

// newDocument starts a document; commit is what the build knows of its revision.
func newDocument(scenario string) *Document {
	d := &Document{Schema: Schema, Scenario: scenario, Results: []Result{}, Ratios: []Ratio{}, OK: true,
		Machine: Machine{CPU: cpuName(), Cores: runtime.NumCPU(), Go: runtime.Version(), Sync: "always"}}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				d.Commit = s.Value
			}
		}
		for _, m := range info.Deps {
			if m.Path == "github.com/nats-io/nats-server/v2" {
				d.Machine.NATSServer = strings.TrimPrefix(m.Version, "v")
			}
		}
	}
	return d
}

// cpuName reads the processor's name where the system tells it.
func cpuName() string {
	p, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(p)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// sample collects values of one quantity in a histogram with a resolution of
// scale steps a unit.
type sample struct {
	name, unit string
	scale      float64
	h          *hdrhistogram.Histogram
}

const histogramMax = int64(1) << 50

func newSample(name, unit string, scale float64) *sample {
	return &sample{name: name, unit: unit, scale: scale, h: hdrhistogram.New(1, histogramMax, 3)}
}

func (s *sample) add(v float64) {
	n := int64(math.Round(v * s.scale))
	// Within range after clamping, so recording can't fail.
	_ = s.h.RecordValue(min(max(n, 1), histogramMax))
}

func (s *sample) result() Result {
	at := func(p float64) float64 { return float64(s.h.ValueAtQuantile(p)) / s.scale }
	return Result{Name: s.name, Unit: s.unit, N: int(s.h.TotalCount()),
		Min: float64(s.h.Min()) / s.scale, Mean: s.h.Mean() / s.scale, Sd: s.h.StdDev() / s.scale,
		P50: at(50), P90: at(90), P95: at(95), P99: at(99), Max: float64(s.h.Max()) / s.scale}
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// Progress tells what a scenario is doing; may be nil.
type Progress func(line string)

func (p Progress) tell(format string, args ...any) {
	if p != nil {
		p(fmt.Sprintf(format, args...))
	}
}

// until calls fn until span has passed, at least once.
func until(ctx context.Context, span time.Duration, fn func() error) error {
	for began := time.Now(); ; {
		if err := fn(); err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if time.Since(began) >= span {
			return nil
		}
	}
}
