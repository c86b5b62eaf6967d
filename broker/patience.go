package broker

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// patience is how long a role that starts waits for servers that don't answer
	// yet: those of a cluster elect leaders for up to ten seconds, and more than once
	// when several have been started.
	patience = time.Minute
	// patienceGap is the pause between two tries.
	patienceGap = 100 * time.Millisecond
)

// Patiently calls open, which opens what a role stands on, again and again while it
// fails only because the servers are away or elect a leader, for a minute. It
// returns the last error, or the cause of ctx's end.
func Patiently(ctx context.Context, open func(context.Context) error) error {
	for deadline := time.Now().Add(patience); ; {
		err := open(ctx)
		if err == nil || !isPassing(err) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(patienceGap):
		}
	}
}

// unavailable is the code of an API error that says that nobody leads for now.
const unavailable = 503

// isPassing reports whether what failed may work a moment later.
func isPassing(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.Code == unavailable && api.ErrorCode != codeNoPeers
	}
	for _, passing := range []error{context.DeadlineExceeded, nats.ErrTimeout, nats.ErrNoResponders, nats.ErrDisconnected, nats.ErrConnectionReconnecting,
		jetstream.ErrNoStreamResponse} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}
