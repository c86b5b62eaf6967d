package sched

import (
	"cmp"
	"slices"
	"time"

	"idunno/broker/wire"
)

// A heartbeat tells what its node holds some milliseconds later than the queue knows it,
// and what was on its way to a node that died no heartbeat ever tells. So coordinators
// hear of each task as it is given out, and of each result:
//
//	given out, no result yet ──┬── named by the node's last heartbeat ── held
//	                           └── given out after it, or just before ── held too
//
// Of what a dead node held, two tasks a slot go on at once, as many as it computed and
// had ready when they aren't very short: those that it said it computed, then the first
// ones it was given. What it computed may have changed since its last word.

const (
	// tellAfter is how long before a heartbeat a task was given to its node that the
	// heartbeat would name if the node still had it: it may first look up whether there
	// is a result.
	tellAfter = 2 * time.Second
	// rememberGiven is how long a task that was given out is kept in mind without its
	// result: by then heartbeats tell.
	rememberGiven = 5 * time.Second
	// urgentBySlot is how many tasks of a dead node go on at once for each of its slots.
	urgentBySlot = 2
	// maxGiven and maxDone bound what strange messages can do.
	maxGiven = 1 << 17
	maxDone  = 1 << 12
)

type taskID struct {
	job  uint64
	task int
}

// given is a task that a node was given.
type given struct {
	node, reply string
	at          time.Time
	number      uint64
}

// Given notes that a node was given a task, by its queue or as a rescue. When the node
// is known to be dead it returns the task: somebody else must have it.
func (m *Members) Given(node string, job uint64, task int, reply string, now time.Time) (orphans []Orphan) {
	n := m.nodes[node]
	if n == nil {
		return nil
	}
	switch n.State {
	case wire.NodeLeft:
		return nil // it hands back what comes too late
	case wire.NodeDead:
		if n.released[reply] || len(n.released) >= maxGiven {
			return nil
		}
		n.released[reply] = true
		return []Orphan{{InFlight: wire.InFlight{Job: job, Task: task, Reply: reply}, Node: node, Incarnation: n.Incarnation}}
	}
	id := taskID{job, task}
	if _, done := m.early[id]; done {
		return nil
	}
	if _, known := m.given[id]; !known && len(m.given) >= maxGiven {
		return nil
	}
	m.counted++
	m.given[id] = given{node, reply, now, m.counted}
	return nil
}

// Stored notes that a task has a result: nobody holds it any more.
func (m *Members) Stored(job uint64, task int, now time.Time) {
	id := taskID{job, task}
	g, ok := m.given[id]
	if !ok {
		if len(m.early) < maxDone {
			m.early[id] = now
		}
		return
	}
	delete(m.given, id)
	if n := m.nodes[g.node]; n != nil && len(n.done) < maxDone {
		n.done = append(n.done, wire.InFlight{Job: job, Task: task, Reply: g.reply})
	}
}

// Turnover lists the workers that have been heard of for the first time since the last
// call, and those that have been forgotten.
func (m *Members) Turnover() (come, gone []string) {
	come, gone = m.come, m.gone
	m.come, m.gone = nil, nil
	return come, gone
}

// heard notes that the node has told what it holds.
func (n *member) heard(now time.Time) {
	n.offered, n.told = 0, now
	n.doneBefore, n.done = n.done, n.doneBefore[:0]
}

// leaves takes from a node what it has given up itself.
func (m *Members) leaves(n *member) {
	n.InFlight, n.done, n.doneBefore = nil, nil, nil
	for id, g := range m.given {
		if g.node == n.Node.Node {
			delete(m.given, id)
		}
	}
}

// lost takes from a node what it held and returns it.
func (m *Members) lost(n *member) []Orphan {
	name := n.Node.Node
	slots := max(n.Heartbeat.Slots, 1) // those that no task is known to have been computed in
	urgent := urgentBySlot * slots
	number := make(map[taskID]uint64) // of what waits there, the earlier the lower
	var list []Orphan
	// What is done goes back to its queue, where that is found out, unless the node had
	// come to acknowledge it.
	done := n.orphans(slices.Concat(n.doneBefore, n.done), false)
	isDone := make(map[taskID]bool, len(done))
	for i := range done {
		done[i].Done = true
		isDone[taskID{done[i].Job, done[i].Task}] = true
	}
	named := make(map[taskID]bool, len(n.InFlight))
	for _, t := range n.InFlight {
		id := taskID{t.Job, t.Task}
		if named[id] = true; isDone[id] {
			continue
		}
		if g, ok := m.given[id]; ok && g.node != name && !t.Copy {
			continue // it is another one's by now
		} else if ok {
			number[id] = g.number
		}
		if t.Started {
			slots--
			urgent--
		}
		list = append(list, n.orphans([]wire.InFlight{t}, true)...)
	}
	for id, g := range m.given {
		if g.node != name {
			continue
		}
		delete(m.given, id)
		if named[id] || n.told.Sub(g.at) > tellAfter {
			continue
		}
		number[id] = g.number
		list = append(list, Orphan{InFlight: wire.InFlight{Job: id.job, Task: id.task, Reply: g.reply}, Node: name, Incarnation: n.Incarnation})
	}
	slices.SortStableFunc(list, func(x, y Orphan) int {
		return cmp.Compare(number[taskID{x.Job, x.Task}], number[taskID{y.Job, y.Task}])
	})
	for i := range list {
		if o := &list[i]; !o.Urgent && urgent > 0 {
			// What no heartbeat has named may have been begun in that moment, and be why the
			// node died; what one named as waiting most likely wasn't.
			o.Urgent, o.Crashed = true, slots > 0 && !named[taskID{o.Job, o.Task}]
			slots--
			urgent--
		}
	}
	n.done, n.doneBefore = nil, nil
	return append(list, done...)
}

// sweep forgets what heartbeats tell by now.
func (m *Members) sweep(now time.Time) {
	if now.Sub(m.swept) < time.Second {
		return
	}
	m.swept = now
	for id, g := range m.given {
		if now.Sub(g.at) > rememberGiven {
			delete(m.given, id)
		}
	}
	for id, at := range m.early {
		if now.Sub(at) > time.Second {
			delete(m.early, id)
		}
	}
}
