package sched

import (
	"math"

	"idunno/broker/wire"
)

// Pace sees from the results how far jobs are ahead of each other, so that workers,
// each of which decides for itself, can make up for what their decisions add up to: a
// job that only some nodes serve, tasks that had to be done twice, or a job whose
// queue was empty for a moment.
type Pace struct{ jobs map[uint64]*pacer }

type pacer struct {
	// done is what was done when last looked, ahead how far the job is before the mean.
	done, ahead float64
	// begun says that results have come since it joined. Until then it isn't behind: the
	// others' results are those of tasks that were in hand when it came. waited counts
	// the looks at which there was none yet.
	begun  bool
	waited int
}

// Runner is a running job as [Pace] sees it. Done and Task are divided by the job's
// weight.
type Runner struct {
	Job      uint64
	Priority int
	// Done is what has been counted of it in all, Task what a task counts.
	Done, Task float64
	// Slots is the number of slots that serve it.
	Slots int
}

const (
	// paceGain is the part of a lead that is to be made up for until the next look. What
	// workers do about one shows in results only after the tasks that they have in
	// hand: the whole of it would be too much.
	paceGain = 0.5
	// paceTasks is how many tasks a lead must have to count: results come by tasks.
	paceTasks = 2
	// paceMost is how many looks' worth of progress a job may be ahead: what can't be
	// made up for, for a job that may not use more nodes, is forgotten.
	paceMost = 4
)

// NewPace returns one that has seen nothing.
func NewPace() *Pace { return &Pace{jobs: make(map[uint64]*pacer)} }

// Join begins to look at a job that has done so much already. One that Look sees first
// joins then. It counts from its first result on, at the latest after [paceMost] looks,
// from where the others are at that moment: what they did before is no lead.
func (p *Pace) Join(job uint64, done float64) {
	if p.jobs[job] == nil {
		p.jobs[job] = &pacer{done: done}
	}
}

// Look takes in what the running jobs have done and returns the leads that workers
// shall know of. Only jobs of the highest priority are compared.
func (p *Pace) Look(running []Runner) []wire.Lead {
	highest := math.MinInt
	for _, r := range running {
		highest = max(highest, r.Priority)
	}
	next := make(map[uint64]*pacer, len(running))
	var begin []*pacer
	step, mean, n := 0.0, 0.0, 0.0
	for _, r := range running {
		if r.Priority < highest {
			continue
		}
		p.Join(r.Job, r.Done)
		j := p.jobs[r.Job]
		grown := r.Done - j.done
		j.done = r.Done
		next[r.Job] = j
		switch {
		case j.begun:
			j.ahead += grown
			step, mean, n = step+grown, mean+j.ahead, n+1
		case grown > 0 || j.waited >= paceMost:
			begin = append(begin, j)
		default:
			j.waited++
		}
	}
	p.jobs = next
	if n > 0 {
		step, mean = step/n, mean/n
	}
	for _, j := range begin {
		j.begun, j.ahead = true, mean
	}
	var leads []wire.Lead
	for _, r := range running {
		j := next[r.Job]
		if j == nil || !j.begun {
			continue
		}
		most := paceMost*step + paceTasks*r.Task
		j.ahead = min(max(j.ahead-mean, -most), most)
		if math.Abs(j.ahead) > paceTasks*r.Task && r.Slots > 0 {
			leads = append(leads, wire.Lead{Job: r.Job, Lead: paceGain * j.ahead / float64(r.Slots)})
		}
	}
	return leads
}
