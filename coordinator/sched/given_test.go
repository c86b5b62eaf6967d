package sched

import (
	"slices"
	"testing"
	"time"

	"idunno/broker/wire"
)

// what sums up orphans: their tasks, those that go on at once, and those that count as
// crashes.
func what(orphans []Orphan) (tasks, urgent, crashed []int) {
	for _, o := range orphans {
		tasks = append(tasks, o.Task)
		if o.Urgent {
			urgent = append(urgent, o.Task)
		}
		if o.Crashed {
			crashed = append(crashed, o.Task)
		}
	}
	return tasks, urgent, crashed
}

// give is a node's being given tasks, one after the other.
func give(t *testing.T, m *Members, node string, now time.Time, tasks ...int) {
	t.Helper()
	for _, n := range tasks {
		if orphans := m.Given(node, 1, n, "r", now); orphans != nil {
			t.Fatalf("%s is alive, and yet %v", node, orphans)
		}
	}
}

func TestWhatADeadNodeHeldIsKnownWithoutItsHeartbeats(t *testing.T) {
	start := time.Unix(1000, 0)
	started := func(h *wire.Heartbeat, tasks ...int) *wire.Heartbeat {
		for i := range h.InFlight {
			h.InFlight[i].Started = slices.Contains(tasks, h.InFlight[i].Task)
		}
		return h
	}
	for _, c := range []struct {
		name string
		// Two slots. It says at the end what it holds, unless said is nil.
		do                     func(m *Members)
		said                   *wire.Heartbeat
		tasks, urgent, crashed []int
	}{
		{"given after the heartbeat, the first ones may be why it died", func(m *Members) { give(t, m, "a", start, 7, 5, 6, 8, 9, 1) }, nil,
			[]int{7, 5, 6, 8, 9, 1}, []int{7, 5, 6, 8}, []int{7, 5}},
		{"have results", func(m *Members) {
			give(t, m, "a", start, 7, 5, 6)
			m.Stored(1, 7, start)
			m.Stored(1, 6, start)
			m.Stored(1, 6, start)
			m.Stored(2, 5, start) // another job's
		}, nil, []int{5, 7, 6}, []int{5}, []int{5}}, // nobody knows whether it acknowledged them
		{"named, one computed", func(m *Members) { give(t, m, "a", start, 3, 4, 5, 6, 7) }, started(beat("a", 1, 5, 6, 4, 3), 5),
			[]int{3, 4, 5, 6, 7}, []int{3, 4, 5, 6}, []int{5}},
		{"two computed", func(m *Members) { give(t, m, "a", start, 3, 4, 5, 6, 7) }, started(beat("a", 1, 5, 4, 3, 6), 6, 5),
			[]int{3, 4, 5, 6, 7}, []int{3, 4, 5, 6}, []int{5, 6}},
		{"computed and done since", func(m *Members) {
			give(t, m, "a", start, 3, 4, 5, 6, 7)
			m.Observe(started(beat("a", 1, 5, 4, 3), 3, 4), start)
			m.Stored(1, 3, start)
		}, nil, []int{4, 5, 6, 7, 3}, []int{4, 5, 6, 7}, []int{4}},
		{"done, and named by a heartbeat that was on its way", func(m *Members) {
			give(t, m, "a", start, 3, 4)
			m.Stored(1, 3, start)
		}, started(beat("a", 1, 3, 4), 3), []int{4, 3}, []int{4}, nil},
		{"done long ago", func(m *Members) {
			give(t, m, "a", start, 3)
			m.Stored(1, 3, start)
			m.Observe(beat("a", 1), start)
			m.Observe(beat("a", 1), start)
		}, nil, nil, nil, nil},
		{"not named although there was time", func(m *Members) { give(t, m, "a", start.Add(-tellAfter-1), 3) }, beat("a", 1), nil, nil, nil},
		{"not named, and there was little time", func(m *Members) { give(t, m, "a", start.Add(-tellAfter), 3) }, beat("a", 1), []int{3}, []int{3}, []int{3}},
		{"by now another one's", func(m *Members) {
			give(t, m, "a", start, 3, 4)
			give(t, m, "b", start, 3)
		}, beat("a", 1, 3, 4), []int{4}, []int{4}, nil},
		{"another one's by then", func(m *Members) {
			give(t, m, "b", start, 3)
			give(t, m, "a", start, 3)
		}, nil, []int{3}, []int{3}, []int{3}},
		{"a result that came first", func(m *Members) {
			m.Stored(1, 3, start)
			give(t, m, "a", start, 3, 4)
		}, nil, []int{4}, []int{4}, []int{4}},
		{"nobody listened since", func(m *Members) {
			give(t, m, "a", start, 3)
			m.Grace(start.Add(2 * tellAfter))
		}, nil, []int{3}, []int{3}, []int{3}},
		{"given up when it left, and here again", func(m *Members) {
			give(t, m, "a", start, 3, 4)
			m.Stored(1, 4, start)
			leaving := beat("a", 1)
			leaving.Leaving = true
			m.Observe(leaving, start)
			if orphans := m.Observe(beat("a", 2), start); orphans != nil {
				t.Errorf("given up by itself, and yet %v", orphans)
			}
		}, nil, nil, nil, nil},
		{"taken by one who had it from a node that left", func(m *Members) {
			give(t, m, "b", start, 3)
			leaving := beat("b", 1)
			leaving.Leaving = true
			m.Observe(leaving, start)
		}, beat("a", 1, 3), []int{3}, []int{3}, nil},
		{"forgotten", func(m *Members) {
			give(t, m, "a", start, 3)
			m.Tick(start.Add(deadAfter / 2)) // too early
			m.Observe(beat("a", 1), start.Add(rememberGiven))
			m.Observe(beat("b", 1), start.Add(rememberGiven))
			m.Tick(start.Add(rememberGiven + time.Millisecond))
			m.Stored(1, 4, start.Add(rememberGiven))
			m.Tick(start.Add(rememberGiven + 2*time.Second))
			if len(m.given) > 0 || len(m.early) > 0 {
				t.Error("never forgotten")
			}
		}, nil, nil, nil, nil},
	} {
		m := NewMembers()
		m.Observe(beat("a", 1), start.Add(-tellAfter))
		m.Observe(beat("b", 1), start)
		c.do(m)
		if c.said != nil {
			if _, _, err := m.Receive(c.said.Marshal(), start); err != nil {
				t.Fatal(err)
			}
		}
		orphans := m.Gone("a", start)
		for _, o := range orphans {
			if o.Done && (o.Urgent || o.Reply != "r") {
				t.Errorf("%s: %+v", c.name, o)
			}
		}
		tasks, urgent, crashed := what(orphans)
		if !slices.Equal(tasks, c.tasks) || !slices.Equal(urgent, c.urgent) || !slices.Equal(crashed, c.crashed) {
			t.Errorf("%s: %v, urgent %v, crashed %v; want %v, %v, %v", c.name, tasks, urgent, crashed, c.tasks, c.urgent, c.crashed)
		}
		if orphans := m.Gone("a", start); orphans != nil {
			t.Errorf("%s: released twice", c.name)
		}
	}
}

// What a queue still gave to a node that had died is released at once, and once.
func TestTasksOnTheirWayToADeadNode(t *testing.T) {
	m, now := NewMembers(), time.Unix(1000, 0)
	if orphans := m.Given("a", 1, 3, "r3", now); orphans != nil {
		t.Fatalf("of a node that nobody knows: %v", orphans)
	}
	m.Observe(over(beat("a", 1), "S/7"), now)
	m.Given("a", 1, 3, "r3", now)
	if _, orphans := m.Closed("S/7", now); len(orphans) != 1 {
		t.Fatalf("orphans %v", orphans)
	}
	want := Orphan{InFlight: wire.InFlight{Job: 1, Task: 4, Reply: "r4"}, Node: "a", Incarnation: 1}
	if orphans := m.Given("a", 1, 4, "r4", now); !slices.Equal(orphans, []Orphan{want}) {
		t.Fatalf("orphans %v", orphans)
	}
	for _, reply := range []string{"r3", "r4"} {
		if orphans := m.Given("a", 1, 4, reply, now); orphans != nil {
			t.Fatalf("released twice: %v", orphans)
		}
	}
	late := over(beat("a", 1, 4), "S/7")
	late.InFlight[0].Reply = "r4"
	if orphans := m.Observe(late, now); orphans != nil {
		t.Fatalf("released twice: %v", orphans)
	}
	// It comes back, and leaves in order: what comes too late it hands back itself.
	m.Observe(over(beat("a", 2), "S/8"), now)
	leaving := over(beat("a", 2), "S/8")
	leaving.Leaving = true
	m.Observe(leaving, now)
	if orphans := m.Given("a", 1, 5, "r5", now); orphans != nil {
		t.Fatalf("of a node that left: %v", orphans)
	}
}

func TestTurnover(t *testing.T) {
	m, now := NewMembers(), time.Unix(1000, 0)
	watch(m, now)
	m.Observe(beat("a", 1), now)
	m.Observe(beat("a", 2), now)
	if come, gone := m.Turnover(); !slices.Equal(come, []string{"a"}) || gone != nil {
		t.Fatalf("came %v, gone %v", come, gone)
	}
	m.Gone("a", now)
	m.Tick(now.Add(forgetAfter + 1))
	if come, gone := m.Turnover(); come != nil || !slices.Equal(gone, []string{"a"}) {
		t.Fatalf("came %v, gone %v", come, gone)
	}
	if come, gone := m.Turnover(); come != nil || gone != nil {
		t.Fatalf("told twice: %v, %v", come, gone)
	}
}
