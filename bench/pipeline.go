package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"idunno/broker/wire"
	"idunno/coordinator/client"
	"idunno/coordinator/cluster"
	"idunno/models"
	"idunno/models/dataset"
	"idunno/objectstore"
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
	// Span is about how long each half of a pair takes; default 3 s.
	Span time.Duration
	// Pairs is the number of pairs, per model; default 15.
	Pairs int
	// Progress is told of every step.
	Progress Progress
}

const (
	pipelineBatch = 100
	// pipelineSet is the data set of long jobs: the batches of mnist again and
	// again, pipelineRepeats times. It takes no more space than one of each.
	pipelineSet     = "mnist-again"
	pipelineRepeats = 100
	// pipelineJob is the batches of a job, pipelineJobs the most jobs at a time:
	// as many as a coordinator admits to the queue.
	pipelineJob  = 200
	pipelineJobs = 16
)

// Pipeline measures the whole way of a query, from its submission to the last
// durable result, in a real cluster of processes on this machine: broker,
// coordinator and one worker with a slot on every core. A pair is a run of the
// engine alone on all cores, and then a job over the same batches, again and
// again, that takes about as long: pipeline_to_engine. Apart from that the same
// images are sent as jobs of 200 batches, some at a time, each of which is over in
// a fraction of a second: small_jobs_to_engine. Every job's results are counted: lost
// or double ones make the document not OK.
func Pipeline(ctx context.Context, c PipelineConfig) (*Document, error) {
	if len(c.Models) == 0 || c.Set == nil || c.Program == "" {
		return nil, fmt.Errorf("%w: no program, model or images", ErrConfig)
	}
	if c.Pairs <= 0 {
		c.Pairs = 15
	}
	if c.Span <= 0 {
		c.Span = 3 * time.Second
	}
	store, err := os.MkdirTemp("", "idunno-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(store) }()
	c.Progress.tell("starting a cluster")
	local, err := cluster.Start(ctx, cluster.Config{Program: c.Program, Store: store, Temporary: true, Port: -1, Workers: 1})
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
	if err := repeatSet(ctx, files, pipelineSet, pipelineRepeats); err != nil {
		return nil, err
	}
	d := newDocument("pipeline")
	p := &pipeline{PipelineConfig: c, api: client.New(local.Broker()), d: d}
	lowest := 0.0
	for _, name := range []string{"mlp", "cnn"} {
		if c.Models[name] == nil {
			continue
		}
		ratio, small, err := p.measure(ctx, name)
		if err != nil {
			return nil, err
		}
		d.Ratios = append(d.Ratios, Ratio{Name: "pipeline_to_engine/" + name, Value: ratio, N: c.Pairs},
			Ratio{Name: "small_jobs_to_engine/" + name, Value: small, N: c.Pairs})
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

// repeatSet stores a data set that refers to the batches of mnist again and again.
func repeatSet(ctx context.Context, files *objectstore.Store, name string, repeats int) error {
	v, err := files.Resolve(ctx, wire.DataFolder+wire.DefaultData)
	if err != nil {
		return err
	}
	m, err := cluster.Manifest(ctx, files, v.Digest)
	if err != nil {
		return err
	}
	m.Name, m.Batches, m.Images = name, m.Batches*repeats, m.Images*repeats
	m.Objects = slices.Repeat(m.Objects, repeats)
	_, err = files.PutBundle(ctx, wire.DataFolder+m.Name, m.Marshal())
	return err
}

// measure runs the pairs of one model and returns the median ratios of a long job
// and of small ones.
func (p *pipeline) measure(ctx context.Context, name string) (long, small float64, err error) {
	m, err := models.Load(p.Models[name], models.Options{})
	if err != nil {
		return 0, 0, fmt.Errorf("load model %s: %w", name, err)
	}
	batches, err := firstBatches(p.Set, pipelineBatch, pipelineJob)
	if err != nil {
		return 0, 0, err
	}
	pipe := newSample("images_per_s/pipeline/"+name, "images/s", 10)
	parts := newSample("images_per_s/small_jobs/"+name, "images/s", 10)
	engine := newSample("images_per_s/engine/"+name, "images/s", 10)
	var longs, smalls []float64
	// The first pair warms the cluster: model and batches come to the worker's
	// cache, and batch times become known.
	for i := range p.Pairs + 1 {
		p.Progress.tell("%s, pair %d of %d", name, i, p.Pairs)
		alone, err := Throughput(ctx, m, batches, runtime.NumCPU(), p.Span)
		if err != nil {
			return 0, 0, err
		}
		count := int(alone * p.Span.Seconds() / pipelineBatch)
		whole, err := p.jobs(ctx, wire.JobDoc{Model: name, Data: pipelineSet, From: 1, To: min(max(count, 1), p.Set.Batches(pipelineBatch)*pipelineRepeats)}, 1)
		if err != nil {
			return 0, 0, err
		}
		pieces, err := p.jobs(ctx, wire.JobDoc{Model: name, Data: wire.DefaultData, From: 1, To: len(batches)}, max(count/len(batches), 1))
		if err != nil {
			return 0, 0, err
		}
		if i == 0 {
			continue
		}
		engine.add(alone)
		pipe.add(whole)
		parts.add(pieces)
		longs, smalls = append(longs, whole/alone), append(smalls, pieces/alone)
	}
	p.d.Results = append(p.d.Results, pipe.result(), parts.result(), engine.result())
	return median(longs), median(smalls), nil
}

// jobs runs the same job several times, as many at a time as are admitted to the
// queue, and returns images per second from the first
// submission to the last stored result.
func (p *pipeline) jobs(ctx context.Context, query wire.JobDoc, jobs int) (float64, error) {
	doc, err := json.Marshal(query)
	if err != nil {
		return 0, err
	}
	ended := make([]jobEnd, jobs)
	group, run := errgroup.WithContext(ctx)
	group.SetLimit(pipelineJobs)
	for i := range jobs {
		group.Go(func() (err error) {
			ended[i], err = p.job(run, doc)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	var images int64
	first, last := ended[0].submitted, ended[0].last
	for _, e := range ended {
		images += e.images
		if e.submitted.Before(first) {
			first = e.submitted
		}
		if e.last.After(last) {
			last = e.last
		}
		outcome, err := cluster.Collect(ctx, p.api, e.job, query.From, query.To)
		if err != nil {
			return 0, err
		}
		p.d.Counts.Lost += outcome.Missing
		p.d.Counts.Duplicates += outcome.Duplicates
	}
	return float64(images) / last.Sub(first).Seconds(), nil
}

// jobEnd is when a job was submitted and when its last result was stored.
type jobEnd struct {
	job             uint64
	images          int64
	submitted, last time.Time
}

// job submits a job and waits for its end.
func (p *pipeline) job(ctx context.Context, doc []byte) (jobEnd, error) {
	submitted, err := p.api.Submit(ctx, doc)
	if err != nil {
		return jobEnd{}, err
	}
	stats, err := p.api.Wait(ctx, submitted.Job, nil)
	if err != nil {
		return jobEnd{}, err
	}
	if stats.State != wire.StateDone {
		return jobEnd{}, fmt.Errorf("job %d ended as %s: %s", submitted.Job, stats.State, stats.Reason)
	}
	reply, err := p.api.Job(ctx, submitted.Job)
	if err != nil {
		return jobEnd{}, err
	}
	return jobEnd{job: submitted.Job, images: stats.Images, submitted: reply.Record.Submitted, last: stats.Last}, nil
}
