package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"idunno/broker/wire"
	"idunno/coordinator/client"
	"idunno/coordinator/cluster"
	"idunno/models"
	"idunno/models/dataset"
	"idunno/models/onnx/encode"
	"idunno/objectstore"
)

// The null model returns what it is given: four numbers an image. A batch has two
// images, and all batches of a set are the same one.
const (
	nullWidth  = 4
	nullImages = 2
	// maxNullBatches is what a data set's manifest holds.
	maxNullBatches = 200_000
)

// nullModel is the model; each mark makes it another file, of which the coordinator
// has no experience, so that its tasks have one batch.
func nullModel(mark string) []byte {
	dims := []any{"n", nullWidth}
	return encode.Model{Producer: mark, In: []encode.Value{{Name: "x", Dims: dims}}, Out: []encode.Value{{Name: "y", Dims: dims}},
		Nodes: []encode.Node{{Op: "Identity", In: []string{"x"}, Out: []string{"y"}}}}.Bytes()
}

// nullData stores null models and data sets.
type nullData struct {
	files  *objectstore.Store
	models int
}

// batch is the only batch there is.
func (n *nullData) batch() (*dataset.Batch, error) {
	set := &dataset.Set{Name: "null", Shape: []int{nullWidth}, DType: dataset.U8, Classes: []string{"a", "b", "c", "d"},
		X: []byte{0, 9, 1, 2, 3, 0, 1, 200}, Y: []int32{1, 3}}
	return set.Batch(1, nullImages)
}

// set stores a data set of so many batches and returns its name.
func (n *nullData) set(ctx context.Context, batches int) (string, error) {
	name := "null-" + strconv.Itoa(batches)
	has, err := cluster.Has(ctx, n.files, wire.DataFolder+name)
	if err != nil || has {
		return name, err
	}
	b, err := n.batch()
	if err != nil {
		return "", err
	}
	o, err := n.files.PutObject(ctx, bytes.NewReader(b.Marshal()))
	if err != nil {
		return "", err
	}
	m := dataset.Manifest{Schema: dataset.ManifestSchema, Name: name, Batches: batches, BatchSize: nullImages, Images: batches * nullImages,
		Shape: []int{nullWidth}, DType: dataset.U8, Classes: []string{"a", "b", "c", "d"}}
	for range batches {
		m.Objects = append(m.Objects, dataset.Object{Digest: o.Digest, Size: o.Size})
	}
	if err := m.Check(); err != nil {
		return "", err
	}
	_, err = n.files.PutBundle(ctx, wire.DataFolder+name, m.Marshal())
	return name, err
}

// fresh stores a model that the coordinator hasn't seen and returns its name.
func (n *nullData) fresh(ctx context.Context) (string, error) {
	n.models++
	name := "null-" + strconv.Itoa(n.models)
	_, err := cluster.StoreModel(ctx, n.files, name, nullModel(name))
	return name, err
}

// alone is what the model says of the batch, by itself.
func (n *nullData) alone(ctx context.Context) (*models.Prediction, error) {
	b, err := n.batch()
	if err != nil {
		return nil, err
	}
	m, err := models.Load(nullModel("alone"), models.Options{})
	if err != nil {
		return nil, err
	}
	return m.NewSession().Predict(ctx, b)
}

// errTaskSize is returned when tasks don't have the size that is measured.
var errTaskSize = errors.New("tasks of one batch were expected")

// nullJob is a job of the null model over the first batches of a set, so many times.
type nullJob struct {
	number          uint64
	batches, rounds int
}

// all is the number of batches that it computes.
func (j nullJob) all() int { return j.batches * j.rounds }

// submit submits a job of a model that nobody knows over the first batches of a set.
func (s *scale) submit(ctx context.Context, batches int) (nullJob, error) {
	set, err := s.null.set(ctx, batches)
	if err != nil {
		return nullJob{}, err
	}
	model, err := s.null.fresh(ctx)
	if err != nil {
		return nullJob{}, err
	}
	return s.submitDoc(ctx, wire.JobDoc{Model: model, Data: set, From: 1, To: batches})
}

func (s *scale) submitDoc(ctx context.Context, doc wire.JobDoc) (nullJob, error) {
	p, err := json.Marshal(doc)
	if err != nil {
		return nullJob{}, err
	}
	submitted, err := s.api.Submit(ctx, p)
	return nullJob{submitted.Job, doc.To - doc.From + 1, max(doc.Rounds, 1)}, err
}

// ended waits for a job's end and returns its record and statistics.
func (s *scale) ended(ctx context.Context, job nullJob) (*wire.JobReply, error) {
	return s.reaches(ctx, job, endedPoll, func(r *wire.JobReply) bool { return r.Record.State.Ended() })
}

// How often a job is asked about: seldom while it shall not be disturbed, for the answer
// adds up what all workers have done.
const (
	endedPoll   = 250 * time.Millisecond
	reachedPoll = 50 * time.Millisecond
)

// reaches waits until a job is where it shall be.
func (s *scale) reaches(ctx context.Context, job nullJob, every time.Duration, there func(*wire.JobReply) bool) (*wire.JobReply, error) {
	for {
		reply, err := s.api.Job(ctx, job.number)
		switch {
		case err != nil:
			if !passing(err) {
				return nil, err
			}
		case there(reply):
			return reply, nil
		case reply.Record.State.Ended():
			return nil, fmt.Errorf("job %d ended early as %s: %s", job.number, reply.Record.State, reply.Record.Reason)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(every):
		}
	}
}

// passing reports whether an answer may come a moment later: the job is not admitted
// yet, or nobody leads.
func passing(err error) bool {
	var refusal *wire.Error
	return errors.Is(err, client.ErrNoCoordinator) || errors.As(err, &refusal) && (refusal.Code == wire.CodeNoSuchJob || refusal.Code == wire.CodeUnavailable)
}

// check counts what is wrong with the results of a job that has ended.
func (s *scale) check(ctx context.Context, job nullJob) error {
	alone, err := s.null.alone(ctx)
	if err != nil {
		return err
	}
	c := &s.d.Counts
	seen, tasks := make([]int, job.batches+1), make(map[int]bool)
	err = s.api.Results(ctx, job.number, func(r *wire.Result) error {
		if tasks[r.Task] {
			c.Duplicates++
		}
		tasks[r.Task] = true
		for i := range r.Batches {
			b := &r.Batches[i]
			if b.Batch < 1 || b.Batch > job.batches || seen[b.Batch] == job.rounds {
				c.Duplicates++
				continue
			}
			seen[b.Batch]++
			if !agrees(b, alone) {
				c.Differing++
			}
		}
		return nil
	})
	for _, n := range seen[1:] {
		c.Lost += job.rounds - n
	}
	return err
}

// agrees compares a result with a prediction, bit for bit.
func agrees(b *wire.BatchResult, p *models.Prediction) bool {
	o := cluster.Outcome{Batches: map[int]*wire.BatchResult{1: b}}
	return o.Differing(map[int]*models.Prediction{1: p}) == 0 && b.Correct == p.Correct && b.LossSum == p.LossSum
}
