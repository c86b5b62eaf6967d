package chaos

import (
	"fmt"
	"slices"
	"time"
)

// leaseWatch judges the writes of the lease. They come in the order in which
// they were seen, some of them twice, and not all of them.
type leaseWatch struct {
	bucket  time.Time // the life of the bucket
	holder  string    // "" when it was given up
	written time.Time
	rev     uint64
	terms   int
	// A bucket in memory counts from 1 again when the server has been started anew,
	// so epochs of two lives can't be compared.
	lives int
}

// write takes a write into account and returns the flaw that it shows.
func (w *leaseWatch) write(e *Event, h *Header) (Flaw, string) {
	if !e.Bucket.Equal(w.bucket) {
		*w = leaseWatch{bucket: e.Bucket, terms: w.terms, lives: w.lives + 1}
	}
	if e.Revision == w.rev && e.Holder == w.holder && e.Written.Equal(w.written) {
		return "", "" // seen before
	}
	before := *w
	w.rev, w.written, w.holder = max(w.rev, e.Revision), e.Written, e.Holder
	if e.Deleted {
		w.holder = ""
	} else if e.Holder != before.holder || h != nil && e.Written.Sub(before.written) >= h.LeaseTTL {
		w.terms++
	}
	switch {
	case e.Revision <= before.rev:
		return EpochRepeats, fmt.Sprintf("%s has the lease at %d, after %s at %d", e.Holder, e.Revision, before.holder, before.rev)
	case e.Deleted || before.holder == "" || e.Holder == before.holder:
		return "", ""
	case h != nil && e.Written.Sub(before.written) < h.LeaseTTL:
		return TwoHolders, fmt.Sprintf("%s took the lease %v after %s had renewed it; it lasts %v",
			e.Holder, e.Written.Sub(before.written).Round(time.Millisecond), before.holder, h.LeaseTTL)
	}
	return "", ""
}

// comparable reports whether the greater of two epochs must be the later one.
func (w *leaseWatch) comparable(uint64, uint64) bool { return w.lives <= 1 }

// wake is how long after its end a fault may be what a pause comes from.
const wake = 3 * time.Second

// pauseWatch finds the times without results while work was there.
type pauseWatch struct {
	results []time.Time
	last    map[uint64]time.Time // the last result of a job
	spans   []span               // when jobs were under way
	faults  []*hit
	open    map[int]*hit
}

type span struct{ from, to time.Time }

type hit struct {
	kind Kind
	span
}

func (p *pauseWatch) fault(e *Event) {
	h := &hit{e.Fault.Kind, span{e.Time, e.Time}}
	p.faults = append(p.faults, h)
	if p.open == nil {
		p.open = make(map[int]*hit)
	}
	p.open[e.Fault.Number] = h
}

func (p *pauseWatch) heal(e *Event) {
	if h := p.open[e.Fault.Number]; h != nil {
		h.to = e.Time
		delete(p.open, e.Fault.Number)
	}
}

func (p *pauseWatch) result(job uint64, at time.Time) {
	if p.last == nil {
		p.last = make(map[uint64]time.Time)
	}
	p.results = append(p.results, at)
	if at.After(p.last[job]) {
		p.last[job] = at
	}
}

// job says when a job that is done was submitted.
func (p *pauseWatch) job(job uint64, from time.Time) {
	if to := p.last[job]; to.After(from) {
		p.spans = append(p.spans, span{from, to})
	}
}

// judge returns the longest pause, and the longest in the wake of each fault.
func (p *pauseWatch) judge() (longest Pause, after map[Kind][]time.Duration) {
	after = make(map[Kind][]time.Duration)
	pauses := p.pauses()
	for _, s := range pauses {
		if d := s.to.Sub(s.from); d > longest.Long {
			longest = Pause{s.from, d}
		}
	}
	for _, h := range p.faults {
		worst := time.Duration(0)
		for _, s := range pauses {
			if s.to.After(h.from) && s.from.Before(h.to.Add(wake)) {
				worst = max(worst, s.to.Sub(s.from))
			}
		}
		after[h.kind] = append(after[h.kind], worst)
	}
	return longest, after
}

// pauses are the times between two results, or between the beginning of work and
// the first result, in which some job was under way.
func (p *pauseWatch) pauses() []span {
	slices.SortFunc(p.spans, func(a, b span) int { return a.from.Compare(b.from) })
	var busy []span
	for _, s := range p.spans {
		if n := len(busy); n > 0 && !s.from.After(busy[n-1].to) {
			if s.to.After(busy[n-1].to) {
				busy[n-1].to = s.to
			}
			continue
		}
		busy = append(busy, s)
	}
	slices.SortFunc(p.results, time.Time.Compare)
	var pauses []span
	next := 0
	for _, b := range busy {
		from := b.from
		for ; next < len(p.results) && !p.results[next].After(b.to); next++ {
			if at := p.results[next]; at.After(from) {
				pauses = append(pauses, span{from, at})
				from = at
			}
		}
	}
	return pauses
}
