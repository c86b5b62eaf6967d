package worker

import (
	"math"
	"slices"
	"testing"

	"idunno/broker/wire"
)

func jobsTable(fair string, jobs ...wire.ActiveJob) *table {
	t := newTable("me", 1)
	t.update(&wire.ActiveJobs{Fair: fair, Jobs: jobs})
	return t
}

// serve has n tasks pulled, of sizes by job, and returns the batches of each job.
func serve(t *table, n int, sizes map[uint64]int) map[uint64]int {
	got := make(map[uint64]int)
	for range n {
		job, _, _, ok := t.pick()
		if !ok {
			break
		}
		t.served(job, sizes[job])
		got[job] += sizes[job]
	}
	return got
}

func TestJobsAreServedAtEqualRates(t *testing.T) {
	table := jobsTable("", wire.ActiveJob{Job: 1}, wire.ActiveJob{Job: 2}, wire.ActiveJob{Job: 3, Weight: 2})
	sizes := map[uint64]int{1: 40, 2: 7, 3: 10}
	got := serve(table, 2000, sizes)
	if math.Abs(float64(got[1]-got[2])) > 40 || math.Abs(float64(got[3]-2*got[1])) > 80 {
		t.Errorf("batches %v", got)
	}
	// A new one is next, and gets no more than its share.
	table.update(&wire.ActiveJobs{Jobs: []wire.ActiveJob{{Job: 1}, {Job: 2}, {Job: 3, Weight: 2}, {Job: 4}}})
	if job, _, _, _ := table.pick(); job == 4 {
		sizes[4] = 5
	}
	sizes[4] = 5
	again := serve(table, 2000, sizes)
	if math.Abs(float64(again[1]-again[4])) > 80 {
		t.Errorf("batches %v with a fourth job", again)
	}
}

func TestJobWithoutWorkHasNoArrears(t *testing.T) {
	table := jobsTable("", wire.ActiveJob{Job: 1}, wire.ActiveJob{Job: 2})
	table.exhausted(2, false)
	serve(table, 100, map[uint64]int{1: 10})
	table.stir()
	got := serve(table, 40, map[uint64]int{1: 10, 2: 10})
	if got[2] < 200 || got[2]-got[1] > 10*(arrears+2) {
		t.Errorf("batches %v after a pause", got)
	}
}

func TestPriorityGoesBeforeEverything(t *testing.T) {
	table := jobsTable("", wire.ActiveJob{Job: 1}, wire.ActiveJob{Job: 2, Priority: 5, Nodes: []string{"other"}}, wire.ActiveJob{Job: 3, Priority: -1})
	sizes := map[uint64]int{1: 10, 2: 10, 3: 10}
	if got := serve(table, 10, sizes); got[2] != 100 {
		t.Errorf("batches %v", got)
	}
	table.exhausted(2, false)
	if got := serve(table, 10, sizes); got[1] != 100 {
		t.Errorf("batches %v without the first", got)
	}
	table.exhausted(1, false)
	if got := serve(table, 10, sizes); got[3] != 100 {
		t.Errorf("batches %v without the first two", got)
	}
}

func TestNodeServesWhatItIsAssigned(t *testing.T) {
	table := jobsTable("", wire.ActiveJob{Job: 1, Nodes: []string{"other"}}, wire.ActiveJob{Job: 2, Nodes: []string{"other", "me"}},
		wire.ActiveJob{Job: 3, Nodes: []string{"other"}, Only: true}, wire.ActiveJob{Job: 4, Only: true})
	sizes := map[uint64]int{1: 1, 2: 1, 3: 1, 4: 1}
	if got := serve(table, 10, sizes); got[2] != 10 {
		t.Errorf("batches %v, want those of the job that it is assigned to", got)
	}
	table.exhausted(2, false)
	if got := serve(table, 10, sizes); got[1] != 10 {
		t.Errorf("batches %v, want help for another job", got)
	}
	table.exhausted(1, false)
	if got := serve(table, 10, sizes); len(got) != 0 {
		t.Errorf("batches %v of jobs that other nodes alone may serve", got)
	}
}

func TestLimitedQueueIsAskedAgainForEachTaskThatLeavesIt(t *testing.T) {
	table := jobsTable("", wire.ActiveJob{Job: 1}, wire.ActiveJob{Job: 2, MaxInFlight: 1})
	table.exhausted(1, false)
	table.exhausted(2, false)
	table.freed(1)
	if _, _, _, ok := table.pick(); ok {
		t.Error("a queue without a limit has nothing new for a task that has left it")
	}
	table.freed(2)
	if job, _, _, ok := table.pick(); !ok || job != 2 {
		t.Errorf("job %d, want the one whose task has left its queue", job)
	}
}

func TestRatesByImagesAndTime(t *testing.T) {
	for _, c := range []struct {
		fair string
		want float64 // batches of job 1 for each of job 2
	}{{wire.FairBatches, 1}, {wire.FairImages, 0.5}, {wire.FairTime, 4}} {
		table := jobsTable(c.fair, wire.ActiveJob{Job: 1}, wire.ActiveJob{Job: 2})
		results := map[uint64]wire.BatchResult{1: {Images: 200, Nanos: 1e6}, 2: {Images: 100, Nanos: 4e6}}
		got := make(map[uint64]float64)
		for range 1000 {
			job, _, _, _ := table.pick()
			_, _, counted := table.served(job, 3)
			table.done(job, counted, slices.Repeat([]wire.BatchResult{results[job]}, 3))
			got[job]++
		}
		if ratio := got[1] / got[2]; math.Abs(ratio/c.want-1) > 0.02 {
			t.Errorf("by %s: %v tasks, want %v of the first for each of the second", c.fair, got, c.want)
		}
	}
}

func TestLeadsAreMadeUpFor(t *testing.T) {
	table := jobsTable("", wire.ActiveJob{Job: 1}, wire.ActiveJob{Job: 2})
	sizes := map[uint64]int{1: 1, 2: 1}
	serve(table, 10, sizes)
	leads := wire.Leads{Schema: wire.Schema, Jobs: []wire.Lead{{Job: 1, Lead: 3}, {Job: 2, Lead: -3}, {Job: 9, Lead: 1}}}
	table.lead(leads.Marshal())
	if got := serve(table, 20, sizes); got[2]-got[1] != 6 {
		t.Errorf("batches %v, want 6 more of the second", got)
	}
	leads.Fair = wire.FairTime // another unit than this worker's
	table.lead(leads.Marshal())
	table.lead([]byte("garbage"))
	if got := serve(table, 20, sizes); got[1] != got[2] {
		t.Errorf("batches %v", got)
	}
}

// A job that only this node may serve is behind for ever: it has the whole node, and
// is not far behind when that ends.
func TestDebtOfLeadsIsBounded(t *testing.T) {
	table := jobsTable("", wire.ActiveJob{Job: 1}, wire.ActiveJob{Job: 2, Nodes: []string{"me"}})
	sizes := map[uint64]int{1: 10, 2: 10}
	serve(table, 10, sizes)
	leads := wire.Leads{Schema: wire.Schema, Jobs: []wire.Lead{{Job: 1, Lead: 50}, {Job: 2, Lead: -50}}}
	for range 20 {
		table.lead(leads.Marshal())
		if got := serve(table, 10, sizes); got[1] > 0 {
			t.Fatalf("batches %v, want those of the second only", got)
		}
	}
	table.update(&wire.ActiveJobs{Jobs: []wire.ActiveJob{{Job: 2, Nodes: []string{"me"}}, {Job: 3}}})
	if got := serve(table, 40, sizes); got[2]-got[3] > 200 {
		t.Errorf("batches %v beside a new job", got)
	}
}

// Jobs of low priority that had to wait are equal afterwards, whenever they came.
func TestWaitingForPriorityGivesNoCredit(t *testing.T) {
	jobs := []wire.ActiveJob{{Job: 1, Priority: 1}, {Job: 2}}
	table := jobsTable("", jobs...)
	sizes := map[uint64]int{1: 10, 2: 10, 3: 10}
	serve(table, 100, sizes)
	jobs = append(jobs, wire.ActiveJob{Job: 3})
	table.update(&wire.ActiveJobs{Jobs: jobs})
	table.update(&wire.ActiveJobs{Jobs: jobs[1:]})
	if got := serve(table, 10, sizes); got[2] != 50 || got[3] != 50 {
		t.Errorf("batches %v", got)
	}
}

func TestTheReadyTaskThatIsDueComesFirst(t *testing.T) {
	l := newLine(5)
	for i, h := range []*held{{place: 3}, {place: 1, copied: true}, {place: 2}, {place: 9, priority: 1}} {
		h.attempt = i
		l.put(h)
	}
	var order []int
	for range 4 {
		<-l.some
		order = append(order, l.take().attempt)
	}
	if !slices.Equal(order, []int{3, 2, 0, 1}) {
		t.Errorf("order %v", order)
	}
	l.put(&held{})
	if left := l.end(); len(left) != 1 {
		t.Errorf("%d left", len(left))
	}
}

// A queue may be filled while its answer, that it has nothing, is on the way.
func TestQueueThatIsFilledWhileItIsAskedIsAskedAgain(t *testing.T) {
	table := jobsTable("", wire.ActiveJob{Job: 1})
	table.pick()
	table.stir()
	table.exhausted(1, false)
	if _, _, _, ok := table.pick(); !ok {
		t.Error("the job is set aside by an answer that is older than the call to look")
	}
	table.exhausted(1, false)
	if _, _, _, ok := table.pick(); ok {
		t.Error("a queue that has nothing is asked again and again")
	}
}
