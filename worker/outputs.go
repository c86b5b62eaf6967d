package worker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"idunno/broker/wire"
	"idunno/models"
	"idunno/models/dataset"
)

// predict runs the model on a batch, for the outputs that the task asks for. The
// time is that of the prediction alone.
func predict(ctx context.Context, s *models.Session, n int, batch *dataset.Batch, outputs string) (*wire.BatchResult, error) {
	want := map[string]models.Outputs{wire.OutputsProbs: models.AllProbs, wire.OutputsRaw: models.RawOutput}[outputs]
	began := time.Now()
	p, err := s.PredictWith(ctx, batch, want)
	took := time.Since(began)
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
// outside.
func (w *worker) message(t *held, r *wire.Result) ([]byte, error) {
	p := r.Marshal()
	if len(p) <= wire.MaxResult {
		return p, nil
	}
	return w.outside(t, r, p)
}

// outside stores the values of an encoded result in the SDFS, under a name of the
// task's own that keeps them until the job's results are removed, and returns the
// message that refers to them.
func (w *worker) outside(t *held, r *wire.Result, encoded []byte) ([]byte, error) {
	if len(encoded) > wire.MaxOutputs {
		return nil, tooMuch(r, r.To)
	}
	p, values := r.Split(encoded, func(values []byte) string {
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

// refused makes what the server finds too large for a message smaller: its values are
// put outside. What can't be made smaller becomes a failure. It returns nil when the
// task has been dropped meanwhile.
func (w *worker) refused(t *held, encoded []byte) []byte {
	r, err := wire.ParseResult(encoded)
	if err == nil && r.Outside == nil && len(r.Batches) > 0 {
		p, err := w.outside(t, r, encoded)
		if t.ctx.Err() != nil {
			return nil
		}
		if err == nil && len(p) < len(encoded) {
			return p
		}
	}
	return w.failure(t, fmt.Errorf("the result has %d bytes, more than the server takes: raise its max_payload, or import the data with a smaller --batch-size", len(encoded)))
}
