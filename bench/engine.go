package bench

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"idunno/models"
	"idunno/models/dataset"
	"idunno/models/engine"
)

// EngineConfig says what [Engine] measures.
type EngineConfig struct {
	// Models are ONNX files by name. Required.
	Models map[string][]byte
	// Set gives the images. Required. Models that take images of another shape get noise.
	Set *dataset.Set
	// Sizes are the batch sizes for models that take the set's images; default 1,
	// 8, 32, 100, 256.
	Sizes []int
	// OtherSizes are the batch sizes for the other models; default 8.
	OtherSizes []int
	// Span is how long each model and size is measured; default 2 s.
	Span time.Duration
	// Pairs is the number of pairs behind each ratio; default 5.
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
	if len(c.OtherSizes) == 0 {
		c.OtherSizes = []int{8}
	}
	for _, size := range slices.Concat(c.Sizes, c.OtherSizes) {
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
// and floating-point operations per second, their share of what the core reaches
// at most, the time of a batch and allocations, per model and batch size; what a
// slot on every core does to one slot; and the product of two 512 x 512 matrices.
//
// A share is that of the median batch. Operations are those of the model as
// written, so an engine that needs fewer (Winograd's convolution, zeros in the data
// that are left out) can have a share above 1.
func Engine(ctx context.Context, c EngineConfig) (*Document, error) {
	if err := c.defaults(); err != nil {
		return nil, err
	}
	d := newDocument("engine")
	limit := newSample("fma_limit", "GFLOP/s", 1000)
	c.Progress.tell("product of matrices")
	if err := measureProduct(ctx, d, limit, c); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(c.Models)) {
		m, err := models.Load(c.Models[name], models.Options{})
		if err != nil {
			return nil, fmt.Errorf("load model %s: %w", name, err)
		}
		sizes, images := c.OtherSizes, noise(m.Info())
		if m.Check(c.Set.Shape, c.Set.DType) == nil {
			sizes, images = c.Sizes, c.Set
		}
		if images == nil {
			return nil, fmt.Errorf("%w: model %s takes images of any size: give it a fixed one", ErrConfig, name)
		}
		for _, size := range sizes {
			c.Progress.tell("%s, batches of %d", name, size)
			if err := measureEngine(ctx, d, m, images, name, size, limit, c); err != nil {
				return nil, err
			}
		}
		c.Progress.tell("%s, one slot and one a core", name)
		if err := measureSlots(ctx, d, m, images, name, c); err != nil {
			return nil, err
		}
	}
	d.Results = append(d.Results, limit.result())
	return d, nil
}

// noise is a set of random images of the shape that a model takes, as many as
// some megabytes hold; nil when the model leaves the shape open.
func noise(info models.Info) *dataset.Set {
	shape := info.Inputs[0].Shape
	if len(shape) < 2 || slices.Contains(shape[1:], -1) {
		return nil
	}
	size := 1
	for _, d := range shape[1:] {
		size *= d
	}
	x := make([]byte, size*max(8, 16<<20/size))
	rng := rand.NewPCG(1, 1)
	for i := range x {
		x[i] = byte(rng.Uint64())
	}
	return &dataset.Set{Name: "noise", X: x, DType: dataset.U8, Shape: shape[1:]}
}

// firstBatches cuts the set's beginning into batches; a set that is too small for
// one is repeated.
func firstBatches(set *dataset.Set, size, most int) ([]*dataset.Batch, error) {
	for set.Len() < size {
		twice := *set
		twice.X, twice.Y = append(slices.Clip(set.X), set.X...), append(slices.Clip(set.Y), set.Y...)
		set = &twice
	}
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

// limitSpan is how long the core's limit is measured for a pair.
const limitSpan = 20 * time.Millisecond

// median is the value in the middle.
func (s *sample) median() float64 { return float64(s.h.ValueAtQuantile(50)) / s.scale }

// measureLimit returns a measurement of the core's limit for paired.
func measureLimit(ctx context.Context, limit *sample) func() (float64, error) {
	return noting(limit, func() (float64, error) { return engine.FMALimit(limitSpan), context.Cause(ctx) })
}

// measureProduct pairs a product of matrices with the core's limit.
func measureProduct(ctx context.Context, d *Document, limit *sample, c EngineConfig) error {
	const n = 512
	multiply := engine.Product(n)
	rate := newSample("gflops/gemm512", "GFLOP/s", 1000)
	ratios, err := paired(c.Pairs, func() (float64, error) {
		part := newSample(rate.name, rate.unit, rate.scale)
		err := until(ctx, min(c.Span, limitSpan), func() error {
			began := time.Now()
			multiply()
			v := 2 * n * n * n / time.Since(began).Seconds() / 1e9
			rate.add(v)
			part.add(v)
			return nil
		})
		return part.median(), err
	}, measureLimit(ctx, limit))
	if err != nil {
		return err
	}
	d.Results = append(d.Results, rate.result())
	d.Ratios = append(d.Ratios, Ratio{Name: "fma_limit_share/gemm512", Value: median(ratios), N: len(ratios)})
	return nil
}

func measureEngine(ctx context.Context, d *Document, m *models.Model, set *dataset.Set, name string, size int, limit *sample, c EngineConfig) error {
	batches, err := firstBatches(set, size, 64)
	if err != nil {
		return err
	}
	session := m.NewSession()
	if _, err := session.Predict(ctx, batches[0]); err != nil {
		return fmt.Errorf("%s, batch of %d: %w", name, size, err)
	}
	key := fmt.Sprintf("%s/%d", name, size)
	rate := newSample("images_per_s/"+key, "images/s", 100)
	gflops := newSample("gflops/"+key, "GFLOP/s", 1000)
	times := newSample("batch_ms/"+key, "ms", 1e6)
	perImage := float64(m.Info().FLOPsPerImage)
	var before, after runtime.MemStats
	runs, mallocs := 0, uint64(0)
	half := func() (float64, error) {
		part := newSample(gflops.name, gflops.unit, gflops.scale)
		runtime.ReadMemStats(&before)
		err := until(ctx, c.Span/time.Duration(c.Pairs), func() error {
			b := batches[runs%len(batches)]
			runs++
			began := time.Now()
			_, err := session.Predict(ctx, b)
			took := time.Since(began).Seconds()
			rate.add(float64(size) / took)
			gflops.add(perImage * float64(size) / took / 1e9)
			part.add(perImage * float64(size) / took / 1e9)
			times.add(took * 1e3)
			return err
		})
		runtime.ReadMemStats(&after)
		mallocs += after.Mallocs - before.Mallocs
		return part.median(), err
	}
	ratios, err := paired(c.Pairs, half, measureLimit(ctx, limit))
	if err != nil {
		return fmt.Errorf("%s, batch of %d: %w", name, size, err)
	}
	allocs := newSample("allocs_per_batch/"+key, "allocations", 100)
	allocs.add(float64(mallocs) / float64(runs))
	d.Results = append(d.Results, rate.result())
	if perImage > 0 { // else only a run could tell what there is to do
		d.Results = append(d.Results, gflops.result())
		d.Ratios = append(d.Ratios, Ratio{Name: "fma_limit_share/" + key, Value: median(ratios), N: len(ratios)})
	}
	d.Results = append(d.Results, times.result(), allocs.result())
	return nil
}

// measureSlots pairs a slot on every core with one slot, in batches of up to 100.
func measureSlots(ctx context.Context, d *Document, m *models.Model, set *dataset.Set, name string, c EngineConfig) error {
	size := min(100, set.Len())
	if set != c.Set {
		size = slices.Max(c.OtherSizes)
	}
	batches, err := firstBatches(set, size, 64)
	if err != nil {
		return err
	}
	slots := func(n int) func() (float64, error) {
		return func() (float64, error) { return Throughput(ctx, m, batches, n, c.Span/2) }
	}
	ratios, err := paired(c.Pairs, slots(runtime.NumCPU()), slots(1))
	if err != nil {
		return err
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
