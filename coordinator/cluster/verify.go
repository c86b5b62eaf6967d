package cluster

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"idunno/broker/wire"
	"idunno/coordinator/client"
	"idunno/models"
	"idunno/models/dataset"
	"idunno/worker"
)

// Outcome is what the results stream holds of a job.
type Outcome struct {
	// Batches are the results by batch number.
	Batches map[int]*wire.BatchResult
	// Results are all of the job's results, in the order of completion, without
	// their batches.
	Results []wire.Result
	// Missing batches have no result, Duplicates are results beyond the first of
	// a batch, Failed is the number of tasks that failed for good.
	Missing, Duplicates, Failed int
}

// Collect reads all results of a job and counts them against the batches from to
// to that it was asked for.
func Collect(ctx context.Context, api *client.Client, job uint64, from, to int) (*Outcome, error) {
	o := &Outcome{Batches: make(map[int]*wire.BatchResult)}
	err := api.Results(ctx, job, func(r *wire.Result) error {
		if r.Error != "" {
			o.Failed++
		}
		for i := range r.Batches {
			b := &r.Batches[i]
			if o.Batches[b.Batch] != nil || b.Batch < from || b.Batch > to {
				o.Duplicates++
				continue
			}
			o.Batches[b.Batch] = b
		}
		brief := *r
		brief.Batches = nil
		o.Results = append(o.Results, brief)
		return nil
	})
	o.Missing = to - from + 1 - len(o.Batches)
	return o, err
}

// Differing counts the batches whose predictions are not those of alone, compared
// bit for bit: class and probability of every image.
func (o *Outcome) Differing(alone map[int]*models.Prediction) int {
	n := 0
	for number, b := range o.Batches {
		p := alone[number]
		if p == nil || !slices.Equal(b.Class, p.Class) || !slices.EqualFunc(b.Prob, p.Prob, func(x, y float32) bool {
			return math.Float32bits(x) == math.Float32bits(y)
		}) {
			n++
		}
	}
	return n
}

// RunAlone predicts the batches from to to of a set with a model in this process,
// without a cluster, on so many threads. Progress may be nil; it is called from
// several goroutines.
func RunAlone(ctx context.Context, onnx []byte, set *dataset.Set, size, from, to, threads int, progress func()) (map[int]*models.Prediction, error) {
	model, err := worker.LoadModel(onnx, models.Options{})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := make(map[int]*models.Prediction)
	var mu sync.Mutex
	var wg sync.WaitGroup
	var next atomic.Int64
	next.Store(int64(from) - 1)
	for range threads {
		wg.Go(func() {
			session := model.NewSession()
			for {
				i := int(next.Add(1))
				if i > to || ctx.Err() != nil {
					return
				}
				p, err := predict(ctx, session, set, i, size)
				if err != nil {
					cancel(fmt.Errorf("batch %d: %w", i, err))
					return
				}
				mu.Lock()
				out[i] = p
				mu.Unlock()
				if progress != nil {
					progress()
				}
			}
		})
	}
	wg.Wait()
	return out, context.Cause(ctx)
}

// predict runs one batch and copies what the session may overwrite.
func predict(ctx context.Context, s *models.Session, set *dataset.Set, i, size int) (*models.Prediction, error) {
	batch, err := set.Batch(i, size)
	if err != nil {
		return nil, err
	}
	p, err := s.Predict(ctx, batch)
	if err != nil {
		return nil, err
	}
	c := *p
	c.Class, c.Prob, c.Loss = slices.Clone(p.Class), slices.Clone(p.Prob), slices.Clone(p.Loss)
	return &c, nil
}
