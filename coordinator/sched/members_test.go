package sched

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"idunno/broker/wire"
)

func beat(node string, incarnation int64, tasks ...int) *wire.Heartbeat {
	h := &wire.Heartbeat{Schema: wire.Schema, Node: node, Role: wire.RoleWorker, Incarnation: incarnation, Slots: 2}
	for _, n := range tasks {
		h.InFlight = append(h.InFlight, wire.InFlight{Job: 1, Task: n, Reply: "r"})
	}
	return h
}

// over is a heartbeat that comes over a connection.
func over(h *wire.Heartbeat, conn string) *wire.Heartbeat {
	h.Conn = conn
	return h
}

// watch adds a broker that tells of closed connections, as one that never ends.
func watch(m *Members, now time.Time) {
	m.Observe(&wire.Heartbeat{Schema: wire.Schema, Node: "broker", Role: wire.RoleBroker, Incarnation: 1}, now.Add(24*time.Hour))
}

func state(m *Members, node string) wire.NodeState {
	for _, n := range m.List() {
		if n.Node == node {
			return n.State
		}
	}
	return ""
}

func TestSilentNodeIsAskedDoubtedAndGivenUp(t *testing.T) {
	m, now := NewMembers(), time.Unix(1000, 0)
	m.Observe(beat("a", 1, 4, 5), now)
	watch(m, now)
	at := func(d time.Duration) ([]string, []Orphan) { return m.Tick(now.Add(d)) }
	if ask, orphans := at(askAfter); ask != nil || orphans != nil {
		t.Fatalf("asked too early: %v %v", ask, orphans)
	}
	if ask, _ := at(askAfter + 1); !slices.Equal(ask, []string{"a"}) {
		t.Fatalf("asked %v", ask)
	}
	if ask, _ := at(askAfter + 2); ask != nil {
		t.Fatal("asked twice in a row")
	}
	if at(suspectAfter + 1); state(m, "a") != wire.NodeSuspect || m.Slots() != 2 {
		t.Fatalf("state %s", state(m, "a"))
	}
	if _, orphans := at(deadAfter + 1); len(orphans) != 2 || state(m, "a") != wire.NodeDead || m.Slots() != 0 {
		t.Fatalf("orphans %v, state %s", orphans, state(m, "a"))
	}
	if _, orphans := at(deadAfter + 2); orphans != nil {
		t.Fatal("released twice")
	}
	if at(deadAfter + forgetAfter + time.Second); state(m, "a") != "" {
		t.Fatal("never forgotten")
	}
}

func TestRestartedNodeReleasesItsFormerTasks(t *testing.T) {
	m, now := NewMembers(), time.Unix(1000, 0)
	m.Observe(beat("a", 1, 7), now)
	if orphans := m.Observe(beat("a", 2), now.Add(time.Millisecond)); len(orphans) != 1 || orphans[0].Task != 7 {
		t.Fatalf("orphans %v", orphans)
	}
	if orphans := m.Observe(beat("a", 1, 7), now.Add(2*time.Millisecond)); orphans != nil || len(m.List()[0].InFlight) != 0 {
		t.Fatal("a late heartbeat of the dead incarnation was believed")
	}
}

func TestDeadNodeRejoins(t *testing.T) {
	m, now := NewMembers(), time.Unix(1000, 0)
	m.Observe(beat("a", 1, 7), now)
	if orphans := m.Gone("a", now); len(orphans) != 1 {
		t.Fatalf("orphans %v", orphans)
	}
	m.Observe(beat("a", 1), now.Add(time.Second))
	if state(m, "a") != wire.NodeAlive || m.Slots() != 2 {
		t.Fatalf("state %s", state(m, "a"))
	}
}

func TestLeavingAndDraining(t *testing.T) {
	m, now := NewMembers(), time.Unix(1000, 0)
	h := beat("a", 1, 3)
	h.Draining = true
	if m.Observe(h, now); state(m, "a") != wire.NodeDraining || m.Slots() != 0 {
		t.Fatalf("state %s, %d slots", state(m, "a"), m.Slots())
	}
	h.Leaving = true
	if orphans := m.Observe(h, now); len(orphans) != 1 || state(m, "a") != wire.NodeLeft {
		t.Fatalf("orphans %v, state %s", orphans, state(m, "a"))
	}
	if _, orphans := m.Tick(now.Add(time.Minute)); orphans != nil || state(m, "a") != wire.NodeLeft {
		t.Fatal("a node that left is given up once more")
	}
}

func TestClosedConnectionMeansDead(t *testing.T) {
	m, now := NewMembers(), time.Unix(1000, 0)
	h := over(beat("a", 1, 3, 4), "S/7")
	h.InFlight[0].Started = true
	m.Observe(h, now)
	if name, _ := m.Closed("S/8", now); name != "" {
		t.Fatalf("%s died of another's connection", name)
	}
	name, orphans := m.Closed("S/7", now)
	want := []Orphan{{InFlight: h.InFlight[0], Node: "a", Incarnation: 1, Crashed: true, Urgent: true},
		{InFlight: h.InFlight[1], Node: "a", Incarnation: 1, Urgent: true}} // it has two slots
	if name != "a" || !slices.Equal(orphans, want) || state(m, "a") != wire.NodeDead {
		t.Fatalf("%s, orphans %v, state %s", name, orphans, state(m, "a"))
	}
	if m.Observe(over(beat("a", 1), "S/7"), now); state(m, "a") != wire.NodeDead {
		t.Fatal("a heartbeat that was under way when its connection closed brought the node back")
	}
	if !m.Dead("a", 1) || m.Dead("a", 2) || m.Dead("b", 1) {
		t.Fatal("who is dead?")
	}
	if m.Observe(over(beat("a", 1), "S/9"), now); state(m, "a") != wire.NodeAlive || m.Dead("a", 1) {
		t.Fatal("not back with a new connection")
	}
	if name, _ := m.Closed("S/7", now); name != "" {
		t.Fatal("died of a connection that it no longer has")
	}
	if m.Observe(over(beat("a", 2), "S/10"), now); !m.Dead("a", 1) || m.Dead("a", 2) {
		t.Fatal("the incarnation before lives")
	}
}

// A heartbeat that the news of its closed connection has overtaken tells what the
// node held, or that it left.
func TestOvertakenHeartbeats(t *testing.T) {
	m, now := NewMembers(), time.Unix(1000, 0)
	m.Observe(over(beat("a", 1, 3), "S/7"), now)
	m.Closed("S/7", now)
	h := over(beat("a", 1, 3, 4), "S/7")
	h.InFlight[0].Reply, h.InFlight[1].Reply = "r", "another"
	orphans := m.Observe(h, now)
	if len(orphans) != 1 || orphans[0].Task != 4 || state(m, "a") != wire.NodeDead {
		t.Fatalf("orphans %v, state %s", orphans, state(m, "a"))
	}
	if orphans := m.Observe(h, now); orphans != nil {
		t.Fatalf("released twice: %v", orphans)
	}
	h = over(beat("a", 1), "S/7")
	h.Leaving = true
	if orphans := m.Observe(h, now); orphans != nil || state(m, "a") != wire.NodeLeft {
		t.Fatalf("orphans %v, state %s", orphans, state(m, "a"))
	}
}

// A node that is only silent may live: its lease is not taken from it.
func TestSilenceIsNotDeath(t *testing.T) {
	m, now := NewMembers(), time.Unix(1000, 0)
	watch(m, now)
	m.Observe(beat("a", 1), now)
	m.Observe(beat("b", 1), now)
	m.Gone("b", now)
	if m.Tick(now.Add(deadAfter + 1)); state(m, "a") != wire.NodeDead || m.Dead("a", 1) || !m.Dead("b", 1) {
		t.Fatalf("state %s, dead %v and %v", state(m, "a"), m.Dead("a", 1), m.Dead("b", 1))
	}
	// Nobody listened for a while: b may have come back.
	if m.Grace(now.Add(2 * deadAfter)); m.Dead("b", 1) || !m.Dead("b", 0) {
		t.Fatalf("after a break: dead %v, an earlier one %v", m.Dead("b", 1), m.Dead("b", 0))
	}
	if list := m.List(); !list[1].Seen.Equal(now) {
		t.Fatalf("b was last heard of at %v, want %v", list[1].Seen, now)
	}
}

// Where no broker tells of closed connections every node is asked all the time.
func TestNodesAreProbedWithoutABroker(t *testing.T) {
	m, now := NewMembers(), time.Unix(1000, 0)
	asked := 0
	for d := time.Duration(0); d < time.Second; d += 10 * time.Millisecond {
		ask, _ := m.Tick(now.Add(d))
		asked += len(ask)
		m.Observe(beat("a", 1), now.Add(d)) // the answer, or a heartbeat
	}
	if asked < 15 || asked > 25 {
		t.Fatalf("asked %d times in a second", asked)
	}
	for n := range 1000 {
		m.Observe(beat("n"+strconv.Itoa(n), 1), now.Add(time.Second))
	}
	asked = 0
	for d := time.Second + 1; d < 2*time.Second; d += 10 * time.Millisecond {
		ask, _ := m.Tick(now.Add(d))
		asked += len(ask)
		for _, name := range ask {
			m.Observe(beat(name, 1), now.Add(d))
		}
	}
	if asked > 2*probesPerSecond {
		t.Fatalf("%d questions a second", asked)
	}
}

func TestRescuersTakeTurns(t *testing.T) {
	m, now := NewMembers(), time.Unix(1000, 0)
	for _, name := range []string{"a", "b", "c"} {
		m.Observe(over(beat(name, 1, 1), "S/"+name), now)
	}
	draining := beat("d", 1)
	draining.Draining = true
	m.Observe(draining, now)
	_, orphans := m.Closed("S/a", now)
	first, second := m.Rescuer(orphans[0]), m.Rescuer(orphans[0])
	if first != "b" || second != "c" || m.Rescuer(orphans[0]) != "b" {
		t.Fatalf("first %q, then %q", first, second)
	}
	m.Gone("b", now)
	m.Gone("c", now)
	if got := m.Rescuer(orphans[0]); got != "" {
		t.Fatalf("rescued by %q, which takes no tasks", got)
	}
}

func TestHelpersAndWhatTheyHelpWith(t *testing.T) {
	m, now := NewMembers(), time.Unix(1000, 0)
	m.Observe(beat("a", 1, 4, 5), now)
	copied := beat("b", 1, 6)
	copied.InFlight[0].Copy = true
	m.Observe(copied, now.Add(time.Second))
	m.Observe(beat("a", 1, 5, 7), now.Add(2*time.Second))
	since := make(map[int]time.Duration)
	for _, h := range m.Holding(1, 10) {
		if since[h.Task] = h.Since.Sub(now); h.Node != "a" {
			t.Errorf("%+v is no copy", h)
		}
	}
	if len(since) != 2 || since[5] != 0 || since[7] != 2*time.Second || len(m.Holding(2, 10)) != 0 || len(m.Holding(1, 1)) != 1 {
		t.Errorf("held since %v", since)
	}
	if !m.AnyIdle() || m.Idle("b", nil) != "" || m.Idle("a", func(string) bool { return false }) != "" || m.Idle("a", nil) != "b" {
		t.Error("b has one slot that has nothing to do")
	}
	if m.AnyIdle() || m.Idle("a", nil) != "" {
		t.Error("b was given something")
	}
	// The copy is its owner's to look after, not that of whoever leads.
	if orphans := m.Gone("b", now.Add(3*time.Second)); len(orphans) != 0 {
		t.Errorf("orphans %v", orphans)
	}
	if orphans := m.Gone("a", now.Add(3*time.Second)); len(orphans) != 2 || len(m.Workers()) != 0 {
		t.Errorf("orphans %v", orphans)
	}
}
