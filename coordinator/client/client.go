// Package client is the Go API of a cluster: submit jobs, watch them, read their
// results, cancel them. It speaks to whichever coordinator leads, and to the
// streams directly for what outlives coordinators. It starts no role and prints
// nothing.
package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
	"idunno/broker/wire"
)

var (
	// ErrNoCoordinator is returned when no coordinator answers.
	ErrNoCoordinator = errors.New("no coordinator answers: start one with `idunno coordinator`")
)

const (
	// firstWait bounds the first try of a request, askWait the last ones: one that
	// a coordinator took with it when it died is soon made again. retryWait is how
	// long a request that nobody answers is repeated, long enough for a standby to
	// take over.
	firstWait = 100 * time.Millisecond
	askWait   = 5 * time.Second
	retryWait = 4 * time.Second
	retryGap  = 20 * time.Millisecond
	// electWait is how long a request that can't be answered now is made again: servers
	// that have lost one of them take up to nine seconds to elect a leader.
	electWait = 15 * time.Second
	pollEvery = 200 * time.Millisecond
)

// Client talks to a cluster.
type Client struct {
	b *broker.Broker
}

// New returns a client on a connection, which stays the caller's.
func New(b *broker.Broker) *Client { return &Client{b: b} }

// ask sends a request and decodes the answer, again while nobody answers.
func (c *Client) ask(ctx context.Context, subject string, body []byte, reply any) error {
	_, err := c.askMsg(ctx, &nats.Msg{Subject: subject, Data: body}, firstWait, reply)
	return err
}

// askMsg is ask; wait bounds the first try. A request that must not be made twice
// while its first answer is on its way has [askWait]. Again says that it was made more
// than once: it may have been carried out before.
func (c *Client) askMsg(ctx context.Context, request *nats.Msg, wait time.Duration, reply any) (again bool, err error) {
	for deadline := time.Now().Add(retryWait); ; again = true {
		within, cancel := context.WithTimeout(ctx, wait)
		msg, err := c.b.NC.RequestMsgWithContext(within, request)
		cancel()
		if err == nil {
			if err := json.Unmarshal(msg.Data, reply); err != nil {
				return again, fmt.Errorf("decode the coordinator's answer: %w", err)
			}
			return again, nil
		}
		if ctx.Err() != nil {
			return again, context.Cause(ctx)
		}
		if !errors.Is(err, nats.ErrNoResponders) && !errors.Is(err, context.DeadlineExceeded) {
			return again, fmt.Errorf("ask the coordinator: %w", err)
		}
		if time.Now().After(deadline) {
			return again, ErrNoCoordinator
		}
		if errors.Is(err, context.DeadlineExceeded) {
			wait = min(2*wait, askWait)
		}
		select {
		case <-ctx.Done():
			return again, context.Cause(ctx)
		case <-time.After(retryGap):
		}
	}
}

// askJob is ask with a job request.
func (c *Client) askJob(ctx context.Context, subject string, req wire.JobRequest, reply any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	return c.ask(ctx, subject, body, reply)
}

// Submitted is the outcome of a submission.
type Submitted struct {
	Job uint64
	// Stored says that no coordinator answered: the document is kept, and is
	// checked when one comes.
	Stored bool
	// Duplicate says that the job was there before, under the document's id.
	Duplicate bool
}

// Submit hands in a job document. It returns a *[wire.Error] when the document
// is refused. When no coordinator answers, the document is stored all the same.
//
// Every try carries the same message id, so that a coordinator that answers too
// late, after the document has been handed in once more, makes no second job. A
// document with an id has that of the first job with it, whoever submits it when.
func (c *Client) Submit(ctx context.Context, doc []byte) (Submitted, error) {
	if len(doc) > wire.MaxJobDoc {
		_, err := wire.ParseJobDoc(doc) // which says so; the server would not take it
		return Submitted{}, err
	}
	id := rand.Text()
	if d, err := wire.ParseJobDoc(doc); err == nil && d.ID != "" {
		id = broker.MessageID(d.ID)
	}
	submitted, _, err := insist(ctx, func() (Submitted, error) { return c.submit(ctx, id, doc) })
	return submitted, err
}

// insist makes a request again while the answer is that the cluster can't give one now: the
// coordinator that has it leads no longer, or servers elect a leader. Again says that it
// was made more than once.
func insist[R any](ctx context.Context, ask func() (R, error)) (reply R, again bool, err error) {
	for deadline := time.Now().Add(electWait); ; again = true {
		reply, err = ask()
		var refusal *wire.Error
		away := errors.As(err, &refusal) && refusal.Code == wire.CodeUnavailable || errors.Is(err, jetstream.ErrNoStreamResponse)
		if !away || time.Now().After(deadline) {
			return reply, again, err
		}
		select {
		case <-ctx.Done():
			var none R
			return none, again, context.Cause(ctx)
		case <-time.After(retryGap):
		}
	}
}

func (c *Client) submit(ctx context.Context, id string, doc []byte) (Submitted, error) {
	var reply wire.SubmitReply
	request := &nats.Msg{Subject: broker.SubjectSubmit, Data: doc, Header: nats.Header{jetstream.MsgIDHeader: []string{id}}}
	_, err := c.askMsg(ctx, request, firstWait, &reply)
	if errors.Is(err, ErrNoCoordinator) {
		ack, err := c.b.JS.Publish(ctx, broker.SubjectJobs, doc, jetstream.WithMsgID(id))
		if broker.IsFull(err) {
			return Submitted{}, wire.StorageFull("")
		}
		if err != nil {
			return Submitted{}, fmt.Errorf("store the job: %w", err)
		}
		return Submitted{Job: ack.Sequence, Stored: true}, nil
	}
	if err != nil {
		return Submitted{}, err
	}
	if reply.Error != nil {
		return Submitted{}, reply.Error
	}
	return Submitted{Job: reply.Job, Duplicate: reply.Duplicate}, nil
}

// Job describes a job. It returns a *[wire.Error] with code no_such_job, or
// [ErrNoCoordinator].
func (c *Client) Job(ctx context.Context, job uint64) (*wire.JobReply, error) {
	var reply wire.JobReply
	if err := c.askJob(ctx, broker.SubjectJob, wire.JobRequest{Job: job}, &reply); err != nil {
		return nil, err
	}
	if reply.Error != nil {
		return nil, reply.Error
	}
	return &reply, nil
}

// Jobs lists jobs below before, newest first; before 0 starts at the newest,
// limit 0 means as many as a page holds.
func (c *Client) Jobs(ctx context.Context, before uint64, limit int) (*wire.JobsReply, error) {
	var reply wire.JobsReply
	if err := c.askJob(ctx, broker.SubjectList, wire.JobRequest{Before: before, Limit: limit}, &reply); err != nil {
		return nil, err
	}
	if reply.Error != nil {
		return nil, reply.Error
	}
	return &reply, nil
}

// Stats returns the statistics of a job, or of all jobs when job is 0.
func (c *Client) Stats(ctx context.Context, job uint64) (*wire.StatsReply, error) {
	var reply wire.StatsReply
	if err := c.askJob(ctx, broker.SubjectStats, wire.JobRequest{Job: job}, &reply); err != nil {
		return nil, err
	}
	if reply.Error != nil {
		return nil, reply.Error
	}
	return &reply, nil
}

// Nodes returns the membership list.
func (c *Client) Nodes(ctx context.Context) (*wire.NodesReply, error) {
	var reply wire.NodesReply
	if err := c.ask(ctx, broker.SubjectNodes, nil, &reply); err != nil {
		return nil, err
	}
	if reply.Error != nil {
		return nil, reply.Error
	}
	return &reply, nil
}

// Assignments tells which nodes work for which job: as the coordinator has it or,
// when none answers, as it was stored last.
func (c *Client) Assignments(ctx context.Context) (*wire.Assignments, error) {
	var reply wire.Assignments
	err := c.ask(ctx, broker.SubjectAssignments, nil, &reply)
	if errors.Is(err, ErrNoCoordinator) {
		return c.storedAssignments(ctx)
	}
	if err != nil {
		return nil, err
	}
	if reply.Error != nil {
		return nil, reply.Error
	}
	return &reply, nil
}

func (c *Client) storedAssignments(ctx context.Context) (*wire.Assignments, error) {
	state, err := c.b.State(ctx)
	if err != nil {
		return nil, ErrNoCoordinator // nor has there been one
	}
	e, err := state.Get(ctx, broker.KeyAssignments)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, ErrNoCoordinator
	}
	if err != nil {
		return nil, fmt.Errorf("read the assignments: %w", err)
	}
	var table wire.Assignments
	if err := json.Unmarshal(e.Value(), &table); err != nil {
		return nil, fmt.Errorf("decode the assignments: %w", err)
	}
	return &table, nil
}

// DeadLetters returns the dead letter that is asked for, or a page of them. It
// returns a *[wire.Error] with code no_such_letter when the task has none.
func (c *Client) DeadLetters(ctx context.Context, req wire.DLQRequest) (*wire.DLQReply, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	var reply wire.DLQReply
	if err := c.ask(ctx, broker.SubjectDLQ, body, &reply); err != nil {
		return nil, err
	}
	if reply.Error != nil {
		return nil, reply.Error
	}
	return &reply, nil
}

// Wait returns when the job has ended. Until then it calls fn about five times a
// second with where the job stands; fn may be nil. A coordinator that changes
// meanwhile goes unnoticed; a job that is stored but not admitted yet is waited for.
func (c *Client) Wait(ctx context.Context, job uint64, fn func(*wire.JobStats)) (*wire.JobStats, error) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		reply, err := c.Job(ctx, job)
		var refusal *wire.Error
		switch {
		case errors.As(err, &refusal) && (refusal.Code == wire.CodeNoSuchJob || refusal.Code == wire.CodeUnavailable):
			// Accepted, but its record isn't written yet.
		case errors.Is(err, ErrNoCoordinator):
			// The job goes on without one; so do we.
		case err != nil:
			return nil, err
		default:
			if fn != nil {
				fn(reply.Stats)
			}
			if reply.Record.State.Ended() {
				return reply.Stats, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// Progress calls fn with a training job's progress until ctx ends.
func (c *Client) Progress(ctx context.Context, job uint64, fn func(*wire.Progress)) error {
	sub, err := c.b.NC.SubscribeSync(broker.SubjectProgress(job))
	if err != nil {
		return fmt.Errorf("follow job %d: %w", job, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	for {
		msg, err := sub.NextMsgWithContext(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("follow job %d: %w", job, err)
		}
		var p wire.Progress
		if json.Unmarshal(msg.Data, &p) == nil {
			fn(&p)
		}
	}
}
