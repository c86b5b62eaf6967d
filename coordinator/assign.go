package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/sched"
)

const (
	// assignEvery is how often the leader looks whether nodes or jobs have changed, and
	// paceEvery how often whether jobs are ahead of each other.
	assignEvery = 200 * time.Millisecond
	paceEvery   = 500 * time.Millisecond
	// shareStep is the change of a share that is worth a new table.
	shareStep = 0.02
	// maxListed is how many nodes of a job the table names.
	maxListed = 500
	// maxWarm bounds the models of which it is remembered where they are loaded.
	maxWarm = 32
	// few is how many tasks a job may have left for the slowest of them to be copied,
	// slowBy how many times the expected time a task must have taken for that, and
	// slowLeast how much more, or how long it must have waited behind another.
	few       = 64
	slowBy    = 2
	slowLeast = 30 * time.Millisecond
	// recentJobs is how many jobs ago a model must have been used to be expected beside
	// others.
	recentJobs = 50
)

// steering is what a term knows of who works for what.
type steering struct {
	// allotted are the parts of the active jobs, workers those that they are made of.
	allotted map[uint64]sched.Allotment
	workers  []sched.Worker
	looked   time.Time
	// written is the table as it is stored, at revision, pending what is to be stored,
	// nil for nothing.
	written  wire.Assignments
	pending  *wire.Assignments
	revision uint64
	// warm tells for the models of the last jobs which nodes have computed with them.
	warm map[string]map[string]bool
	// pace is counted in the unit that fair names.
	pace *sched.Pace
	fair string
	seen time.Time
	// copied are the tasks that two workers compute.
	copied map[taskKey]bool
}

func newSteering() *steering {
	return &steering{allotted: make(map[uint64]sched.Allotment), warm: make(map[string]map[string]bool), pace: sched.NewPace(), copied: make(map[taskKey]bool)}
}

// steer keeps the assignments, tells workers which jobs are ahead, and has the last
// tasks of jobs copied.
func (l *leader) steer(ctx context.Context, now time.Time) error {
	l.copySlow(ctx, now)
	if now.Sub(l.steering.seen) >= paceEvery {
		l.steering.seen = now
		l.tellLeads()
	}
	if now.Sub(l.steering.looked) >= assignEvery {
		l.allot(now)
	}
	return l.storeAssignments(ctx)
}

// inFlight is the most tasks of a job that are given out at a time, 0 for any number.
func (l *leader) inFlight(job uint64) int {
	if j := l.jobs[job]; j != nil {
		return j.Rec.Doc.MaxInFlight
	}
	return 0
}

// warmed notes that a node has computed with a model.
func (s *steering) warmed(model, node string) {
	if model == "" || s.warm[model][node] {
		return
	}
	if s.warm[model] == nil {
		if len(s.warm) >= maxWarm {
			for some := range s.warm {
				delete(s.warm, some)
				break
			}
		}
		s.warm[model] = make(map[string]bool)
	}
	s.warm[model][node] = true
}

// demands describes the active jobs.
func (l *leader) demands() []sched.Demand {
	demands := make([]sched.Demand, 0, len(l.active))
	for _, job := range l.active {
		j := l.jobs[job]
		doc, known := j.Rec.Doc, l.shown(j.Rec)
		d := sched.Demand{Job: job, Model: j.Rec.ModelDigest, Tasks: j.Rec.Tasks(), Batch: known.Time, Counted: 1, Weight: doc.Share(),
			Priority: doc.Priority, MaxNodes: doc.MaxNodes, MaxInFlight: doc.MaxInFlight, Training: doc.Training()}
		switch l.fair() {
		case wire.FairImages:
			d.Counted = known.Images
		case wire.FairTime:
			d.Counted = known.Time.Seconds()
		}
		demands = append(demands, d)
	}
	return demands
}

// shown is what is known of a job's batches: from its own results, else from those of
// a job that runs with the same model and data, else from the last one that ended.
func (l *leader) shown(rec *wire.JobRecord) sched.Experience {
	if j := l.jobs[rec.Job]; j != nil {
		if e := j.Experience(); e.Time > 0 {
			return e
		}
	}
	for _, job := range slices.Backward(l.active) {
		if j := l.jobs[job]; workloadOf(j.Rec) == workloadOf(rec) && j.Experience().Time > 0 {
			return j.Experience()
		}
	}
	return l.experience(rec)
}

// taskSize freezes how a new job is cut into tasks.
func (l *leader) taskSize(rec *wire.JobRecord) {
	own := l.shown(rec)
	for _, job := range l.active {
		if j := l.jobs[job]; workloadOf(j.Rec) == workloadOf(rec) {
			own.Slowest = max(own.Slowest, j.Slowest())
		}
	}
	// The time of one batch of every job: those that run, of a heavier one as many as
	// it gets meanwhile, or one other like the dearest of late.
	running, dearest := own.Time, own.Time
	for _, job := range l.active {
		heavier := max(l.jobs[job].Rec.Doc.Share()/rec.Doc.Share(), 1)
		running += time.Duration(heavier * float64(l.jobs[job].Experience().Time))
	}
	for _, known := range l.known {
		if known.Job+recentJobs > rec.Job {
			dearest = max(dearest, known.Time)
		}
	}
	sched.Size(rec, own, max(running, own.Time+dearest), l.roll.Slots())
}

// allot brings the assignments in line with nodes and jobs.
func (l *leader) allot(now time.Time) {
	s := l.steering
	s.looked = now
	if fair := l.fair(); s.fair != fair {
		s.fair, s.pace, l.dirty = fair, sched.NewPace(), true
	}
	s.workers = l.roll.Workers()
	l.crew.Store(int64(len(s.workers)))
	before := make(map[uint64][]string, len(s.allotted))
	for job, a := range s.allotted {
		if !a.All {
			before[job] = a.Nodes
		}
	}
	next := make(map[uint64]sched.Allotment, len(l.active))
	table := wire.Assignments{Schema: wire.Schema, Time: now, Jobs: []wire.Assignment{}}
	for _, w := range s.workers {
		table.Slots += w.Slots
	}
	for _, a := range sched.Assign(l.demands(), s.workers, before, func(model, node string) bool { return s.warm[model][node] }) {
		if was, ok := s.allotted[a.Job]; !ok || a.All != was.All || a.Only != was.Only || !a.All && !slices.Equal(a.Nodes, was.Nodes) {
			l.dirty = true // workers must know
		}
		if j := l.jobs[a.Job]; s.allotted[a.Job].Job == 0 {
			s.pace.Join(a.Job, j.Counted(s.fair)/j.Rec.Doc.Share())
		}
		next[a.Job] = a
		table.Jobs = append(table.Jobs, wire.Assignment{Job: a.Job, Model: l.jobs[a.Job].Rec.Doc.Target(), Nodes: a.Nodes[:min(len(a.Nodes), maxListed)],
			More: max(len(a.Nodes)-maxListed, 0), Slots: a.Slots, Share: math.Round(a.Share*1000) / 1000, Reason: a.Reason, Only: a.Only})
	}
	s.allotted = next
	s.pending = &table
	if s.revision > 0 && sameAssignments(&s.written, &table) {
		s.pending = nil
	}
}

// sameAssignments reports whether nothing has changed that anybody would want to know.
func sameAssignments(a, b *wire.Assignments) bool {
	return a.Slots == b.Slots && slices.EqualFunc(a.Jobs, b.Jobs, func(x, y wire.Assignment) bool {
		return x.Job == y.Job && x.Only == y.Only && x.More == y.More && slices.Equal(x.Nodes, y.Nodes) && math.Abs(x.Share-y.Share) < shareStep
	})
}

// storeAssignments stores the table when it has changed.
func (l *leader) storeAssignments(ctx context.Context) error {
	s := l.steering
	if s.pending == nil {
		return nil
	}
	if s.revision == 0 {
		within, cancel := context.WithTimeout(ctx, requestWait)
		e, err := l.state.Get(within, broker.KeyAssignments)
		cancel()
		switch {
		case err == nil:
			s.revision = e.Revision
		case !errors.Is(err, jetstream.ErrKeyNotFound):
			return fmt.Errorf("read the assignments: %w", err)
		}
	}
	p, err := json.Marshal(s.pending)
	if err != nil {
		return fmt.Errorf("encode the assignments: %w", err)
	}
	rev, err := l.decide(ctx, broker.KeyAssignments, p, s.revision)
	if err != nil {
		return fmt.Errorf("write the assignments: %w", err)
	}
	s.revision, s.written, s.pending = rev, *s.pending, nil
	return nil
}

// nodesOf are the nodes that the table of active jobs names for a job: none when it has
// all.
func (l *leader) nodesOf(job uint64) (nodes []string, only bool) {
	a, ok := l.steering.allotted[job]
	if !ok || a.All {
		return nil, false
	}
	return a.Nodes, a.Only
}

// answerAssignments tells which nodes work for which job.
func (l *leader) answerAssignments(ctx context.Context, _ broker.Request) any {
	table, ok := inLoop(ctx, l, func() wire.Assignments {
		// It is stored within a moment of every change; an answer has it at once.
		l.allot(time.Now())
		if err := l.storeAssignments(ctx); err != nil {
			l.Log.Debug("assignments not stored yet", "error", err)
		}
		return l.steering.written
	})
	if !ok {
		return wire.Assignments{Schema: wire.Schema, Jobs: []wire.Assignment{}, Error: unavailable(ctx.Err())}
	}
	return table
}

// tellLeads has workers know which jobs are ahead. A message that is lost is made up
// for by the next one.
func (l *leader) tellLeads() {
	s, fair := l.steering, l.fair()
	var running []sched.Runner
	for _, job := range l.active {
		j := l.jobs[job]
		if j.Rec.Doc.Training() {
			continue
		}
		weight, known := j.Rec.Doc.Share(), l.shown(j.Rec)
		task := float64(max(j.Rec.TaskSize, 1))
		switch fair {
		case wire.FairImages:
			task *= known.Images
		case wire.FairTime:
			task *= float64(known.Time)
		}
		running = append(running, sched.Runner{Job: job, Priority: j.Rec.Doc.Priority, Done: j.Counted(fair) / weight, Task: task / weight, Slots: s.allotted[job].Slots})
	}
	if leads := s.pace.Look(running); len(leads) > 0 {
		m := wire.Leads{Schema: wire.Schema, Fair: fair, Jobs: leads}
		_ = l.Broker.Publish(broker.SubjectLeads, m.Marshal())
	}
}

// fair is what rates are counted in.
func (l *leader) fair() string {
	if s := l.settings.Load(); s != nil {
		return s.Fair
	}
	return ""
}

type taskKey struct {
	job  uint64
	task int
}

// copySlow has idle workers compute the last tasks of jobs that take long, or wait
// behind others, where they are: whoever is first stores the result.
func (l *leader) copySlow(ctx context.Context, now time.Time) {
	for key := range l.steering.copied {
		if l.jobs[key.job] == nil {
			delete(l.steering.copied, key)
		}
	}
	for _, job := range l.active {
		j := l.jobs[job]
		if j.Rec.Doc.Training() || !j.Ending(few) {
			continue
		}
		each := l.shown(j.Rec).Time
		nodes, only := l.nodesOf(job)
		var allowed func(string) bool
		if only {
			allowed = func(name string) bool { return slices.Contains(nodes, name) }
		}
		l.roll.Copy(ctx, job, 2*few, allowed, func(h sched.Held) *wire.Task {
			key := taskKey{job, h.Task}
			if h.Task < 1 || h.Task > j.Rec.Tasks() || j.Has(h.Task) || l.steering.copied[key] {
				return nil
			}
			task := sched.Task(j.Rec, h.Task)
			least := slowLeast
			if h.Started {
				if each == 0 {
					return nil // nobody knows how long it should take
				}
				least += slowBy * each * time.Duration(task.To-task.From+1)
			}
			if now.Sub(h.Since) < least {
				return nil
			}
			l.steering.copied[key] = true
			return task
		})
	}
}
