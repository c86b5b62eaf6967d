package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/client"
	"idunno/objectstore"
)

const (
	// viaService and viaStream are the two ways to submit.
	viaService = "service"
	viaStream  = "stream"
	// thinks is the longest pause of a client between two jobs. With the sizes of jobs
	// it decides how much a run of half an hour stores: about 200 MB.
	thinks = 1500 * time.Millisecond
	// publishWait bounds a submission with the stock client's means.
	publishWait = 3 * time.Second
)

// load are the clients: each submits a job, waits for its end, and submits the next.
type load struct {
	b       *broker.Broker
	api     *client.Client
	rec     *Recorder
	files   *objectstore.Store
	batches int // of the data set
	// numbers counts submissions, smalls the models of small tasks.
	numbers, smalls atomic.Int64
}

// run has so many clients work until ctx ends.
func (l *load) run(ctx context.Context, clients int, seed uint64) {
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(1+i)))
			for ctx.Err() == nil {
				doc, ok := wire.JobDoc{}, false
				if rng.IntN(smallShare) == 0 {
					doc, ok = l.smallDoc(ctx, rng)
				}
				if !ok {
					doc = l.doc(rng)
				}
				l.job(ctx, rng, doc)
				select {
				case <-ctx.Done():
				case <-time.After(time.Duration(rng.Int64N(int64(thinks)))):
				}
			}
		})
	}
	wg.Wait()
}

// doc makes the document of a job of moderate size.
func (l *load) doc(rng *rand.Rand) wire.JobDoc {
	d := wire.JobDoc{Model: "mlp", Data: wire.DefaultData}
	n := 10 + rng.IntN(60)
	if rng.IntN(2) == 0 {
		d.Model, n = "cnn", 10+rng.IntN(50)
	}
	n = min(n, l.batches)
	d.From = 1 + rng.IntN(l.batches-n+1)
	d.To = d.From + n - 1
	return d
}

// job submits a job and stays with it until it has ended or ctx ends.
func (l *load) job(ctx context.Context, rng *rand.Rand, doc wire.JobDoc) {
	via := []string{viaService, viaStream}[rng.IntN(2)]
	cancelAfter := time.Duration(0)
	if rng.IntN(10) == 0 {
		cancelAfter = time.Duration(1 + rng.Int64N(int64(thinks)))
	}
	job, ok := l.submit(ctx, via, doc)
	if !ok {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	if cancelAfter > 0 {
		wg.Go(func() { l.cancel(watching, job, cancelAfter) })
	}
	var state wire.State
	told := func(s *wire.JobStats) {
		if s.State != state {
			state = s.State
			l.rec.Add(Event{What: WhatState, Job: job, State: state})
		}
	}
	// An error is the end of ctx, or of an answer: then somebody else has to see
	// the job's end.
	if s, err := l.api.Wait(watching, job, told); err == nil {
		told(s)
	}
}

// submit hands in a document and notes what came of it.
func (l *load) submit(ctx context.Context, via string, doc wire.JobDoc) (job uint64, ok bool) {
	body, err := json.Marshal(doc)
	if err != nil {
		panic(fmt.Sprintf("a document of plain fields can't be encoded: %v", err))
	}
	n := int(l.numbers.Add(1))
	l.rec.Add(Event{What: WhatSubmit, Submission: n, Via: via, Doc: &doc})
	if via == viaService {
		var s client.Submitted
		s, err = l.api.Submit(ctx, body)
		job = s.Job
	} else {
		within, cancel := context.WithTimeout(ctx, publishWait)
		defer cancel()
		ack, publishErr := l.b.JS.Publish(within, broker.SubjectJobs, body)
		if err = publishErr; err == nil {
			job = ack.Sequence
		}
	}
	e := Event{What: WhatAccepted, Submission: n, Job: job}
	var refusal *wire.Error
	switch {
	case errors.As(err, &refusal) && refusal.Code != wire.CodeUnavailable:
		e.What, e.Error = WhatRefused, refusal.Code+": "+refusal.Message
		e.Busy = refusal.Code == wire.CodeBusy || refusal.Code == wire.CodeStorageFull
	case err != nil:
		e.What, e.Error = WhatUnknown, err.Error()
	}
	l.rec.Add(e)
	return job, err == nil
}

// cancel cancels a job after a while, unless it has ended.
func (l *load) cancel(ctx context.Context, job uint64, after time.Duration) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(after):
	}
	l.rec.Add(Event{What: WhatCancel, Job: job})
	if reply, err := l.api.Cancel(ctx, job); err == nil && reply.Record != nil && reply.Record.State == wire.StateCancelled {
		l.rec.Add(Event{What: WhatCancelled, Job: job})
	}
}
