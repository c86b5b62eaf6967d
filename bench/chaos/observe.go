package chaos

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/client"
)

// observer looks at the store from outside, past all proxies, while faults happen.
type observer struct {
	b   *broker.Broker
	rec *Recorder

	mu     sync.Mutex
	leader string
}

// leads is who holds the lease as far as is known, "" for nobody.
func (o *observer) leads() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.leader
}

// run observes until ctx ends. It returns an error when it can't begin.
func (o *observer) run(ctx context.Context) error {
	from, err := o.b.LastResult(ctx)
	if err != nil {
		return err
	}
	stop, err := o.b.FollowResults(ctx, from+1, func(_ context.Context, m *broker.Stored) {
		if m == nil {
			return
		}
		if job, task, ok := broker.TaskOfResult(m.Subject); ok {
			o.rec.Add(Event{What: WhatSeen, Job: job, Task: task, Sum: sumMessage(m.Data), Written: m.At, Group: m.Group})
		}
	})
	if err != nil {
		return err
	}
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { o.b.FollowLease(ctx, o.lease) })
	wg.Go(func() { o.records(ctx) })
	wg.Wait()
	return nil
}

func (o *observer) lease(w broker.LeaseWrite) {
	o.mu.Lock()
	o.leader, _, _ = strings.Cut(w.Holder, " ") // the rest tells the node's lives apart
	if w.Deleted {
		o.leader = ""
	}
	o.mu.Unlock()
	o.rec.Add(Event{What: WhatLease, Holder: w.Holder, Revision: w.Revision, Bucket: w.Bucket, Deleted: w.Deleted, Written: w.At})
}

// records follows the job records, from the moment of each reconnection on.
func (o *observer) records(ctx context.Context) {
	changes, stop := o.b.ConnectionChanges()
	defer stop()
	for ctx.Err() == nil {
		// An error is a server that is away: the next try finds it.
		_ = o.followRecords(ctx, changes)
		select {
		case <-ctx.Done():
		case <-time.After(tryAgain):
		}
	}
}

// tryAgain is the pause before what failed because the server is away is tried again.
const tryAgain = 100 * time.Millisecond

func (o *observer) followRecords(ctx context.Context, changes <-chan bool) error {
	kv, err := o.b.State(ctx)
	if err != nil {
		return err
	}
	w, err := kv.Watch(ctx, broker.KeyJobs, jetstream.UpdatesOnly())
	if err != nil {
		return err
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case connected := <-changes:
			if connected {
				return nil
			}
		case e, ok := <-w.Updates():
			if !ok {
				return broker.ErrWatchEnded
			}
			if e == nil {
				continue
			}
			var r wire.JobRecord
			if json.Unmarshal(e.Value(), &r) == nil && r.Job > 0 {
				o.rec.Add(Event{What: WhatRecord, Job: r.Job, State: r.State, Epoch: r.Epoch, Revision: e.Revision(), Written: e.Created()})
			}
		}
	}
}

// sumMessage is a digest of a stored message.
func sumMessage(p []byte) string {
	sum := sha256.Sum256(p)
	return hex.EncodeToString(sum[:16])
}

// holding is what the store holds of jobs.
type holding struct {
	docs    map[uint64]stored
	records map[uint64]*wire.JobRecord
}

type stored struct {
	doc wire.JobDoc
	at  time.Time
}

// readJobs reads all submissions and all records.
func readJobs(ctx context.Context, b *broker.Broker) (*holding, error) {
	h := &holding{docs: make(map[uint64]stored), records: make(map[uint64]*wire.JobRecord)}
	err := readAll(ctx, func(fn func(context.Context, *broker.Stored)) (func(), error) { return b.FollowJobs(ctx, 1, fn) },
		func(m *broker.Stored) {
			// A document that can't be read has an empty one: nobody has submitted that.
			doc, _ := wire.ParseJobDoc(m.Data)
			h.docs[m.Seq] = stored{doc, m.At}
		})
	if err != nil {
		return nil, err
	}
	bucket, err := b.Records(ctx)
	if err != nil {
		return nil, err
	}
	err = bucket.Watch(ctx, broker.KeyJobs, func(e *broker.Entry) bool {
		if e == nil {
			return false
		}
		var r wire.JobRecord
		if json.Unmarshal(e.Value, &r) == nil && r.Job > 0 {
			r.Summary = nil // the only part that is large
			h.records[r.Job] = &r
		}
		return true
	})
	return h, err
}

// running counts the jobs that have not ended.
func (h *holding) running() (n int) {
	for job := range h.docs {
		if r := h.records[job]; r == nil || !r.State.Ended() {
			n++
		}
	}
	return n
}

// readAll reads a stream from its beginning to its present end.
func readAll(ctx context.Context, follow func(func(context.Context, *broker.Stored)) (func(), error), fn func(*broker.Stored)) error {
	through := make(chan struct{})
	ended := false
	stop, err := follow(func(_ context.Context, m *broker.Stored) {
		switch {
		case ended:
		case m == nil:
			ended = true
			close(through)
		default:
			fn(m)
		}
	})
	if err != nil {
		return err
	}
	defer stop()
	select {
	case <-through:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// letterPage is how many dead letters are read at a time.
const letterPage = 100

// gather writes what the store holds into the history.
func gather(ctx context.Context, b *broker.Broker, rec *Recorder) error {
	h, err := readJobs(ctx, b)
	if err != nil {
		return fmt.Errorf("read the jobs: %w", err)
	}
	for job, s := range h.docs {
		e := Event{What: WhatStored, Job: job, Doc: &s.doc, Written: s.at}
		if r := h.records[job]; r != nil {
			e.State, e.Error, e.TaskSize, e.Tail, e.Epoch = r.State, r.Reason, r.TaskSize, r.Tail, r.Epoch
		}
		rec.Add(e)
	}
	if err := gatherResults(ctx, b, h, rec); err != nil {
		return fmt.Errorf("read the results: %w", err)
	}
	for after, more := uint64(0), true; more; {
		var letters []wire.DeadLetter
		if letters, more, err = b.DeadLetters(ctx, 0, after, letterPage); err != nil {
			return fmt.Errorf("read the dead letters: %w", err)
		}
		for _, l := range letters {
			after = l.Seq
			rec.Add(Event{What: WhatLetter, Job: l.Job, Task: l.Task, From: l.From, To: l.To, Node: l.Node, Error: l.Error})
		}
	}
	rec.Add(Event{What: WhatEnd})
	return nil
}

// gatherResults writes the results into the history: those in the stream, and those
// of ended jobs that have been moved into the SDFS. One that is in both places, the
// same bytes, is one.
func gatherResults(ctx context.Context, b *broker.Broker, h *holding, rec *Recorder) error {
	both := make(map[place]string)
	err := readAll(ctx, func(fn func(context.Context, *broker.Stored)) (func(), error) { return b.FollowResults(ctx, 1, fn) },
		func(m *broker.Stored) {
			// A message where no result belongs is one of job 0.
			job, task, _ := broker.TaskOfResult(m.Subject)
			e := resultEvent(job, task, m.At, m.Data)
			if r := h.records[job]; r != nil && r.Results != nil {
				both[place{job, task}] = e.Sum
			}
			rec.Add(e)
		})
	if err != nil {
		return err
	}
	api := client.New(b)
	for job, r := range h.records {
		if r.Results == nil {
			continue
		}
		err := api.StoredResults(ctx, job, func(task int, at time.Time, data []byte) error {
			if e := resultEvent(job, task, at, data); both[place{job, task}] != e.Sum {
				rec.Add(e)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func resultEvent(job uint64, task int, at time.Time, data []byte) Event {
	r := wire.ReceiveResult(job, task, data)
	e := Event{What: WhatResult, Job: job, Task: task, From: r.From, To: r.To, Node: r.Node, Error: r.Error, Sum: sumMessage(data), Written: at}
	for i := range r.Batches {
		e.Sums = append(e.Sums, SumBatch(r.Batches[i].Class, r.Batches[i].Prob, r.Batches[i].Labels))
	}
	return e
}
