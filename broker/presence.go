package broker

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"idunno/broker/wire"
)

const (
	// heartbeatEvery is the pause between heartbeats when nothing changes.
	heartbeatEvery = 200 * time.Millisecond
	// heartbeatGap is the least pause between two heartbeats, however much changes.
	heartbeatGap = 5 * time.Millisecond
)

// Announce makes a node known: it publishes heartbeats, at once when changed
// says so, and answers pings. It blocks until ctx ends and then says that the
// node leaves.
func Announce(ctx context.Context, nc *nats.Conn, changed <-chan struct{}, beat func() wire.Heartbeat) error {
	name := beat().Node
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
		told := time.Now()
		select {
		case <-ctx.Done():
			h := beat()
			h.Leaving = true
			_ = nc.Publish(SubjectHeartbeat(name), h.Marshal())
			return nil
		case <-tick.C:
		case <-changed:
			// At once, unless the last one is only just out: what it doesn't
			// name waits for the ack wait if this node dies now.
			select {
			case <-ctx.Done():
			case <-time.After(heartbeatGap - time.Since(told)):
			}
		}
	}
}
