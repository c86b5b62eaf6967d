package sched

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func workersOf(slots ...int) []Worker {
	var list []Worker
	for i, n := range slots {
		list = append(list, Worker{Name: fmt.Sprintf("n%d", i+1), Slots: n})
	}
	return list
}

func TestAssign(t *testing.T) {
	large := Demand{Tasks: 1000, Batch: time.Millisecond, Counted: 1, Weight: 1}
	small := Demand{Tasks: 3, Batch: time.Millisecond, Counted: 1, Weight: 1}
	of := func(d Demand, job uint64, change func(*Demand)) Demand {
		d.Job, d.Model = job, "model"
		if change != nil {
			change(&d)
		}
		return d
	}
	three := workersOf(2, 2, 2)
	for name, c := range map[string]struct {
		demands []Demand
		workers []Worker
		before  map[uint64][]string
		loaded  string
		want    [][]string
		only    bool
		reason  string
	}{
		"a large job has all": {demands: []Demand{of(large, 1, nil)}, workers: three, want: [][]string{{"n1", "n2", "n3"}}, reason: "1000 tasks: enough for 6 slots"},
		"a small one few":     {demands: []Demand{of(small, 1, nil)}, workers: workersOf(1, 1, 1), want: [][]string{{"n1", "n2", "n3"}}, reason: "100% of the cluster's time"},
		"a small one few beside a large one": {demands: []Demand{of(large, 1, func(d *Demand) { d.Batch *= 9 }), of(small, 2, nil)}, workers: three,
			want: [][]string{{"n1", "n2", "n3"}, {"n1"}}, reason: "3 tasks: enough for 1 slot"},
		"no fewer than its share": {demands: []Demand{of(large, 1, nil), of(small, 2, func(d *Demand) { d.Batch *= 9 })}, workers: three,
			want: [][]string{{"n1", "n2", "n3"}, {"n1", "n2", "n3"}}, reason: "90% of the cluster's time"},
		"where it was": {demands: []Demand{of(large, 1, func(d *Demand) { d.Batch *= 9 }), of(small, 2, nil)}, workers: three,
			before: map[uint64][]string{2: {"n3"}}, loaded: "n2", want: [][]string{{"n1", "n2", "n3"}, {"n3"}}},
		"where its model is": {demands: []Demand{of(large, 1, func(d *Demand) { d.Batch *= 9 }), of(small, 2, nil)}, workers: three,
			loaded: "n2", want: [][]string{{"n1", "n2", "n3"}, {"n2"}}},
		"where there is least to do": {demands: []Demand{of(large, 1, func(d *Demand) { d.Batch *= 9 }), of(small, 2, nil), of(small, 3, nil)}, workers: three,
			want: [][]string{{"n1", "n2", "n3"}, {"n1"}, {"n2"}}},
		"elsewhere when its node has died": {demands: []Demand{of(large, 1, func(d *Demand) { d.Batch *= 9 }), of(small, 2, nil)}, workers: three[:2],
			before: map[uint64][]string{2: {"n3"}}, want: [][]string{{"n1", "n2"}, {"n1"}}},
		"at most so many nodes": {demands: []Demand{of(large, 1, func(d *Demand) { d.MaxNodes = 2 })}, workers: three,
			want: [][]string{{"n1", "n2"}}, only: true, reason: "at most 2 nodes, as the job asks"},
		"a limit above what there is": {demands: []Demand{of(large, 1, func(d *Demand) { d.MaxNodes = 9 })}, workers: three,
			want: [][]string{{"n1", "n2", "n3"}}, only: true, reason: "enough for 6 slots"},
		"at most so many tasks": {demands: []Demand{of(large, 1, func(d *Demand) { d.MaxInFlight = 3 })}, workers: three,
			want: [][]string{{"n1", "n2"}}, reason: "at most 3 tasks in flight, as the job asks"},
		"training": {demands: []Demand{of(large, 1, nil), of(Demand{Tasks: 1, Weight: 1, Training: true}, 2, nil)}, workers: three,
			want: [][]string{{"n1", "n2", "n3"}, {"n1"}}, reason: "one slot"},
		"nobody": {demands: []Demand{of(large, 1, nil)}, want: [][]string{{}}},
	} {
		got := Assign(c.demands, c.workers, c.before, func(model, node string) bool { return model == "model" && node == c.loaded })
		last := got[len(got)-1]
		for i, want := range c.want {
			if !slices.Equal(got[i].Nodes, want) || got[i].Job != c.demands[i].Job || got[i].All != (len(want) == len(c.workers) && !got[i].Only) {
				t.Errorf("%s: job %d has %+v, want %v", name, c.demands[i].Job, got[i], want)
			}
		}
		if last.Only != c.only || !strings.Contains(last.Reason, c.reason) {
			t.Errorf("%s: %+v, want reason %q", name, last, c.reason)
		}
		again := Assign(c.demands, c.workers, c.before, func(model, node string) bool { return model == "model" && node == c.loaded })
		if fmt.Sprint(got) != fmt.Sprint(again) {
			t.Errorf("%s: twice the same gives\n%v and\n%v", name, got, again)
		}
	}
}

func TestShares(t *testing.T) {
	for name, c := range map[string]struct {
		demands []Demand
		want    []float64
	}{
		"by cost":      {[]Demand{{Batch: 1, Counted: 1, Weight: 1}, {Batch: 3, Counted: 1, Weight: 1}}, []float64{0.25, 0.75}},
		"by weight":    {[]Demand{{Batch: 1, Counted: 1, Weight: 6}, {Batch: 3, Counted: 1, Weight: 2}}, []float64{0.5, 0.5}},
		"by images":    {[]Demand{{Batch: 1, Counted: 10, Weight: 1}, {Batch: 3, Counted: 10, Weight: 1}}, []float64{0.25, 0.75}},
		"by time":      {[]Demand{{Batch: 1, Counted: 1, Weight: 1}, {Batch: 3, Counted: 3, Weight: 1}}, []float64{0.5, 0.5}},
		"by priority":  {[]Demand{{Batch: 1, Counted: 1, Weight: 1}, {Batch: 3, Counted: 1, Weight: 1, Priority: 1}}, []float64{0, 1}},
		"unknown ones": {[]Demand{{Batch: 2, Counted: 1, Weight: 1}, {Weight: 1}}, []float64{0.5, 0.5}},
		"none known":   {[]Demand{{Weight: 1}, {Weight: 3}}, []float64{0.25, 0.75}},
	} {
		for i, got := range Shares(c.demands) {
			if math.Abs(got-c.want[i]) > 1e-9 {
				t.Errorf("%s: job %d has %v, want %v", name, i, got, c.want[i])
			}
		}
	}
}

// Whatever leads there are, rates become equal again as far as the nodes allow.
func TestPaceBringsJobsTogether(t *testing.T) {
	p := NewPace()
	// Of two jobs one is served at three times the rate; whoever hears of a lead makes
	// up for it at the next look but one.
	done := []float64{0, 0}
	var told, due [2]float64
	for look := range 40 {
		leads := p.Look([]Runner{{Job: 1, Done: done[0], Task: 10, Slots: 2}, {Job: 2, Done: done[1], Task: 10, Slots: 2}})
		due, told = told, [2]float64{}
		for _, l := range leads {
			told[l.Job-1] = l.Lead * 2
		}
		rate := []float64{100, 100}
		if look > 0 && look < 6 { // they count from their first results on
			rate = []float64{150, 50}
		}
		for i := range done {
			done[i] += rate[i] - due[i]
		}
	}
	if gap := math.Abs(done[0] - done[1]); gap > 80 {
		t.Errorf("%v batches apart after all: %v", gap, done)
	}
}

// What a job did before another one came, and what it had in hand then, is no lead.
func TestPaceOfAJobThatJoins(t *testing.T) {
	p := NewPace()
	jobs := []Runner{{Job: 1, Done: 500, Task: 10, Slots: 2}, {Job: 2, Task: 10, Slots: 2}}
	p.Look(jobs[:1])
	p.Look([]Runner{{Job: 1, Done: 1000, Task: 10, Slots: 2}})
	p.Join(2, 0)
	for _, done := range [][2]float64{{1450, 0}, {1700, 30}, {1950, 280}, {2200, 530}} {
		jobs[0].Done, jobs[1].Done = done[0], done[1]
		if leads := p.Look(jobs); len(leads) > 0 {
			t.Errorf("leads %v at %v, want none", leads, done)
		}
	}
	jobs[0].Done, jobs[1].Done = 2500, 730
	if leads := p.Look(jobs); len(leads) != 2 || leads[0].Lead != 12.5 || leads[1].Lead != -12.5 {
		t.Errorf("leads %v, want half of the 50 that each has to make up for, by two slots", leads)
	}
}

// A job that has no results at all is behind before long.
func TestPaceOfAJobWithoutResults(t *testing.T) {
	p := NewPace()
	for look := range paceMost + 3 {
		leads := p.Look([]Runner{{Job: 1, Done: 100 * float64(look), Task: 10, Slots: 2}, {Job: 2, Task: 10, Slots: 2}})
		if told := len(leads) > 0; told != (look > paceMost) {
			t.Errorf("look %d: leads %v", look, leads)
		}
	}
}

func TestPaceForgetsWhatCannotBeMadeUpFor(t *testing.T) {
	p := NewPace()
	var leads int
	for look := range 100 {
		n := float64(look)
		leads = len(p.Look([]Runner{{Job: 1, Done: 300 * n, Task: 10, Slots: 6}, {Job: 2, Done: 100 * n, Task: 10, Slots: 2}, {Job: 3, Done: 7 * n, Task: 1, Priority: -1, Slots: 6}}))
	}
	if leads != 2 {
		t.Errorf("%d leads, want those of the two that are compared", leads)
	}
	most := paceMost*200 + paceTasks*10.0
	for _, l := range p.Look([]Runner{{Job: 1, Done: 300 * 100, Task: 10, Slots: 1}, {Job: 2, Done: 100 * 100, Task: 10, Slots: 1}}) {
		if math.Abs(l.Lead) > paceGain*most {
			t.Errorf("job %d is to make up for %v", l.Job, l.Lead)
		}
	}
	if leads := p.Look([]Runner{{Job: 1, Done: 1e6, Task: 10, Slots: 1}}); leads != nil {
		t.Errorf("one alone is ahead of nobody: %v", leads)
	}
}
