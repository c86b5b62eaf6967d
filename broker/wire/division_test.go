package wire

import (
	"slices"
	"testing"
	"testing/quick"
)

func sizesOf(p division) (sizes []int, whole bool) {
	next := 1
	for n := 1; n <= p.tasks(); n++ {
		from, to := p.span(n)
		if from != next || to < from {
			return sizes, false
		}
		sizes, next = append(sizes, to-from+1), to+1
	}
	return sizes, next == p.batches+1
}

func TestPlanCoversTheBatchesWhateverItsTail(t *testing.T) {
	covers := func(batches uint16, size, tail uint8) bool {
		p := division{int(batches%5000) + 1, int(size%100) + 1, int(tail % 40)}
		sizes, whole := sizesOf(p)
		return whole && len(sizes) == p.tasks() && slices.Max(sizes) <= p.size
	}
	if err := quick.Check(covers, &quick.Config{MaxCount: 2000}); err != nil {
		t.Fatal(err)
	}
}

func TestPlanEndsWithSmallTasks(t *testing.T) {
	for _, c := range []struct {
		p    division
		want []int
	}{
		{division{50, 8, 0}, []int{8, 8, 8, 8, 8, 8, 2}},                // as older records mean it
		{division{50, 8, 2}, []int{8, 8, 8, 8, 4, 4, 4, 2, 2, 1, 1}},    // 36, and a tail of 14
		{division{64, 16, 1}, []int{16, 16, 16, 2, 8, 4, 2}},            // 50, and 14
		{division{5, 1, 3}, []int{1, 1, 1, 1, 1}},                       // nothing to halve
		{division{5, 4, 3}, []int{2, 1, 1, 1}},                          // room for the last round only
		{division{3, 8, 9}, []int{3}},                                   // and for none
		{division{20, 2, 4}, []int{2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1}}, // one round
		{division{24, 4, 3}, []int{4, 4, 4, 3, 2, 2, 2, 1, 1, 1}},       // two
	} {
		if got, whole := sizesOf(c.p); !whole || !slices.Equal(got, c.want) {
			t.Errorf("%+v: sizes %v, want %v", c.p, got, c.want)
		}
	}
	huge := division{MaxBatch, MaxBatch, MaxBatch} // what a made-up record may hold
	if _, to := huge.span(huge.tasks()); to != MaxBatch {
		t.Errorf("the last batch of a huge plan is %d", to)
	}
	if from, to := (division{10, 5, 0}).span(3); to >= from {
		t.Errorf("a task beyond the last has batches %d to %d", from, to)
	}
}
