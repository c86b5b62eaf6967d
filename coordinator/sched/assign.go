package sched

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// Worker is a node that takes tasks.
type Worker struct {
	Name  string
	Slots int
}

// Demand is what an active job asks of the cluster.
type Demand struct {
	Job uint64
	// Model is what a node must have loaded for the job, by digest.
	Model string
	// Tasks is the number of its tasks, Batch the time of a batch; 0 when unknown.
	Tasks int
	Batch time.Duration
	// Counted is what its rate is counted in for each batch: 1 for batches, the images
	// in it, or its seconds; 0 when unknown.
	Counted  float64
	Weight   float64
	Priority int
	// MaxNodes and MaxInFlight are the user's limits of nodes and of tasks in flight, 0
	// for none.
	MaxNodes, MaxInFlight int
	Training              bool
}

// Allotment is the part of the cluster that a job gets.
type Allotment struct {
	Job uint64
	// Nodes are the workers that serve it, by name; All says that these are all there
	// are, Only that no other node may, whatever it has to do.
	Nodes     []string
	All, Only bool
	Slots     int
	// Share is the job's part of the cluster's computing time, 0 to 1.
	Share  float64
	Reason string
}

// maxSubset is how many nodes a job has at most without having all.
const maxSubset = 1000

// Assign divides the workers among the jobs. A job with few tasks gets few nodes, so
// that its model is not loaded everywhere for nothing, a large one all; rates are to
// be equal all the same, so that it gets no fewer than its share of the cluster. It
// keeps the nodes that it had, before, and otherwise prefers those that have its model
// loaded, and those with the least to do. The result is a function of what is given,
// in the order of the demands.
func Assign(demands []Demand, workers []Worker, before map[uint64][]string, loaded func(model, node string) bool) []Allotment {
	a := assigner{workers: workers, before: before, loaded: loaded, load: make(map[string]float64)}
	for _, w := range workers {
		a.slots += w.Slots
	}
	shares := Shares(demands)
	out := make([]Allotment, len(demands))
	// Those that have all nodes load them alike, so the others can choose after them.
	for i, d := range demands {
		out[i] = a.size(d, shares[i])
		if out[i].All {
			a.take(&out[i], workers)
		}
	}
	for i, d := range demands {
		if !out[i].All {
			a.choose(&out[i], d)
		}
	}
	return out
}

// Shares are the parts of the cluster's computing time that jobs need for rates that
// are equal by weight. Only those of the highest priority count: the others get what
// is left over.
func Shares(demands []Demand) []float64 {
	shares := make([]float64, len(demands))
	highest := math.MinInt
	for _, d := range demands {
		highest = max(highest, d.Priority)
	}
	known, n, sum := 0.0, 0, 0.0
	cost := func(d Demand) float64 {
		if d.Batch <= 0 || d.Counted <= 0 {
			return 0
		}
		return d.Batch.Seconds() / d.Counted // for each unit that is counted
	}
	for _, d := range demands {
		if c := cost(d); c > 0 {
			known, n = known+c, n+1
		}
	}
	typical := 1.0
	if n > 0 {
		typical = known / float64(n)
	}
	for i, d := range demands {
		if d.Priority < highest {
			continue
		}
		shares[i] = cmp.Or(cost(d), typical) * max(d.Weight, 0)
		sum += shares[i]
	}
	for i := range shares {
		if sum > 0 {
			shares[i] /= sum
		}
	}
	return shares
}

type assigner struct {
	workers []Worker
	slots   int
	before  map[uint64][]string
	loaded  func(model, node string) bool
	// load is the computing time that each node owes to the jobs it has, in slots.
	load map[string]float64
}

// size decides how many slots a job needs, and whether that is all of them.
func (a *assigner) size(d Demand, share float64) Allotment {
	al := Allotment{Job: d.Job, Share: share}
	enough := (d.Tasks + tasksPerSlot - 1) / tasksPerSlot
	fair := int(math.Ceil(share * float64(a.slots)))
	al.Slots = max(enough, fair, 1)
	switch {
	case d.Training:
		al.Slots, al.Reason = 1, "training runs on one slot"
	case d.MaxInFlight > 0 && d.MaxInFlight < al.Slots:
		al.Slots, al.Reason = d.MaxInFlight, fmt.Sprintf("at most %s in flight, as the job asks", plural(d.MaxInFlight, "task"))
	case enough >= fair:
		al.Reason = fmt.Sprintf("%s: enough for %s", plural(d.Tasks, "task"), plural(min(enough, a.slots), "slot"))
	default:
		al.Reason = fmt.Sprintf("%s, but %.0f%% of the cluster's time for an equal rate", plural(d.Tasks, "task"), 100*share)
	}
	al.Only = d.MaxNodes > 0
	al.All = al.Slots >= a.slots && (d.MaxNodes == 0 || d.MaxNodes >= len(a.workers)) && !al.Only
	return al
}

// take gives a job the nodes.
func (a *assigner) take(al *Allotment, nodes []Worker) {
	al.Nodes, al.Slots = make([]string, 0, len(nodes)), 0
	for _, w := range nodes {
		al.Nodes, al.Slots = append(al.Nodes, w.Name), al.Slots+w.Slots
	}
	slices.Sort(al.Nodes)
	for _, w := range nodes {
		a.load[w.Name] += al.Share * float64(a.slots) * float64(w.Slots) / float64(al.Slots)
	}
}

// choose gives a job some of the nodes.
func (a *assigner) choose(al *Allotment, d Demand) {
	had := make(map[string]bool)
	for _, name := range a.before[d.Job] {
		had[name] = true
	}
	// rank is how well a node suits: 0 for one that the job has, 1 for one that has its
	// model.
	rank := make(map[string]int, len(a.workers))
	for _, w := range a.workers {
		switch {
		case had[w.Name]:
		case a.loaded != nil && a.loaded(d.Model, w.Name):
			rank[w.Name] = 1
		default:
			rank[w.Name] = 2
		}
	}
	order := slices.Clone(a.workers)
	slices.SortStableFunc(order, func(x, y Worker) int {
		return cmp.Or(cmp.Compare(rank[x.Name], rank[y.Name]),
			cmp.Compare(a.load[x.Name]/float64(x.Slots), a.load[y.Name]/float64(y.Slots)), cmp.Compare(x.Name, y.Name))
	})
	most := len(order)
	if d.MaxNodes > 0 && d.MaxNodes < most {
		most = d.MaxNodes
	}
	n, slots := 0, 0
	for n < most && slots < al.Slots {
		slots += order[n].Slots
		n++
	}
	if slots < al.Slots && d.MaxNodes > 0 && d.MaxNodes < len(order) {
		al.Reason = fmt.Sprintf("at most %s, as the job asks", plural(d.MaxNodes, "node"))
	}
	if !al.Only && (n == len(order) || n > maxSubset) {
		al.All, n = true, len(order)
	}
	a.take(al, order[:n])
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
