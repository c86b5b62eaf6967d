package worker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"idunno/broker/wire"
	"idunno/models"
	"idunno/models/dataset"
)

// predict runs the model on a batch, for the outputs that the task asks for. The
// time is that of the prediction alone.
func predict(ctx context.Context, s *models.Session, n int, batch *dataset.Batch, outputs string) (*wire.BatchResult, error) {
	want := models.NoOutputs
	switch outputs {
	case wire.OutputsProbs:
		want = models.AllProbs
	case wire.OutputsRaw:
		want = models.RawOutput
	}
	began := time.Now()
	p, err := s.PredictWith(ctx, batch, want)
	took := time.Since(began)
	if errors.Is(err, models.ErrNotClassifier) {
		err = fmt.Errorf("%w; a job submitted with --outputs raw keeps what it gives", err)
	}
	if err != nil {
		return nil, err
	}
	b := &wire.BatchResult{Batch: n, Images: batch.Len(), Labeled: batch.Y != nil && !p.Unscored, Correct: p.Correct, LossSum: p.LossSum,
		Nanos: took.Nanoseconds(), Class: p.Class, Prob: p.Prob, Labels: batch.Y, Values: p.Values}
	if want != models.NoOutputs {
		b.Output = &wire.Output{Kind: outputs, Shape: p.Shape, Unscored: p.Unscored}
	}
	if p.Unscored {
		b.Labels = nil
	}
	return b, nil
}

// tooMuch is the fault of a task whose outputs are more than is kept.
func tooMuch(r *wire.Result, batch int) error {
	return fault{fmt.Errorf("the outputs of batches %d to %d have more than the %d MiB that a task may keep: submit it with a smaller --batch-size, or import the data with one",
		r.From, batch, wire.MaxOutputs>>20)}
}

// message makes a result what is stored. Values that a message doesn't hold are put
// into the SDFS first, under a name of the task's own that keeps them until the job's
// results are removed.
func (w *worker) message(t *held, r *wire.Result) ([]byte, error) {
	p := r.Marshal()
	if len(p) <= wire.MaxResult {
		return p, nil
	}
	if len(p) > wire.MaxOutputs {
		return nil, tooMuch(r, r.To)
	}
	p, values := r.Split(p, func(values []byte) string {
		sum := sha256.Sum256(values)
		return hex.EncodeToString(sum[:])
	})
	err := w.persist(t.ctx, t.task, "outputs", func() error {
		_, err := w.files.Put(t.ctx, wire.OutputsFile(t.task.Job, t.task.Task), bytes.NewReader(values))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store outputs: %w", err)
	}
	return p, nil
}
