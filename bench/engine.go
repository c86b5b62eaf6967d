package bench

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"idunno/models"
	"idunno/models/dataset"
)

// EngineConfig says what [Engine] measures.
type EngineConfig struct {
	// Models are ONNX files by name. Required.
	Models map[string][]byte
	// Set gives the images. Required.
	Set *dataset.Set
	// Sizes are the batch sizes; default 1, 8, 32, 100, 256.
	Sizes []int
	// Span is how long each model and size is measured; default 2 s.
	Span time.Duration
	// Pairs is the number of pairs that the ratio of two slots to one is taken
	// from; default 5.
	Pairs int
	// Progress is told of every step.
	Progress Progress
}

func (c *EngineConfig) defaults() error {
	if len(c.Models) == 0 || c.Set == nil || c.Set.Len() == 0 {
		return fmt.Errorf("%w: no model or no images", ErrConfig)
	}
	if len(c.Sizes) == 0 {
		c.Sizes = []int{1, 8, 32, 100, 256}
	}
	for _, size := range c.Sizes {
		if size < 1 || size > c.Set.Len() {
			return fmt.Errorf("%w: batch size %d, choose 1 to %d", ErrConfig, size, c.Set.Len())
		}
	}
	if c.Span <= 0 {
		c.Span = 2 * time.Second
	}
	if c.Pairs <= 0 {
		c.Pairs = 5
	}
	return nil
}

// Engine measures the inference engine by itself, one slot on one core: images
// and floating-point operations per second, the time of a batch and allocations,
// per model and batch size; and what a slot on every core does to one slot.
func Engine(ctx context.Context, c EngineConfig) (*Document, error) {
	if err := c.defaults(); err != nil {
		return nil, err
	}
	d := newDocument("engine")
	names := make([]string, 0, len(c.Models))
	for name := range c.Models {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		m, err := models.Load(c.Models[name], models.Options{})
		if err != nil {
			return nil, fmt.Errorf("load model %s: %w", name, err)
		}
		for _, size := range c.Sizes {
			c.Progress.tell("%s, batches of %d", name, size)
			if err := measureEngine(ctx, d, m, name, size, c); err != nil {
				return nil, err
			}
		}
		c.Progress.tell("%s, one slot and one a core", name)
		if err := measureSlots(ctx, d, m, name, c); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// firstBatches cuts the set's beginning into batches.
func firstBatches(set *dataset.Set, size, most int) ([]*dataset.Batch, error) {
	n := min(most, set.Len()/size)
	batches := make([]*dataset.Batch, n)
	for i := range batches {
		b, err := set.Batch(i+1, size)
		if err != nil {
			return nil, err
		}
		batches[i] = b
	}
	return batches, nil
}

func measureEngine(ctx context.Context, d *Document, m *models.Model, name string, size int, c EngineConfig) error {
	batches, err := firstBatches(c.Set, size, 64)
	if err != nil {
		return err
	}
	session := m.NewSession()
	if _, err := session.Predict(ctx, batches[0]); err != nil {
		return fmt.Errorf("%s, batch of %d: %w", name, size, err)
	}
	key := fmt.Sprintf("%s/%d", name, size)
	rate := newSample("images_per_s/"+key, "images/s", 10)
	gflops := newSample("gflops/"+key, "GFLOP/s", 1000)
	times := newSample("batch_ms/"+key, "ms", 1e6)
	perImage := float64(m.Info().FLOPsPerImage)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	i := 0
	err = until(ctx, c.Span, func() error {
		b := batches[i%len(batches)]
		i++
		began := time.Now()
		_, err := session.Predict(ctx, b)
		took := time.Since(began).Seconds()
		rate.add(float64(size) / took)
		gflops.add(perImage * float64(size) / took / 1e9)
		times.add(took * 1e3)
		return err
	})
	runtime.ReadMemStats(&after)
	if err != nil {
		return fmt.Errorf("%s, batch of %d: %w", name, size, err)
	}
	allocs := newSample("allocs_per_batch/"+key, "allocations", 100)
	allocs.add(float64(after.Mallocs-before.Mallocs) / float64(i))
	d.Results = append(d.Results, rate.result(), gflops.result(), times.result(), allocs.result())
	return nil
}

// measureSlots pairs one slot with a slot on every core, in batches of 100.
func measureSlots(ctx context.Context, d *Document, m *models.Model, name string, c EngineConfig) error {
	batches, err := firstBatches(c.Set, min(100, c.Set.Len()), 64)
	if err != nil {
		return err
	}
	var ratios []float64
	for range c.Pairs {
		one, err := Throughput(ctx, m, batches, 1, c.Span/2)
		if err != nil {
			return err
		}
		all, err := Throughput(ctx, m, batches, runtime.NumCPU(), c.Span/2)
		if err != nil {
			return err
		}
		ratios = append(ratios, all/one)
	}
	d.Ratios = append(d.Ratios, Ratio{Name: fmt.Sprintf("slots%d_to_slots1/%s", runtime.NumCPU(), name), Value: median(ratios), N: len(ratios)})
	return nil
}

// Throughput is images per second of n slots that run batches in turn for span,
// each with a session of its own.
func Throughput(ctx context.Context, m *models.Model, batches []*dataset.Batch, slots int, span time.Duration) (float64, error) {
	var images atomic.Int64
	errs := make([]error, slots)
	began := time.Now()
	var group sync.WaitGroup
	for s := range slots {
		session := m.NewSession()
		group.Go(func() {
			i := s
			errs[s] = until(ctx, span, func() error {
				b := batches[i%len(batches)]
				i++
				p, err := session.Predict(ctx, b)
				if err == nil {
					images.Add(int64(len(p.Class)))
				}
				return err
			})
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return float64(images.Load()) / time.Since(began).Seconds(), nil
}
