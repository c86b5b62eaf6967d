package coordinator

import (
	"context"
	"fmt"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
)

const (
	// tendEvery is how often the leader looks after the servers, tendWait how long
	// that may take.
	tendEvery = 3 * time.Second
	tendWait  = 20 * time.Second
	roomWait  = time.Second
	// stuckLooks is how many times in a row a job must be found waiting for nobody
	// until its queue is rebuilt.
	stuckLooks = 2
)

// servers is what a broker of a cluster of servers can do besides. One that keeps
// everything in this process has no need for it.
type servers interface {
	Room(ctx context.Context) (broker.Room, error)
	Tend(ctx context.Context) (broker.Tended, error)
	Revive(ctx context.Context) ([]string, error)
	Deliveries(ctx context.Context, job uint64) (uint64, error)
	RebuildQueue(ctx context.Context, job uint64, inFlight int) (queue string, err error)
}

// tend looks after the servers until ctx ends.
func (l *leader) tend(ctx context.Context) {
	s, ok := l.Broker.(servers)
	if !ok {
		return
	}
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	told := ""
	for {
		l.measure(ctx, s)
		within, cancel := context.WithTimeout(ctx, tendWait)
		done, err := s.Tend(within)
		cancel()
		if len(done.Leaderless) > 0 {
			l.Log.Warn("streams can't be reached: most of the servers that keep them are missing", "streams", done.Leaderless)
		}
		if done.Moved > 0 {
			l.Log.Info("spread the load over the servers", "moved", done.Moved)
		}
		if len(done.Revived) > 0 {
			l.Log.Warn("created anew what was lost with the servers' memory", "streams", done.Revived)
			l.do(ctx, func() {
				if err := l.refill(ctx); err != nil {
					l.Log.Warn("will try again", "error", err)
				}
			})
		}
		if err == nil {
			told = ""
		}
		if err != nil && ctx.Err() == nil {
			if text := err.Error(); text != told {
				l.Log.Warn("can't look after the servers now", "error", err)
				told = text
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// measure looks whether there is room for more work.
func (l *leader) measure(ctx context.Context, s servers) {
	within, cancel := context.WithTimeout(ctx, roomWait)
	defer cancel()
	room, err := s.Room(within)
	if err != nil {
		return // what was known last stands
	}
	was, full := l.full.Load() != nil, room.Full()
	switch {
	case full:
		l.full.Store(&room)
	case was:
		l.full.Store(nil)
	}
	if full != was {
		l.Log.Warn("room for more work", "refuse_submissions", full, "room", room.String())
	}
}

// revive creates the lease's bucket anew when the servers that kept it have lost it:
// without a lease nobody leads, and nobody else would.
func (c *coordinator) revive(ctx context.Context) error {
	s, ok := c.Broker.(servers)
	if !ok {
		return nil
	}
	revived, err := s.Revive(ctx)
	if len(revived) > 0 {
		c.Log.Warn("created anew what was lost with the servers' memory", "streams", revived)
	}
	return err
}

// stuckLook is how often in a row a job was found waiting for nobody, and how many
// deliveries its queue had made by then.
type stuckLook struct {
	times     int
	delivered uint64
}

// unstick looks after a job that has tasks in its queue and makes no progress. When
// no living node has any of them in hand although one could, twice in a row, and the
// queue has delivered nothing in between (tasks that wait for another try are in
// nobody's hand for long), it is made anew.
func (l *leader) unstick(ctx context.Context, job uint64) error {
	s, ok := l.Broker.(servers)
	if !ok || !l.waitsForNobody(job) {
		delete(l.stuck, job)
		return nil
	}
	within, cancel := context.WithTimeout(ctx, tendWait)
	defer cancel()
	look := l.stuck[job]
	if n, err := s.Deliveries(within, job); err == nil && n != look.delivered {
		look = stuckLook{delivered: n} // else it can't even say
	}
	look.times++
	if l.stuck[job] = look; look.times < stuckLooks {
		return nil
	}
	delete(l.stuck, job)
	l.Log.Warn("nobody is given the job's tasks: making its queue anew", "job", job)
	queue, err := s.RebuildQueue(within, job, l.inFlight(job))
	if err != nil {
		return err
	}
	l.queues[job], l.dirty = queue, true
	l.wakeWorkers()
	return nil
}

// waitsForNobody reports whether workers have room and none has a task of the job.
func (l *leader) waitsForNobody(job uint64) bool {
	idle := false
	for _, n := range l.roll.Nodes() {
		if n.Role != wire.RoleWorker || n.State != wire.NodeAlive {
			continue
		}
		for _, t := range n.InFlight {
			if t.Job == job {
				return false
			}
		}
		idle = idle || len(n.InFlight) < 2*n.Slots
	}
	return idle
}

// pressed refuses more work with a *[wire.Error] while there is too much of it: what
// has been accepted must find room for its results.
func (l *leader) pressed(ctx context.Context) error {
	if room := l.full.Load(); room != nil {
		return wire.StorageFull(room.String())
	}
	waiting, ok := inLoop(ctx, l, func() int { return len(l.jobs) - len(l.active) })
	if !ok {
		return ctx.Err()
	}
	if waiting >= l.MaxQueued {
		return &wire.Error{Code: wire.CodeBusy,
			Message: fmt.Sprintf("%d jobs are waiting, more are not taken at a time: submit again when some have ended, or start coordinators with a higher --max-queued", waiting)}
	}
	return nil
}
