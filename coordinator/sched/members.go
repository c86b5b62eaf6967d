package sched

import (
	"cmp"
	"time"

	"idunno/broker/wire"
)

// When a silent node is asked, doubted and given up.
const (
	// askAfter is the silence after which a node is asked whether it lives: longer
	// than the 200 ms that a live node's heartbeats are apart at most. No
	// responder on its own subject means that its connection is closed: gone.
	askAfter = 300 * time.Millisecond
	// probeEvery is how often every node is asked where no broker tells of closed
	// connections, and probesPerSecond how many are asked at most.
	probeEvery      = 40 * time.Millisecond
	probesPerSecond = 1000
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
	// conns finds nodes by their connection.
	conns map[string]string
	// heads finds them by what their heartbeats begin with.
	heads map[string]*member
	// given are the tasks that queues gave out a moment ago, numbered as they were given;
	// counted is the last number. early are results that came before that was known, swept
	// is when old ones of both were last dropped.
	given   map[taskID]given
	early   map[taskID]time.Time
	counted uint64
	swept   time.Time
	// come and gone are the workers that were heard of for the first time, and those that
	// were forgotten, since somebody asked.
	come, gone []string
}

type member struct {
	wire.Node
	asked time.Time
	// closed is the connection that the node had when it was given up: what still
	// arrives from there is from before.
	closed string
	// released are the tasks, by reply subject, that it was found to have held then.
	released map[string]bool
	// unsure says that a node that was given up may live: it was silent and no more, or
	// nobody has listened without a break since.
	unsure bool
	// head is what the node's heartbeats begin with, unread the last one when it has
	// not been read.
	head   string
	unread []byte
	// offered counts the tasks offered to the node since its last heartbeat.
	offered int
	// told is when the node told last what it holds: Seen is later where nobody listened.
	told time.Time
	// done are the tasks whose results have come since the node's last heartbeat, and
	// doneBefore those that had come since the one before: it may still name them.
	done, doneBefore []wire.InFlight
}

// Orphan is a task that a node held and can no longer look after.
type Orphan struct {
	wire.InFlight
	// Node held it, in the given incarnation.
	Node        string
	Incarnation int64
	// Crashed says that the node died while it computed the task.
	Crashed bool
	// Urgent says that it did so, or was about to.
	Urgent bool
	// Done says that the task has a result; perhaps the node had not come to
	// acknowledge it.
	Done bool
}

// NewMembers returns an empty list.
func NewMembers() *Members {
	return &Members{nodes: make(map[string]*member), conns: make(map[string]string), heads: make(map[string]*member), given: make(map[taskID]given), early: make(map[taskID]time.Time)}
}

// Observe takes a heartbeat into account. It returns the in-flight tasks of an
// earlier incarnation of the node, or of a node that left: they need a new home.
func (m *Members) Observe(h *wire.Heartbeat, now time.Time) (orphans []Orphan) {
	n := m.nodes[h.Node]
	if n == nil {
		if len(m.nodes) >= maxNodes {
			return nil
		}
		n = &member{Node: wire.Node{Since: now}}
		m.nodes[h.Node] = n
		if h.Role == wire.RoleWorker {
			m.come = append(m.come, h.Node)
		}
	}
	n.read()
	gone := n.State == wire.NodeDead || n.State == wire.NodeLeft
	if h.Incarnation < n.Incarnation && !gone {
		return nil
	}
	if h.Conn != "" && h.Conn == n.closed {
		return m.late(n, h, now)
	}
	if h.Incarnation > n.Incarnation && !gone {
		orphans = m.lost(n)
	}
	m.reconnected(n, h.Node, h.Conn)
	since(n.InFlight, h.InFlight, now)
	n.Heartbeat, n.Seen = *h, now
	n.heard(now)
	n.closed, n.released, n.unsure = "", nil, false
	state := wire.NodeAlive
	switch {
	case h.Leaving:
		state = wire.NodeLeft
		orphans = append(orphans, n.orphans(h.InFlight, false)...)
		m.leaves(n)
	case h.Draining:
		state = wire.NodeDraining
	}
	n.enter(state, now)
	return orphans
}

// late takes in a heartbeat that was overtaken by the news that its connection has
// closed. It tells what the node did last: what it held, or that it left.
func (m *Members) late(n *member, h *wire.Heartbeat, now time.Time) (orphans []Orphan) {
	if n.State != wire.NodeDead || h.Incarnation != n.Incarnation {
		return nil
	}
	if h.Leaving {
		n.enter(wire.NodeLeft, now)
	}
	for _, o := range n.orphans(h.InFlight, !h.Leaving) {
		if !n.released[o.Reply] {
			n.released[o.Reply] = true
			orphans = append(orphans, o)
		}
	}
	return orphans
}

// reconnected notes that a node's heartbeats come over another connection.
func (m *Members) reconnected(n *member, name, conn string) {
	if n.Conn == conn {
		return
	}
	delete(m.conns, n.Conn)
	if conn != "" {
		m.conns[conn] = name
	}
}

// orphans are tasks that n held. Died says that it didn't give them up itself.
func (n *member) orphans(held []wire.InFlight, died bool) []Orphan {
	var list []Orphan
	for _, t := range held {
		if t.Copy {
			continue // somebody else has it
		}
		list = append(list, Orphan{InFlight: t, Node: n.Node.Node, Incarnation: n.Incarnation, Crashed: died && t.Started, Urgent: died && t.Started})
	}
	return list
}

// watched reports whether a broker tells of connections that close.
func (m *Members) watched() bool {
	for _, n := range m.nodes {
		if n.Role == wire.RoleBroker && n.State == wire.NodeAlive {
			return true
		}
	}
	return false
}

// Tick advances time: it returns the nodes to ask now, and the tasks of nodes
// that have just been given up.
func (m *Members) Tick(now time.Time) (ask []string, orphans []Orphan) {
	after, again := askAfter, askAfter
	if !m.watched() {
		after = 0
		again = max(probeEvery, time.Duration(len(m.nodes))*time.Second/probesPerSecond)
	}
	m.sweep(now)
	for name, n := range m.nodes {
		silence := now.Sub(n.Seen)
		if n.State == wire.NodeDead || n.State == wire.NodeLeft {
			if now.Sub(n.Since) > forgetAfter {
				delete(m.conns, n.Conn)
				m.forgetHead(n)
				delete(m.nodes, name)
				m.gone = append(m.gone, name)
			}
			continue
		}
		if silence > deadAfter {
			orphans = append(orphans, m.Gone(name, now)...)
			n.unsure = true
			continue
		}
		if silence > suspectAfter {
			n.enter(wire.NodeSuspect, now)
		}
		if silence > after && now.Sub(n.asked) > again {
			n.asked = now
			ask = append(ask, name)
		}
	}
	return ask, orphans
}

// Grace restarts every node's silence: we were the ones who did not listen. A dead
// node whose process lives may have come back meanwhile.
func (m *Members) Grace(now time.Time) {
	for _, n := range m.nodes {
		switch n.State {
		case wire.NodeDead:
			n.unsure = true
		case wire.NodeLeft:
		default:
			n.Seen = now
		}
	}
}

// Closed declares the node that had a connection dead, and returns its name, "" for
// none, and the tasks it held. A node that comes back has another connection.
func (m *Members) Closed(conn string, now time.Time) (name string, orphans []Orphan) {
	name, ok := m.conns[conn]
	if !ok {
		return "", nil
	}
	n := m.nodes[name]
	if n.State == wire.NodeDead || n.State == wire.NodeLeft {
		return "", nil
	}
	n.closed = conn
	return name, m.Gone(name, now)
}

// Gone declares a node dead and returns the tasks it held.
func (m *Members) Gone(name string, now time.Time) []Orphan {
	n := m.nodes[name]
	if n == nil || n.State == wire.NodeDead || n.State == wire.NodeLeft {
		return nil
	}
	n.read()
	orphans := m.lost(n)
	n.InFlight, n.released = nil, make(map[string]bool, len(orphans))
	for _, o := range orphans {
		n.released[o.Reply] = true
	}
	n.enter(wire.NodeDead, now)
	return orphans
}

// State is what is believed of a node, "" when nothing is known of it.
func (m *Members) State(name string) wire.NodeState {
	if n := m.nodes[name]; n != nil {
		return n.State
	}
	return ""
}

// Dead reports whether an incarnation of a node is known to be no more: silence
// alone doesn't tell, nor does a death that was heard of before a break.
func (m *Members) Dead(name string, incarnation int64) bool {
	n := m.nodes[name]
	return n != nil && (n.Incarnation > incarnation ||
		n.Incarnation == incarnation && (n.State == wire.NodeDead && !n.unsure || n.State == wire.NodeLeft))
}

// Rescuer chooses the worker that shall go on with an orphan: alive, one that has computed
// before, the one with the fewest tasks a slot; "" when there is none.
func (m *Members) Rescuer(o Orphan) string {
	var best *member
	// One that has not yet computed has neither the model nor the data at hand, and
	// its few tasks would make it look idle.
	cold := func(n *member) int {
		if n.Batches == 0 {
			return 1
		}
		return 0
	}
	load := func(n *member) float64 {
		return float64(len(n.InFlight)+n.offered) / float64(max(n.Heartbeat.Slots, 1))
	}
	for _, name := range sortedKeys(m.nodes) {
		n := m.nodes[name]
		if n.Role != wire.RoleWorker || n.State != wire.NodeAlive || name == o.Node {
			continue
		}
		n.read()
		// Those that have no task given yet come first: a rescue waits for another.
		if best == nil || cmp.Or(cmp.Compare(cold(n), cold(best)), cmp.Compare(n.offered, best.offered), cmp.Compare(load(n), load(best))) < 0 {
			best = n
		}
	}
	if best == nil {
		return ""
	}
	best.offered++
	return best.Node.Node
}

// since notes when each task was first heard of in the state it is in.
func since(before, after []wire.InFlight, now time.Time) {
	known := make(map[wire.InFlight]time.Time, len(before))
	for _, t := range before {
		at := t.Since
		t.Since = time.Time{}
		known[t] = at
	}
	for i := range after {
		t := after[i]
		t.Since = time.Time{}
		if at, ok := known[t]; ok {
			after[i].Since = at
		} else {
			after[i].Since = now
		}
	}
}

// Idle chooses a worker to help with a task of another one, node: alive, with a slot
// that has nothing to do, one of those allowed, nil for all; "" when there is none.
func (m *Members) Idle(node string, allowed func(string) bool) string {
	for _, name := range sortedKeys(m.nodes) {
		n := m.nodes[name]
		if n.Role != wire.RoleWorker || n.State != wire.NodeAlive || name == node {
			continue
		}
		if n.read(); len(n.InFlight)+n.offered < n.Heartbeat.Slots && (allowed == nil || allowed(name)) {
			n.offered++
			return name
		}
	}
	return ""
}

// AnyIdle reports whether a live worker has a slot with nothing to do.
func (m *Members) AnyIdle() bool {
	for _, n := range m.nodes {
		if n.Role != wire.RoleWorker || n.State != wire.NodeAlive {
			continue
		}
		if n.read(); len(n.InFlight)+n.offered < n.Heartbeat.Slots {
			return true
		}
	}
	return false
}

// Held is a task that a live worker has in hand.
type Held struct {
	wire.InFlight
	Node string
}

// Holding lists the tasks of a job that live workers have in hand, copies apart, at
// most limit.
func (m *Members) Holding(job uint64, limit int) []Held {
	var list []Held
	for name, n := range m.nodes {
		if n.Role != wire.RoleWorker || n.State == wire.NodeDead || n.State == wire.NodeLeft {
			continue
		}
		n.read()
		for _, t := range n.InFlight {
			if t.Job == job && !t.Copy && len(list) < limit {
				list = append(list, Held{t, name})
			}
		}
	}
	return list
}

// Workers lists the workers that take tasks, by name.
func (m *Members) Workers() []Worker {
	var list []Worker
	for _, name := range sortedKeys(m.nodes) {
		n := m.nodes[name]
		if n.Role == wire.RoleWorker && (n.State == wire.NodeAlive || n.State == wire.NodeSuspect) {
			list = append(list, Worker{Name: name, Slots: max(n.Heartbeat.Slots, 1)})
		}
	}
	return list
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
		m.nodes[name].read()
		list = append(list, m.nodes[name].Node)
	}
	return list
}

func (n *member) enter(s wire.NodeState, now time.Time) {
	if n.State != s {
		n.State, n.Since = s, now
	}
}
