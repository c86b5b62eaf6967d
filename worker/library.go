package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"idunno/broker/wire"
	"idunno/models"
	"idunno/models/dataset"
	"idunno/objectstore"
)

const (
	// fetchAhead is how many batches of a task wait in its channel.
	fetchAhead = 2
	// maxModels and maxManifests bound what the library keeps in memory.
	maxModels    = 8
	maxManifests = 8
	// Sizes a worker accepts from the store.
	maxModelFile = 2 << 30
	maxManifest  = 256 << 20
	maxBatchFile = 1 << 30
)

// fetched is a batch that has arrived, or why it hasn't.
type fetched struct {
	batch *dataset.Batch
	err   error
}

// library loads models, manifests and batches by digest, each once, and keeps
// those used last. What it returns is shared by all slots and never changed.
type library struct {
	cache *objectstore.Cache
	link  *link
	// taskMemory and limit bound a model's memory and the time to load it.
	taskMemory int64
	limit      time.Duration
	models     shelf[*models.Model]
	manifests  shelf[*dataset.Manifest]
	batches    shelf[*dataset.Batch]
}

func newLibrary(cache *objectstore.Cache, link *link, cfg *Config) *library {
	l := &library{cache: cache, link: link, taskMemory: cfg.TaskMemory, limit: cfg.BatchTimeout}
	l.models.most, l.manifests.most = maxModels, maxManifests
	l.batches.most, l.batches.cost = cfg.MemoryBytes, batchBytes
	return l
}

// batchBytes is about what a batch holds in memory.
func batchBytes(b *dataset.Batch) int64 { return int64(len(b.X)) + 4*int64(len(b.Y)) + 512 }

// fetch returns an object's bytes. A transfer that the connection was lost under
// begins again when it is back.
func (l *library) fetch(ctx context.Context, digest string, most int64) (p []byte, err error) {
	err = l.link.retry(ctx, func(ctx context.Context) error {
		p, err = l.cache.Fetch(ctx, digest, most)
		return err
	})
	return p, err
}

// model returns the model with the digest, compiled.
func (l *library) model(ctx context.Context, digest string) (*models.Model, error) {
	return l.models.get(ctx, digest, func() (*models.Model, error) {
		p, err := l.fetch(ctx, digest, maxModelFile)
		if err != nil {
			return nil, fmt.Errorf("fetch model: %w", err)
		}
		within, cancel := context.WithTimeout(ctx, l.limit)
		defer cancel()
		m, err := bounded(within, func() (*models.Model, error) {
			return LoadModel(p, models.Options{MaxMemory: l.taskMemory, AnyOutput: true})
		})
		switch {
		case errors.Is(err, errLeftBehind) && ctx.Err() == nil:
			return nil, slow("load model", l.limit)
		case err != nil:
			return nil, asFault(ctx, fmt.Errorf("load model: %w", err))
		}
		return m, nil
	})
}

// manifest returns the data set with the digest.
func (l *library) manifest(ctx context.Context, digest string) (*dataset.Manifest, error) {
	return l.manifests.get(ctx, digest, func() (*dataset.Manifest, error) {
		p, err := l.fetch(ctx, digest, maxManifest)
		if err != nil {
			return nil, fmt.Errorf("fetch data set: %w", err)
		}
		m, err := dataset.ParseManifest(p)
		if err != nil {
			return nil, fault{err}
		}
		return m, nil
	})
}

// batch returns batch n of a data set, counted from 1, from memory if it is there.
func (l *library) batch(ctx context.Context, m *dataset.Manifest, n int) (*dataset.Batch, error) {
	if n < 1 || n > len(m.Objects) {
		return nil, outOfRange(m, n)
	}
	return l.batches.get(ctx, m.Objects[n-1].Digest, func() (*dataset.Batch, error) { return l.read(ctx, m, n) })
}

// read returns batch n of a data set, counted from 1, without keeping it.
func (l *library) read(ctx context.Context, m *dataset.Manifest, n int) (*dataset.Batch, error) {
	if n < 1 || n > len(m.Objects) {
		return nil, outOfRange(m, n)
	}
	p, err := l.fetch(ctx, m.Objects[n-1].Digest, maxBatchFile)
	if err != nil {
		return nil, fmt.Errorf("fetch batch %d: %w", n, err)
	}
	b, err := dataset.UnmarshalBatch(p)
	if err != nil {
		return nil, fault{fmt.Errorf("read batch %d: %w", n, err)}
	}
	return b, nil
}

// batchOf returns batch n of a data set, counted from 1, with size images in a batch;
// 0 means that batches are as they are stored.
func (l *library) batchOf(ctx context.Context, m *dataset.Manifest, n, size int) (*dataset.Batch, error) {
	if size == 0 || size == m.BatchSize {
		return l.batch(ctx, m, n)
	}
	span, err := m.Span(n, size)
	if err != nil {
		return nil, fault{err}
	}
	if one, err := m.ImageBytes(); err != nil || int64(one)*int64(span.Images) > wire.MaxRegrouped {
		return nil, fault{fmt.Errorf("batch %d of %d images has more than %d bytes: choose a smaller --batch-size", n, size, wire.MaxRegrouped)}
	}
	var parts []*dataset.Batch
	for k := span.First; k <= span.Last; k++ {
		b, err := l.batch(ctx, m, k)
		if err != nil {
			return nil, err
		}
		parts = append(parts, b)
	}
	b, err := span.Regroup(parts)
	if err != nil {
		return nil, fault{fmt.Errorf("batch %d: %w", n, err)}
	}
	return b, nil
}

func outOfRange(m *dataset.Manifest, n int) error {
	return fault{fmt.Errorf("batch %d: the data set has %d", n, len(m.Objects))}
}

// stream brings a task's batches in order and, with load set, makes its model ready
// meanwhile. It stops after an error or when ctx ends.
func (l *library) stream(ctx context.Context, t *wire.Task, load bool, out chan<- fetched) {
	send := func(f fetched) bool {
		select {
		case out <- f:
			return f.err == nil
		case <-ctx.Done():
			return false
		}
	}
	defer func() {
		if p := recover(); p != nil {
			send(fetched{err: panicked("fetch batches", p)})
		}
	}()
	// Loading the model here is prefetching it: the slot asks for it again, and
	// learns of an error there.
	if load {
		if _, err := l.model(ctx, t.ModelDigest); err != nil {
			send(fetched{err: err})
			return
		}
	}
	m, err := l.manifest(ctx, t.DataDigest)
	if err != nil {
		send(fetched{err: err})
		return
	}
	for n := t.From; n <= t.To; n++ {
		b, err := l.batchOf(ctx, m, n, t.BatchSize)
		if !send(fetched{batch: b, err: err}) {
			return
		}
	}
}
