package worker

import (
	"context"
	"errors"
	"sync"

	"idunno/broker"
)

// errLost ends a request whose connection was lost: its reply went with it.
var errLost = errors.New("the connection to the server was lost")

// link watches the connection. A reply that was lost with the connection never
// comes; who waits for it learns of the loss here, at once, and asks again.
type link struct {
	broker broker.Core
	mu     sync.Mutex
	// up is closed while there is a connection.
	up   chan struct{}
	down bool
	// life ends with the connection.
	life context.Context
	end  context.CancelFunc
}

func newLink(b broker.Core) *link {
	l := &link{broker: b, up: make(chan struct{})}
	close(l.up)
	l.life, l.end = context.WithCancel(context.Background())
	return l
}

// follow keeps the link up to date until ctx ends.
func (l *link) follow(ctx context.Context) {
	changes, stop := l.broker.ConnectionChanges()
	defer stop()
	defer l.set(true) // nobody shall wait for ever
	// What happened before there was a listener shows in the state itself.
	l.set(l.broker.Connected())
	for {
		select {
		case <-ctx.Done():
			return
		case connected := <-changes:
			l.set(connected && l.broker.Connected())
		}
	}
}

func (l *link) set(up bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !up && !l.down:
		l.down, l.up = true, make(chan struct{})
		l.end()
		l.life, l.end = context.WithCancel(context.Background())
	case up && l.down:
		l.down = false
		close(l.up)
	}
}

// wait waits for a connection; waited says that there was none.
func (l *link) wait(ctx context.Context) (waited bool) {
	l.mu.Lock()
	up := l.up
	l.mu.Unlock()
	select {
	case <-up:
		return false
	default:
	}
	select {
	case <-up:
	case <-ctx.Done():
	}
	return true
}

// during returns a context that ends with ctx or, with errLost as its cause, when
// the connection of this moment is lost.
func (l *link) during(ctx context.Context) (context.Context, context.CancelFunc) {
	l.mu.Lock()
	life := l.life
	l.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(life, func() { cancel(errLost) })
	return ctx, func() { stop(); cancel(nil) }
}

// retry calls fn, which may do without the connection, and calls it again when it
// failed for want of one.
func (l *link) retry(ctx context.Context, fn func(context.Context) error) error {
	for {
		began := l.isUp()
		try, done := l.during(ctx)
		err := fn(try)
		lost := !began || errors.Is(context.Cause(try), errLost)
		done()
		if err == nil || !lost || isFault(err) || ctx.Err() != nil {
			return err
		}
		l.wait(ctx)
	}
}

func (l *link) isUp() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.down
}
