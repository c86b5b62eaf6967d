package broker

import (
	"context"
	"fmt"
	"time"

	"idunno/broker/wire"
)

// heartbeatEvery is the pause between heartbeats when nothing changes.
const heartbeatEvery = 200 * time.Millisecond

// At most changesPerSecond heartbeats a second tell of changes for long, and
// changesAtOnce for a moment.
const (
	changesPerSecond = 100
	changesAtOnce    = 200
)

// Announce makes a node known: it publishes heartbeats, at once when changed
// says so, and answers pings. As long as changes are not very many there is no pause
// between two: what a node computes is told at once. Announce blocks until ctx ends and
// then says that the node leaves.
func Announce(ctx context.Context, b Core, changed <-chan struct{}, beat func() wire.Heartbeat) error {
	name := beat().Node
	marshal := func(leaving bool) []byte {
		h := beat()
		h.Conn, h.Leaving = b.ConnID(), leaving
		return h.Marshal()
	}
	stop, err := b.Listen(SubjectPing(name), func(m *Message) {
		if m.Respond != nil {
			_ = m.Respond(marshal(false))
		}
	})
	if err != nil {
		return fmt.Errorf("announce node %s: %w", name, err)
	}
	defer stop()
	tick := time.NewTicker(heartbeatEvery)
	defer tick.Stop()
	allowed := allowance{perSecond: changesPerSecond, most: changesAtOnce}
	for {
		// A failed publish is a lost connection: the next heartbeat after it tells the same.
		_ = b.Publish(SubjectHeartbeat(name), marshal(false))
		select {
		case <-ctx.Done():
			_ = b.Publish(SubjectHeartbeat(name), marshal(true))
			return nil
		case <-tick.C:
			continue
		case <-changed:
		}
		if wait := allowed.take(time.Now()); wait > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
	}
}

// allowance lets something happen so many times a second, and as many times at once
// as have been left out before, up to a most. Its zero time is full.
type allowance struct {
	perSecond, most float64
	left            float64
	at              time.Time
}

// take takes one, and returns how long to wait for it.
func (a *allowance) take(now time.Time) time.Duration {
	if a.at.IsZero() {
		a.left = a.most
	} else {
		a.left = min(a.left+now.Sub(a.at).Seconds()*a.perSecond, a.most)
	}
	a.at = now
	a.left--
	return max(0, time.Duration(-a.left/a.perSecond*float64(time.Second)))
}

// TellClosed tells the cluster that a server has closed a connection. A message
// that is lost is made up for by the node's silence.
func TellClosed(b Core, server string, client uint64) {
	c := wire.ConnClosed{Schema: wire.Schema, Conn: wire.Conn(server, client)}
	_ = b.Publish(SubjectClosed, c.Marshal())
}
