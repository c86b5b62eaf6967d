package coordinator

import (
	"slices"
	"strings"
	"time"

	"idunno/broker/wire"
	"idunno/coordinator/sched"
)

// nodeTotals adds up nodes over jobs.
type nodeTotals struct {
	nodes map[string]*nodeTotal
}

type nodeTotal struct {
	tally           *sched.Tally
	tasks           int64
	rate, batchRate float64
	first, last     time.Time
}

func newNodeTotals() *nodeTotals { return &nodeTotals{nodes: make(map[string]*nodeTotal)} }

// clone copies the totals, so that running jobs can be added for one answer.
func (t *nodeTotals) clone() *nodeTotals {
	c := newNodeTotals()
	for name, total := range t.nodes {
		copied := *total
		copied.tally = sched.NewTally()
		copied.tally.Merge(total.tally)
		c.nodes[name] = &copied
	}
	return c
}

// maxTotals bounds the nodes told apart; the rest have one line in common.
const maxTotals = 2000

// add returns the tally of a node, to which the caller adds that of a job.
func (t *nodeTotals) add(s *wire.JobStats, n *wire.NodeStats) *sched.Tally {
	name := n.Node
	if t.nodes[name] == nil && len(t.nodes) >= maxTotals {
		name = "others"
	}
	total := t.nodes[name]
	if total == nil {
		total = &nodeTotal{tally: sched.NewTally(), first: s.Started, last: s.Last}
		t.nodes[name] = total
	}
	total.tasks += n.Tasks
	total.rate += n.Rate
	total.batchRate += n.BatchRate
	if s.Started.Before(total.first) {
		total.first = s.Started
	}
	if s.Last.After(total.last) {
		total.last = s.Last
	}
	return total.tally
}

// addJob adds a job that goes on.
func (t *nodeTotals) addJob(j *sched.Job, s *wire.JobStats) {
	tallies := j.Tallies()
	for i := range s.Nodes {
		t.add(s, &s.Nodes[i]).Merge(tallies[s.Nodes[i].Node])
	}
}

// addSummary adds an ended job from its record.
func (t *nodeTotals) addSummary(s *wire.JobStats) error {
	for i := range s.Nodes {
		n := &s.Nodes[i]
		if n.Raw == nil {
			continue
		}
		if err := t.add(s, n).MergeRaw(n.Raw); err != nil {
			return err
		}
	}
	return nil
}

func (t *nodeTotals) list() []wire.NodeStats {
	var list []wire.NodeStats
	for name, total := range t.nodes {
		n := wire.NodeStats{Node: name, Stats: total.tally.Stats(), Tasks: total.tasks}
		n.Rate, n.BatchRate = total.rate, total.batchRate
		if d := total.last.Sub(total.first).Seconds(); d > 0 {
			n.ImagesPerSecond = float64(n.Images) / d
		}
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b wire.NodeStats) int { return strings.Compare(a.Node, b.Node) })
	return list
}
