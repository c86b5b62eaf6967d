//go:build unix

package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/cluster"
)

// follow waits for the end of a job and returns the longest time, from since on, in
// which no batch was finished.
func (e *endToEnd) follow(job uint64, since time.Time) (gap time.Duration) {
	e.t.Helper()
	var done int64
	last := since
	eventually(e.t, e.ctx, "the end of the job", func() bool {
		reply, err := e.api.Job(e.ctx, job)
		if err != nil {
			return false
		}
		now := time.Now()
		if reply.Stats.Batches > done {
			gap = max(gap, now.Sub(last))
			done, last = reply.Stats.Batches, now
		}
		return reply.Record.State.Ended()
	})
	return gap
}

// settled waits until every copy of everything is up to date.
func (e *endToEnd) settled() {
	e.t.Helper()
	var layout broker.Layout
	defer func() {
		if !layout.Whole(3) {
			e.t.Logf("the layout is %+v", layout)
		}
	}()
	ctx, cancel := context.WithTimeout(e.ctx, time.Minute)
	defer cancel()
	eventually(e.t, ctx, "every stream has three copies that are up to date", func() bool {
		var err error
		layout, err = e.l.Broker().Layout(ctx)
		return err == nil && layout.Whole(3)
	})
}

func (e *endToEnd) restart(names ...string) {
	e.t.Helper()
	for _, name := range names {
		if err := e.l.Restart(e.ctx, name); err != nil {
			e.t.Fatalf("restart %s: %v", name, err)
		}
	}
}

// Servers die under load, one, two and all of them, and come back. No job is lost,
// and each has the results of a clean run, byte for byte.
func TestServersDie(t *testing.T) {
	const batches = 200
	e := &endToEnd{t: t, ctx: testContext(t), store: t.TempDir(), servers: 3}
	e.start()
	defer func() { e.l.Stop() }()
	e.settled()
	first := e.submit(batches)
	clean := e.results(first)
	if lines := bytes.Count(clean, []byte("\n")); lines != 100*batches {
		t.Fatalf("%d lines for %d images", lines, 100*batches)
	}
	brokers := e.l.Names(wire.RoleBroker)
	for _, c := range []struct {
		what string
		kill []string
	}{
		{"one server killed", brokers[:1]},
		{"two servers killed", brokers[1:]},
		{"all servers killed", brokers},
	} {
		var killed time.Time
		job := e.strike(batches, func() {
			killed = time.Now()
			e.kill(c.kill...)
			if len(c.kill) == 1 {
				return
			}
			e.restart(c.kill...)
		})
		var second uint64
		if len(c.kill) == 1 {
			second = e.submit(batches) // while it is away
		}
		gap := e.follow(job, killed)
		t.Logf("%s: longest time without a result %.1f s, job ended %.1f s after", c.what, gap.Seconds(), time.Since(killed).Seconds())
		if !bytes.Equal(e.results(job), clean) {
			t.Errorf("%s: the results of job %d differ from a clean run", c.what, job)
		}
		if second != 0 && !bytes.Equal(e.results(second), clean) {
			t.Errorf("%s: the results of job %d, submitted meanwhile, differ from a clean run", c.what, second)
		}
		if len(c.kill) == 1 {
			e.restart(c.kill...)
		}
		e.settled()
	}

	job := e.strike(batches, func() {
		for _, role := range []wire.Role{wire.RoleBroker, wire.RoleCoordinator, wire.RoleWorker} {
			e.kill(e.l.Names(role)...)
		}
	})
	e.l.Stop()
	began := time.Now()
	e.start()
	t.Logf("all processes killed: started again in %.1f s", time.Since(began).Seconds())
	if !bytes.Equal(e.results(job), clean) {
		t.Errorf("the results of job %d differ from a clean run after everything was killed", job)
	}
	if !bytes.Equal(e.results(first), clean) {
		t.Error("a finished job has other results after everything was killed")
	}
}

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
		eventually(t, ctx, "the job is there", func() bool { // the servers may be electing
			stream, err := l.Broker().Jobs(ctx)
			if err == nil {
				_, err = stream.GetMsg(ctx, ack.Sequence)
			}
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				t.Fatalf("%d servers: the job is gone", c.made)
			}
			return err == nil
		})
		l.Stop()
	}
}
