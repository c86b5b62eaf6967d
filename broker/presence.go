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
	stop, err := b.Listen(SubjectPing(name), func(m *Message) {
		if m.Respond != nil {
			h := beat()
			_ = m.Respond(h.Marshal())
		}
	})
	if err != nil {
		return fmt.Errorf("announce node %s: %w", name, err)
	}
	defer stop()
	tick := time.NewTicker(heartbeatEvery)
	defer tick.Stop()
	for {
		h := beat()
		// A failed publish is a lost connection: the next heartbeat after it tells the same.
		_ = b.Publish(SubjectHeartbeat(name), h.Marshal())
		select {
		case <-ctx.Done():
			h := beat()
			h.Leaving = true
			_ = b.Publish(SubjectHeartbeat(name), h.Marshal())
			return nil
		case <-tick.C:
		case <-changed:
		}
	}
}
