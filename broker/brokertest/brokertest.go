// Package brokertest gives tests a real NATS server with JetStream: a free port
// on loopback, a temporary store, stopped by the test's cleanup.
package brokertest

import (
	"context"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"idunno/broker"
	"idunno/broker/embedded"
)

// Leaks are the options for goleak where a NATS connection is used. The client
// library starts one goroutine with the first asynchronous publish, uploads of
// objects included, and loses it when the publisher is cleaned up before that
// goroutine has run. A server loses a stream that it is asked to create while it stops,
// with the two goroutines of the stream's store: one stop in two does, when streams
// are created all the time.
func Leaks() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"),
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
	}
}

// Start runs a server and returns its URL.
func Start(tb testing.TB) string {
	tb.Helper()
	return StartLimited(tb, 0)
}

// StartLimited runs a server that stores at most so many bytes, 0 for no limit, and
// returns its URL.
func StartLimited(tb testing.TB, maxStore int64) string {
	tb.Helper()
	s, err := embedded.Start(embedded.Config{Port: -1, Store: tb.TempDir(), MaxStore: maxStore})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Stop)
	tellClosed(tb, s)
	return s.URL()
}

// StartQuiet is Start with a server that is not a broker of ours: nobody tells of
// the connections that it closes.
func StartQuiet(tb testing.TB) string {
	tb.Helper()
	s, err := embedded.Start(embedded.Config{Port: -1, Store: tb.TempDir()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Stop)
	return s.URL()
}

// tellClosed has the server's news of closed connections told as a broker tells them.
func tellClosed(tb testing.TB, s *embedded.Server) {
	tb.Helper()
	b := Connect(tb, s.URL())
	stop, err := s.Disconnects(func(c embedded.Closed) { broker.TellClosed(b, c.Server, c.Client) })
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(stop)
}

// FreePort is a port at which nobody listens, for a server that comes back to it.
func FreePort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Connect opens a connection to url and closes it with the test.
func Connect(tb testing.TB, url string) *broker.Broker {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b, err := broker.Connect(ctx, broker.Config{Servers: url, Name: tb.Name()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(b.Close)
	return b
}

// New runs a server, connects to it and creates every stream and bucket.
func New(tb testing.TB) *broker.Broker {
	tb.Helper()
	b := Connect(tb, Start(tb))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := b.Ensure(ctx); err != nil {
		tb.Fatal(err)
	}
	return b
}
