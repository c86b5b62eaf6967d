package coordinator

import (
	"encoding/json"
	"log/slog"
	"slices"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/sched"
)

// maxEarly bounds the results that are kept for jobs whose record has not come yet.
const maxEarly = 4096

// sumAtOnce is how many ended jobs are added to the totals at a time: some
// milliseconds of work.
const sumAtOnce = 10

// maxUnsummed bounds the sums of nodes that wait: a kilobyte each.
const maxUnsummed = 8192

// workload is what a batch's time depends on, by digest, and the batch's size where
// that is not as stored.
type workload struct {
	model, data string
	batch       int
}

func workloadOf(rec *wire.JobRecord) workload {
	return workload{model: rec.ModelDigest, data: rec.DataDigest, batch: rec.BatchSize}
}

// experience is what is known of a job's batches: from others of their size or,
// where there have been none, from stored ones.
func (g *ledger) experience(rec *wire.JobRecord) sched.Experience {
	w := workloadOf(rec)
	known, ok := g.known[w]
	if !ok && w.batch > 0 {
		w.batch = 0
		known = g.known[w].Of(rec.BatchSize)
	}
	return known
}

// ledger is what a coordinator knows of all jobs: the records, and the results of
// unfinished jobs folded into them. A standby keeps it by reading along, so that
// it needs only the last few messages when it becomes the leader. One goroutine
// at a time uses it: that of the leader's loop, or of the standby's.
type ledger struct {
	log    *slog.Logger
	jobs   map[uint64]*sched.Job
	revs   map[uint64]uint64
	ended  ended
	totals *nodeTotals // over all ended jobs but those of unsummed
	// unsummed are ended jobs whose sums are yet to be added to the totals: there may
	// be thousands when a coordinator starts, and nobody shall wait for them.
	unsummed []unsummed
	// unsummedNodes is the number of sums in it, at most [maxUnsummed].
	unsummedNodes int
	last          uint64
	// seen is the revision up to which the records have been read.
	seen uint64
	// epoch is the highest that has written a record.
	epoch uint64
	// known is what the last job showed of a model on a data set.
	known map[workload]sched.Experience
	// results is the place of the last result taken in. A standby reads records
	// and results side by side: early ones wait for their job's record.
	results uint64
	// newest is the place of the last result that there was when a reader began.
	newest  uint64
	early   map[uint64][]early
	waiting int
	// folds are the checkpoints of unfinished jobs.
	folds map[uint64]foldMark
	// reread is where results have to be read again from, 0 for nowhere.
	reread uint64
}

type unsummed struct {
	stats *wire.JobStats
	// nodes are the sums of each of the job's nodes.
	nodes []*wire.RawStats
}

type early struct {
	result *wire.Result
	at     time.Time
	seq    uint64
}

func newLedger(log *slog.Logger) *ledger {
	return &ledger{log: log, jobs: make(map[uint64]*sched.Job), revs: make(map[uint64]uint64), ended: newEnded(),
		totals: newNodeTotals(), known: make(map[workload]sched.Experience), early: make(map[uint64][]early),
		folds: make(map[uint64]foldMark)}
}

// record takes in a record as it is stored, unless it is known.
func (g *ledger) record(e *broker.Entry) {
	g.seen = max(g.seen, e.Revision)
	job, ok := broker.JobOfKey(e.Key)
	if !ok || e.Revision <= g.revs[job] {
		return
	}
	rec := new(wire.JobRecord)
	if err := json.Unmarshal(e.Value, rec); err != nil || rec.Job != job {
		g.log.Error("unreadable job record, left alone", "key", e.Key, "error", err)
		return
	}
	g.revs[job] = e.Revision
	g.epoch = max(g.epoch, rec.Epoch)
	g.last = max(g.last, job)
	switch j := g.jobs[job]; {
	case rec.State.Ended():
		delete(g.jobs, job)
		delete(g.revs, job)
		g.remember(rec, len(e.Value))
	case j != nil && j.Rec.NamesOpen() == rec.NamesOpen():
		j.Rec = rec
	default: // it is new, or has another plan now
		g.jobs[job] = sched.NewJob(rec, true)
	}
	g.takeEarly(job)
}

// takeEarly folds the results that waited for a job's plan, or drops them when it has
// ended.
func (g *ledger) takeEarly(job uint64) {
	j := g.jobs[job]
	if j != nil && j.Rec.NamesOpen() {
		return
	}
	for _, r := range g.early[job] {
		g.waiting--
		if j != nil && j.Fold(r.result, r.at) {
			j.Placed(r.result.Task, r.seq)
		}
	}
	delete(g.early, job)
}

// What a record takes in memory, in bytes, and each of the nodes in it, about.
const (
	recordSize = 1 << 10
	nodeSize   = 512
)

// remember notes an ended job: its part in the nodes' totals, and how long its
// batches took. Its record, of that size in bytes, is kept for a while.
func (g *ledger) remember(rec *wire.JobRecord, size int) {
	var sums unsummed
	if s := rec.Summary; s != nil {
		sums.stats = &wire.JobStats{Job: s.Job, Started: s.Started, Last: s.Last, Nodes: s.Nodes}
		for i := range s.Nodes {
			sums.nodes = append(sums.nodes, s.Nodes[i].Raw)
		}
		dropRaw(rec)
	}
	if !g.ended.add(rec, size) || rec.Summary == nil {
		return
	}
	g.unsummed, g.unsummedNodes = append(g.unsummed, sums), g.unsummedNodes+len(sums.nodes)
	for g.unsummedNodes > maxUnsummed && len(g.unsummed) > 0 {
		g.sum(1)
	}
	if s := rec.Summary; s.Batches > 0 && rec.ModelDigest != "" {
		g.known[workloadOf(rec)] = sched.Experience{Time: time.Duration(s.MeanMs * float64(time.Millisecond)),
			Slowest: sched.SlowestOf(s), Images: float64(s.Images) / float64(s.Batches), Job: rec.Job}
	}
}

// moved is told that the record of an ended job was written with the place of its
// results.
func (g *ledger) moved(rec *wire.JobRecord) {
	if known := g.ended.get(rec.Job); known != nil {
		known.Results = rec.Results
	}
}

// sum adds the sums of at most so many ended jobs to the totals.
func (g *ledger) sum(most int) {
	n := min(most, len(g.unsummed))
	for _, u := range g.unsummed[:n] {
		g.unsummedNodes -= len(u.nodes)
		if err := g.totals.addSummary(u); err != nil {
			g.log.Error("merge statistics", "job", u.stats.Job, "error", err)
		}
	}
	if g.unsummed = g.unsummed[n:]; len(g.unsummed) == 0 {
		g.unsummed = nil
	}
}

// fold takes a result into account and reports whether it was new.
func (g *ledger) fold(r *wire.Result, seq uint64, at time.Time) (news bool) {
	g.results = max(g.results, seq)
	if j := g.jobs[r.Job]; j != nil && !j.Rec.NamesOpen() {
		if news = j.Fold(r, at); news {
			j.Placed(r.Task, seq)
		}
		return news
	}
	// Records are read side by side with results, and only the newest value of each:
	// that of a later job may come first, and results before the record that has the plan.
	if !g.ended.has(r.Job) {
		g.keep(r, seq, at)
	}
	return false
}

// keep puts a result aside until its job's record comes. Should more wait than
// [maxEarly], they are read again from the stream by the next reader.
func (g *ledger) keep(r *wire.Result, seq uint64, at time.Time) {
	if g.reread > 0 {
		return
	}
	if g.waiting >= maxEarly {
		g.reread = g.earliest()
		clear(g.early)
		g.waiting = 0
		return
	}
	for i := range r.Batches { // the predictions are for others
		r.Batches[i].Class, r.Batches[i].Prob, r.Batches[i].Labels, r.Batches[i].Values = nil, nil, nil, nil
	}
	g.early[r.Job] = append(g.early[r.Job], early{r, at, seq})
	g.waiting++
}

// readAgain has results from a place on read once more by the next reader.
func (g *ledger) readAgain(from uint64) {
	if g.reread == 0 || from < g.reread {
		g.reread = from
	}
}

// earliest is the place of the first result that waits.
func (g *ledger) earliest() uint64 {
	first := ^uint64(0)
	for _, list := range g.early {
		for _, e := range list {
			first = min(first, e.seq)
		}
	}
	return first
}

// readFrom is the place from which a new reader has to read results: behind the
// last one taken in, or where the oldest unfinished job begins or has a checkpoint. newest is the
// place of the last result there is. A job that waits and has never run has none.
func (g *ledger) readFrom(newest uint64) uint64 {
	g.newest = max(g.newest, newest)
	from := newest + 1
	if g.results > 0 {
		from = min(from, g.results+1)
	} else {
		for job, j := range g.jobs {
			if j.Rec.State == wire.StateQueued && j.Rec.Started.IsZero() {
				continue
			}
			from = min(from, max(j.Rec.ResultsFrom, g.folds[job].place+1))
		}
	}
	if g.reread > 0 {
		from = min(from, g.reread)
		g.reread = 0
	}
	return max(from, 1)
}

// firstResult is the first place that a result of a job can have that hasn't run yet. The
// stream itself isn't asked: it answers only between two results that it makes durable,
// and a job that has come shall not wait for those of others.
func (g *ledger) firstResult() uint64 { return max(g.results, g.newest) + 1 }

// unfinished lists the jobs that run, those that wait and those that are paused, by
// number.
func (g *ledger) unfinished() (active, queued, paused []uint64) {
	for job, j := range g.jobs {
		switch j.Rec.State {
		case wire.StateRunning:
			active = append(active, job)
		case wire.StatePaused:
			paused = append(paused, job)
		default:
			queued = append(queued, job)
		}
	}
	slices.Sort(active)
	slices.Sort(queued)
	slices.Sort(paused)
	return active, queued, paused
}
