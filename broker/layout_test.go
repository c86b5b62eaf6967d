package broker

import (
	"slices"
	"testing"
	"time"
)

// placed is the layout in which the streams, in the order of streamNames, are led by
// the servers a, b or c.
func placed(leaders string) Layout {
	var l Layout
	for i, name := range streamNames() {
		p := Placed{Stream: name, Leader: leaders[i : i+1]}
		for _, s := range []string{"a", "b", "c"} {
			if s != p.Leader {
				p.Current = append(p.Current, s)
			}
		}
		l = append(l, p)
	}
	return l
}

func TestLeadersAreSpread(t *testing.T) {
	for _, start := range []string{"aaaaaaaaa", "abcabcabc", "cbacbacba", "abababccc", "bbbbcccca", "accccccca"} {
		l := placed(start)
		for range 3 {
			for _, m := range l.moves() {
				i := slices.IndexFunc(l, func(p Placed) bool { return p.Stream == m.stream })
				p := &l[i]
				if p.Leader != m.from || !slices.Contains(p.Current, m.to) {
					t.Fatalf("%s: impossible move %+v of %+v", start, m, *p)
				}
				p.Current = append(slices.DeleteFunc(p.Current, func(s string) bool { return s == m.to }), m.from)
				p.Leader = m.to
			}
		}
		if again := l.moves(); len(again) != 0 {
			t.Errorf("%s: it never ends: %+v", start, again)
		}
		leads := make(map[string]int)
		for _, p := range l {
			leads[p.Leader]++
		}
		if leads["a"] < 2 || leads["b"] < 2 || leads["c"] < 2 {
			t.Errorf("%s: %v", start, leads)
		}
		if hot := l.Busy(); l.leader(streamTasks) != hot || l.leader(streamLease) == hot {
			t.Errorf("%s: results %s, tasks %s, lease %s", start, hot, l.leader(streamTasks), l.leader(streamLease))
		}
	}
}

func TestStreamsBehindStay(t *testing.T) {
	l := placed("aaaaaaaaa")
	for i := range l {
		l[i].Current, l[i].Behind = l[i].Current[:1], l[i].Current[1:]
	}
	if moves := l.moves(); len(moves) != 0 {
		t.Errorf("moved while a copy is behind: %+v", moves)
	}
	if l.Whole(3) || !placed("abcabcabc").Whole(3) || placed("abcabcabc").Whole(4) || Layout(nil).Whole(1) {
		t.Error("what is whole is not told")
	}
}

func TestLostStreamsAreNoticed(t *testing.T) {
	var seen lost
	l, now := placed("abcabcabc"), time.Now()
	if long := seen.see(l, now); len(long) != 0 {
		t.Fatalf("led streams are lost: %v", long)
	}
	l[1].Leader, l[2].Leader = "", ""
	if long := seen.see(l, now); len(long) != 0 {
		t.Fatalf("lost at once: %v", long)
	}
	l[2].Leader = "a" // elected
	seen.see(l, now.Add(reviveAfter/2))
	l[2].Leader = ""
	if long := seen.see(l, now.Add(reviveAfter+time.Second)); !slices.Equal(long, []string{l[1].Stream}) {
		t.Fatalf("lost are %v", long)
	}
}

func TestRoomIsDivided(t *testing.T) {
	const mib = 1 << 20
	for _, r := range []Room{{Limit: 64 * mib}, {Limit: 64 * mib, Used: 60 * mib}, {Limit: 1 << 40, Used: 1 << 39}, {Limit: 3 * mib, Used: mib}} {
		bytes := map[string]int64{streamObjects: r.Used / 2, streamResults: r.Used / 4, streamJobs: r.Used / 8}
		caps := r.caps(bytes)
		others := r.Used - r.Used/2 - r.Used/4 - r.Used/8
		if sum := caps[streamObjects] + caps[streamResults] + r.Used/8 + others; sum > r.Limit-r.reserve()/4 {
			t.Errorf("%+v: %v and the others come to %d", r, caps, sum)
		}
		if caps[streamResults] < bytes[streamResults]+min(r.reserve()/4, r.Limit-r.Used) {
			t.Errorf("%+v: results may not grow: %v", r, caps)
		}
	}
	if caps := (Room{}).caps(nil); caps[streamObjects] != -1 || caps[streamResults] != -1 || (Room{}).Full() {
		t.Errorf("no limit is one: %v", caps)
	}
}
