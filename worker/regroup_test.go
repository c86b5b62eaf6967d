package worker_test

import (
	"slices"
	"strings"
	"testing"

	"idunno/broker/wire"
	"idunno/models"
	"idunno/models/zoo"
)

// Whatever the size of its batches, a job predicts the same for every image.
func TestRegroupedBatchesPredictTheSame(t *testing.T) {
	r := newRig(t)
	m, err := models.Load(zoo.MLP(), models.Options{})
	r.must(err)
	session := m.NewSession()
	var class []int32
	var prob []float32
	for n := 1; n <= 10; n++ {
		b, err := r.set.Batch(n, 10)
		r.must(err)
		p, err := session.Predict(r.ctx, b)
		r.must(err)
		class, prob = append(class, p.Class...), append(prob, p.Prob...)
	}
	drain := r.start("one", 2)
	defer drain()
	r.active(wire.ActiveJob{Job: job, Model: "mlp"})
	// 100 images in batches of 7: fifteen, the last one of two; one task has several,
	// and the last task asks for more than there is.
	r.publish(9, func(t *wire.Task) {
		t.BatchSize, t.From, t.To = 7, 2*t.Task-1, 2*t.Task
		if t.Task == 8 {
			t.To = 15
		}
		if t.Task == 9 {
			t.From, t.To = 16, 16
		}
	})
	got := r.results(9)
	r.drained()
	var labels, gotClass []int32
	var gotProb []float32
	for n := 1; n <= 8; n++ {
		if got[n].Error != "" {
			t.Fatalf("task %d: %s", n, got[n].Error)
		}
		for _, b := range got[n].Batches {
			labels, gotClass, gotProb = append(labels, b.Labels...), append(gotClass, b.Class...), append(gotProb, b.Prob...)
		}
	}
	if !slices.Equal(gotClass, class) || !slices.Equal(gotProb, prob) || !slices.Equal(labels, r.set.Y[:100]) {
		t.Errorf("predictions differ with the batch size")
	}
	if !strings.Contains(got[9].Error, "100 images") {
		t.Errorf("beyond the end: %q", got[9].Error)
	}
}
