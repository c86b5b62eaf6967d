package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/micro"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/sched"
)

const (
	// requestWait bounds the work on one request.
	requestWait = 5 * time.Second
	// pageLimit is how many jobs a listing returns at most.
	pageLimit = 1000
)

// startService answers requests while this coordinator leads. Standbys do not
// answer: the service is theirs when they lead.
func (l *leader) startService(ctx context.Context) (stop func(), err error) {
	service, err := micro.AddService(l.Broker.NC, micro.Config{
		Name: "idunno", Version: semver(l.Version), Description: "iDunno coordinator: submit jobs, ask for their state"})
	if err != nil {
		return nil, fmt.Errorf("start the service: %w", err)
	}
	for _, e := range []struct {
		name, subject string
		answer        func(context.Context, []byte) any
	}{
		{"submit", broker.SubjectSubmit, l.answerSubmit},
		{"job", broker.SubjectJob, l.answerJob},
		{"list", broker.SubjectList, l.answerList},
		{"stats", broker.SubjectStats, l.answerStats},
		{"nodes", broker.SubjectNodes, l.answerNodes},
		{"cancel", broker.SubjectCancel, l.answerCancel},
	} {
		handler := micro.HandlerFunc(func(req micro.Request) {
			data := req.Data()
			go func() {
				within, cancel := context.WithTimeout(ctx, requestWait)
				defer cancel()
				p, err := json.Marshal(e.answer(within, data))
				if err != nil {
					l.Log.Error("encode an answer", "endpoint", e.name, "error", err)
					return
				}
				if ctx.Err() == nil {
					_ = req.Respond(p)
				}
			}()
		})
		if err := service.AddEndpoint(e.name, handler, micro.WithEndpointSubject(e.subject)); err != nil {
			_ = service.Stop()
			return nil, fmt.Errorf("start endpoint %s: %w", e.name, err)
		}
	}
	return func() { _ = service.Stop() }, nil
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

// answerSubmit validates a document and stores it; the job's number is its sequence.
func (l *leader) answerSubmit(ctx context.Context, p []byte) any {
	doc, err := wire.ParseJobDoc(p)
	if err == nil {
		_, err = l.validate(ctx, doc)
	}
	if err != nil {
		return wire.SubmitReply{Error: asWireError(err)}
	}
	ack, err := l.Broker.JS.Publish(ctx, broker.SubjectJobs, p)
	if err != nil {
		return wire.SubmitReply{Error: unavailable(err)}
	}
	return wire.SubmitReply{Job: ack.Sequence}
}

func (l *leader) answerJob(ctx context.Context, p []byte) any {
	req, err := wire.ParseJobRequest(p)
	if err != nil {
		return wire.JobReply{Error: asWireError(err)}
	}
	var reply wire.JobReply
	if !l.ask(ctx, func() { reply = l.describe(req.Job) }) {
		reply.Error = unavailable(ctx.Err())
	}
	return reply
}

// describe looks a job up, in the loop.
func (l *leader) describe(job uint64) wire.JobReply {
	if j := l.jobs[job]; j != nil {
		rec := *j.Rec
		return wire.JobReply{Record: &rec, Stats: j.Stats(time.Now())}
	}
	rec := l.ended[job]
	if rec == nil {
		return wire.JobReply{Error: l.noSuchJob(job)}
	}
	shown := *rec
	stats := withoutRaw(rec)
	shown.Summary = nil
	return wire.JobReply{Record: &shown, Stats: stats}
}

func (l *leader) noSuchJob(job uint64) *wire.Error {
	allowed := "no job has been submitted yet"
	if l.last > 0 {
		allowed = fmt.Sprintf("allowed: 1 to %d", l.last)
	}
	return &wire.Error{Code: wire.CodeNoSuchJob, Field: "job", Message: fmt.Sprintf("job %d does not exist; %s", job, allowed)}
}

// withoutRaw is the summary of an ended job as users see it.
func withoutRaw(rec *wire.JobRecord) *wire.JobStats {
	if rec.Summary == nil {
		return sched.Describe(rec)
	}
	s := *rec.Summary
	s.Nodes = slices.Clone(s.Nodes)
	for i := range s.Nodes {
		s.Nodes[i].Raw = nil
	}
	return &s
}

func (l *leader) answerList(ctx context.Context, p []byte) any {
	req, err := wire.ParseJobRequest(p)
	if err != nil {
		return wire.JobsReply{Error: asWireError(err)}
	}
	limit := req.Limit
	if limit < 1 || limit > pageLimit {
		limit = pageLimit
	}
	reply := wire.JobsReply{Jobs: []wire.JobReply{}}
	ok := l.ask(ctx, func() {
		next := l.last
		if req.Before > 0 {
			next = min(next, req.Before-1)
		}
		for ; next > 0 && len(reply.Jobs) < limit; next-- {
			if r := l.describe(next); r.Error == nil {
				r.Stats.Nodes = []wire.NodeStats{}
				reply.Jobs = append(reply.Jobs, r)
			}
		}
		if next > 0 {
			reply.Next = next + 1
		}
	})
	if !ok {
		return wire.JobsReply{Error: unavailable(ctx.Err())}
	}
	return reply
}

func (l *leader) answerStats(ctx context.Context, p []byte) any {
	req, err := wire.ParseJobRequest(p)
	if err != nil {
		return wire.StatsReply{Error: asWireError(err)}
	}
	var reply wire.StatsReply
	if !l.ask(ctx, func() { reply = l.stats(req.Job) }) {
		return wire.StatsReply{Error: unavailable(ctx.Err())}
	}
	return reply
}

// stats collects the statistics of one job or, for 0, of the newest ones, and of
// every node over them, in the loop.
func (l *leader) stats(job uint64) wire.StatsReply {
	reply := wire.StatsReply{Jobs: []wire.JobStats{}, Nodes: []wire.NodeStats{}}
	jobs := []uint64{job}
	if job == 0 {
		jobs = jobs[:0]
		for n := l.last; n > 0 && len(jobs) < pageLimit; n-- {
			jobs = append(jobs, n)
		}
		slices.Reverse(jobs)
	}
	total := newNodeTotals()
	for _, n := range jobs {
		r := l.describe(n)
		if r.Error != nil {
			if job != 0 {
				reply.Error = r.Error
			}
			continue
		}
		reply.Jobs = append(reply.Jobs, *r.Stats)
		if j := l.jobs[n]; j != nil {
			total.addJob(j, r.Stats)
		} else if rec := l.ended[n]; rec.Summary != nil {
			if err := total.addSummary(rec.Summary); err != nil {
				l.Log.Error("merge statistics", "job", n, "error", err)
			}
		}
	}
	reply.Nodes = append(reply.Nodes, total.list()...)
	return reply
}

func (l *leader) answerNodes(ctx context.Context, _ []byte) any {
	reply := wire.NodesReply{Leader: l.Name}
	if !l.ask(ctx, func() { reply.Nodes = l.members.List() }) {
		return wire.NodesReply{Nodes: []wire.Node{}, Error: unavailable(ctx.Err())}
	}
	return reply
}

func (l *leader) answerCancel(ctx context.Context, p []byte) any {
	req, err := wire.ParseJobRequest(p)
	if err != nil {
		return wire.JobReply{Error: asWireError(err)}
	}
	var reply wire.JobReply
	ok := l.ask(ctx, func() {
		j := l.jobs[req.Job]
		if j == nil {
			reply = l.describe(req.Job)
			if reply.Error == nil {
				reply.Error = &wire.Error{Code: wire.CodeJobEnded, Field: "job",
					Message: fmt.Sprintf("job %d has ended already (%s)", req.Job, reply.Record.State)}
			}
			return
		}
		if err := l.end(ctx, j, wire.StateCancelled, "cancelled by request"); err != nil {
			reply.Error = unavailable(err)
			return
		}
		reply = l.describe(req.Job)
	})
	if !ok {
		return wire.JobReply{Error: unavailable(ctx.Err())}
	}
	return reply
}
