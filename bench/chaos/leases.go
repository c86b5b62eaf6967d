package chaos

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"idunno/broker/wire"
)

// leaseWatch judges the writes of the lease. They come in the order in which
// they were seen, some of them twice, and not all of them.
type leaseWatch struct {
	bucket  time.Time // the life of the bucket
	holder  string    // "" when it was given up
	written time.Time
	rev     uint64
	terms   []term
	// taken are the times at which somebody took a lease that had not run out.
	taken []taking
}

// term is a term of leadership as far as it was seen: whoever leads writes records
// under the revision at which the lease was taken.
type term struct {
	epoch uint64
	from  time.Time
}

// taking is a lease that was taken from somebody who had not given it up.
type taking struct {
	from, by string
	at       time.Time
	after    time.Duration // since it was renewed
}

// write takes a write into account and returns the flaw that it shows by itself.
func (w *leaseWatch) write(e *Event, h *Header) (Flaw, string) {
	if !e.Bucket.Equal(w.bucket) {
		// A server that was started anew has forgotten the bucket before.
		*w = leaseWatch{bucket: e.Bucket, terms: w.terms, taken: w.taken}
	}
	if e.Revision == w.rev && e.Holder == w.holder && e.Written.Equal(w.written) {
		return "", "" // seen before
	}
	before := *w
	w.rev, w.written, w.holder = max(w.rev, e.Revision), e.Written, e.Holder
	if e.Deleted {
		w.holder = ""
	}
	after := e.Written.Sub(before.written)
	valid := before.holder != "" && h != nil && after < h.LeaseTTL
	if !e.Deleted && (e.Holder != before.holder || !valid) {
		w.terms = append(w.terms, term{e.Revision, e.Written})
	}
	if e.Revision <= before.rev {
		return EpochRepeats, fmt.Sprintf("%s has the lease at %d, after %s at %d", e.Holder, e.Revision, before.holder, before.rev)
	}
	if !e.Deleted && valid && e.Holder != before.holder {
		w.taken = append(w.taken, taking{before.holder, e.Holder, e.Written, after})
	}
	return "", ""
}

// order is the number of the term that a record was written in; false when it was
// not seen.
func (w *leaseWatch) order(epoch uint64, at time.Time) (int, bool) {
	for i := len(w.terms) - 1; i >= 0; i-- {
		if t := w.terms[i]; t.epoch == epoch && !t.from.After(at) {
			return i, true
		}
	}
	return 0, false
}

// grace is how long before a fault is noted, and after it has been mended, its
// effect may be seen: whoever was frozen takes up to two seconds to be given up.
const grace = 3 * time.Second

// judge returns the takings that nothing explains: a lease that has not run out may be taken
// from a coordinator that is known to be dead, and from nobody else.
func (w *leaseWatch) judge(faults []*hit) (flaws []string) {
	for _, t := range w.taken {
		node, _, _ := strings.Cut(t.from, " ")
		if !slices.ContainsFunc(faults, func(h *hit) bool {
			return !t.at.Before(h.from.Add(-grace)) && !t.at.After(h.to.Add(grace)) && (h.targets[node] || h.server)
		}) {
			flaws = append(flaws, fmt.Sprintf("%s took the lease from %s, which nothing had happened to, %v after it was renewed",
				t.by, t.from, t.after.Round(time.Millisecond)))
		}
	}
	return flaws
}

// writing is a write of a job's record.
type writing struct {
	revision, epoch uint64
	at              time.Time
}

// stale returns what was written by a coordinator of an earlier term after one of a later
// term had written the same record.
func (w *leaseWatch) stale(writes []writing) (flaws []string) {
	slices.SortFunc(writes, func(a, b writing) int { return cmp.Compare(a.revision, b.revision) })
	last := -1
	for _, r := range writes {
		n, ok := w.order(r.epoch, r.at)
		if ok && n < last {
			flaws = append(flaws, fmt.Sprintf("revision %d under epoch %d, after epoch %d", r.revision, r.epoch, w.terms[last].epoch))
		}
		if ok {
			last = max(last, n)
		}
	}
	return flaws
}

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
	kind    Kind
	targets map[string]bool
	server  bool // hit one
	span
}

func (p *pauseWatch) fault(e *Event) {
	h := &hit{kind: e.Fault.Kind, targets: make(map[string]bool), span: span{e.Time, e.Time}}
	for _, name := range e.Fault.Targets {
		h.targets[name] = true
		h.server = h.server || strings.HasPrefix(name, string(wire.RoleBroker))
	}
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
