package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"idunno/broker/wire"
	"idunno/models"
	"idunno/models/dataset"
	"idunno/objectstore"
)

const (
	// fetchAhead is how many batches of a task wait in memory.
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

// library loads models, manifests and batches by digest, each once.
type library struct {
	cache     *objectstore.Cache
	models    shelf[*models.Model]
	manifests shelf[*dataset.Manifest]
}

func newLibrary(cache *objectstore.Cache) *library {
	l := &library{cache: cache}
	l.models.most, l.manifests.most = maxModels, maxManifests
	return l
}

// model returns the model with the digest, compiled.
func (l *library) model(ctx context.Context, digest string) (*models.Model, error) {
	return l.models.get(ctx, digest, func() (*models.Model, error) {
		p, err := l.cache.Fetch(ctx, digest, maxModelFile)
		if err != nil {
			return nil, fmt.Errorf("fetch model: %w", err)
		}
		m, err := models.Load(p, models.Options{})
		if err != nil {
			return nil, fmt.Errorf("load model: %w", err)
		}
		return m, nil
	})
}

// manifest returns the data set with the digest.
func (l *library) manifest(ctx context.Context, digest string) (*dataset.Manifest, error) {
	return l.manifests.get(ctx, digest, func() (*dataset.Manifest, error) {
		p, err := l.cache.Fetch(ctx, digest, maxManifest)
		if err != nil {
			return nil, fmt.Errorf("fetch data set: %w", err)
		}
		return dataset.ParseManifest(p)
	})
}

// batch returns batch n of a data set, counted from 1.
func (l *library) batch(ctx context.Context, m *dataset.Manifest, n int) (*dataset.Batch, error) {
	if n < 1 || n > len(m.Objects) {
		return nil, fmt.Errorf("batch %d: the data set has %d", n, len(m.Objects))
	}
	object := m.Objects[n-1]
	p, err := l.cache.Fetch(ctx, object.Digest, maxBatchFile)
	if err != nil {
		return nil, fmt.Errorf("fetch batch %d: %w", n, err)
	}
	b, err := dataset.UnmarshalBatch(p)
	if err != nil {
		return nil, fmt.Errorf("read batch %d: %w", n, err)
	}
	return b, nil
}

// stream brings a task's batches in order, and makes its model ready meanwhile.
// It stops after an error or when ctx ends.
func (l *library) stream(ctx context.Context, t *wire.Task, out chan<- fetched) {
	send := func(f fetched) bool {
		select {
		case out <- f:
			return f.err == nil
		case <-ctx.Done():
			return false
		}
	}
	// Loading the model here is prefetching it: the slot asks for it again, and
	// learns of an error there.
	if _, err := l.model(ctx, t.ModelDigest); err != nil {
		send(fetched{err: err})
		return
	}
	m, err := l.manifest(ctx, t.DataDigest)
	if err != nil {
		send(fetched{err: err})
		return
	}
	for n := t.From; n <= t.To; n++ {
		b, err := l.batch(ctx, m, n)
		if !send(fetched{batch: b, err: err}) {
			return
		}
	}
}

// shelf keeps the last few values by digest and makes each one once, however
// many ask at the same time.
type shelf[V any] struct {
	most  int
	mu    sync.Mutex
	items map[string]*item[V]
	clock int
}

type item[V any] struct {
	done  chan struct{}
	value V
	err   error
	used  int
}

// get returns the value of key. Whoever comes first makes it; should that one be
// cancelled, the next in line does.
func (s *shelf[V]) get(ctx context.Context, key string, make func() (V, error)) (V, error) {
	for {
		v, err := s.try(ctx, key, make)
		if !errors.Is(err, context.Canceled) || ctx.Err() != nil {
			return v, err
		}
	}
}

func (s *shelf[V]) try(ctx context.Context, key string, make func() (V, error)) (V, error) {
	s.mu.Lock()
	s.clock++
	it := s.items[key]
	if it == nil {
		it = s.add(key)
		s.mu.Unlock()
		it.value, it.err = make()
		if it.err != nil {
			s.forget(key, it)
		}
		close(it.done)
		return it.value, it.err
	}
	it.used = s.clock
	s.mu.Unlock()
	select {
	case <-it.done:
		return it.value, it.err
	case <-ctx.Done():
		var none V
		return none, ctx.Err()
	}
}

// add puts an empty place on the shelf, in the stead of the one unused longest.
func (s *shelf[V]) add(key string) *item[V] {
	if s.items == nil {
		s.items = map[string]*item[V]{}
	}
	if len(s.items) >= s.most {
		oldest := ""
		for k, it := range s.items {
			if oldest == "" || it.used < s.items[oldest].used {
				oldest = k
			}
		}
		delete(s.items, oldest)
	}
	it := &item[V]{done: make(chan struct{}), used: s.clock}
	s.items[key] = it
	return it
}

// forget removes a failed value, so that the next one to ask tries again.
func (s *shelf[V]) forget(key string, it *item[V]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.items[key] == it {
		delete(s.items, key)
	}
}
