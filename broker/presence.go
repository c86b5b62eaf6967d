package broker

import (
	"context"
	"fmt"
	"time"

	"idunno/broker/wire"
)

// heartbeatEvery is the pause between heartbeats when nothing changes.
const heartbeatEvery = 200 * time.Millisecond

// Announce makes a node known: it publishes heartbeats, at once when changed
// says so, and answers pings. There is no pause between two changes: a task that
// no heartbeat names waits for the ack wait when its node dies. It blocks until
// ctx ends and then says that the node leaves.
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
	for {
		// A failed publish is a lost connection: the next heartbeat after it tells the same.
		_ = b.Publish(SubjectHeartbeat(name), marshal(false))
		select {
		case <-ctx.Done():
			_ = b.Publish(SubjectHeartbeat(name), marshal(true))
			return nil
		case <-tick.C:
		case <-changed:
		}
	}
}

// TellClosed tells the cluster that a server has closed a connection. A message
// that is lost is made up for by the node's silence.
func TellClosed(b Core, server string, client uint64) {
	c := wire.ConnClosed{Schema: wire.Schema, Conn: wire.Conn(server, client)}
	_ = b.Publish(SubjectClosed, c.Marshal())
}
