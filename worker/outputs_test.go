package worker_test

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"idunno/broker/wire"
	"idunno/models/onnx/encode"
)

// flat is a model that gives its input back, 784 numbers an image.
func flat() []byte {
	m := encode.Model{In: []encode.Value{{Name: "x", Dims: []any{"N", 1, 28, 28}}}, Out: []encode.Value{{Name: "y", Dims: []any{"N", 784}}},
		Nodes: []encode.Node{{Op: "Flatten", In: []string{"x"}, Out: []string{"y"}}}}
	return m.Bytes()
}

// pixels are what flat makes of the images of a batch, counted from 1.
func (r *rig) pixels(batch, size int) []float32 {
	var out []float32
	for _, p := range r.set.X[(batch-1)*size*784 : batch*size*784] {
		out = append(out, float32(p)/255)
	}
	return out
}

func near(x, y []float32) bool {
	return slices.EqualFunc(x, y, func(a, b float32) bool { return math.Abs(float64(a-b)) < 1e-6 })
}

// Tasks that ask for outputs have them in their results; what a message doesn't hold
// stands in the SDFS, under the task's name, before the result does.
func TestOutputs(t *testing.T) {
	r := newRig(t)
	model, err := r.files.Put(r.ctx, "models/flat", bytes.NewReader(flat()))
	r.must(err)
	large := r.storeSet("large", 2, 400)
	r.publishTask(1, func(t *wire.Task) { t.Outputs = wire.OutputsProbs })
	r.publishTask(2, func(t *wire.Task) { t.Outputs, t.ModelDigest = wire.OutputsRaw, model.Digest })
	r.publishTask(3, func(t *wire.Task) {
		t.Outputs, t.ModelDigest, t.DataDigest, t.From, t.To = wire.OutputsRaw, model.Digest, large.Digest, 1, 2
	})
	r.publishTask(4, nil)
	r.active(wire.ActiveJob{Job: job, Model: "mlp"})
	drain := r.start("one", 1)
	defer drain()
	results := r.results(4)

	b := results[1].Batches[0]
	if b.Output == nil || b.Output.Kind != wire.OutputsProbs || !slices.Equal(b.Output.Shape, []int{10}) || len(b.Values) != 100 {
		t.Fatalf("probabilities: %s, %+v", results[1].Error, b)
	}
	for i, class := range b.Class {
		if b.Values[10*i+int(class)] != b.Prob[i] {
			t.Errorf("image %d: probability %v of class %d, in the list %v", i, b.Prob[i], class, b.Values[10*i:][:10])
		}
	}
	if b = results[2].Batches[0]; b.Output == nil || b.Output.Unscored || !near(b.Values, r.pixels(2, 10)) {
		t.Errorf("raw outputs: %s, %+v", results[2].Error, b.Output)
	}
	if b = results[4].Batches[0]; b.Output != nil || b.Values != nil {
		t.Errorf("outputs that nobody asked for: %+v", b.Output)
	}

	far := results[3]
	if far.Error != "" || far.Outside == nil || far.Outside.Size < 2*400*784*4 {
		t.Fatalf("a result of 2.5 MB: %s, %+v", far.Error, far.Outside)
	}
	if v, err := r.files.Resolve(r.ctx, wire.OutputsFile(job, 3)); err != nil || v.Digest != far.Outside.Digest {
		t.Errorf("its file is %+v, %v", v, err)
	}
	values, err := r.files.Object(r.ctx, far.Outside.Digest, far.Outside.Size)
	r.must(err)
	r.must(far.Attach(values))
	for i := range far.Batches {
		if b := &far.Batches[i]; len(b.Class) != 400 || !near(b.Values, r.pixels(i+1, 400)) {
			t.Errorf("batch %d: %d classes, %d values", i+1, len(b.Class), len(b.Values))
		}
	}
}

// A model that is no classifier has raw outputs; for a job that asks for classes its
// tasks fail and say what to do.
func TestOutputsOfAModelThatIsNoClassifier(t *testing.T) {
	r := newRig(t)
	m := encode.Model{In: []encode.Value{{Name: "x", Dims: []any{"N", 1, 28, 28}}}, Out: []encode.Value{{Name: "y", Dims: []any{"N", 1, 1, 1}}},
		Nodes: []encode.Node{{Op: "GlobalMaxPool", In: []string{"x"}, Out: []string{"y"}}}}
	model, err := r.files.Put(r.ctx, "models/max", bytes.NewReader(m.Bytes()))
	r.must(err)
	r.publishTask(1, func(t *wire.Task) { t.Outputs, t.ModelDigest = wire.OutputsRaw, model.Digest })
	r.active(wire.ActiveJob{Job: job, Model: "max"})
	drain := r.start("one", 1)
	defer drain()
	res := r.results(1)[1]
	if res.Error != "" {
		t.Fatal(res.Error)
	}
	b := res.Batches[0]
	if b.Output == nil || !b.Output.Unscored || b.Images != 10 || len(b.Class) != 0 || b.Labels != nil || !slices.Equal(b.Output.Shape, []int{1, 1, 1}) {
		t.Fatalf("%+v", b)
	}
	for i, v := range b.Values {
		if want := slices.Max(r.pixels(1, 10)[784*i:][:784]); math.Abs(float64(v-want)) > 1e-6 {
			t.Errorf("image %d has %v, want %v", i, v, want)
		}
	}
}
