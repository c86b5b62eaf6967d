package sched

import (
	"slices"
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
	at := func(d time.Duration) ([]string, []wire.InFlight) { return m.Tick(now.Add(d)) }
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
