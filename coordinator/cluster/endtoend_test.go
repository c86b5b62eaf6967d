//go:build unix

package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"

	"idunno/broker/wire"
	"idunno/coordinator/cli"
	"idunno/coordinator/client"
	"idunno/coordinator/cluster"
)

// endToEnd is a cluster of real processes with MNIST in it.
type endToEnd struct {
	t     *testing.T
	ctx   context.Context
	store string
	// servers is the number of brokers.
	servers int
	l       *cluster.Local
	api     *client.Client
}

func (e *endToEnd) start() {
	e.t.Helper()
	l, err := cluster.Start(e.ctx, cluster.Config{Program: program(e.t), Store: e.store, Port: -1, Servers: e.servers, Workers: 3, Coordinators: 2})
	if err != nil {
		e.t.Fatal(err)
	}
	e.l, e.api = l, client.New(l.Broker())
	store, err := cluster.OpenStore(e.ctx, l.Broker())
	if err != nil {
		e.t.Fatal(err)
	}
	if _, err := cluster.Seed(e.ctx, store, nil); err != nil {
		e.t.Fatal(err)
	}
}

func (e *endToEnd) submit(batches int) uint64 {
	e.t.Helper()
	s, err := e.api.Submit(e.ctx, fmt.Appendf(nil, `{"model":"cnn","from":1,"to":%d}`, batches))
	if err != nil {
		e.t.Fatal(err)
	}
	return s.Job
}

// reach waits until the job has done that many batches, or has ended.
func (e *endToEnd) reach(job uint64, batches int64) {
	e.t.Helper()
	eventually(e.t, e.ctx, fmt.Sprintf("%d batches of job %d", batches, job), func() bool {
		reply, err := e.api.Job(e.ctx, job)
		return err == nil && (reply.Stats.Batches >= batches || reply.Record.State.Ended())
	})
}

// strike submits a job and calls fault in its midst. When the job was over before
// the fault, which then hit nothing, it does so again with another job.
func (e *endToEnd) strike(batches int, fault func()) (job uint64) {
	e.t.Helper()
	for range 5 {
		job = e.submit(batches)
		e.reach(job, 10)
		if reply, err := e.api.Job(e.ctx, job); err == nil && !reply.Record.State.Ended() {
			fault()
			return job
		}
	}
	e.t.Fatal("five jobs ended before they could be disturbed")
	return 0
}

func (e *endToEnd) kill(names ...string) {
	e.t.Helper()
	for _, name := range names {
		if _, err := e.l.Kill(name); err != nil {
			e.t.Fatalf("kill %s: %v", name, err)
		}
	}
}

// results waits for the end of a job and returns what `idunno results` prints.
func (e *endToEnd) results(job uint64) []byte {
	e.t.Helper()
	stats, err := e.api.Wait(e.ctx, job, nil)
	if err != nil || stats.State != wire.StateDone {
		e.t.Fatalf("job %d: %+v, %v", job, stats, err)
	}
	var stdout, stderr bytes.Buffer
	args := []string{"results", strconv.FormatUint(job, 10), "--server", e.l.URL()}
	if code := cli.Main(args, os.Stdin, &stdout, &stderr, os.Getenv); code != 0 {
		e.t.Fatalf("results of job %d: exit code %d, %s", job, code, stderr.String())
	}
	return stdout.Bytes()
}

// Whatever is killed under a job, its results are those of a clean run, byte for byte.
func TestResultsEqualACleanRun(t *testing.T) {
	const batches = 200
	e := &endToEnd{t: t, ctx: testContext(t), store: t.TempDir()}
	e.start()
	defer func() { e.l.Stop() }()
	first := e.submit(batches)
	clean := e.results(first)
	if lines := bytes.Count(clean, []byte("\n")); lines != 100*batches {
		t.Fatalf("%d lines for %d images", lines, 100*batches)
	}
	same := func(job uint64, what string) {
		t.Helper()
		if !bytes.Equal(e.results(job), clean) {
			t.Errorf("%s: the results of job %d differ from a clean run", what, job)
		}
	}

	job := e.strike(batches, func() { e.kill("worker-1") })
	same(job, "a worker killed")

	job = e.strike(batches, func() {
		nodes, err := e.api.Nodes(e.ctx)
		if err != nil {
			t.Fatal(err)
		}
		e.kill(nodes.Leader)
	})
	same(job, "the leading coordinator killed")

	job = e.strike(batches, func() {
		for _, name := range []string{"broker", "coordinator-1", "coordinator-2", "worker-1", "worker-2", "worker-3"} {
			if e.l.PID(name) != 0 {
				e.kill(name)
			}
		}
	})
	e.l.Stop()
	e.start()
	same(job, "everything killed and started again")
	same(first, "a finished job after the restart")
}
