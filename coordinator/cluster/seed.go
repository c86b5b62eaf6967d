package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/models/dataset"
	"idunno/models/zoo"
	"idunno/objectstore"
)

// BatchSize is the number of images in a batch unless the user chooses.
const BatchSize = 100

// uploads is how many batches travel at once: a store that syncs every write is
// mostly waited for.
const uploads = 8

// OpenStore opens the cluster's SDFS. It makes the streams and buckets that the
// cluster needs when no coordinator has done so yet.
func OpenStore(ctx context.Context, b *broker.Broker) (*objectstore.Store, error) {
	objects, index, err := b.Files(ctx)
	if err != nil {
		if err = b.Ensure(ctx); err == nil {
			objects, index, err = b.Files(ctx)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open the SDFS: %w", err)
	}
	return objectstore.Open(objects, index), nil
}

// Seed stores what the program carries and the SDFS does not have yet: the data
// set mnist and the models mlp and cnn. It returns the names it stored. Progress,
// which may be nil, is told of the batches stored so far.
func Seed(ctx context.Context, store *objectstore.Store, progress func(done, total int)) ([]string, error) {
	var stored []string
	for _, m := range []struct {
		name string
		onnx []byte
	}{{"mlp", zoo.MLP()}, {"cnn", zoo.CNN()}} {
		has, err := Has(ctx, store, wire.ModelFolder+m.name)
		if err != nil {
			return stored, err
		}
		if has {
			continue
		}
		if _, err := StoreModel(ctx, store, m.name, m.onnx); err != nil {
			return stored, err
		}
		stored = append(stored, wire.ModelFolder+m.name)
	}
	has, err := Has(ctx, store, wire.DataFolder+wire.DefaultData)
	if err != nil || has {
		return stored, err
	}
	set, err := dataset.MNISTTest()
	if err != nil {
		return stored, err
	}
	if _, err := StoreSet(ctx, store, set, BatchSize, progress); err != nil {
		return stored, err
	}
	return append(stored, wire.DataFolder+wire.DefaultData), nil
}

// Has reports whether the SDFS has a file.
func Has(ctx context.Context, store *objectstore.Store, ref string) (bool, error) {
	_, err := store.Resolve(ctx, ref)
	if errors.Is(err, objectstore.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// StoreSet cuts a set into batches of size images and stores it as the data set
// set.Name: one safetensors object a batch, and a manifest that lists them. The
// same set in the same batches makes no new version. Progress may be nil; it is
// called from one goroutine at a time.
func StoreSet(ctx context.Context, store *objectstore.Store, set *dataset.Set, size int, progress func(done, total int)) (objectstore.Version, error) {
	total := set.Batches(size)
	if total == 0 {
		return objectstore.Version{}, fmt.Errorf("store data set %s: %d images in batches of %d: give at least one image and a batch size from 1", set.Name, set.Len(), size)
	}
	objects, err := storeBatches(ctx, store, set, size, progress)
	if err != nil {
		return objectstore.Version{}, fmt.Errorf("store data set %s: %w", set.Name, err)
	}
	m := dataset.Manifest{Schema: dataset.ManifestSchema, Name: set.Name, Batches: total, BatchSize: size, Images: set.Len(),
		Shape: set.Shape, DType: set.DType, Classes: set.Classes, Source: set.Source, Licence: set.Licence, Objects: objects}
	if err := m.Check(); err != nil {
		return objectstore.Version{}, fmt.Errorf("store data set %s: %w", set.Name, err)
	}
	return store.PutBundle(ctx, wire.DataFolder+set.Name, m.Marshal())
}

func storeBatches(ctx context.Context, store *objectstore.Store, set *dataset.Set, size int, progress func(done, total int)) ([]dataset.Object, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	objects := make([]dataset.Object, set.Batches(size))
	next := make(chan int)
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := 0
	for range min(uploads, len(objects)) {
		wg.Go(func() {
			for i := range next {
				o, err := storeBatch(ctx, store, set, i, size)
				if err != nil {
					cancel(fmt.Errorf("batch %d: %w", i, err))
					return
				}
				mu.Lock()
				objects[i-1] = o
				done++
				if progress != nil {
					progress(done, len(objects))
				}
				mu.Unlock()
			}
		})
	}
feed:
	for i := 1; i <= len(objects); i++ {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	wg.Wait()
	return objects, context.Cause(ctx)
}

func storeBatch(ctx context.Context, store *objectstore.Store, set *dataset.Set, i, size int) (dataset.Object, error) {
	batch, err := set.Batch(i, size)
	if err != nil {
		return dataset.Object{}, err
	}
	o, err := store.PutObject(ctx, bytes.NewReader(batch.Marshal()))
	return dataset.Object{Digest: o.Digest, Size: o.Size}, err
}

// StoreModel stores a model's .onnx bytes as a new version.
func StoreModel(ctx context.Context, store *objectstore.Store, name string, onnx []byte) (objectstore.Version, error) {
	v, err := store.Put(ctx, wire.ModelFolder+name, bytes.NewReader(onnx))
	if err != nil {
		return v, fmt.Errorf("store model %s: %w", name, err)
	}
	return v, nil
}

// maxManifest bounds the memory that reading a manifest takes.
const maxManifest = 64 << 20

// Manifest reads the manifest of a data set by its digest.
func Manifest(ctx context.Context, store *objectstore.Store, digest string) (*dataset.Manifest, error) {
	var buf bounded
	if _, err := store.ReadObject(ctx, digest, &buf); err != nil {
		return nil, err
	}
	return dataset.ParseManifest(buf.Bytes())
}

// bounded is a buffer that refuses to outgrow maxManifest.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxManifest {
		return 0, fmt.Errorf("manifest of more than %d bytes: %w", maxManifest, objectstore.ErrTooLarge)
	}
	return b.Buffer.Write(p)
}
