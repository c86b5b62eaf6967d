package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
)

const (
	// requestWait bounds the work on one request.
	requestWait = 5 * time.Second
	// pageLimit is how many jobs a listing returns at most: with the longest
	// reasons they fit into a message.
	pageLimit = 250
)

// startService answers requests while this coordinator leads. Standbys do not
// answer: the service is theirs when they lead.
func (l *leader) startService(ctx context.Context) (stop func(), err error) {
	service := broker.Service{Name: "idunno", Version: semver(l.Version), Description: "iDunno coordinator: submit jobs, ask for their state"}
	for _, e := range []endpoint{
		{"submit", broker.SubjectSubmit, l.answerSubmit},
		{"job", broker.SubjectJob, l.answerJob},
		{"list", broker.SubjectList, l.answerList},
		{"stats", broker.SubjectStats, l.answerStats},
		{"nodes", broker.SubjectNodes, l.answerNodes},
		{"cancel", broker.SubjectCancel, l.answerCancel},
		{"pause", broker.SubjectPause, l.answerPause},
		{"resume", broker.SubjectResume, l.answerResume},
		{"settings", broker.SubjectSettings, l.answerSettings},
		{"dlq", broker.SubjectDLQ, l.answerDLQ},
		{"retry", broker.SubjectRetry, l.answerRetry},
		{"assignments", broker.SubjectAssignments, l.answerAssignments},
	} {
		service.Endpoints = append(service.Endpoints, broker.Endpoint{Name: e.name, Subject: e.subject,
			Answer: func(req broker.Request) { l.respond(ctx, e, req) }})
	}
	return l.Broker.Serve(ctx, service)
}

// endpoint is one kind of request.
type endpoint struct {
	name, subject string
	answer        func(context.Context, broker.Request) any
}

// respond answers a request in any case: whoever asks shall not wait for nothing.
func (l *leader) respond(ctx context.Context, e endpoint, req broker.Request) {
	within, cancel := context.WithTimeout(ctx, requestWait)
	defer cancel()
	p, err := json.Marshal(e.answer(within, req))
	if err == nil {
		err = req.Respond(p)
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	l.Log.Error("answer a request", "endpoint", e.name, "error", err)
	if p, err = json.Marshal(refusal{unavailable(err)}); err == nil {
		_ = req.Respond(p)
	}
}

// refusal is an answer of any endpoint that is nothing but an error.
type refusal struct {
	Error *wire.Error `json:"error"`
}

// semver makes the program's version one that a NATS service accepts.
func semver(v string) string {
	var major, minor, patch int
	if n, _ := fmt.Sscanf(v, "%d.%d.%d", &major, &minor, &patch); n == 3 {
		return fmt.Sprintf("%d.%d.%d", major, minor, patch)
	}
	return "0.0.0"
}

func unavailable(err error) *wire.Error {
	return &wire.Error{Code: wire.CodeUnavailable, Message: fmt.Sprintf("the cluster can't answer now (%v); try again", err)}
}

func asWireError(err error) *wire.Error {
	var refusal *wire.Error
	if errors.As(err, &refusal) {
		return refusal
	}
	return unavailable(err)
}

// inLoop runs fn in the loop and returns what it returns; false when the answer
// did not come in time.
func inLoop[T any](ctx context.Context, l *leader, fn func() T) (T, bool) {
	answer := make(chan T, 1)
	l.do(ctx, func() { answer <- fn() })
	select {
	case v := <-answer:
		return v, true
	case <-ctx.Done():
		var none T
		return none, false
	}
}

// answerSubmit validates a document and stores it; the job's number is its
// sequence. A message id in the request makes a repeated request the same job.
func (l *leader) answerSubmit(ctx context.Context, req broker.Request) any {
	return l.submit(ctx, req.ID, req.Data)
}

// submit validates and stores a document that a request has brought. One with the id
// of a job that there is already is that job.
func (l *leader) submit(ctx context.Context, id string, p []byte) wire.SubmitReply {
	doc, err := wire.ParseJobDoc(p)
	if err == nil {
		var job uint64
		if job, err = l.submittedAs(ctx, doc.ID); job > 0 {
			return wire.SubmitReply{Job: job, Duplicate: true}
		}
	}
	if err == nil {
		err = l.resolve(ctx, &wire.JobRecord{Doc: doc})
	}
	if err == nil {
		err = l.pressed(ctx)
	}
	if err != nil {
		return wire.SubmitReply{Error: asWireError(err)}
	}
	job, err := l.storeDoc(ctx, id, doc, p)
	if errors.Is(err, broker.ErrFull) {
		return wire.SubmitReply{Error: wire.StorageFull("")}
	}
	if err != nil {
		return wire.SubmitReply{Error: unavailable(err)}
	}
	return wire.SubmitReply{Job: job}
}

func (l *leader) answerJob(ctx context.Context, req broker.Request) any {
	r, err := wire.ParseJobRequest(req.Data)
	if err != nil {
		return wire.JobReply{Error: asWireError(err)}
	}
	reply, ok := l.lookUpJob(ctx, r.Job)
	if !ok {
		return wire.JobReply{Error: unavailable(ctx.Err())}
	}
	return reply
}

func (l *leader) noSuchJob(job uint64) *wire.Error {
	allowed := "no job has been submitted yet"
	if l.last > 0 {
		allowed = fmt.Sprintf("allowed: 1 to %d", l.last)
	}
	return &wire.Error{Code: wire.CodeNoSuchJob, Field: "job", Message: fmt.Sprintf("job %d does not exist; %s", job, allowed)}
}

func (l *leader) answerList(ctx context.Context, req broker.Request) any {
	r, err := wire.ParseJobRequest(req.Data)
	if err != nil {
		return wire.JobsReply{Error: asWireError(err)}
	}
	reply, err := l.listJobs(ctx, r.Before, r.Limit)
	if err != nil {
		return wire.JobsReply{Error: asWireError(err)}
	}
	return reply
}

func (l *leader) answerStats(ctx context.Context, req broker.Request) any {
	r, err := wire.ParseJobRequest(req.Data)
	if err != nil {
		return wire.StatsReply{Error: asWireError(err)}
	}
	if r.Job > 0 {
		return l.jobStats(ctx, r.Job)
	}
	return l.allStats(ctx)
}

// jobStats are the statistics of a job and of the nodes that worked on it.
func (l *leader) jobStats(ctx context.Context, job uint64) wire.StatsReply {
	r, ok := l.lookUpJob(ctx, job)
	if !ok {
		return wire.StatsReply{Error: unavailable(ctx.Err())}
	}
	if r.Error != nil {
		return wire.StatsReply{Jobs: []wire.JobStats{}, Nodes: []wire.NodeStats{}, Error: r.Error}
	}
	return wire.StatsReply{Jobs: []wire.JobStats{*r.Stats}, Nodes: r.Stats.Nodes}
}

// allStats are the statistics of the newest jobs, oldest first, and of every node
// over all jobs there have been.
func (l *leader) allStats(ctx context.Context) wire.StatsReply {
	page, err := l.listJobs(ctx, 0, 0)
	if err != nil {
		return wire.StatsReply{Error: asWireError(err)}
	}
	reply := wire.StatsReply{Jobs: []wire.JobStats{}, Nodes: []wire.NodeStats{}}
	for _, r := range page.Jobs {
		reply.Jobs = append(reply.Jobs, *r.Stats)
	}
	slices.Reverse(reply.Jobs)
	nodes, ok := inLoop(ctx, l, l.nodeStats)
	if !ok {
		return wire.StatsReply{Error: unavailable(ctx.Err())}
	}
	reply.Nodes = append(reply.Nodes, nodes...)
	return reply
}

// nodeStats are the sums of every node, in the loop.
func (l *leader) nodeStats() []wire.NodeStats {
	l.sum(len(l.unsummed))
	total := l.totals.clone()
	for _, j := range l.jobs {
		total.addJob(j, j.Stats(time.Now()))
	}
	return total.list()
}

func (l *leader) answerNodes(_ context.Context, _ broker.Request) any {
	return wire.NodesReply{Leader: l.Name, Nodes: fitting(l.roll.Nodes())}
}

// fitting cuts what many nodes hold to what a message holds: first the subjects of the
// tasks' acknowledgements go, then most of the tasks, then all.
func fitting(nodes []wire.Node) []wire.Node {
	const each, reply, task = 512, 120, 64
	size := func() int {
		n := 0
		for i := range nodes {
			n += each
			for _, t := range nodes[i].InFlight {
				n += task
				if t.Reply != "" {
					n += reply
				}
			}
		}
		return n
	}
	for _, keep := range []int{math.MaxInt, 4, 0} {
		if size() <= maxRecord {
			break
		}
		for i := range nodes {
			held := slices.Clone(nodes[i].InFlight[:min(len(nodes[i].InFlight), keep)])
			for k := range held {
				held[k].Reply = ""
			}
			nodes[i].InFlight = held
		}
	}
	return nodes
}
