package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"time"

	"idunno/broker/wire"
	"idunno/coordinator/client"
	"idunno/coordinator/cluster"
	"idunno/models"
	"idunno/models/dataset"
)

// PipelineConfig says what [Pipeline] measures.
type PipelineConfig struct {
	// Program is the path of the idunno program that the cluster is started
	// with. Required.
	Program string
	// Models are ONNX files by name; those of the seeded SDFS. Required.
	Models map[string][]byte
	// Set is the data set mnist that the SDFS is seeded with. Required.
	Set *dataset.Set
	// Batches of 100 in a job, by model; default 200.
	Batches map[string]int
	// Pairs is the number of jobs paired with runs of the engine, per model;
	// default 15.
	Pairs int
	// Progress is told of every step.
	Progress Progress
}

const pipelineBatch = 100

// Pipeline measures the whole way of a query, from its submission to the last
// durable result, in a real cluster of processes on this machine: broker,
// coordinator and one worker with a slot on every core. Each job is paired with
// a run of the engine alone on the same cores and the same batches, just before
// it. Every job's results are counted: lost or double ones make the document
// not OK.
func Pipeline(ctx context.Context, c PipelineConfig) (*Document, error) {
	if len(c.Models) == 0 || c.Set == nil || c.Program == "" {
		return nil, fmt.Errorf("%w: no program, model or images", ErrConfig)
	}
	if c.Pairs <= 0 {
		c.Pairs = 15
	}
	store, err := os.MkdirTemp("", "idunno-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(store) }()
	c.Progress.tell("starting a cluster")
	local, err := cluster.Start(ctx, cluster.Config{Program: c.Program, Store: store, Port: -1, Workers: 1})
	if err != nil {
		return nil, err
	}
	defer local.Stop()
	files, err := cluster.OpenStore(ctx, local.Broker())
	if err != nil {
		return nil, err
	}
	if _, err := cluster.Seed(ctx, files, nil); err != nil {
		return nil, err
	}
	d := newDocument("pipeline")
	p := &pipeline{PipelineConfig: c, api: client.New(local.Broker()), d: d}
	lowest := 0.0
	for _, name := range []string{"mlp", "cnn"} {
		if c.Models[name] == nil {
			continue
		}
		ratio, err := p.measure(ctx, name)
		if err != nil {
			return nil, err
		}
		d.Ratios = append(d.Ratios, Ratio{Name: "pipeline_to_engine/" + name, Value: ratio, N: c.Pairs})
		if lowest == 0 || ratio < lowest {
			lowest = ratio
		}
	}
	d.Ratios = append([]Ratio{{Name: "pipeline_to_engine", Value: lowest, N: c.Pairs}}, d.Ratios...)
	d.OK = d.Counts.Lost == 0 && d.Counts.Duplicates == 0
	return d, nil
}

type pipeline struct {
	PipelineConfig
	api *client.Client
	d   *Document
}

// measure runs the pairs of one model and returns the median ratio.
func (p *pipeline) measure(ctx context.Context, name string) (float64, error) {
	m, err := models.Load(p.Models[name], models.Options{})
	if err != nil {
		return 0, fmt.Errorf("load model %s: %w", name, err)
	}
	n := p.Batches[name]
	if n <= 0 {
		n = 200
	}
	batches, err := firstBatches(p.Set, pipelineBatch, n)
	if err != nil {
		return 0, err
	}
	pipe := newSample("images_per_s/pipeline/"+name, "images/s", 10)
	engine := newSample("images_per_s/engine/"+name, "images/s", 10)
	var ratios []float64
	// The first job warms the cluster: model and batches come to the worker's
	// cache, and batch times become known.
	for i := range p.Pairs + 1 {
		p.Progress.tell("%s, pair %d of %d", name, i, p.Pairs)
		alone, err := Throughput(ctx, m, batches, runtime.NumCPU(), p.spanOf(m, len(batches)))
		if err != nil {
			return 0, err
		}
		whole, err := p.job(ctx, name, len(batches))
		if err != nil {
			return 0, err
		}
		if i == 0 {
			continue
		}
		engine.add(alone)
		pipe.add(whole)
		ratios = append(ratios, whole/alone)
	}
	p.d.Results = append(p.d.Results, pipe.result(), engine.result())
	return median(ratios), nil
}

// spanOf is about as long as a job of n batches takes at 10 GFLOP/s on all cores.
func (p *pipeline) spanOf(m *models.Model, n int) time.Duration {
	seconds := float64(m.Info().FLOPsPerImage) * float64(n*pipelineBatch) / 10e9
	return min(max(time.Duration(seconds*float64(time.Second)), 500*time.Millisecond), 5*time.Second)
}

// job submits a job, waits for its end and returns images per second from the
// submission to the last stored result.
func (p *pipeline) job(ctx context.Context, name string, n int) (float64, error) {
	doc, err := json.Marshal(wire.JobDoc{Model: name, Data: wire.DefaultData, From: 1, To: n})
	if err != nil {
		return 0, err
	}
	submitted, err := p.api.Submit(ctx, doc)
	if err != nil {
		return 0, err
	}
	stats, err := p.api.Wait(ctx, submitted.Job, nil)
	if err != nil {
		return 0, err
	}
	if stats.State != wire.StateDone {
		return 0, fmt.Errorf("job %d ended as %s: %s", submitted.Job, stats.State, stats.Reason)
	}
	reply, err := p.api.Job(ctx, submitted.Job)
	if err != nil {
		return 0, err
	}
	outcome, err := cluster.Collect(ctx, p.api, submitted.Job, 1, n)
	if err != nil {
		return 0, err
	}
	p.d.Counts.Lost += outcome.Missing
	p.d.Counts.Duplicates += outcome.Duplicates
	return float64(stats.Images) / stats.Last.Sub(reply.Record.Submitted).Seconds(), nil
}
