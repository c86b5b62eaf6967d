package broker

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"idunno/broker/wire"
)

// heartbeatEvery is the pause between heartbeats when nothing changes.
const heartbeatEvery = 200 * time.Millisecond

// Announce makes a node known: it publishes heartbeats, at once when changed
// says so, and answers pings. There is no pause between two changes: a task that
// no heartbeat names waits for the ack wait when its node dies. It blocks until
// ctx ends and then says that the node leaves.
func Announce(ctx context.Context, nc *nats.Conn, changed <-chan struct{}, beat func() wire.Heartbeat) error {
	name, own := beat().Node, beat
	beat = func() wire.Heartbeat {
		h := own()
		if id, err := nc.GetClientID(); err == nil {
			h.Conn = wire.Conn(nc.ConnectedServerId(), id)
		}
		return h
	}
	ping, err := nc.Subscribe(SubjectPing(name), func(m *nats.Msg) {
		h := beat()
		_ = m.Respond(h.Marshal())
	})
	if err != nil {
		return fmt.Errorf("announce node %s: %w", name, err)
	}
	defer func() { _ = ping.Unsubscribe() }()
	tick := time.NewTicker(heartbeatEvery)
	defer tick.Stop()
	for {
		h := beat()
		// A failed publish is a lost connection: the next heartbeat after it tells the same.
		_ = nc.Publish(SubjectHeartbeat(name), h.Marshal())
		select {
		case <-ctx.Done():
			h := beat()
			h.Leaving = true
			_ = nc.Publish(SubjectHeartbeat(name), h.Marshal())
			return nil
		case <-tick.C:
		case <-changed:
		}
	}
}

// TellClosed tells the cluster that a server has closed a connection. A message
// that is lost is made up for by the node's silence.
func TellClosed(nc *nats.Conn, server string, client uint64) {
	c := wire.ConnClosed{Schema: wire.Schema, Conn: wire.Conn(server, client)}
	_ = nc.Publish(SubjectClosed, c.Marshal())
}
