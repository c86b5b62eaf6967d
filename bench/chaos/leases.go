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
	terms   int
	lives   []life
	// taken are the times at which somebody took a lease that had not run out, resets
	// those at which revisions began anew in the same bucket.
	taken  []taking
	resets []reset
}

// reset is a bucket that counts from the beginning.
type reset struct {
	from, to time.Time
	detail   string
}

// life is a life of the bucket, and what was written in it.
type life struct {
	from time.Time
	// unseen says that from is only the last moment of the life before.
	unseen bool
	writes []leaseWrite
}

type leaseWrite struct {
	at  time.Time
	rev uint64
}

// taking is a lease that was taken from somebody who had not given it up.
type taking struct {
	from, by string
	at       time.Time
	after    time.Duration // since it was renewed
}

// write takes a write into account.
func (w *leaseWatch) write(e *Event, h *Header) {
	if e.Revision == w.rev && e.Holder == w.holder && e.Bucket.Equal(w.bucket) && e.Written.Equal(w.written) {
		return // seen before
	}
	if e.Bucket.Equal(w.bucket) && e.Revision <= w.rev {
		w.resets = append(w.resets, reset{w.written, e.Written, fmt.Sprintf("%s has the lease at %d, after %s at %d", e.Holder, e.Revision, w.holder, w.rev)})
		w.holder, w.rev = "", 0
		w.lives = append(w.lives, life{from: w.written, unseen: true})
	}
	if !e.Bucket.Equal(w.bucket) {
		// A server that was started anew has forgotten the bucket before.
		w.bucket, w.holder, w.rev = e.Bucket, "", 0
		w.lives = append(w.lives, life{from: e.Bucket})
	}
	before := *w
	w.rev, w.written, w.holder = e.Revision, e.Written, e.Holder
	now := &w.lives[len(w.lives)-1]
	now.writes = append(now.writes, leaseWrite{e.Written, e.Revision})
	if e.Deleted {
		w.holder = ""
		return
	}
	after := e.Written.Sub(before.written)
	valid := before.holder != "" && h != nil && after < h.LeaseTTL
	if e.Holder != before.holder || !valid {
		w.terms++
	}
	if valid && e.Holder != before.holder {
		w.taken = append(w.taken, taking{before.holder, e.Holder, e.Written, after})
	}
}

// repeats returns the epochs that come twice. The servers of a cluster remember that
// the bucket is there, and not what is in it, when most of them have been started anew.
func (w *leaseWatch) repeats(faults []*hit, servers int) (flaws []string) {
	for _, r := range w.resets {
		restarted := 0
		for _, h := range faults {
			if !h.to.Before(r.from.Add(-grace)) && !h.from.After(r.to) && h.kind != Stop {
				restarted += h.servers
			}
		}
		if servers == 1 || restarted <= servers/2 {
			flaws = append(flaws, r.detail)
		}
	}
	return flaws
}

// begin dates the lives that began without having been seen: at the fault before
// their first write.
func (w *leaseWatch) begin(faults []*hit) {
	for i := range w.lives {
		l := &w.lives[i]
		for _, h := range faults {
			if l.unseen && h.servers > 0 && h.from.After(l.from) && len(l.writes) > 0 && h.from.Before(l.writes[0].at) {
				l.from = h.from
			}
		}
	}
}

// rank orders the epochs of records: a record's epoch is the revision at which the
// lease was taken, in a life of the lease's bucket.
type rank struct {
	life  int
	epoch uint64
}

func (r rank) before(s rank) bool {
	return r.life < s.life || r.life == s.life && r.epoch < s.epoch
}

// ranked tells in which life of the bucket an epoch is that somebody used at the given
// time: the one of that time, unless it was watched just then and had not come so far.
func (w *leaseWatch) ranked(epoch uint64, at time.Time) rank {
	life := len(w.lives) - 1
	for ; life > 0; life-- {
		l := w.lives[life]
		if l.from.After(at) {
			continue
		}
		n, _ := slices.BinarySearchFunc(l.writes, at.Add(blind), func(x leaseWrite, t time.Time) int { return x.at.Compare(t) })
		if n == 0 || l.writes[n-1].rev >= epoch || l.writes[n-1].at.Before(at.Add(-blind)) {
			break
		}
	}
	return rank{max(life, 0), epoch}
}

// blind is the time without a write of the lease, which is renewed much more often,
// from which on it counts as not having been watched.
const blind = time.Second

// grace is how long before a fault is noted, and after it has been mended, its
// effect may be seen: whoever was frozen takes up to two seconds to be given up.
const grace = 3 * time.Second

// judge returns the takings that nothing explains: a lease that has not run out may be taken
// from a coordinator that is known to be dead, and from nobody else.
func (w *leaseWatch) judge(faults []*hit) (flaws []string) {
	for _, t := range w.taken {
		node, _, _ := strings.Cut(t.from, " ")
		if !slices.ContainsFunc(faults, func(h *hit) bool {
			return !t.at.Before(h.from.Add(-grace)) && !t.at.After(h.to.Add(grace)) && (h.targets[node] || h.servers > 0)
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
	var last rank
	for _, r := range writes {
		n := w.ranked(r.epoch, r.at)
		if n.before(last) {
			flaws = append(flaws, fmt.Sprintf("revision %d under epoch %d, after epoch %d", r.revision, r.epoch, last.epoch))
			continue
		}
		last = n
	}
	return flaws
}

// wake is how long after its end a fault may be what a pause comes from.
const wake = 3 * time.Second

// pauseWatch finds the times without results while work was there.
type pauseWatch struct {
	began   time.Time
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
	servers int // that were hit
	span
}

func (p *pauseWatch) fault(e *Event) {
	h := &hit{kind: e.Fault.Kind, targets: make(map[string]bool), span: span{e.Time, e.Time}}
	for _, name := range e.Fault.Targets {
		h.targets[name] = true
		if strings.HasPrefix(name, string(wire.RoleBroker)) {
			h.servers++
		}
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

// judge returns the longest pauses, and the longest in the wake of each fault.
func (p *pauseWatch) judge() (longest []Pause, after map[Kind][]time.Duration) {
	after = make(map[Kind][]time.Duration)
	pauses := p.pauses()
	slices.SortStableFunc(pauses, func(a, b span) int { return cmp.Compare(b.to.Sub(b.from), a.to.Sub(a.from)) })
	longest = []Pause{}
	for _, s := range pauses[:min(mostPauses, len(pauses))] {
		longest = append(longest, Pause{s.from.Sub(p.began), s.to.Sub(s.from)})
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
