package coordinator

import (
	"context"
	"errors"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
)

// pingWait bounds the wait for an answer to a ping. That there is nobody to
// answer is known long before.
const pingWait = time.Second

// observe takes in a heartbeat.
func (l *leader) observe(ctx context.Context, p []byte) {
	h, err := wire.ParseHeartbeat(p)
	if err != nil {
		l.Log.Warn("unreadable heartbeat", "error", err)
		return
	}
	at := time.Now() // not when its turn comes: the loop may be busy
	l.do(ctx, func() { l.release(l.members.Observe(h, at)) })
}

// tickMembers finds silent nodes, asks them, and releases what dead ones held.
func (l *leader) tickMembers(ctx context.Context, now time.Time) {
	ask, orphans := l.members.Tick(now)
	l.release(orphans)
	for _, name := range ask {
		go l.ping(ctx, name)
	}
}

// ping asks a silent node whether it lives. "No responders" comes from the
// server at once and means that the node's connection is closed.
func (l *leader) ping(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, pingWait)
	defer cancel()
	reply, err := l.Broker.Ask(ctx, broker.SubjectPing(name), nil)
	switch {
	case err == nil:
		l.observe(ctx, reply)
	case errors.Is(err, broker.ErrNobody):
		l.do(ctx, func() {
			if orphans := l.members.Gone(name, time.Now()); orphans != nil {
				l.Log.Warn("node is dead", "node", name, "tasks_released", len(orphans))
				l.release(orphans)
			}
		})
	}
}

// release hands the tasks of a dead node back to the queue, so that they are
// delivered to another node at once instead of after [broker.AckWait].
func (l *leader) release(orphans []wire.InFlight) {
	if len(orphans) == 0 {
		return
	}
	for _, o := range orphans {
		l.Broker.HandBack(o.Reply)
	}
	l.wakeWorkers()
}
