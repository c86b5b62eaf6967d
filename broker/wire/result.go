package wire

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// MaxResult is the largest result message in bytes; a server accepts 1 MiB.
const MaxResult = 1<<20 - 4096

// maxLoss bounds a batch's loss, so that sums stay finite. It is far above a
// million images at the largest loss in single precision, about 3e38.
const maxLoss = 1e50

// Result is what a worker stores for a task. The first one stored wins.
type Result struct {
	Schema  int       `json:"v"`
	Job     uint64    `json:"job"`
	Task    int       `json:"task"`
	From    int       `json:"from,omitempty"`
	To      int       `json:"to,omitempty"`
	Node    string    `json:"node"`
	Attempt int       `json:"attempt"`
	Started time.Time `json:"started"`
	// Batches has an entry for every batch of the task, in order. Empty when
	// Error says why the task failed for good, and for training.
	Batches []BatchResult `json:"batches,omitempty"`
	Error   string        `json:"error,omitempty"`
	Trained *Trained      `json:"trained,omitempty"`
}

// BatchResult is one batch's predictions, score and time.
type BatchResult struct {
	Batch  int `json:"batch"`
	Images int `json:"images"`
	// Labeled says that the batch had labels: Labels, Correct and LossSum count.
	Labeled bool    `json:"labeled"`
	Correct int     `json:"correct"`
	LossSum float64 `json:"loss_sum"`
	// Nanos is the processing time of the batch in nanoseconds.
	Nanos int64 `json:"ns"`
	// Class is the predicted class of each image, Prob its probability (empty for
	// models that give none), Labels the true class; packed little-endian in base64.
	Class  Int32s   `json:"class"`
	Prob   Float32s `json:"prob"`
	Labels Int32s   `json:"labels,omitempty"`
}

// Trained describes a model that a training task made and stored.
type Trained struct {
	Model   string `json:"model"`
	Version int    `json:"version"`
	Digest  string `json:"digest"`
	// Accuracy is that of the last epoch on the training images, HeldOut that on
	// the held-out set, 0 when there is none.
	Accuracy float64      `json:"accuracy"`
	HeldOut  float64      `json:"held_out,omitempty"`
	Epochs   []EpochStats `json:"epochs"`
}

// EpochStats is a line of a training run.
type EpochStats struct {
	Epoch    int     `json:"epoch"`
	Loss     float64 `json:"loss"`
	Accuracy float64 `json:"accuracy"`
	Seconds  float64 `json:"seconds"`
}

// Progress is what a worker reports while it trains.
type Progress struct {
	Job    uint64 `json:"job"`
	Node   string `json:"node"`
	Epochs int    `json:"epochs"`
	// Done is the share of the whole run, 0 to 1.
	Done float64 `json:"done"`
	// Epoch is set when an epoch ended.
	Epoch *EpochStats `json:"epoch,omitempty"`
}

// Marshal encodes the result.
func (r *Result) Marshal() []byte { return mustMarshal(r) }

// ParseResult decodes a result and checks that its parts agree, so that whoever
// folds it need not.
func ParseResult(p []byte) (*Result, error) {
	var r Result
	if err := json.Unmarshal(p, &r); err != nil {
		return nil, fmt.Errorf("decode result: %w", err)
	}
	if r.Schema != Schema {
		return nil, fmt.Errorf("decode result: version %d, this program speaks %d: run the same version everywhere", r.Schema, Schema)
	}
	if r.Job == 0 || r.Task < 1 || r.Task > MaxTasks {
		return nil, fmt.Errorf("decode result: job %d task %d out of range", r.Job, r.Task)
	}
	if !ValidNodeName(r.Node) {
		return nil, fmt.Errorf("decode result: job %d task %d from node %q", r.Job, r.Task, excerptString(r.Node))
	}
	if r.Error != "" || r.Trained != nil {
		if len(r.Batches) > 0 {
			return nil, fmt.Errorf("decode result: job %d task %d has batches it should not have", r.Job, r.Task)
		}
		return &r, nil
	}
	if r.From < 1 || r.To < r.From || len(r.Batches) != r.To-r.From+1 {
		return nil, fmt.Errorf("decode result: job %d task %d: %d batches for %d to %d", r.Job, r.Task, len(r.Batches), r.From, r.To)
	}
	for i := range r.Batches {
		if err := r.Batches[i].check(r.From + i); err != nil {
			return nil, fmt.Errorf("decode result: job %d task %d: %w", r.Job, r.Task, err)
		}
	}
	return &r, nil
}

// ReceiveResult decodes the result that is stored for a task. One that can't be
// read, or that speaks of another task, is a result all the same: the task can
// have no other. It comes out as a failure that says so.
func ReceiveResult(job uint64, task int, p []byte) *Result {
	r, err := ParseResult(p)
	if err == nil && (r.Job != job || r.Task != task) {
		err = fmt.Errorf("it speaks of job %d task %d", r.Job, r.Task)
	}
	if err != nil {
		return &Result{Schema: Schema, Job: job, Task: task, Error: fmt.Sprintf("what is stored as the result can't be used: %v", err)}
	}
	return r
}

func (b *BatchResult) check(batch int) error {
	labels := 0
	if b.Labeled {
		labels = b.Images
	}
	switch {
	case b.Batch != batch:
		return fmt.Errorf("batch %d where %d belongs", b.Batch, batch)
	case b.Images < 0 || len(b.Class) != b.Images || len(b.Prob) != b.Images && len(b.Prob) != 0 || len(b.Labels) != labels:
		return fmt.Errorf("batch %d: %d classes, %d probabilities, %d labels for %d images", batch, len(b.Class), len(b.Prob), len(b.Labels), b.Images)
	case b.Correct < 0 || b.Correct > labels || b.Nanos < 0:
		return fmt.Errorf("batch %d: %d correct of %d, %d ns", batch, b.Correct, labels, b.Nanos)
	case b.LossSum < 0 || b.LossSum > maxLoss:
		return fmt.Errorf("batch %d: loss %g", batch, b.LossSum)
	}
	return nil
}

// Int32s is a slice that travels as base64 of little-endian values.
type Int32s []int32

// MarshalJSON packs the values.
func (v Int32s) MarshalJSON() ([]byte, error) {
	raw := make([]byte, 4*len(v))
	for i, x := range v {
		binary.LittleEndian.PutUint32(raw[4*i:], uint32(x))
	}
	return packed(raw), nil
}

// UnmarshalJSON unpacks the values.
func (v *Int32s) UnmarshalJSON(p []byte) error {
	raw, err := unpack(p)
	if err != nil || raw == nil {
		*v = nil
		return err
	}
	*v = make(Int32s, len(raw)/4)
	for i := range *v {
		(*v)[i] = int32(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return nil
}

// Float32s is a slice that travels as base64 of little-endian values, so that
// every bit of a prediction survives.
type Float32s []float32

// MarshalJSON packs the values.
func (v Float32s) MarshalJSON() ([]byte, error) {
	raw := make([]byte, 4*len(v))
	for i, x := range v {
		binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(x))
	}
	return packed(raw), nil
}

// UnmarshalJSON unpacks the values.
func (v *Float32s) UnmarshalJSON(p []byte) error {
	raw, err := unpack(p)
	if err != nil || raw == nil {
		*v = nil
		return err
	}
	*v = make(Float32s, len(raw)/4)
	for i := range *v {
		(*v)[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return nil
}

func packed(raw []byte) []byte {
	out := make([]byte, 0, base64.StdEncoding.EncodedLen(len(raw))+2)
	out = append(out, '"')
	out = base64.StdEncoding.AppendEncode(out, raw)
	return append(out, '"')
}

func unpack(p []byte) ([]byte, error) {
	var raw []byte
	if err := json.Unmarshal(p, &raw); err != nil {
		return nil, err
	}
	if len(raw)%4 != 0 {
		return nil, fmt.Errorf("packed values of %d bytes, not a multiple of 4", len(raw))
	}
	return raw, nil
}
