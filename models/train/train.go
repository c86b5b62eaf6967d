package train

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"sync"
	"time"

	"idunno/models/dataset"
)

// shards is the number of parts of a minibatch. It is fixed, because the order in
// which gradients are added decides their last bits.
const shards = 8

// Config says how to train. The zero value of every field but Arch is usable.
type Config struct {
	Arch         string  // "mlp" or "cnn"
	Epochs       int     // passes over the data; 0 means 20 for the mlp, 10 for the cnn
	Seed         uint64  // of every random choice
	BatchSize    int     // images a step, at most 1024; 0 means 128
	LearningRate float64 // at the start; falls to nearly 0 along half a cosine wave; 0 means 0.001
	Shift        int     // training images are moved by up to so many pixels; 0 means 1 for the mlp, 2 for the cnn; -1 means none
	Dropout      float64 // share of hidden units left out, below 1; 0 means 0.2 for the mlp, 0.3 for the cnn; -1 means none
	HoldOut      int     // images at the set's end that are not trained on but measured on after each epoch; 0 means none
	Threads      int     // goroutines, no effect on the result; 0 means one a processor; more than 8 are of no use

	// Progress is called after every epoch; nil for silence. Run waits for it.
	Progress func(Epoch)
	// Step is called about a hundred times an epoch with the epoch, from 1, and
	// the share of it that is done; nil for silence. Run waits for it.
	Step func(epoch int, done float64)
}

// Epoch is the record of one pass over the data.
type Epoch struct {
	Epoch    int     `json:"epoch"`              // from 1
	Loss     float64 `json:"loss"`               // mean cross-entropy of the training images as they were trained on
	Accuracy float64 `json:"accuracy"`           // share of them that was right, 0..1
	HeldOut  float64 `json:"held_out,omitempty"` // share of the held-out images that is right after the epoch; 0 without any
	Seconds  float64 `json:"seconds"`
}

// Result is a trained model.
type Result struct {
	Arch   string
	Seed   uint64
	ONNX   []byte // the model, as Run's documentation describes it
	Epochs []Epoch
}

// Run trains a network on a labelled set, minimising the softmax cross-entropy
// with Adam. The model it returns is ONNX, opset 13: one input "input", float, [N,
// elements of an image] for the mlp and [N, C, H, W] for the cnn, byte images
// scaled to 0..1; one output "logits" [N, classes].
//
// It returns within one step when ctx ends, with ctx's error. Other errors wrap
// ErrConfig, ErrData or ErrDiverged.
func Run(ctx context.Context, set *dataset.Set, c Config) (*Result, error) {
	r, err := newRun(set, c)
	if err != nil {
		return nil, fmt.Errorf("train %s: %w", c.Arch, err)
	}
	res := &Result{Arch: c.Arch, Seed: c.Seed}
	for e := 1; e <= r.c.Epochs; e++ {
		start := time.Now()
		ep, err := r.epoch(ctx, e)
		if err != nil {
			return nil, fmt.Errorf("train %s: epoch %d: %w", c.Arch, e, err)
		}
		ep.Seconds = time.Since(start).Seconds()
		res.Epochs = append(res.Epochs, ep)
		if c.Progress != nil {
			c.Progress(ep)
		}
	}
	res.ONNX = export(r.nets[0], r.w, r.s.image, r.c)
	return res, nil
}

// withDefaults fills in what was left zero and refuses what makes no sense.
func (c Config) withDefaults() (Config, error) {
	epochs, shift, drop := 20, 1, 0.2
	if c.Arch == "cnn" {
		epochs, shift, drop = 10, 2, 0.3
	}
	if c.Epochs == 0 {
		c.Epochs = epochs
	}
	if c.BatchSize == 0 {
		c.BatchSize = 128
	}
	if c.LearningRate == 0 {
		c.LearningRate = 0.001
	}
	switch c.Shift {
	case 0:
		c.Shift = shift
	case -1:
		c.Shift = 0
	}
	switch c.Dropout {
	case 0:
		c.Dropout = drop
	case -1:
		c.Dropout = 0
	}
	if c.Threads == 0 {
		c.Threads = runtime.GOMAXPROCS(0)
	}
	c.Threads = min(c.Threads, shards)
	for _, f := range []struct {
		name string
		ok   bool
		want string
	}{
		{"epochs", c.Epochs > 0 && c.Epochs <= 10000, "1 to 10000"},
		{"batch size", c.BatchSize > 0 && c.BatchSize <= 1024, "1 to 1024"},
		{"learning rate", c.LearningRate > 0 && c.LearningRate <= 1, "above 0, at most 1"},
		{"shift", c.Shift >= 0 && c.Shift <= 8, "-1 to 8"},
		{"dropout", c.Dropout >= 0 && c.Dropout < 1, "-1, or 0 to below 1"},
		{"hold out", c.HoldOut >= 0, "0 or more images"},
		{"threads", c.Threads > 0, "0 or more"},
	} {
		if !f.ok {
			return c, fmt.Errorf("%s: choose %s: %w", f.name, f.want, ErrConfig)
		}
	}
	return c, nil
}

// run is the state of a training run.
type run struct {
	c       Config
	s       *samples
	classes int
	train   int // images trained on; the others are held out
	rows    int // images of the largest shard
	nets    []*net
	w       []float32   // parameters
	g       [][]float32 // gradient of each shard
	opt     *adam
	order   []int // training images in the order of this epoch
	steps   int   // steps of the whole run
}

func newRun(set *dataset.Set, c Config) (*run, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	s, classes, err := newSamples(set)
	if err != nil {
		return nil, err
	}
	n := len(s.y) - c.HoldOut
	if n < 1 {
		return nil, fmt.Errorf("%d of %d images are held out, none is left: %w", c.HoldOut, len(s.y), ErrConfig)
	}
	if len(s.image) != 3 {
		c.Shift = 0 // there is no up and down
	}
	c.BatchSize = min(c.BatchSize, n)
	r := &run{c: c, s: s, classes: classes, train: n, rows: (c.BatchSize + shards - 1) / shards}
	for range c.Threads {
		t, err := build(c.Arch, shape{image: s.image, classes: classes, rows: r.rows, drop: c.Dropout})
		if err != nil {
			return nil, err
		}
		r.nets = append(r.nets, t)
	}
	r.w = r.nets[0].initial(random(c.Seed, streamWeights, 0))
	for range shards {
		r.g = append(r.g, make([]float32, len(r.w)))
	}
	r.opt = newAdam(len(r.w))
	r.steps = c.Epochs * ((n + c.BatchSize - 1) / c.BatchSize)
	r.order = make([]int, n)
	for i := range r.order {
		r.order[i] = i
	}
	return r, nil
}

// epoch trains on every image once.
func (r *run) epoch(ctx context.Context, e int) (Epoch, error) {
	random(r.c.Seed, streamOrder, uint64(e)).Shuffle(r.train, func(i, j int) {
		r.order[i], r.order[j] = r.order[j], r.order[i]
	})
	var sum score
	size := r.c.BatchSize
	every := max(1, (r.train+size-1)/size/100)
	for from := 0; from < r.train; from += size {
		to := min(from+size, r.train)
		s, err := r.step(ctx, r.order[from:to])
		if err != nil {
			return Epoch{}, err
		}
		sum.loss += s.loss
		sum.correct += s.correct
		if r.c.Step != nil && (from/size)%every == 0 {
			r.c.Step(e, float64(to)/float64(r.train))
		}
	}
	ep := Epoch{Epoch: e, Loss: sum.loss / float64(r.train), Accuracy: float64(sum.correct) / float64(r.train)}
	if math.IsNaN(ep.Loss) || math.IsInf(ep.Loss, 0) {
		return ep, fmt.Errorf("the loss is %v; try a lower learning rate: %w", ep.Loss, ErrDiverged)
	}
	if r.c.HoldOut > 0 {
		right, err := r.measure(ctx)
		if err != nil {
			return ep, err
		}
		ep.HeldOut = float64(right) / float64(r.c.HoldOut)
	}
	return ep, nil
}

// step trains on one minibatch.
func (r *run) step(ctx context.Context, batch []int) (score, error) {
	// The rate follows half a cosine wave (Loshchilov, Hutter, "SGDR", 2017,
	// without restarts); half a step keeps the last one above zero.
	done := (float64(r.opt.t) + 0.5) / float64(r.steps)
	rate := r.opt.begin(r.c.LearningRate * (1 + math.Cos(math.Pi*done)) / 2)
	var parts [shards]score
	r.parallel(func(t int) {
		for s := t; s < shards && ctx.Err() == nil; s += len(r.nets) {
			parts[s] = r.shard(r.nets[t], s, batch[s*len(batch)/shards:(s+1)*len(batch)/shards], len(batch))
		}
	})
	if err := ctx.Err(); err != nil {
		return score{}, err
	}
	r.parallel(func(t int) {
		n := len(r.w)
		r.opt.update(r.w, r.g, t*n/len(r.nets), (t+1)*n/len(r.nets), rate)
	})
	var sum score
	for _, p := range parts {
		sum.loss += p.loss
		sum.correct += p.correct
	}
	return sum, nil
}

// shard computes the gradient of one shard of a minibatch of size images.
func (r *run) shard(t *net, s int, images []int, size int) score {
	if len(images) == 0 {
		clear(r.g[s])
		return score{}
	}
	place := uint64(r.opt.t)*shards + uint64(s)
	shift := random(r.c.Seed, streamShift, place)
	labels := make([]int32, len(images))
	for i, img := range images {
		dx, dy := 0, 0
		if span := r.c.Shift; span > 0 {
			dx, dy = shift.IntN(2*span+1)-span, shift.IntN(2*span+1)-span
		}
		r.s.put(img, t.act[0][i*t.in:(i+1)*t.in], dx, dy)
		labels[i] = r.s.y[img]
	}
	m := mode{}
	if r.c.Dropout > 0 {
		m.dropout = random(r.c.Seed, streamDropout, place)
	}
	logits := t.forward(m, r.w, len(images))
	sum := crossEntropy(logits, labels, r.classes, 1/float32(size), t.grad[len(t.layers)])
	t.backward(r.w, r.g[s], len(images))
	return sum
}

// measure counts the held-out images that the network gets right.
func (r *run) measure(ctx context.Context) (int, error) {
	right := make([]int, len(r.nets))
	r.parallel(func(t int) {
		for from := r.train + t*r.rows; from < len(r.s.y) && ctx.Err() == nil; from += r.rows * len(r.nets) {
			n := min(r.rows, len(r.s.y)-from)
			logits := r.logits(r.nets[t], from, n)
			right[t] += crossEntropy(logits, r.s.y[from:from+n], r.classes, 1, nil).correct
		}
	})
	sum := 0
	for _, n := range right {
		sum += n
	}
	return sum, ctx.Err()
}

// logits runs n images of the set, from the given one on, through the network as
// the exported model would.
func (r *run) logits(t *net, from, n int) []float32 {
	for i := range n {
		r.s.put(from+i, t.act[0][i*t.in:(i+1)*t.in], 0, 0)
	}
	return t.forward(mode{}, r.w, n)[:n*r.classes]
}

// parallel runs do(0), do(1), ... on a goroutine each and waits for all.
func (r *run) parallel(do func(t int)) {
	var wg sync.WaitGroup
	for t := range r.nets {
		wg.Go(func() { do(t) })
	}
	wg.Wait()
}
