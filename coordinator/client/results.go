package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/archive"
	"idunno/objectstore"
)

var (
	// ErrResultsRemoved is returned for results that were kept as long as the cluster
	// keeps them.
	ErrResultsRemoved = errors.New("results are kept no longer")
)

// recordWait bounds one request for a record, fetchWait one for a result.
const (
	recordWait = 5 * time.Second
	fetchWait  = 10 * time.Second
)

// Record reads a job's record from the store, without a coordinator; nil when there
// is none (yet).
func (c *Client) Record(ctx context.Context, job uint64) (*wire.JobRecord, error) {
	within, cancel := context.WithTimeout(ctx, recordWait)
	defer cancel()
	state, err := c.b.State(within)
	if err != nil {
		return nil, fmt.Errorf("open job records: %w", err)
	}
	e, err := state.Get(within, broker.KeyJob(job))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read record of job %d: %w", job, err)
	}
	var rec wire.JobRecord
	err = json.Unmarshal(e.Value(), &rec)
	if err == nil && rec.Job != job {
		err = fmt.Errorf("it is of job %d", rec.Job)
	}
	if err != nil {
		return nil, fmt.Errorf("the record of job %d can't be read: %w", job, err)
	}
	return &rec, nil
}

// Results calls fn for every stored result of a job, wherever they are: in the order
// of completion, or in that of the tasks where they have been moved into the SDFS. A
// result that can't be read comes as one with an error. It returns
// [ErrResultsRemoved].
func (c *Client) Results(ctx context.Context, job uint64, fn func(*wire.Result) error) error {
	s := &source{c: c, job: job}
	return s.each(ctx, func(m *archive.Message) error {
		r, err := s.result(ctx, m)
		if err != nil || r == nil {
			return err
		}
		return fn(r)
	})
}

// StoredResults is [Client.Results] that gives results as they are stored.
func (c *Client) StoredResults(ctx context.Context, job uint64, fn func(task int, at time.Time, data []byte) error) error {
	s := &source{c: c, job: job}
	return s.each(ctx, func(m *archive.Message) error { return fn(m.Task, m.At, m.Data) })
}

// InOrder calls fn for the results of a job in the order of their tasks, each once,
// in bounded memory. With follow set it goes on until the job ends, whether or not a
// coordinator lives meanwhile; a job without a record is waited for then. It returns
// the job's record as it was read last, and [ErrResultsRemoved].
func (c *Client) InOrder(ctx context.Context, job uint64, follow bool, fn func(*wire.Result) error) (*wire.JobRecord, error) {
	s := &source{c: c, job: job}
	find := c.Record
	if follow {
		find = c.AwaitRecord
	}
	rec, err := find(ctx, job)
	if err == nil && rec == nil {
		err = fmt.Errorf("job %d has no record", job)
	}
	if err != nil {
		return nil, err
	}
	order := &archive.Order{Tasks: rec.Tasks(), From: rec.KeptFrom, Fetch: s.fetch, Emit: func(m *archive.Message) error {
		r, err := s.result(ctx, m)
		if err != nil || r == nil {
			return err
		}
		return fn(r)
	}}
	if follow && !rec.State.Ended() {
		if rec, err = s.follow(ctx, rec, order); err != nil {
			return rec, err
		}
	}
	if order.Seen() < order.Tasks {
		if err := s.each(ctx, func(m *archive.Message) error { return order.Add(ctx, m) }); err != nil {
			return rec, err
		}
	}
	return rec, order.Flush(ctx)
}

// AwaitRecord is [Client.Record] that waits for the record of a job that has been
// accepted, and, where the job waits for another one, until it is known what it runs.
// It returns nil for one that hasn't.
func (c *Client) AwaitRecord(ctx context.Context, job uint64) (*wire.JobRecord, error) {
	for {
		rec, err := c.Record(ctx, job)
		if err != nil || rec != nil && !rec.NamesOpen() {
			return rec, err
		}
		within, cancel := context.WithTimeout(ctx, recordWait)
		jobs, err := c.b.Jobs(within)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("look up job %d: %w", job, err)
		}
		if jobs.CachedInfo().State.LastSeq < job {
			return nil, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pollEvery):
		}
	}
}

// source is where a job's results are.
type source struct {
	c   *Client
	job uint64

	mu     sync.Mutex
	store  *objectstore.Store
	reader *archive.Reader
}

// each calls fn for every stored result, for some perhaps twice.
func (s *source) each(ctx context.Context, fn func(*archive.Message) error) error {
	rec, err := s.c.Record(ctx, s.job)
	if err != nil {
		return err
	}
	var seen archive.Set
	if rec == nil || rec.Results == nil {
		err := s.c.b.JobResults(ctx, s.job, func(m *broker.Stored) (bool, error) {
			_, task, ok := broker.TaskOfResult(m.Subject)
			if !ok || rec != nil && task < rec.KeptFrom {
				return true, nil
			}
			seen.Add(task)
			return true, fn(&archive.Message{Task: task, At: m.At, Data: m.Data})
		})
		if err != nil || rec == nil {
			return err
		}
		// They may have been moved, and removed, under the reading.
		if rec, err = s.c.Record(ctx, s.job); err != nil || rec == nil || rec.Results == nil || rec.Results.Tasks <= seen.Len() {
			return err
		}
	}
	reader, err := s.archive(ctx, rec)
	if err != nil || reader == nil {
		return err
	}
	return reader.Each(ctx, func(m *archive.Message) error {
		if seen.Has(m.Task) {
			return nil
		}
		return fn(m)
	})
}

// archive opens the archive of an ended job, nil when it had no results.
func (s *source) archive(ctx context.Context, rec *wire.JobRecord) (*archive.Reader, error) {
	at := rec.Results
	if !at.Removed.IsZero() {
		return nil, fmt.Errorf("the results of job %d were removed at %s, %s after its end: %w (the setting result-retention says how long)",
			s.job, at.Removed.Local().Format(time.DateTime), at.Removed.Sub(rec.Ended).Round(time.Second), ErrResultsRemoved)
	}
	if at.Tasks == 0 {
		return nil, nil
	}
	store, err := s.files(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reader == nil {
		reader, err := archive.Open(ctx, store, s.job, at.Digest)
		if errors.Is(err, objectstore.ErrNotFound) {
			err = fmt.Errorf("the results of job %d are not in the SDFS: has somebody removed %s? (%w)", s.job, at.File, err)
		}
		if err != nil {
			return nil, err
		}
		s.reader = reader
	}
	return s.reader, nil
}

func (s *source) files(ctx context.Context) (*objectstore.Store, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.store == nil {
		objects, index, err := s.c.b.Files(ctx)
		if err != nil {
			return nil, err
		}
		s.store = objectstore.Open(objects, index)
	}
	return s.store, nil
}

// fetch reads a result that has been there once.
func (s *source) fetch(ctx context.Context, task int) (*archive.Message, error) {
	within, cancel := context.WithTimeout(ctx, fetchWait)
	defer cancel()
	m, err := s.c.b.Result(within, s.job, task)
	if err != nil {
		return nil, err
	}
	if m != nil {
		return &archive.Message{Task: task, At: m.At, Data: m.Data}, nil
	}
	rec, err := s.c.Record(within, s.job)
	if err == nil && rec != nil && task < rec.KeptFrom {
		return &archive.Message{Task: task}, nil
	}
	if err != nil || rec == nil || rec.Results == nil {
		return nil, err
	}
	reader, err := s.archive(within, rec)
	if err != nil || reader == nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return reader.Task(within, task)
}

// result decodes a stored result and brings the values that lie outside of it. It
// returns nil for one whose values have been removed with it since.
func (s *source) result(ctx context.Context, m *archive.Message) (*wire.Result, error) {
	r := wire.ReceiveResult(s.job, m.Task, m.Data)
	if r.Outside == nil {
		return r, nil
	}
	store, err := s.files(ctx)
	if err != nil {
		return nil, err
	}
	values, err := store.Object(ctx, r.Outside.Digest, r.Outside.Size)
	if errors.Is(err, objectstore.ErrNotFound) {
		if rec, err := s.c.Record(ctx, s.job); err == nil && rec != nil && m.Task < rec.KeptFrom {
			return nil, nil
		}
	}
	if err == nil {
		err = r.Attach(values)
	}
	if err != nil {
		return nil, fmt.Errorf("read outputs of job %d task %d: %w", s.job, m.Task, err)
	}
	return r, nil
}

// follow takes results in as they come, until the job has ended. What came last may
// not have been taken in yet then. It returns the job's record.
func (s *source) follow(ctx context.Context, rec *wire.JobRecord, order *archive.Order) (*wire.JobRecord, error) {
	messages := make(chan *archive.Message, 64)
	stop, err := s.c.b.FollowJobResults(ctx, s.job, rec.ResultsFrom, func(ctx context.Context, m *broker.Stored) {
		if m == nil {
			return
		}
		if _, task, ok := broker.TaskOfResult(m.Subject); ok {
			select {
			case messages <- &archive.Message{Task: task, At: m.At, Data: m.Data}:
			case <-ctx.Done():
			}
		}
	})
	if err != nil {
		return rec, err
	}
	defer stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return rec, context.Cause(ctx)
		case m := <-messages:
			if err := order.Add(ctx, m); err != nil {
				return rec, err
			}
		case <-tick.C:
			// An error says that the server is away: it is asked again.
			now, err := s.c.Record(ctx, s.job)
			if err != nil || now == nil {
				continue
			}
			rec = now
			order.Tasks = max(order.Tasks, rec.Tasks())
			if err := order.Forget(ctx, rec.KeptFrom); err != nil {
				return rec, err
			}
			if rec.State.Ended() {
				return rec, takeRest(ctx, messages, order)
			}
		}
	}
}

// restWait is how long the results of a job that has ended may be on their way.
const restWait = 500 * time.Millisecond

// takeRest takes in what is still on its way when the job has ended.
func takeRest(ctx context.Context, messages <-chan *archive.Message, order *archive.Order) error {
	for order.Seen() < order.Tasks {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case m := <-messages:
			if err := order.Add(ctx, m); err != nil {
				return err
			}
		case <-time.After(restWait):
			return nil
		}
	}
	return nil
}
