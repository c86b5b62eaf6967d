package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
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
	// Tried are the tries before this result, and the last one of a task that failed.
	Tried []Attempt `json:"tried,omitempty"`
	// Outside is set when the values of the batches are more than a message holds:
	// the object in the SDFS that has them, see [Result.Split] and [Result.Attach].
	Outside *Outside `json:"outside,omitempty"`
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
	// Probs says that the model gave probabilities.
	Probs bool `json:"probs,omitempty"`
	// Narrow says that classes and labels are all within 0 and 255, and written in
	// a byte each.
	Narrow bool `json:"narrow,omitempty"`
	// Output tells what Values are: outputs of the model that the job asked for; nil
	// when it asked for none.
	Output *Output `json:"output,omitempty"`
	// Class is the predicted class of each image, Prob its probability (nil
	// without Probs), Labels the true class (nil unless Labeled), Values the outputs,
	// image after image. They follow the JSON of the result, see [Result.Marshal].
	Class  []int32   `json:"-"`
	Prob   []float32 `json:"-"`
	Labels []int32   `json:"-"`
	Values []float32 `json:"-"`
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

// Marshal encodes the result: one line of JSON, and after it, for each batch in
// turn, the classes, the probabilities, the labels and the outputs of its images,
// little-endian. A probability and an output take four bytes; a class and a label
// take one each where the batch is Narrow, else four. Every bit of a prediction survives, and
// whoever needs the figures only doesn't pay for the predictions.
func (r *Result) Marshal() []byte {
	size := 0
	for i := range r.Batches {
		b := &r.Batches[i]
		b.Probs = len(b.Prob) > 0
		b.Narrow = narrow(b.Class) && narrow(b.Labels)
		size += b.size(len(b.Class), len(b.Prob), len(b.Labels), len(b.Values))
	}
	return r.appendValues(append(slices.Grow(r.line(1+size), 1+size), '\n'))
}

// appendValues appends what follows the JSON of a result.
func (r *Result) appendValues(p []byte) []byte {
	for i := range r.Batches {
		b := &r.Batches[i]
		p = b.appendInts(p, b.Class)
		p = appendFloats(p, b.Prob)
		p = b.appendInts(p, b.Labels)
		p = appendFloats(p, b.Values)
	}
	return p
}

func appendFloats(p []byte, values []float32) []byte {
	for _, v := range values {
		p = binary.LittleEndian.AppendUint32(p, math.Float32bits(v))
	}
	return p
}

// takeFloats takes n numbers off the front of p, nil for none.
func takeFloats(n int, p []byte) (values []float32, rest []byte) {
	if n == 0 {
		return nil, p
	}
	values = make([]float32, n)
	for i := range values {
		values[i] = math.Float32frombits(binary.LittleEndian.Uint32(p[4*i:]))
	}
	return values, p[4*n:]
}

// narrow says whether every value fits into a byte.
func narrow(values []int32) bool {
	for _, v := range values {
		if v < 0 || v > math.MaxUint8 {
			return false
		}
	}
	return true
}

// size is the bytes of the values of a batch.
func (b *BatchResult) size(classes, probs, labels, values int) int {
	if b.Narrow {
		return classes + 4*probs + labels + 4*values
	}
	return 4 * (classes + probs + labels + values)
}

func (b *BatchResult) appendInts(p []byte, values []int32) []byte {
	for _, v := range values {
		if b.Narrow {
			p = append(p, byte(v))
		} else {
			p = binary.LittleEndian.AppendUint32(p, uint32(v))
		}
	}
	return p
}

// takeInts takes values off the front of p.
func (b *BatchResult) takeInts(values []int32, p []byte) (rest []byte) {
	if b.Narrow {
		for i := range values {
			values[i] = int32(p[i])
		}
		return p[len(values):]
	}
	for i := range values {
		values[i] = int32(binary.LittleEndian.Uint32(p[4*i:]))
	}
	return p[4*len(values):]
}

// ParseResult decodes a result and checks that its parts agree, so that whoever
// folds it need not.
func ParseResult(p []byte) (*Result, error) {
	line, values, _ := bytes.Cut(p, []byte{'\n'})
	var r Result
	if err := r.readLine(line); err != nil {
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
	if len(r.Tried) > MaxTried {
		return nil, fmt.Errorf("decode result: job %d task %d was tried %d times", r.Job, r.Task, len(r.Tried))
	}
	for i := range r.Tried {
		if err := r.Tried[i].check(); err != nil {
			return nil, fmt.Errorf("decode result: job %d task %d: %w", r.Job, r.Task, err)
		}
	}
	if r.Error != "" || r.Trained != nil {
		if len(r.Batches) > 0 || len(values) > 0 || r.Outside != nil {
			return nil, fmt.Errorf("decode result: job %d task %d has batches it should not have", r.Job, r.Task)
		}
		return &r, nil
	}
	if r.From < 1 || r.To < r.From || len(r.Batches) != r.To-r.From+1 {
		return nil, fmt.Errorf("decode result: job %d task %d: %d batches for %d to %d", r.Job, r.Task, len(r.Batches), r.From, r.To)
	}
	if r.Outside != nil {
		if err := r.checkOutside(len(values)); err != nil {
			return nil, fmt.Errorf("decode result: job %d task %d: %w", r.Job, r.Task, err)
		}
		return &r, nil
	}
	if err := r.decode(values); err != nil {
		return nil, fmt.Errorf("decode result: job %d task %d: %w", r.Job, r.Task, err)
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

// decode fills in the values of all batches.
func (r *Result) decode(values []byte) (err error) {
	for i := range r.Batches {
		b := &r.Batches[i]
		need, err := b.check(r.From+i, len(values))
		if err != nil {
			return err
		}
		if len(values) < need {
			return fmt.Errorf("batch %d: %d bytes for %d images, %d are needed", b.Batch, len(values), b.Images, need)
		}
		b.take(values[:need])
		values = values[need:]
	}
	if len(values) > 0 {
		return fmt.Errorf("%d bytes too many", len(values))
	}
	return nil
}

// check looks at the figures of a batch, whose values are among so many bytes, and
// returns how many of them they take.
func (b *BatchResult) check(batch, within int) (need int, err error) {
	labels := 0
	if b.Labeled {
		labels = b.Images
	}
	switch {
	case b.Batch != batch:
		return 0, fmt.Errorf("batch %d where %d belongs", b.Batch, batch)
	case b.Images < 0 || b.Images > within:
		return 0, fmt.Errorf("batch %d: %d images in %d bytes", batch, b.Images, within)
	case b.Correct < 0 || b.Correct > labels || b.Nanos < 0:
		return 0, fmt.Errorf("batch %d: %d correct of %d, %d ns", batch, b.Correct, labels, b.Nanos)
	case b.LossSum < 0 || b.LossSum > maxLoss:
		return 0, fmt.Errorf("batch %d: loss %g", batch, b.LossSum)
	}
	each, err := b.Output.check()
	if err != nil {
		return 0, fmt.Errorf("batch %d: %w", batch, err)
	}
	if b.unscored() && (b.Probs || b.Labeled) {
		return 0, fmt.Errorf("batch %d: probabilities or labels without classes", batch)
	}
	if each > 0 && b.Images > MaxOutputs/4/each {
		return 0, fmt.Errorf("batch %d: %d images of %d outputs, a task holds %d bytes", batch, b.Images, each, MaxOutputs)
	}
	classes, probs := b.counts()
	return b.size(classes, probs, labels, each*b.Images), nil
}

// counts is how many classes and probabilities a batch has.
func (b *BatchResult) counts() (classes, probs int) {
	if !b.unscored() {
		classes = b.Images
	}
	if b.Probs {
		probs = b.Images
	}
	return classes, probs
}

// unscored says that the batch has outputs and no classes.
func (b *BatchResult) unscored() bool { return b.Output != nil && b.Output.Unscored }

// take fills in a batch's values from the bytes that they take.
func (b *BatchResult) take(p []byte) {
	classes, probs := b.counts()
	b.Class, b.Labels = make([]int32, classes), nil
	p = b.takeInts(b.Class, p)
	b.Prob, p = takeFloats(probs, p)
	if b.Probs && probs == 0 {
		b.Prob = []float32{}
	}
	if b.Labeled {
		b.Labels = make([]int32, b.Images)
		p = b.takeInts(b.Labels, p)
	}
	b.Values, _ = takeFloats(len(p)/4, p)
}
