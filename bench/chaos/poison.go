package chaos

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"idunno/broker/wire"
	"idunno/coordinator/cluster"
	"idunno/models/dataset"
	"idunno/models/onnx/encode"
	"idunno/objectstore"
)

// What a poisoned job suffers from.
const (
	// PoisonModel is a model that no node can read: every batch fails.
	PoisonModel = "broken-model"
	// PoisonBatch is a data set with a few objects that are no batches.
	PoisonBatch = "broken-batch"
	// PoisonTime is a model that runs for ever, PoisonMemory one that takes more and
	// more memory meanwhile.
	PoisonTime   = "endless-model"
	PoisonMemory = "hungry-model"
)

// Poisons are all kinds of poison.
func Poisons() []string { return []string{PoisonModel, PoisonBatch, PoisonTime, PoisonMemory} }

const (
	holedData = "chaos-holes"
	// poisonSpan bounds the batches of a job with a broken model.
	poisonSpan = 4
	// batchTimeout and taskMemory are what the workers allow: much more than a sound
	// batch needs, and little enough for poison to be tried several times in a run.
	batchTimeout = 2 * time.Second
	taskMemory   = "256MiB"
)

// workerArgs are the workers' limits.
func workerArgs() []string {
	return []string{"--batch-timeout", batchTimeout.String(), "--task-memory", taskMemory}
}

// badModels are the models that fail with every batch.
func badModels() map[string][]byte {
	return map[string][]byte{modelOf(PoisonModel): []byte("this is no model"), modelOf(PoisonTime): loop(false), modelOf(PoisonMemory): loop(true)}
}

func modelOf(poison string) string { return "chaos-" + poison }

// loop is a classifier with a loop that ends after the life of the sun. With greedy set
// it keeps what every turn computes.
func loop(greedy bool) []byte {
	const pixels, classes, boolean = 784, 10, 9
	w := encode.Tensor{Name: "w", Dims: []int64{pixels, classes}, Floats: make([]float32, pixels*classes)}
	trips := encode.Tensor{Name: "trips", Dims: []int64{}, Ints: []int64{math.MaxInt64 / 2}}
	body := encode.Graph{
		In:    []encode.Value{{Name: "i", DType: encode.Int64, Dims: []any{}}, {Name: "c", DType: boolean, Dims: []any{}}, {Name: "p"}},
		Out:   []encode.Value{{Name: "c", DType: boolean}, {Name: "q"}},
		Nodes: []encode.Node{{Op: "Identity", In: []string{"p"}, Out: []string{"q"}}},
	}
	out := []string{"y"}
	if greedy {
		body.Nodes = append(body.Nodes, encode.Node{Op: "Identity", In: []string{"p"}, Out: []string{"r"}})
		body.Out = append(body.Out, encode.Value{Name: "r"})
		out = append(out, "all")
	}
	return encode.Model{
		In: []encode.Value{{Name: "x", Dims: []any{"N", pixels}}}, Out: []encode.Value{{Name: "y"}}, Init: []encode.Tensor{trips, w},
		Nodes: []encode.Node{{Op: "MatMul", In: []string{"x", "w"}, Out: []string{"s"}},
			{Op: "Loop", In: []string{"trips", "", "s"}, Out: out, Attrs: encode.Attrs{"body": body}}},
	}.Bytes()
}

// holes are the broken batches of holedData.
func holes() []int { return []int{7, 31, 32} }

// storePoison stores the models and the data set that poisoned jobs name.
func storePoison(ctx context.Context, files *objectstore.Store) error {
	for name, onnx := range badModels() {
		if _, err := cluster.StoreModel(ctx, files, name, onnx); err != nil {
			return err
		}
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
	case PoisonBatch:
		hole := holes()[rng.IntN(len(holes()))]
		return wire.JobDoc{Model: []string{"mlp", "cnn"}[rng.IntN(2)], Data: holedData, From: max(1, hole-rng.IntN(10)), To: hole + rng.IntN(20)}
	case PoisonModel:
		from := 1 + rng.IntN(100)
		return wire.JobDoc{Model: modelOf(poison), Data: wire.DefaultData, From: from, To: from + rng.IntN(poisonSpan)}
	default:
		// Each batch of these takes some seconds of a slot.
		batch := 1 + rng.IntN(100)
		return wire.JobDoc{Model: modelOf(poison), Data: wire.DefaultData, From: batch, To: batch}
	}
}
