package wire

import (
	"encoding/json"
	"fmt"
)

// Task is a piece of a job: a range of batches, by reference. It carries
// digests, never images.
type Task struct {
	Schema int    `json:"v"`
	Job    uint64 `json:"job"`
	// Task counts from 1 within the job.
	Task        int    `json:"task"`
	Model       string `json:"model"`
	ModelDigest string `json:"model_digest,omitempty"`
	DataDigest  string `json:"data_digest"`
	From        int    `json:"from,omitempty"`
	To          int    `json:"to,omitempty"`
	// Outputs is what is kept of the model's outputs beside classes; "" for nothing.
	Outputs string `json:"outputs,omitempty"`
	// BatchSize is the number of images in a batch, 0 for as many as in those stored.
	BatchSize int `json:"batch_size,omitempty"`
	// Check asks the worker to look for a stored result before it computes:
	// set when the task may have been carried out already.
	Check bool `json:"check,omitempty"`
	// Train, Epochs and Seed are set for a training task.
	Train  string `json:"train,omitempty"`
	Epochs int    `json:"epochs,omitempty"`
	Seed   uint64 `json:"seed,omitempty"`
}

// Marshal encodes the task.
func (t *Task) Marshal() []byte { return t.line() }

// ParseTask decodes a task and checks what a worker relies on.
func ParseTask(p []byte) (*Task, error) {
	var t Task
	if err := t.readLine(p); err != nil {
		return nil, fmt.Errorf("decode task: %w", err)
	}
	switch {
	case t.Schema != Schema:
		return nil, fmt.Errorf("decode task: version %d, this program speaks %d: run the same version everywhere", t.Schema, Schema)
	case t.Job == 0 || t.Task < 1 || t.Task > MaxTasks:
		return nil, fmt.Errorf("decode task: job %d task %d out of range", t.Job, t.Task)
	case t.Train == "" && (t.From < 1 || t.To < t.From || t.To > MaxBatch):
		return nil, fmt.Errorf("decode task: batches %d to %d out of range", t.From, t.To)
	case t.BatchSize < 0 || t.BatchSize > MaxJobBatch:
		return nil, fmt.Errorf("decode task: batches of %d images, allowed are 0 to %d", t.BatchSize, MaxJobBatch)
	case t.Train != "" && (t.Epochs < 1 || t.Epochs > MaxEpochs):
		return nil, fmt.Errorf("decode task: %d epochs, allowed are 1 to %d", t.Epochs, MaxEpochs)
	}
	return &t, nil
}

// mustMarshal encodes values of this package, none of which can fail: they hold
// no channels, functions, cycles or non-finite floats.
func mustMarshal(v any) []byte {
	p, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("wire: encode %T: %v", v, err))
	}
	return p
}
