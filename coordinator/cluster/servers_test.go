//go:build unix

package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/cluster"
	"idunno/models/zoo"
)

// pause waits for the end of a job and returns the longest time, from since on, in
// which none of its results was stored.
func (e *endToEnd) pause(job uint64, since time.Time) (longest time.Duration) {
	e.t.Helper()
	if _, err := e.api.Wait(e.ctx, job, nil); err != nil {
		e.t.Fatal(err)
	}
	last, through := since, make(chan struct{})
	stop, err := e.l.Broker().FollowResults(e.ctx, 1, func(_ context.Context, m *broker.Stored) {
		if m == nil {
			close(through)
			return
		}
		if n, _, ok := broker.TaskOfResult(m.Subject); ok && n == job && m.At.After(last) {
			longest, last = max(longest, m.At.Sub(last)), m.At
		}
	})
	if err != nil {
		e.t.Fatal(err)
	}
	select {
	case <-through:
	case <-e.ctx.Done():
		e.t.Fatal("the results can't be read")
	}
	stop()
	return longest
}

// settled waits until every copy of everything is up to date.
func (e *endToEnd) settled() {
	e.t.Helper()
	var layout broker.Layout
	defer func() {
		if e.t.Failed() {
			e.t.Logf("the layout is %+v", layout)
		}
	}()
	ctx, cancel := context.WithTimeout(e.ctx, time.Minute)
	defer cancel()
	eventually(e.t, ctx, "every stream has three copies that are up to date, and leaders are spread", func() bool {
		now, err := e.l.Broker().Layout(ctx)
		if err == nil {
			layout = now
		}
		return err == nil && layout.Whole(3) && layout.Spread()
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

// smallRounds times the batches of a job are the tasks of a small one.
const smallRounds = 3

// small submits a job of many tasks of a batch each: its model is mlp under a digest
// that nobody has experience with.
func (e *endToEnd) small(batches, number int) uint64 {
	e.t.Helper()
	store, err := cluster.OpenStore(e.ctx, e.l.Broker())
	if err != nil {
		e.t.Fatal(err)
	}
	name := "small-" + strconv.Itoa(number)
	const docString = 6<<3 | 2 // a field of the model that says nothing to the engine
	if _, err := cluster.StoreModel(e.ctx, store, name, slices.Concat(zoo.MLP(), []byte{docString, byte(len(name))}, []byte(name))); err != nil {
		e.t.Fatal(err)
	}
	s, err := e.api.Submit(e.ctx, fmt.Appendf(nil, `{"model":%q,"from":1,"to":%d,"rounds":%d}`, name, batches, smallRounds))
	if err != nil {
		e.t.Fatal(err)
	}
	return s.Job
}

// ledger is what was seen to be stored: the place of each task's result, and how many
// of a job shared a durable write.
type ledger struct {
	mu     sync.Mutex
	places map[string]uint64
	shared map[uint64]int
}

// watch has the ledger kept from now on.
func (e *endToEnd) watch(l *ledger) (stop func()) {
	e.t.Helper()
	stop, err := e.l.Broker().FollowResults(e.ctx, 1, func(_ context.Context, m *broker.Stored) {
		if m == nil {
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		switch at, ok := l.places[m.Subject]; {
		case ok && at != m.Seq:
			e.t.Errorf("%s was stored at place %d, then at %d: the first result was lost", m.Subject, at, m.Seq)
		case !ok && m.Group != "":
			job, _, _ := broker.TaskOfResult(m.Subject)
			l.shared[job]++
		}
		l.places[m.Subject] = m.Seq
	})
	if err != nil {
		e.t.Fatal(err)
	}
	return stop
}

// undecided stores a result with a leader whose other servers are frozen, so that it can't
// be stored. The leader refuses a second one for the sake of the first; whoever stores it
// must not take that for a stored result.
func (e *endToEnd) undecided() {
	e.t.Helper()
	const job = 1 << 40 // there is no such job
	brokers := e.l.Names(wire.RoleBroker)
	layout, err := e.l.Broker().Layout(e.ctx)
	if err != nil {
		e.t.Fatal(err)
	}
	leader := slices.Index(brokers, layout.Busy())
	b, err := broker.Connect(e.ctx, broker.Config{Servers: strings.Split(e.l.URL(), ",")[leader], StoreAlone: true})
	if err != nil {
		e.t.Fatal(err)
	}
	defer b.Close()
	others := slices.Delete(slices.Clone(brokers), leader, leader+1)
	signal := func(s os.Signal) {
		for _, name := range others {
			if _, err := e.l.Signal(name, s); err != nil {
				e.t.Fatal(err)
			}
		}
	}
	store := func() error {
		ctx, cancel := context.WithTimeout(e.ctx, 500*time.Millisecond)
		defer cancel()
		return b.StoreResult(ctx, job, 1, []byte("undecided"))
	}
	signal(cluster.SignalStop)
	for range 2 {
		if err := store(); err == nil || errors.Is(err, broker.ErrExists) {
			e.t.Errorf("a result that one of three servers has is taken for stored: %v", err)
		}
	}
	signal(cluster.SignalContinue)
	eventually(e.t, e.ctx, "the result is stored", func() bool { err := store(); return err == nil || errors.Is(err, broker.ErrExists) })
	eventually(e.t, e.ctx, "every copy has it", func() bool { has, err := b.HasResult(e.ctx, job, 1); return err == nil && has })
}

// crowded results are stored at once, as by a worker in which many wait: more than make a
// batch.
const crowded = 300

// crowd stores the results of a job that there isn't, from now on until wait returns.
func (e *endToEnd) crowd(job uint64) (wait func()) {
	e.t.Helper()
	b, err := broker.Connect(e.ctx, broker.Config{Servers: e.l.URL()})
	if err != nil {
		e.t.Fatal(err)
	}
	var group errgroup.Group
	for task := 1; task <= crowded; task++ {
		group.Go(func() error {
			for {
				err := b.StoreResult(e.ctx, job, task, fmt.Appendf(nil, "result %d", task))
				if err == nil || errors.Is(err, broker.ErrExists) {
					return nil
				}
				select {
				case <-e.ctx.Done():
					return err
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}
	return func() {
		e.t.Helper()
		defer b.Close()
		if err := group.Wait(); err != nil {
			e.t.Fatal(err)
		}
		seen := make(map[string]bool)
		err := b.ReadResults(e.ctx, job, func(subject string, data []byte) (bool, error) {
			_, task, _ := broker.TaskOfResult(subject)
			if seen[subject] || string(data) != fmt.Sprintf("result %d", task) {
				e.t.Errorf("%s is %q, seen before: %v", subject, data, seen[subject])
			}
			seen[subject] = true
			return true, nil
		})
		if err != nil || len(seen) != crowded {
			e.t.Errorf("%d results of %d that were stored, %v", len(seen), crowded, err)
		}
	}
}

// Servers die under load, one, two and all of them, and come back. No job is lost,
// and each has the results of a clean run, byte for byte: one of tasks of usual size,
// and many small ones. Nor is a result lost that shared a durable write with others.
func TestServersDie(t *testing.T) {
	const batches = 200
	e := &endToEnd{t: t, ctx: testContext(t), store: t.TempDir(), servers: 3, log: t.Output()}
	e.start()
	defer func() { e.l.Stop() }()
	e.settled()
	e.undecided()
	e.settled()
	first := e.submit(batches)
	clean := e.results(first)
	if lines := bytes.Count(clean, []byte("\n")); lines != 100*batches {
		t.Fatalf("%d lines for %d images", lines, 100*batches)
	}
	stored := &ledger{places: make(map[string]uint64), shared: make(map[uint64]int)}
	unwatch := e.watch(stored)
	defer func() { unwatch() }()
	const crowd = 1 << 41
	e.crowd(crowd)()
	smalls := []uint64{e.small(batches, 0)}
	smallClean := e.results(smalls[0])
	if lines := bytes.Count(smallClean, []byte("\n")); lines != smallRounds*100*batches {
		t.Fatalf("%d lines for %d images, %d times", lines, 100*batches, smallRounds)
	}
	// along submits a small job, whose results are compared at the end.
	along := func() { smalls = append(smalls, e.small(batches, len(smalls))) }
	brokers := e.l.Names(wire.RoleBroker)
	// busy brings the server that running jobs need most to the front.
	busy := func() []string {
		layout, err := e.l.Broker().Layout(e.ctx)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.Index(brokers, layout.Busy())
		return slices.Concat(brokers[i:], brokers[:i])
	}
	for i, c := range []struct {
		what string
		kill func() []string
	}{
		{"one server killed, not the busiest", func() []string { return busy()[1:2] }},
		{"the busiest server killed", func() []string { return busy()[:1] }},
		{"two servers killed", func() []string { return busy()[:2] }},
		{"all servers killed", busy},
	} {
		var killed time.Time
		names := c.kill()
		along()
		var stampede func()
		job := e.strike(batches, func() {
			stampede = e.crowd(crowd + uint64(i) + 1)
			killed = time.Now()
			e.kill(names...)
			if len(names) == 1 {
				return
			}
			e.restart(names...)
		})
		var second uint64
		if len(names) == 1 {
			second = e.submit(batches) // while it is away
		}
		longest := e.pause(job, killed)
		stampede()
		t.Logf("%s: longest time without a result %.1f s, the end of the job was told %.1f s after", c.what, longest.Seconds(), time.Since(killed).Seconds())
		if !bytes.Equal(e.results(job), clean) {
			t.Errorf("%s: the results of job %d differ from a clean run", c.what, job)
		}
		if second != 0 && !bytes.Equal(e.results(second), clean) {
			t.Errorf("%s: the results of job %d, submitted meanwhile, differ from a clean run", c.what, second)
		}
		if len(names) == 1 {
			e.restart(names...)
		}
		e.settled()
	}

	along()
	job := e.strike(batches, func() {
		for _, role := range []wire.Role{wire.RoleBroker, wire.RoleCoordinator, wire.RoleWorker} {
			e.kill(e.l.Names(role)...)
		}
	})
	unwatch()
	e.l.Stop()
	began := time.Now()
	e.start()
	unwatch = e.watch(stored)
	t.Logf("all processes killed: started again in %.1f s", time.Since(began).Seconds())
	if !bytes.Equal(e.results(job), clean) {
		t.Errorf("the results of job %d differ from a clean run after everything was killed", job)
	}
	if !bytes.Equal(e.results(first), clean) {
		t.Error("a finished job has other results after everything was killed")
	}
	for _, job := range smalls {
		if !bytes.Equal(e.results(job), smallClean) {
			t.Errorf("the results of job %d, of small tasks, differ from a clean run", job)
		}
	}
	unwatch()
	t.Logf("results that shared a durable write, by job: %v", stored.shared)
	if stored.shared[crowd] < crowded/2 {
		t.Errorf("%d of %d results that waited together shared a durable write", stored.shared[crowd], crowded)
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
