package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/sched"
)

const (
	// keptEnded and keptBytes bound the records of ended jobs that are kept in memory;
	// all others are read from the bucket when somebody asks for them.
	keptEnded = 256
	keptBytes = 8 << 20
	// readAtOnce is how many records are read at a time, readWait bounds one reading.
	readAtOnce = 16
	readWait   = 2 * time.Second
)

// ended knows which jobs have ended, and the records of those that did so last. There
// may be any number of ended jobs: each takes some bits.
type ended struct {
	// known are all, done those that ended well, refused those that were rejected for
	// their own document.
	known, done, refused jobSet
	// duplicates are those that repeated another one's submission, with the other.
	duplicates map[uint64]uint64
	// retries are the jobs that retried others, by the other's number.
	retries map[uint64][]uint64
	// kept are records, order their jobs, oldest first.
	kept  map[uint64]keptRecord
	order []uint64
	bytes int
}

// jobSet is a set of job numbers, a bit for each: 64 to a word.
type jobSet map[uint64]uint64

func (s jobSet) has(job uint64) bool { return s[job/64]&(1<<(job%64)) != 0 }
func (s jobSet) add(job uint64)      { s[job/64] |= 1 << (job % 64) }

type keptRecord struct {
	rec *wire.JobRecord
	// size is about what it takes, in bytes.
	size int
}

func newEnded() ended {
	return ended{known: make(jobSet), done: make(jobSet), refused: make(jobSet), duplicates: make(map[uint64]uint64),
		retries: make(map[uint64][]uint64), kept: make(map[uint64]keptRecord)}
}

func (e *ended) has(job uint64) bool { return e.known.has(job) }

// add notes an ended job, and keeps its record for a while. It reports false when
// the job was known.
func (e *ended) add(rec *wire.JobRecord, size int) (news bool) {
	news = !e.has(rec.Job)
	if news {
		e.known.add(rec.Job)
		switch {
		case rec.DuplicateOf > 0:
			e.duplicates[rec.Job] = rec.DuplicateOf
		case rec.State == wire.StateDone:
			e.done.add(rec.Job)
		case rec.State == wire.StateRejected:
			e.refused.add(rec.Job)
		}
		if rec.Retry != nil {
			e.retries[rec.Retry.Of] = append(e.retries[rec.Retry.Of], rec.Job)
		}
	}
	if old, ok := e.kept[rec.Job]; ok {
		e.bytes -= old.size
	} else {
		e.order = append(e.order, rec.Job)
	}
	e.kept[rec.Job] = keptRecord{rec, size}
	e.bytes += size
	for len(e.order) > 1 && (len(e.order) > keptEnded || e.bytes > keptBytes) {
		e.bytes -= e.kept[e.order[0]].size
		delete(e.kept, e.order[0])
		e.order = e.order[1:]
	}
	return news
}

// get returns the record of an ended job if it is kept, else nil.
func (e *ended) get(job uint64) *wire.JobRecord { return e.kept[job].rec }

// readEnded returns the record of an ended job, from the bucket if it isn't kept. It
// may be called outside of the loop with kept nil.
func readEnded(ctx context.Context, records broker.Bucket, job uint64) (*wire.JobRecord, error) {
	ctx, cancel := context.WithTimeout(ctx, readWait)
	defer cancel()
	e, err := records.Get(ctx, broker.KeyJob(job))
	if err != nil {
		return nil, fmt.Errorf("read record of job %d: %w", job, err)
	}
	rec := new(wire.JobRecord)
	if err := json.Unmarshal(e.Value, rec); err != nil || rec.Job != job {
		return nil, fmt.Errorf("read record of job %d: %w", job, errors.Join(errBadRecord, err))
	}
	dropRaw(rec)
	return rec, nil
}

// errBadRecord is returned for a record that is none.
var errBadRecord = errors.New("unreadable")

// dropRaw takes the sums out of a record: without them it is small.
func dropRaw(rec *wire.JobRecord) {
	if rec.Summary == nil {
		return
	}
	for i := range rec.Summary.Nodes {
		rec.Summary.Nodes[i].Raw = nil
	}
}

// describeEnded is what is said of an ended job.
func describeEnded(rec *wire.JobRecord) wire.JobReply {
	shown, stats := *rec, rec.Summary
	if stats == nil {
		stats = sched.Describe(rec)
	}
	shown.Summary = nil
	return wire.JobReply{Record: &shown, Stats: stats}
}

// describe looks a job up, in the loop. A job that ended long ago is read from the
// bucket meanwhile.
func (l *leader) describe(ctx context.Context, job uint64) wire.JobReply {
	reply, read := l.glance(job)
	if !read {
		return reply
	}
	return l.fromRecord(ctx, job)
}

// glance is describe for what is in memory, in the loop; read says that the job's record
// has to be read.
func (l *leader) glance(job uint64) (reply wire.JobReply, read bool) {
	if j := l.jobs[job]; j != nil {
		rec, stats := *j.Rec, j.Stats(time.Now())
		if waits := l.whatFor(&rec); waits != "" {
			rec.Reason, stats.Reason = waits, waits
		}
		return wire.JobReply{Record: &rec, Stats: stats}, false
	}
	if rec := l.ended.get(job); rec != nil {
		return describeEnded(rec), false
	}
	if l.ended.has(job) {
		return wire.JobReply{}, true
	}
	return wire.JobReply{Error: l.noSuchJob(job)}, false
}

// fromRecord describes an ended job from its record in the bucket.
func (l *leader) fromRecord(ctx context.Context, job uint64) wire.JobReply {
	rec, err := readEnded(ctx, l.state, job)
	switch {
	case errors.Is(err, errBadRecord) || errors.Is(err, jetstream.ErrKeyNotFound):
		return wire.JobReply{Error: &wire.Error{Code: wire.CodeNoSuchJob, Field: "job", Message: fmt.Sprintf("job %d has ended, and its record can't be read (%v)", job, err)}}
	case err != nil:
		return wire.JobReply{Error: unavailable(err)}
	}
	return describeEnded(rec)
}

// lookUpJob is describe for whoever is not in the loop, and doesn't hold it up.
func (l *leader) lookUpJob(ctx context.Context, job uint64) (reply wire.JobReply, ok bool) {
	type glance struct {
		reply wire.JobReply
		read  bool
	}
	g, ok := inLoop(ctx, l, func() glance {
		reply, read := l.glance(job)
		return glance{reply, read}
	})
	if ok && g.read {
		g.reply = l.fromRecord(ctx, job)
	}
	return g.reply, ok
}

// pageOf is a page of a listing of which the records in missing, by their place,
// have yet to be read.
type pageOf struct {
	wire.JobsReply
	missing map[int]uint64
}

// page lists jobs below before (0: all), newest first, in the loop.
func (l *leader) page(before uint64, limit int) pageOf {
	if limit < 1 || limit > pageLimit {
		limit = pageLimit
	}
	next := l.last
	if before > 0 {
		next = min(next, before-1)
	}
	p := pageOf{wire.JobsReply{Jobs: []wire.JobReply{}}, make(map[int]uint64)}
	for ; next > 0 && len(p.Jobs) < limit; next-- {
		r, read := l.glance(next)
		switch {
		case read:
			p.missing[len(p.Jobs)] = next
			p.Jobs = append(p.Jobs, r)
		case r.Error == nil:
			p.Jobs = append(p.Jobs, brief(r))
		}
	}
	if next > 0 {
		p.Next = next + 1
	}
	return p
}

// brief leaves out the nodes, for listings.
func brief(r wire.JobReply) wire.JobReply {
	if r.Stats != nil {
		stats := *r.Stats
		stats.Nodes = []wire.NodeStats{}
		r.Stats = &stats
	}
	return r
}

// fill reads what a page misses, several records at a time. A record that can't be
// read is left out.
func (l *leader) fill(ctx context.Context, p *pageOf) error {
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(readAtOnce)
	for at, job := range p.missing {
		group.Go(func() error {
			r := l.fromRecord(within, job)
			if r.Error != nil && r.Error.Code != wire.CodeNoSuchJob {
				return r.Error
			}
			p.Jobs[at] = brief(r) // nobody else writes there
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	whole := p.Jobs[:0]
	for _, r := range p.Jobs {
		if r.Error == nil {
			whole = append(whole, r)
		}
	}
	p.Jobs = whole
	return nil
}

// listJobs is a page with everything in it, for whoever is not in the loop.
func (l *leader) listJobs(ctx context.Context, before uint64, limit int) (wire.JobsReply, error) {
	p, ok := inLoop(ctx, l, func() pageOf { return l.page(before, limit) })
	if !ok {
		return wire.JobsReply{}, ctx.Err()
	}
	if err := l.fill(ctx, &p); err != nil {
		return wire.JobsReply{}, err
	}
	return p.JobsReply, nil
}
