package sim_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"idunno/broker/brokertest"
	"idunno/broker/wire"
	"idunno/coordinator/cluster"
	"idunno/coordinator/cluster/sim"
	"idunno/models"
	"idunno/models/dataset"
	"idunno/models/onnx/encode"
	"idunno/objectstore"
)

const (
	batches    = 60
	batchSize  = 2
	modelName  = "tiny"
	dataName   = "dots"
	imageBytes = 4
)

// fixture is a store with a model and a data set, and what the one makes of the
// other: a run without faults.
type fixture struct {
	store *sim.Store
	clean []wire.BatchResult // batch n is clean[n-1]
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b := brokertest.New(t)
	objects, index, err := b.Files(ctx)
	must(t, err)
	files := objectstore.Open(objects, index)
	set := dots()
	_, err = files.Put(ctx, wire.ModelFolder+modelName, bytes.NewReader(tiny()))
	must(t, err)
	_, err = cluster.StoreSet(ctx, files, set, batchSize, nil)
	must(t, err)
	f := &fixture{}
	f.store, err = sim.Snapshot(ctx, b)
	must(t, err)
	model, err := models.Load(tiny(), models.Options{})
	must(t, err)
	session := model.NewSession()
	for n := 1; n <= batches; n++ {
		batch, err := set.Batch(n, batchSize)
		must(t, err)
		p, err := session.Predict(ctx, batch)
		must(t, err)
		f.clean = append(f.clean, wire.BatchResult{Batch: n, Images: len(p.Class), Labeled: true, Correct: p.Correct, LossSum: p.LossSum,
			Class: p.Class, Prob: p.Prob, Labels: batch.Y})
	}
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tiny is a model of one layer: four bytes in, three classes out.
func tiny() []byte {
	return encode.Model{IR: 8, Opset: 17, Name: modelName,
		In:    []encode.Value{{Name: "x", Dims: []any{"N", imageBytes}}},
		Out:   []encode.Value{{Name: "y", Dims: []any{"N", 3}}},
		Init:  []encode.Tensor{{Name: "w", Dims: []int64{3, imageBytes}, Floats: []float32{1, -2, 3, 0.5, -1, 2, 0.25, 1, 2, 0.125, -1, -0.5}}, {Name: "b", Dims: []int64{3}, Floats: []float32{0.5, 0, -0.5}}},
		Nodes: []encode.Node{{Name: "gemm", Op: "Gemm", In: []string{"x", "w", "b"}, Out: []string{"y"}, Attrs: encode.Attrs{"transB": 1}}},
	}.Bytes()
}

// dots is a data set in which no two batches are alike.
func dots() *dataset.Set {
	s := &dataset.Set{Name: dataName, DType: dataset.U8, Shape: []int{1, 2, 2}, Classes: []string{"a", "b", "c"}, Source: "test", Licence: "test"}
	for i := range batches * batchSize {
		s.X = append(s.X, byte(7*i), byte(i), byte(200-i), byte(31*i+5))
		s.Y = append(s.Y, int32(i%3))
	}
	return s
}
