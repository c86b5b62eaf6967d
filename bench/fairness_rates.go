package bench

import (
	"slices"
	"sync"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
)

// rates keeps what results have come of each job, and when.
type rates struct {
	mu   sync.Mutex
	jobs map[uint64]*progressOf
	// changed is told of every result.
	changed chan struct{}
}

// progressOf is a job's results in the order in which they were stored.
type progressOf struct {
	// first is when its first task began.
	first time.Time
	at    []time.Time
	// batches are those of all results up to this one.
	batches []int
}

func newRates() *rates {
	return &rates{jobs: make(map[uint64]*progressOf), changed: make(chan struct{}, 1)}
}

// stored takes a message of the results' stream in.
func (r *rates) stored(m *broker.Stored) {
	if m == nil {
		return
	}
	job, task, ok := broker.TaskOfResult(m.Subject)
	if !ok {
		return
	}
	result := wire.ReceiveResult(job, task, m.Data)
	r.add(job, result.Started, m.At, len(result.Batches))
}

func (r *rates) add(job uint64, started, at time.Time, batches int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.jobs[job]
	if p == nil {
		p = &progressOf{first: started}
		r.jobs[job] = p
	}
	if started.Before(p.first) {
		p.first = started
	}
	total := batches
	if n := len(p.batches); n > 0 {
		total += p.batches[n-1]
	}
	p.at, p.batches = append(p.at, at), append(p.batches, total)
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// began is when a job's first task began, as far as results tell; the zero time
// before the first.
func (r *rates) began(job uint64) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.jobs[job]; p != nil {
		return p.first
	}
	return time.Time{}
}

// within is the number of batches whose results were stored after from and not after to.
func (r *rates) within(job uint64, from, to time.Time) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.jobs[job]
	if p == nil {
		return 0
	}
	return p.until(to) - p.until(from)
}

// until is the number of batches whose results were stored by then.
func (p *progressOf) until(t time.Time) int {
	n, _ := slices.BinarySearchFunc(p.at, t, func(at, t time.Time) int {
		if at.After(t) {
			return 1
		}
		return -1
	})
	if n == 0 {
		return 0
	}
	return p.batches[n-1]
}

// share is a job and its weight.
type share struct {
	job    uint64
	weight float64
}

// gap is how far the rates of jobs, each divided by its weight, lie apart between two
// moments: the highest less the lowest, in percent of the mean. It is 100 percent
// times the number of jobs when only one has results.
func (r *rates) gap(jobs []share, from, to time.Time) float64 {
	lowest, highest, sum := 0.0, 0.0, 0.0
	for i, j := range jobs {
		n := float64(r.within(j.job, from, to)) / j.weight
		if i == 0 || n < lowest {
			lowest = n
		}
		highest = max(highest, n)
		sum += n
	}
	if sum == 0 {
		return 0
	}
	return 100 * (highest - lowest) / (sum / float64(len(jobs)))
}

// windowStep is how far apart the windows are that gaps are taken over.
const windowStep = 100 * time.Millisecond

// gaps are those over every window of the given length between two moments.
func (r *rates) gaps(jobs []share, from, to time.Time, window time.Duration) []float64 {
	var out []float64
	for end := from.Add(window); !end.After(to); end = end.Add(windowStep) {
		out = append(out, r.gap(jobs, end.Add(-window), end))
	}
	return out
}

const (
	// fairGap is the gap, in percent, at which rates count as equal again, over
	// fairWindow; both are looked at every fairStep.
	fairGap    = 10
	fairWindow = time.Second
	fairStep   = 20 * time.Millisecond
)

// refair is the time from a moment on until rates are equal, over a window that
// begins at that moment or later; false when they aren't by the end.
func (r *rates) refair(jobs []share, from, to time.Time) (time.Duration, bool) {
	for end := from.Add(fairWindow); !end.After(to); end = end.Add(fairStep) {
		if r.gap(jobs, end.Add(-fairWindow), end) <= fairGap {
			return end.Sub(from), true
		}
	}
	return to.Sub(from), false
}
