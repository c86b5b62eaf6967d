package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/models"
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
		onnx, err := zooCard(m.onnx)
		if err != nil {
			return stored, err
		}
		if _, err := StoreModel(ctx, store, m.name, onnx); err != nil {
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

// zooCard puts its card into a model that the program carries.
func zooCard(onnx []byte) ([]byte, error) {
	m, err := models.Load(onnx, models.Options{})
	if err != nil {
		return nil, fmt.Errorf("a model of the program: %w", err)
	}
	card, err := Describe(m, wire.Card{Input: []int{1, 28, 28}, Classes: dataset.Numbered(10), Metric: "accuracy",
		Source: "trained by iDunno on the first 49,000 images of MNIST's training file"})
	if err != nil {
		return nil, err
	}
	return wire.WithCard(onnx, card)
}

// Has reports whether the SDFS has a file.
func Has(ctx context.Context, store *objectstore.Store, ref string) (bool, error) {
	_, err := store.Resolve(ctx, ref)
	if errors.Is(err, objectstore.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// StoreSet is [Import] for a set in memory, in batches of size images and under its
// own name.
func StoreSet(ctx context.Context, store *objectstore.Store, set *dataset.Set, size int, progress func(done, total int)) (objectstore.Version, error) {
	if size < 1 {
		return objectstore.Version{}, fmt.Errorf("store data set %s: batches of %d images: choose a batch size from 1", set.Name, size)
	}
	done, err := Import(ctx, store, set.Name, &inMemory{set: set}, ImportConfig{BatchSize: size, Progress: progress})
	return done.Version, err
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
