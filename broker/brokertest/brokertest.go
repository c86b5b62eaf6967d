// Package brokertest gives tests a real NATS server with JetStream: a free port
// on loopback, a temporary store, stopped by the test's cleanup.
package brokertest

import (
	"context"
	"testing"
	"time"

	"idunno/broker"
	"idunno/broker/embedded"
)

// Start runs a server and returns its URL.
func Start(tb testing.TB) string {
	tb.Helper()
	s, err := embedded.Start(embedded.Config{Port: -1, Store: tb.TempDir()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Stop)
	return s.URL()
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
