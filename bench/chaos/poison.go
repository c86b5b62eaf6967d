package chaos

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	"idunno/broker/wire"
	"idunno/coordinator/cluster"
	"idunno/models/dataset"
	"idunno/objectstore"
)

// What a poisoned job suffers from.
const (
	// PoisonModel is a model that no node can read: every batch fails.
	PoisonModel = "broken-model"
	// PoisonBatch is a data set with a few objects that are no batches.
	PoisonBatch = "broken-batch"
)

// Poisons are all kinds of poison.
func Poisons() []string { return []string{PoisonModel, PoisonBatch} }

const (
	brokenModel = "chaos-broken"
	holedData   = "chaos-holes"
	// poisonSpan bounds the batches of a job with a broken model.
	poisonSpan = 4
)

// holes are the broken batches of holedData.
func holes() []int { return []int{7, 31, 32} }

// storePoison stores the models and the data set that poisoned jobs name.
func storePoison(ctx context.Context, files *objectstore.Store) error {
	if _, err := cluster.StoreModel(ctx, files, brokenModel, []byte("this is no model")); err != nil {
		return err
	}
	v, err := files.Resolve(ctx, wire.DataFolder+wire.DefaultData)
	if err != nil {
		return fmt.Errorf("store poison: %w", err)
	}
	m, err := cluster.Manifest(ctx, files, v.Digest)
	if err != nil {
		return fmt.Errorf("store poison: %w", err)
	}
	garbage, err := files.PutObject(ctx, bytes.NewReader([]byte("this is no batch")))
	if err != nil {
		return fmt.Errorf("store poison: %w", err)
	}
	m.Name, m.Objects = holedData, slices.Clone(m.Objects)
	for _, batch := range holes() {
		m.Objects[batch-1] = dataset.Object{Digest: garbage.Digest, Size: garbage.Size}
	}
	_, err = files.PutBundle(ctx, wire.DataFolder+m.Name, m.Marshal())
	return err
}

// poisonedDoc makes the document of a poisoned job.
func poisonedDoc(rng *rand.Rand, poison string) wire.JobDoc {
	switch poison {
	case PoisonModel:
		from := 1 + rng.IntN(100)
		return wire.JobDoc{Model: brokenModel, Data: wire.DefaultData, From: from, To: from + rng.IntN(poisonSpan)}
	default:
		hole := holes()[rng.IntN(len(holes()))]
		return wire.JobDoc{Model: []string{"mlp", "cnn"}[rng.IntN(2)], Data: holedData, From: max(1, hole-rng.IntN(10)), To: hole + rng.IntN(20)}
	}
}
