//go:build unix

package cluster_test

import (
	"errors"
	"testing"

	"idunno/broker"
	"idunno/coordinator/cluster"
)

// A store is opened by as many servers as made it, or not at all.
func TestStoreKnowsItsServers(t *testing.T) {
	ctx := testContext(t)
	for _, c := range []struct{ made, opened int }{{1, 3}, {3, 1}} {
		dir := t.TempDir()
		cfg := cluster.Config{Program: program(t), Store: dir, Port: -1, Servers: c.made, Workers: 1}
		l, err := cluster.Start(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		ack, err := l.Broker().JS.Publish(ctx, broker.SubjectJobs, []byte("a job"))
		l.Stop()
		if err != nil {
			t.Fatal(err)
		}
		cfg.Servers = c.opened
		if l, err := cluster.Start(ctx, cfg); !errors.Is(err, cluster.ErrStoreLayout) {
			l.Stop()
			t.Fatalf("made with %d servers, opened with %d: %v", c.made, c.opened, err)
		}
		cfg.Servers = c.made
		if l, err = cluster.Start(ctx, cfg); err != nil {
			t.Fatalf("opened again with %d servers: %v", c.made, err)
		}
		stream, err := l.Broker().Jobs(ctx)
		if err == nil {
			_, err = stream.GetMsg(ctx, ack.Sequence)
		}
		l.Stop()
		if err != nil {
			t.Errorf("%d servers: the job is gone: %v", c.made, err)
		}
	}
}
