package sched

import (
	"time"

	"idunno/broker/wire"
)

// When a silent node is asked, doubted and given up.
const (
	// askAfter is the silence after which a node is asked whether it lives: longer
	// than the 200 ms that a live node's heartbeats are apart at most. No
	// responder on its own subject means that its connection is closed: gone.
	askAfter = 300 * time.Millisecond
	// suspectAfter is the silence after which a node that doesn't answer is suspect.
	suspectAfter = 700 * time.Millisecond
	// deadAfter is the silence after which a node is dead, closed connection or not.
	deadAfter = 1500 * time.Millisecond
	// forgetAfter is how long a dead node stays on the list.
	forgetAfter = 10 * time.Minute
	// maxNodes and maxSlots bound what made-up heartbeats can do.
	maxNodes = 20_000
	maxSlots = 1 << 20
)

// Members is the membership list as one coordinator sees it.
type Members struct {
	nodes map[string]*member
}

type member struct {
	wire.Node
	asked time.Time
}

// NewMembers returns an empty list.
func NewMembers() *Members { return &Members{nodes: make(map[string]*member)} }

// Observe takes a heartbeat into account. It returns the in-flight tasks of an
// earlier incarnation of the node, or of a node that left: they need a new home.
func (m *Members) Observe(h *wire.Heartbeat, now time.Time) (orphans []wire.InFlight) {
	n := m.nodes[h.Node]
	if n == nil {
		if len(m.nodes) >= maxNodes {
			return nil
		}
		n = &member{Node: wire.Node{Since: now}}
		m.nodes[h.Node] = n
	}
	gone := n.State == wire.NodeDead || n.State == wire.NodeLeft
	if h.Incarnation < n.Incarnation && !gone {
		return nil
	}
	if h.Incarnation > n.Incarnation {
		orphans = n.InFlight
	}
	n.Heartbeat, n.Seen, n.asked = *h, now, time.Time{}
	state := wire.NodeAlive
	switch {
	case h.Leaving:
		state = wire.NodeLeft
		orphans = append(orphans, h.InFlight...)
		n.InFlight = nil
	case h.Draining:
		state = wire.NodeDraining
	}
	n.enter(state, now)
	return orphans
}

// Tick advances time: it returns the nodes to ask now, and the tasks of nodes
// that have just been given up.
func (m *Members) Tick(now time.Time) (ask []string, orphans []wire.InFlight) {
	for name, n := range m.nodes {
		silence := now.Sub(n.Seen)
		if n.State == wire.NodeDead || n.State == wire.NodeLeft {
			if now.Sub(n.Since) > forgetAfter {
				delete(m.nodes, name)
			}
			continue
		}
		if silence > deadAfter {
			orphans = append(orphans, m.Gone(name, now)...)
			continue
		}
		if silence > suspectAfter {
			n.enter(wire.NodeSuspect, now)
		}
		if silence > askAfter && now.Sub(n.asked) > askAfter {
			n.asked = now
			ask = append(ask, name)
		}
	}
	return ask, orphans
}

// Grace restarts every node's silence: we were the ones who did not listen.
func (m *Members) Grace(now time.Time) {
	for _, n := range m.nodes {
		n.Seen = now
	}
}

// Gone declares a node dead and returns the tasks it held.
func (m *Members) Gone(name string, now time.Time) []wire.InFlight {
	n := m.nodes[name]
	if n == nil || n.State == wire.NodeDead || n.State == wire.NodeLeft {
		return nil
	}
	orphans := n.InFlight
	n.InFlight = nil
	n.enter(wire.NodeDead, now)
	return orphans
}

// Slots is the number of compute slots of all workers that take tasks.
func (m *Members) Slots() int {
	slots := 0
	for _, n := range m.nodes {
		if n.Role == wire.RoleWorker && (n.State == wire.NodeAlive || n.State == wire.NodeSuspect) {
			slots += n.Heartbeat.Slots
		}
	}
	return min(slots, maxSlots)
}

// List returns the nodes by name.
func (m *Members) List() []wire.Node {
	list := make([]wire.Node, 0, len(m.nodes))
	for _, name := range sortedKeys(m.nodes) {
		list = append(list, m.nodes[name].Node)
	}
	return list
}

func (n *member) enter(s wire.NodeState, now time.Time) {
	if n.State != s {
		n.State, n.Since = s, now
	}
}
