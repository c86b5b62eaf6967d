// Package roll is the membership list as one coordinator sees it, kept whether it
// leads or stands by, so that a new leader knows at once who lives and what the dead
// held. While it leads, the tasks of the dead find new homes.
//
//	closed connection, told by the broker ──┐
//	"no responders" to a ping ──────────────┼─> dead ──> its tasks: rescued, or handed back
//	silence ────────────────────────────────┘
//
// A death is dealt with here, while the leader's loop waits for the disk.
package roll

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/sched"
)

const (
	// pingWait bounds the wait for an answer to a ping. That there is nobody to
	// answer is known long before.
	pingWait = time.Second
	// tickEvery is how often silence is looked for, lateTick the pause between two ticks
	// after which this process, and not the nodes, counts as having been away.
	tickEvery = 20 * time.Millisecond
	lateTick  = 300 * time.Millisecond
	// deafAfter is how long a node may hear no heartbeat at all, its own neither,
	// until it doubts its hearing.
	deafAfter = 500 * time.Millisecond
	// maxOrphans bounds the tasks kept while nobody leads.
	maxOrphans = 10_000
)

// Roll is a coordinator's membership list. Its methods may be called from any
// goroutine.
type Roll struct {
	broker broker.Core
	log    *slog.Logger
	// died is told when a node died: perhaps it held the lease.
	died chan struct{}
	// aside waits for questions that are under way.
	aside sync.WaitGroup

	mu      sync.Mutex
	members *sched.Members
	// heard is when any heartbeat came last, this node's own included.
	heard time.Time
	// plans are the records of active jobs by number while this coordinator leads;
	// nil while it stands by.
	plans map[uint64]*wire.JobRecord
	// crashes counts for each task the nodes that died computing it.
	crashes map[taskKey]int
	// orphans were held by nodes that died while this coordinator stood by.
	orphans []orphan
	// offers are the rescues that wait for an answer.
	offers map[*offer]struct{}
	// listening is where the list hears of nodes, and of the tasks that each is given.
	listening broker.Listening
}

type taskKey struct {
	job  uint64
	task int
}

type orphan struct {
	sched.Orphan
	at time.Time
}

// New returns an empty list. [Roll.Follow] fills it.
func New(b broker.Core, log *slog.Logger) *Roll {
	return &Roll{broker: b, log: log, died: make(chan struct{}, 1), members: sched.NewMembers(), crashes: make(map[taskKey]int),
		offers: make(map[*offer]struct{})}
}

// Follow keeps the list until ctx ends.
func (r *Roll) Follow(ctx context.Context) error {
	// In order: that a node's connection has closed says another thing before its last
	// heartbeat, with which it left, than after it.
	begun := make(chan struct{})
	listening, err := r.broker.ListenAll([]string{broker.SubjectHeartbeats, broker.SubjectClosed}, func(m *broker.Message) {
		<-begun
		switch m.To {
		case broker.SubjectHeartbeats:
			r.observe(ctx, m.Data)
		case broker.SubjectClosed:
			r.closed(ctx, m.Data)
		default:
			r.given(ctx, m)
		}
	})
	if err != nil {
		return err
	}
	defer listening.Stop()
	r.listening = listening
	close(begun)
	changes, stop := r.broker.ConnectionChanges()
	defer stop()
	defer r.aside.Wait()
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	ticked := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case up := <-changes:
			if up {
				r.grace()
			}
		case <-tick.C:
			now := time.Now()
			if now.Sub(ticked) > lateTick {
				r.grace()
			}
			ticked = now
			for _, name := range r.tick(ctx, now) {
				r.aside.Go(func() { r.ping(ctx, name) })
			}
		}
	}
}

// grace restarts every node's silence: it was this process that did not listen.
func (r *Roll) grace() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.members.Grace(time.Now())
}

func (r *Roll) tick(ctx context.Context, now time.Time) (ask []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.heard) > deafAfter {
		// Nobody lives, it seems, not even we: it is our own connection that is silent.
		r.members.Grace(now)
	}
	ask, orphans := r.members.Tick(now)
	r.follow()
	r.release(ctx, orphans)
	if len(orphans) > 0 {
		r.tell()
	}
	return ask
}

// follow listens for what is given to workers that are new on the list, and no longer
// to those that have been forgotten. Call it locked.
func (r *Roll) follow() {
	come, gone := r.members.Turnover()
	for _, name := range gone {
		r.listening.Remove(broker.SubjectGiven(name))
	}
	for _, name := range come {
		if err := r.listening.Add(broker.SubjectGiven(name)); err != nil {
			r.log.Debug("what a node takes is known from its heartbeats only", "node", name, "error", err)
		}
	}
}

func (r *Roll) observe(ctx context.Context, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	orphans, left, err := r.members.Receive(p, now)
	if err != nil {
		r.log.Warn("unreadable heartbeat", "error", err)
		return
	}
	r.heard = now
	r.follow()
	r.release(ctx, orphans)
	if left {
		r.tell()
	}
}

// closed takes in that a connection has closed.
func (r *Roll) closed(ctx context.Context, p []byte) {
	c, err := wire.ParseConnClosed(p)
	if err != nil {
		r.log.Warn("unreadable news of a closed connection", "error", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	name, orphans := r.members.Closed(c.Conn, time.Now())
	r.dead(ctx, name, orphans)
}

// given takes in that a queue has answered a node, with a task perhaps.
func (r *Roll) given(ctx context.Context, m *broker.Message) {
	node, job, task, ok := broker.Given(m)
	if !ok {
		return // it had none
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.release(ctx, r.members.Given(node, job, task, m.Reply, time.Now()))
}

// Stored takes in that a task has a result.
func (r *Roll) Stored(job uint64, task int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.members.Stored(job, task, time.Now())
}

// ping asks a silent node whether it lives. "No responders" comes from the
// server at once and means that the node's connection is closed.
func (r *Roll) ping(ctx context.Context, name string) {
	within, cancel := context.WithTimeout(ctx, pingWait)
	defer cancel()
	reply, err := r.broker.Ask(within, broker.SubjectPing(name), nil)
	switch {
	case err == nil:
		r.observe(ctx, reply)
	case errors.Is(err, broker.ErrNobody):
		r.mu.Lock()
		defer r.mu.Unlock()
		if orphans, died := r.gone(name); died {
			r.dead(ctx, name, orphans)
		}
	}
}

// gone declares a node dead, and reports whether that is news. Call it locked.
func (r *Roll) gone(name string) ([]sched.Orphan, bool) {
	before := r.members.State(name)
	orphans := r.members.Gone(name, time.Now())
	return orphans, r.members.State(name) != before
}

// dead deals with a death. Call it locked.
func (r *Roll) dead(ctx context.Context, name string, orphans []sched.Orphan) {
	if name == "" {
		return
	}
	r.withdraw(name)
	r.release(ctx, orphans)
	r.tell()
	done := 0
	for _, o := range orphans {
		if o.Done {
			done++
		}
	}
	r.log.Warn("node is dead", "node", name, "tasks_released", len(orphans)-done)
}

func (r *Roll) tell() {
	select {
	case r.died <- struct{}{}:
	default:
	}
}

// release finds a new home for the tasks of a dead node, or remembers them for
// whoever leads next, this coordinator perhaps. Call it locked.
func (r *Roll) release(ctx context.Context, orphans []sched.Orphan) {
	if len(orphans) == 0 {
		return
	}
	if r.plans == nil {
		now := time.Now()
		fresh := slices.IndexFunc(r.orphans, func(o orphan) bool { return now.Sub(o.at) < broker.AckWait })
		if fresh < 0 {
			fresh = len(r.orphans)
		}
		r.orphans = slices.Delete(r.orphans, 0, fresh) // the queue has them back
		for _, o := range orphans {
			if len(r.orphans) < maxOrphans && !o.Done {
				r.orphans = append(r.orphans, orphan{o, now})
			}
		}
		return
	}
	back := false
	for _, o := range orphans {
		if !o.Urgent || r.plans[o.Job] == nil {
			// In the queue it is the next one to be taken, if its job has not ended.
			r.broker.HandBack(o.Reply)
			back = true
			continue
		}
		if o.Crashed {
			r.crashes[taskKey{o.Job, o.Task}]++
		}
		taken := r.rescue(ctx, o)
		if !taken && !o.Crashed {
			r.broker.HandBack(o.Reply)
			back = true
			continue
		}
		r.aside.Go(func() {
			if o.Crashed {
				r.noteCrash(ctx, o) // first, so that whoever gets it from the queue knows
			}
			if !taken {
				r.broker.HandBack(o.Reply)
				_ = r.broker.Wake()
			}
		})
	}
	if back {
		_ = r.broker.Wake() // a lost call costs the workers' own look, soon after
	}
}

// Lead has the tasks of the dead released from now on, those of nodes that died
// a moment ago included. Plans are the records of the active jobs by number; they are
// the list's from now on.
func (r *Roll) Lead(ctx context.Context, plans map[uint64]*wire.JobRecord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.plans = plans
	var fresh []sched.Orphan
	for _, o := range r.orphans {
		if time.Since(o.at) < broker.AckWait { // later the queue has them back
			fresh = append(fresh, o.Orphan)
		}
	}
	r.orphans = nil
	r.release(ctx, fresh)
}

// StandBy ends the releasing.
func (r *Roll) StandBy() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.plans = nil
	clear(r.crashes)
}

// Plan makes a job's tasks known while this coordinator leads.
func (r *Roll) Plan(rec *wire.JobRecord) {
	frozen := *rec
	r.mu.Lock()
	defer r.mu.Unlock()
	r.plans[rec.Job] = &frozen
}

// Forget ends that.
func (r *Roll) Forget(job uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.plans, job)
	for k := range r.crashes {
		if k.job == job {
			delete(r.crashes, k)
		}
	}
}

// Nodes is the membership list.
func (r *Roll) Nodes() []wire.Node {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.members.List()
}

// Slots is the number of compute slots of all workers that take tasks.
func (r *Roll) Slots() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.members.Slots()
}

// Workers are the workers that take tasks.
func (r *Roll) Workers() []sched.Worker {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.members.Workers()
}

// Dead reports whether a process is known to be no more, by its node's name and its
// incarnation.
func (r *Roll) Dead(name string, incarnation int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.members.Dead(name, incarnation)
}

// Died is told when a node died or left: perhaps it held the lease.
func (r *Roll) Died() <-chan struct{} { return r.died }
