package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/client"
	"idunno/coordinator/cluster"
	"idunno/models"
	"idunno/models/dataset"
)

// FairnessConfig says what [Fairness] measures.
type FairnessConfig struct {
	// Program is the path of the idunno program that the cluster is started
	// with. Required.
	Program string
	// Models are the shipped ONNX files mlp and cnn by name, Set the data set mnist
	// that the SDFS is seeded with. Required.
	Models map[string][]byte
	Set    *dataset.Set
	// Workers is the number of workers, which divide the cores; default one a core,
	// at least two.
	Workers int
	// Window is the span that rates are taken over; default 10 s. Span is how long
	// each mix of jobs runs beyond the first window; default 20 s.
	Window, Span time.Duration
	// Joins is how often a second job joins a running one, Kills how often a worker
	// is killed, Pairs the number of times that a mix is compared with its jobs
	// alone; default 50, 5 and 5.
	Joins, Kills, Pairs int
	// Seed chooses the moments of joins and kills; default 1.
	Seed uint64
	// Progress is told of every step.
	Progress Progress
}

const (
	// fairSet is the data set of jobs that outlast what is measured: the batches of
	// mnist again and again.
	fairSet     = "mnist-fair"
	fairRepeats = 1000
	// fairSettle is the time after the last job's first result before rates count.
	fairSettle = time.Second
	// fairAlone is about how long a job alone is measured, for a ratio.
	fairAlone = 3 * time.Second
	// fairFirst is the batches of the jobs that show what a batch of each model costs.
	fairFirst = 50
)

// mix is a set of jobs that run together.
type mix struct {
	name    string
	models  []string
	weights []float64 // nil: 1 each
}

func mixes() []mix {
	return []mix{
		{name: "rate_gap_percent", models: []string{"mlp", "cnn"}},
		{name: "rate_gap_percent/jobs3", models: []string{"mlp", "cnn", "mlp"}},
		{name: "rate_gap_percent/jobs5", models: []string{"mlp", "cnn", "mlp", "cnn", "mlp"}},
		{name: "rate_gap_percent/weighted", models: []string{"mlp", "cnn", "mlp"}, weights: []float64{1, 2, 4}},
	}
}

// Fairness measures how equal the query rates of jobs are that run together, in a
// real cluster of processes on this machine. MLP and CNN are mixed: a batch of the
// one costs several times what one of the other does. Rates are counted from
// stored results.
//
//	rate_gap_percent           two jobs: highest rate less lowest, in percent of the mean, over every
//	                           window of 10 s
//	rate_gap_percent/jobs3     three jobs, /jobs5 five
//	rate_gap_percent/weighted  three jobs with weights 1, 2 and 4, rates divided by weight
//	second_job_first_task      submission of a job beside a running one until its first task begins
//	refair_after_join          the same until the rates of both, over a second, are within 10 percent
//	joined_gap_percent         how far they lie apart over the second that ends two after the submission,
//	                           whether or not they were equal before
//	refair_after_kill          SIGKILL of a worker until the rates of two jobs, over a second, are
//
// Times until rates are fair are a second at least: that is the window. The ratio
// jobs5_to_job1_throughput is what five jobs at once do, each measured by what it
// does alone in the same pair: 1 means that sharing costs nothing. Every prediction
// is compared with those of this process, bit for bit.
func Fairness(ctx context.Context, c FairnessConfig) (*Document, error) {
	if c.Program == "" || c.Set == nil || c.Models["mlp"] == nil || c.Models["cnn"] == nil {
		return nil, fmt.Errorf("%w: no program, images or models", ErrConfig)
	}
	if c.Workers == 1 || c.Workers < 0 {
		return nil, fmt.Errorf("%w: %d workers: somebody must be there to go on", ErrConfig, c.Workers)
	}
	c.defaults()
	store, err := os.MkdirTemp("", "idunno-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(store) }()
	c.Progress.tell("starting a cluster")
	local, err := cluster.Start(ctx, cluster.Config{Program: c.Program, Store: store, Temporary: true, Port: -1, Workers: c.Workers})
	if err != nil {
		return nil, err
	}
	defer local.Stop()
	f := &fairness{FairnessConfig: c, d: newDocument("fairness"), local: local, api: client.New(local.Broker()), rates: newRates(),
		rng: rand.New(rand.NewPCG(c.Seed, 5)), alone: make(map[string]map[int]*models.Prediction), used: make(map[uint64]string)}
	if err := f.measure(ctx); err != nil {
		return nil, err
	}
	f.d.OK = f.d.Counts.Lost == 0 && f.d.Counts.Duplicates == 0 && f.d.Counts.Differing == 0
	return f.d, nil
}

func (c *FairnessConfig) defaults() {
	if c.Workers == 0 {
		c.Workers = max(runtime.NumCPU(), 2)
	}
	for _, v := range []struct {
		value *int
		def   int
	}{{&c.Joins, 50}, {&c.Kills, 5}, {&c.Pairs, 5}} {
		if *v.value <= 0 {
			*v.value = v.def
		}
	}
	if c.Window <= 0 {
		c.Window = 10 * time.Second
	}
	if c.Span <= 0 {
		c.Span = 20 * time.Second
	}
	if c.Seed == 0 {
		c.Seed = 1
	}
}

type fairness struct {
	FairnessConfig
	d     *Document
	local *cluster.Local
	api   *client.Client
	rates *rates
	rng   *rand.Rand
	// alone are this process's predictions by model and batch of mnist, used the
	// models of all jobs there have been.
	alone map[string]map[int]*models.Prediction
	used  map[uint64]string
}

func (f *fairness) measure(ctx context.Context) error {
	if err := f.prepare(ctx); err != nil {
		return err
	}
	stop, err := f.local.Broker().FollowResults(ctx, 1, func(_ context.Context, m *broker.Stored) { f.rates.stored(m) })
	if err != nil {
		return err
	}
	defer stop()
	// What a batch of each model costs shows in a first job.
	for _, model := range []string{"mlp", "cnn"} {
		job, err := f.submit(ctx, model, 1, fairFirst)
		if err != nil {
			return err
		}
		if _, err := f.api.Wait(ctx, job, nil); err != nil {
			return err
		}
	}
	for _, m := range mixes() {
		if err := f.gaps(ctx, m); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	for _, step := range []func(context.Context) error{f.joins, f.kills, f.pairs, f.check} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// prepare stores the data, and computes what every result must be.
func (f *fairness) prepare(ctx context.Context) error {
	files, err := cluster.OpenStore(ctx, f.local.Broker())
	if err != nil {
		return err
	}
	if _, err := cluster.Seed(ctx, files, nil); err != nil {
		return err
	}
	if err := repeatSet(ctx, files, fairSet, fairRepeats); err != nil {
		return err
	}
	for _, model := range []string{"mlp", "cnn"} {
		f.alone[model], err = cluster.RunAlone(ctx, f.Models[model], f.Set, pipelineBatch, 1, f.Set.Batches(pipelineBatch), runtime.NumCPU(), nil)
		if err != nil {
			return err
		}
	}
	return nil
}

// submit hands in a job over so many batches, 0 for as many as there are.
func (f *fairness) submit(ctx context.Context, model string, weight float64, batches int) (uint64, error) {
	if batches == 0 {
		batches = fairRepeats * f.Set.Batches(pipelineBatch)
	}
	fields := map[string]any{"model": model, "data": fairSet, "from": 1, "to": batches}
	if weight != 1 {
		fields["weight"] = weight
	}
	doc, err := json.Marshal(fields)
	if err != nil {
		return 0, err
	}
	s, err := f.api.Submit(ctx, doc)
	f.used[s.Job] = model
	return s.Job, err
}

// run submits the jobs of a mix and returns when each has had results for a moment.
// The function that it returns cancels them.
func (f *fairness) run(ctx context.Context, m mix) (jobs []share, stop func() error, err error) {
	stop = func() error {
		var failed []error
		for _, j := range jobs {
			failed = append(failed, f.cancel(ctx, j.job))
		}
		return errors.Join(failed...)
	}
	for i, model := range m.models {
		weight := 1.0
		if m.weights != nil {
			weight = m.weights[i]
		}
		job, err := f.submit(ctx, model, weight, 0)
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		jobs = append(jobs, share{job, weight})
	}
	for _, j := range jobs {
		if _, err := f.began(ctx, j.job); err != nil {
			return nil, nil, errors.Join(err, stop())
		}
	}
	return jobs, stop, pause(ctx, min(fairSettle, f.Window))
}

// cancel ends a job. One that has come to its end was too short for what it was to show.
func (f *fairness) cancel(ctx context.Context, job uint64) error {
	_, err := f.api.Cancel(ctx, job)
	var refusal *wire.Error
	if errors.As(err, &refusal) && refusal.Code == wire.CodeJobEnded {
		return fmt.Errorf("%w: job %d ended before the measurement: choose a shorter span", ErrConfig, job)
	}
	return err
}

// began waits for a job's first result and returns when its first task began.
func (f *fairness) began(ctx context.Context, job uint64) (time.Time, error) {
	late := time.NewTimer(faultWait)
	defer late.Stop()
	for {
		if at := f.rates.began(job); !at.IsZero() {
			return at, nil
		}
		select {
		case <-ctx.Done():
			return time.Time{}, context.Cause(ctx)
		case <-late.C:
			return time.Time{}, fmt.Errorf("job %d has no result within %v", job, faultWait)
		case <-f.rates.changed:
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// gaps measures how far a mix's rates lie apart.
func (f *fairness) gaps(ctx context.Context, m mix) error {
	jobs, stop, err := f.run(ctx, m)
	if err != nil {
		return err
	}
	from := time.Now()
	if err := pause(ctx, f.Window+f.Span); err != nil {
		return errors.Join(err, stop())
	}
	to := time.Now()
	if err := stop(); err != nil {
		return err
	}
	s := newSample(m.name, "%", 1000)
	gaps := f.rates.gaps(jobs, from, to, f.Window)
	for _, gap := range gaps {
		s.add(gap)
	}
	f.d.Results = append(f.d.Results, s.result())
	f.Progress.tell("%s: median %.2f, highest %.2f", m.name, median(gaps), slices.Max(append(gaps, 0)))
	return nil
}

// joinSpan is how long two jobs run after the second has come, at most; the second
// runs for joinLeast at least. joinsAJob is how many join the same job.
const (
	joinSpan  = 4 * time.Second
	joinLeast = 2 * time.Second
	joinsAJob = 20
)

// joins measures how soon a second job gets its share.
func (f *fairness) joins(ctx context.Context) error {
	first := newSample("second_job_first_task", "ms", 1000)
	fair := newSample("refair_after_join", "ms", 1000)
	gap := newSample("joined_gap_percent", "%", 1000)
	var base []share
	var stop func() error
	for n := range f.Joins {
		if n%joinsAJob == 0 { // before it comes to its end
			if stop != nil {
				if err := stop(); err != nil {
					return err
				}
			}
			var err error
			if base, stop, err = f.run(ctx, mix{models: []string{"cnn"}}); err != nil {
				return err
			}
		}
		j, err := f.join(ctx, base[0], []string{"mlp", "cnn"}[n%2])
		if err != nil {
			return errors.Join(err, stop())
		}
		first.add(ms(j.began))
		fair.add(ms(j.equal))
		gap.add(j.gap)
		f.Progress.tell("join %d of %d: first task after %v, rates within %d %% after %v, %.1f %% apart at two seconds", n+1, f.Joins, j.began, fairGap, j.equal, j.gap)
	}
	f.d.Results = append(f.d.Results, first.result(), fair.result(), gap.result())
	return stop()
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// joined is how a second job got its share.
type joined struct {
	// began is the time until its first task began, equal that until rates were, gap how
	// far they lay apart in the end.
	began, equal time.Duration
	gap          float64
}

// join has a second job come and go.
func (f *fairness) join(ctx context.Context, base share, model string) (j joined, err error) {
	if err := pause(ctx, time.Duration(f.rng.Int64N(int64(calm)))); err != nil {
		return j, err
	}
	at := time.Now()
	job, err := f.submit(ctx, model, 1, 0)
	if err != nil {
		return j, err
	}
	if _, err := f.began(ctx, job); err != nil {
		return j, err
	}
	both := []share{base, {job, 1}}
	if j.equal, err = f.untilFair(ctx, both, at, joinSpan); err != nil {
		return j, err
	}
	// The first result that was stored need not be that of the task that began first.
	j.began = f.rates.began(job).Sub(at)
	j.gap = f.rates.gap(both, at.Add(joinLeast-fairWindow), at.Add(joinLeast))
	return j, f.cancel(ctx, job)
}

// untilFair waits until the rates of jobs are equal, and returns the time from at on
// until they were, or span.
func (f *fairness) untilFair(ctx context.Context, jobs []share, at time.Time, span time.Duration) (time.Duration, error) {
	// Results take a moment to get here.
	if err := pause(ctx, joinLeast+5*fairStep-time.Since(at)); err != nil {
		return 0, err
	}
	for {
		now := time.Now()
		if took, ok := f.rates.refair(jobs, at, now); ok || now.Sub(at) > span {
			return took, nil
		}
		if err := pause(ctx, fairStep); err != nil {
			return 0, err
		}
	}
}

// killsAJob is how many workers are killed beside the same jobs.
const killsAJob = 20

// kills measures how soon rates are equal again after a worker's death.
func (f *fairness) kills(ctx context.Context) error {
	s := newSample("refair_after_kill", "ms", 1000)
	var jobs []share
	var stop func() error
	workers := f.local.Names(wire.RoleWorker)
	for n := range f.Kills {
		if n%killsAJob == 0 { // before they come to their end
			if stop != nil {
				if err := stop(); err != nil {
					return err
				}
			}
			var err error
			if jobs, stop, err = f.run(ctx, mix{models: []string{"mlp", "cnn"}}); err != nil {
				return err
			}
		}
		name := workers[f.rng.IntN(len(workers))]
		took, err := f.kill(ctx, jobs, name)
		if err != nil {
			return errors.Join(err, stop())
		}
		s.add(ms(took))
		f.Progress.tell("kill %d of %d: rates within %d %% after %v", n+1, f.Kills, fairGap, took)
	}
	f.d.Results = append(f.d.Results, s.result())
	return stop()
}

func (f *fairness) kill(ctx context.Context, jobs []share, name string) (time.Duration, error) {
	if err := pause(ctx, fairSettle+time.Duration(f.rng.Int64N(int64(calm)))); err != nil {
		return 0, err
	}
	at, err := f.local.Kill(name)
	if err != nil {
		return 0, err
	}
	f.d.Counts.Faults++
	took, err := f.untilFair(ctx, jobs, at, joinSpan)
	return took, errors.Join(err, f.local.Restart(ctx, name))
}

// pairs compares what five jobs do at once with what each does alone.
func (f *fairness) pairs(ctx context.Context) error {
	const name = "jobs5_to_job1_throughput"
	five := mixes()[2]
	var ratios []float64
	for n := range f.Pairs {
		alone := make(map[string]float64)
		for _, model := range []string{"mlp", "cnn"} {
			rate, err := f.speed(ctx, mix{models: []string{model}})
			if err != nil {
				return err
			}
			alone[model] = rate[0]
		}
		together, err := f.speed(ctx, five)
		if err != nil {
			return err
		}
		ratio := 0.0
		for i, model := range five.models {
			ratio += together[i] / alone[model]
		}
		ratios = append(ratios, ratio)
		f.Progress.tell("pair %d of %d: mlp alone %.0f batches/s, cnn %.0f, five jobs together %.3f of that", n+1, f.Pairs, alone["mlp"], alone["cnn"], ratio)
	}
	f.d.Ratios = append(f.d.Ratios, Ratio{Name: name, Value: median(ratios), N: f.Pairs})
	return nil
}

// speed is the batches per second of each of the jobs of a mix, over a while in which
// each has had results.
func (f *fairness) speed(ctx context.Context, m mix) ([]float64, error) {
	jobs, stop, err := f.run(ctx, m)
	if err != nil {
		return nil, err
	}
	from, out := time.Now(), make([]float64, len(jobs))
	for slices.Contains(out, 0) {
		if err := pause(ctx, min(fairAlone, f.Span)); err != nil {
			return nil, errors.Join(err, stop())
		}
		span := time.Since(from)
		if span > faultWait {
			return nil, errors.Join(fmt.Errorf("jobs %v: some had no result in %v", jobs, span), stop())
		}
		for i, j := range jobs {
			out[i] = float64(f.rates.within(j.job, from, from.Add(span))) / span.Seconds()
		}
	}
	return out, stop()
}

// check compares every result that there is with this process's predictions.
func (f *fairness) check(ctx context.Context) error {
	for job, model := range f.used {
		stats, err := f.api.Wait(ctx, job, nil)
		if err != nil {
			return err
		}
		seen := make(map[int]bool)
		err = f.api.Results(ctx, job, func(r *wire.Result) error {
			if r.Error != "" {
				return fmt.Errorf("job %d task %d failed: %s", job, r.Task, r.Error)
			}
			for i := range r.Batches {
				b := &r.Batches[i]
				if seen[b.Batch] {
					f.d.Counts.Duplicates++
				}
				seen[b.Batch] = true
				if !same(b, f.alone[model][(b.Batch-1)%len(f.alone[model])+1]) {
					f.d.Counts.Differing++
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		// What was counted must be there. Results that came when the job had been
		// cancelled are there besides.
		f.d.Counts.Lost += max(int(stats.Batches)-len(seen), 0)
	}
	return nil
}

func same(b *wire.BatchResult, p *models.Prediction) bool {
	return p != nil && slices.Equal(b.Class, p.Class) && slices.EqualFunc(b.Prob, p.Prob, func(x, y float32) bool {
		return math.Float32bits(x) == math.Float32bits(y)
	})
}
