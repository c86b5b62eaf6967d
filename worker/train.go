package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/models"
	"idunno/models/dataset"
	"idunno/models/train"
	"idunno/objectstore"
)

const (
	// maxTrainBytes bounds the images that a training run holds in memory.
	maxTrainBytes = 4 << 30
	// trainSuffix marks a training set: "mnist-train" is measured on "mnist".
	trainSuffix = "-train"
)

// train carries out a training task: it trains on the data set, measures the
// model on the set of the same name without "-train" when there is one, and
// stores it as a new version. Training is deterministic and versions are by
// content, so that a second run of the task stores nothing new.
func (w *worker) train(ctx context.Context, t *wire.Task) (*wire.Trained, error) {
	set, err := w.library.set(ctx, t.DataDigest)
	if err != nil {
		return nil, err
	}
	cfg := train.Config{Arch: t.Train, Epochs: t.Epochs, Seed: t.Seed, Threads: 1}
	tell := func(p wire.Progress) {
		p.Job, p.Node, p.Epochs = t.Job, w.Name, t.Epochs
		if data, err := json.Marshal(p); err == nil {
			_ = w.Broker.Publish(broker.SubjectProgress(t.Job), data)
		}
	}
	trained := &wire.Trained{Model: t.Train}
	cfg.Step = func(epoch int, done float64) {
		tell(wire.Progress{Done: (float64(epoch-1) + done) / float64(max(t.Epochs, 1))})
	}
	cfg.Progress = func(e train.Epoch) {
		s := wire.EpochStats{Epoch: e.Epoch, Loss: e.Loss, Accuracy: e.Accuracy, Seconds: e.Seconds}
		trained.Epochs = append(trained.Epochs, s)
		trained.Accuracy = e.Accuracy
		tell(wire.Progress{Done: float64(e.Epoch) / float64(max(t.Epochs, 1)), Epoch: &s})
		w.status.note(fmt.Sprintf("job %d train %s: epoch %d, loss %.4f, accuracy %.4f", t.Job, t.Train, e.Epoch, e.Loss, e.Accuracy))
	}
	result, err := train.Run(ctx, set, cfg)
	if err != nil {
		return nil, asFault(ctx, err)
	}
	if result.ONNX, err = TrainedCard(result.ONNX, set); err != nil {
		return nil, fault{err}
	}
	var v objectstore.Version
	err = w.persist(ctx, t, "trained model", func() (err error) {
		if trained.HeldOut, err = w.measure(ctx, result.ONNX, set.Name); err != nil {
			return err
		}
		if v, err = w.files.Put(ctx, wire.ModelFolder+t.Train, bytes.NewReader(result.ONNX)); err != nil {
			return fmt.Errorf("store model: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	trained.Version, trained.Digest = v.Version, v.Digest
	return trained, nil
}

// persist calls fn until it succeeds or the task is at fault: what was computed is
// not thrown away because the broker is away.
func (w *worker) persist(ctx context.Context, t *wire.Task, what string, fn func() error) error {
	for delay := firstDelay; ; delay = min(2*delay, mostDelay) {
		err := fn()
		if err == nil || isFault(err) || ctx.Err() != nil {
			return err
		}
		w.Log.Warn("can't store it yet", "what", what, "job", t.Job, "task", t.Task, "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(delay):
		}
	}
}

// measure is the model's accuracy on the held-out set that belongs to a training
// set, 0 when there is none.
func (w *worker) measure(ctx context.Context, onnx []byte, trainSet string) (float64, error) {
	name, ok := strings.CutSuffix(trainSet, trainSuffix)
	if !ok {
		return 0, nil
	}
	v, err := w.files.Resolve(ctx, wire.DataFolder+name)
	if errors.Is(err, objectstore.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look up data set %s: %w", name, err)
	}
	manifest, err := w.library.manifest(ctx, v.Digest)
	if err != nil {
		return 0, err
	}
	model, err := models.Load(onnx, models.Options{})
	if err != nil {
		return 0, fault{fmt.Errorf("load trained model: %w", err)}
	}
	if model.Check(manifest.Shape, manifest.DType) != nil {
		return 0, nil // a set of other images that happens to have the name
	}
	session := model.NewSession()
	correct, images := 0, 0
	for n := 1; n <= len(manifest.Objects); n++ {
		b, err := w.library.batch(ctx, manifest, n)
		if err != nil {
			return 0, err
		}
		p, err := session.Predict(ctx, b)
		if err != nil {
			return 0, asFault(ctx, fmt.Errorf("measure trained model: %w", err))
		}
		correct += p.Correct
		images += len(p.Class)
	}
	return float64(correct) / float64(max(images, 1)), nil
}

// set brings a whole data set into memory.
func (l *library) set(ctx context.Context, digest string) (*dataset.Set, error) {
	m, err := l.manifest(ctx, digest)
	if err != nil {
		return nil, err
	}
	s := &dataset.Set{Name: m.Name, DType: m.DType, Shape: m.Shape, Classes: m.Classes}
	for n := 1; n <= len(m.Objects); n++ {
		// Not kept: the set holds a copy, and would push everything else out.
		b, err := l.read(ctx, m, n)
		if err != nil {
			return nil, err
		}
		if len(s.X)+len(b.X) > maxTrainBytes {
			return nil, fault{fmt.Errorf("data set %s has more than %d bytes of images: train on a smaller one", m.Name, int64(maxTrainBytes))}
		}
		s.X = append(s.X, b.X...)
		s.Y = append(s.Y, b.Y...)
	}
	return s, nil
}
