package sched

import (
	"math/rand/v2"
	"reflect"
	"strconv"
	"testing"
	"time"

	"idunno/broker/wire"
)

// A list that leaves heartbeats unread tells the same as one that reads each at once,
// whatever happens to the nodes.
func TestUnreadHeartbeatsTellTheSame(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	lazy, eager := NewMembers(), NewMembers()
	now, incarnations, unread := time.Unix(1000, 0), [4]int64{1, 1, 1, 1}, 0
	for step := range 5000 {
		now = now.Add(time.Duration(rng.IntN(60)) * time.Millisecond)
		i := rng.IntN(4)
		name, conn := "n"+strconv.Itoa(i), "s/"+strconv.Itoa(i)+"/"+strconv.FormatInt(incarnations[i], 10)
		var a, b any
		switch kind := rng.IntN(60); kind {
		case 0:
			incarnations[i]++
			continue
		case 1:
			na, oa := lazy.Closed(conn, now)
			nb, ob := eager.Closed(conn, now)
			a, b = []any{na, oa}, []any{nb, ob}
		case 2:
			a, b = lazy.Gone(name, now), eager.Gone(name, now)
		case 3:
			a, b = lazy.Rescuer(Orphan{Node: name}), eager.Rescuer(Orphan{Node: name})
		case 4:
			// Other fields are in no order that could be told.
			_, oa := lazy.Tick(now)
			_, ob := eager.Tick(now)
			a, b = len(oa), len(ob)
		default:
			h := &wire.Heartbeat{Schema: wire.Schema, Node: name, Role: wire.RoleWorker, Incarnation: incarnations[i], Conn: conn, Version: "v", Slots: 2,
				Batches: int64(rng.IntN(3) * step), Draining: kind == 5, Leaving: kind == 6}
			for n := range rng.IntN(3) {
				h.InFlight = append(h.InFlight, wire.InFlight{Job: 1, Task: step + n + 1, Reply: "reply " + strconv.Itoa(step), Started: n == 0})
			}
			p := h.Marshal()
			oa, left, err := lazy.Receive(p, now)
			if err != nil || left && !h.Leaving {
				t.Fatal(left, err)
			}
			if lazy.nodes[name].unread != nil {
				unread++
			}
			a, b = oa, eager.Observe(h, now)
		}
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("step %d: %+v, want %+v", step, a, b)
		}
		if step%50 == 0 && !reflect.DeepEqual(lazy.List(), eager.List()) {
			t.Fatalf("step %d:\n got %+v\nwant %+v", step, lazy.List(), eager.List())
		}
	}
	if unread < 1000 {
		t.Errorf("only %d heartbeats were left unread", unread)
	}
	if len(lazy.heads) > len(lazy.nodes) {
		t.Errorf("%d heads of %d nodes", len(lazy.heads), len(lazy.nodes))
	}
}

func TestNonsenseInUnreadHeartbeats(t *testing.T) {
	m := NewMembers()
	h := &wire.Heartbeat{Schema: wire.Schema, Node: "a", Role: wire.RoleWorker, Incarnation: 1, InFlight: []wire.InFlight{{Job: 1, Task: 2, Reply: "r"}}}
	good := h.Marshal()
	if _, _, err := m.Receive(good, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	bad := append([]byte(nil), good[:len(good)-3]...)
	if _, _, err := m.Receive(bad, time.Unix(2, 0)); err != nil {
		t.Fatal(err)
	}
	if list := m.List(); len(list) != 1 || len(list[0].InFlight) != 1 || !list[0].Seen.Equal(time.Unix(2, 0)) {
		t.Errorf("list %+v", list)
	}
	if _, _, err := m.Receive([]byte("garbage"), time.Unix(3, 0)); err == nil {
		t.Error("garbage is a heartbeat")
	}
}
