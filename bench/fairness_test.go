package bench

import (
	"testing"
	"time"
)

func TestRateGap(t *testing.T) {
	r, start := newRates(), time.Unix(1000, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	// Job 1 has a batch every 10 ms, job 2 half as many in its first second, then as many.
	for ms := 10; ms <= 3000; ms += 10 {
		r.add(1, at(ms-10), at(ms), 1)
		if ms > 1000 || ms%20 == 0 {
			r.add(2, at(ms-5), at(ms), 1)
		}
	}
	both := []share{{1, 1}, {2, 1}}
	if gap := r.gap(both, at(0), at(1000)); gap < 66.6 || gap > 66.7 { // 100 and 50
		t.Errorf("gap %v in the first second", gap)
	}
	if gap := r.gap(both, at(1000), at(2000)); gap != 0 {
		t.Errorf("gap %v in the second one", gap)
	}
	if gap := r.gap([]share{{1, 2}, {2, 1}}, at(0), at(1000)); gap != 0 {
		t.Errorf("gap %v by weight in the first second", gap)
	}
	if gap := r.gap([]share{{1, 1}, {3, 1}}, at(0), at(1000)); gap != 200 {
		t.Errorf("gap %v to a job without results", gap)
	}
	if gap := r.gap(both, at(5000), at(6000)); gap != 0 {
		t.Errorf("gap %v where nothing is", gap)
	}
	if gaps := r.gaps(both, at(0), at(3000), time.Second); len(gaps) != 21 || gaps[0] < 66 || gaps[20] != 0 {
		t.Errorf("gaps %v", gaps)
	}
	// 10 percent are 100 and 90.5 batches: 810 ms of the second half, 190 of the first.
	if took, ok := r.refair(both, at(0), at(3000)); !ok || took < 1780*time.Millisecond || took > 1840*time.Millisecond {
		t.Errorf("fair after %v, %v", took, ok)
	}
	if took, ok := r.refair(both, at(0), at(1200)); ok || took != 1200*time.Millisecond {
		t.Errorf("fair after %v, %v, although there was no time", took, ok)
	}
	if began := r.began(2); !began.Equal(at(15)) || !r.began(3).IsZero() {
		t.Errorf("job 2 began at %v, job 3 at %v", began, r.began(3))
	}
	if n := r.within(2, at(1000), at(1500)); n != 50 {
		t.Errorf("%d batches in half a second", n)
	}
}
