package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker/embedded"
)

// grouped is a server with connections to it; sizes are those of the writes.
type grouped struct {
	t     *testing.T
	ctx   context.Context
	url   string
	sizes [1024]atomic.Int64
}

func newGrouped(t *testing.T) *grouped {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	s, err := embedded.Start(embedded.Config{Port: -1, Store: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return &grouped{t: t, ctx: ctx, url: s.URL()}
}

func (g *grouped) connect() *Broker {
	g.t.Helper()
	b, err := Connect(g.ctx, Config{Servers: g.url})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(b.Close)
	if err := b.Ensure(g.ctx); err != nil {
		g.t.Fatal(err)
	}
	b.group.stored = func(n int) { g.sizes[n].Add(1) }
	return b
}

func (g *grouped) must(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

// largest is the number of results in the largest write.
func (g *grouped) largest() (n int) {
	for i := range g.sizes {
		if g.sizes[i].Load() > 0 {
			n = i
		}
	}
	return n
}

// contents are the results of a job by task, in the order stored.
func (g *grouped) contents(b *Broker, job uint64) map[int][]string {
	g.t.Helper()
	all := make(map[int][]string)
	err := b.ReadResults(g.ctx, job, func(subject string, p []byte) (bool, error) {
		_, task, _ := TaskOfResult(subject)
		all[task] = append(all[task], string(p))
		return true, nil
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return all
}

// Rivals store results of the same tasks at the same time, over several connections, in
// groups and through a broker: each task has one, that of whoever was told so.
func TestGroupedResultsFirstWins(t *testing.T) {
	g := newGrouped(t)
	const tasks, rivals = 300, 3
	shared := g.connect()
	stop, err := shared.ShareStores()
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	var won [tasks + 1][rivals]atomic.Bool
	var failed atomic.Int64
	var group sync.WaitGroup
	for rival := range rivals {
		b := g.connect()
		if rival == 2 {
			b.crowd.until.Store(time.Now().Add(time.Hour).UnixNano())
		}
		for task := 1; task <= tasks; task++ {
			group.Go(func() {
				switch err := b.StoreResult(g.ctx, 1, task, fmt.Appendf(nil, "%d by %d", task, rival)); {
				case err == nil:
					won[task][rival].Store(true)
				case !errors.Is(err, ErrExists):
					failed.Add(1)
					t.Errorf("task %d: %v", task, err)
				}
			})
		}
	}
	group.Wait()
	got := g.contents(shared, 1)
	for task := 1; task <= tasks; task++ {
		winners := 0
		for rival := range rivals {
			if won[task][rival].Load() {
				winners++
				if want := fmt.Sprintf("%d by %d", task, rival); len(got[task]) != 1 || got[task][0] != want {
					t.Errorf("task %d has %q, stored first was %q", task, got[task], want)
				}
			}
		}
		if winners != 1 {
			t.Errorf("task %d was stored first by %d", task, winners)
		}
	}
}

// Results that wait together are written together.
func TestWaitingResultsAreGrouped(t *testing.T) {
	g := newGrouped(t)
	b := g.connect()
	var group sync.WaitGroup
	for task := 1; task <= 200; task++ {
		group.Go(func() {
			if err := b.StoreResult(g.ctx, 1, task, []byte("x")); err != nil {
				t.Errorf("task %d: %v", task, err)
			}
		})
	}
	group.Wait()
	if got := g.contents(b, 1); len(got) != 200 || g.largest() < groupLeast {
		t.Errorf("%d results, the largest write had %d", len(got), g.largest())
	}
}

// A result that nobody waits with is written by itself.
func TestAloneIsNotGrouped(t *testing.T) {
	g := newGrouped(t)
	b := g.connect()
	for task := 1; task <= 5; task++ {
		if err := b.StoreResult(g.ctx, 1, task, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if g.largest() != 1 || g.sizes[1].Load() != 5 {
		t.Errorf("writes of up to %d, %d of one", g.largest(), g.sizes[1].Load())
	}
}

// A group in which one result is there already stores the others, and one that
// nobody waits for any more isn't in the way.
func TestGroupWithOneStored(t *testing.T) {
	g := newGrouped(t)
	b := g.connect()
	if err := b.StoreResult(g.ctx, 1, 7, []byte("first")); err != nil {
		t.Fatal(err)
	}
	var list []*storing
	outcomes := make([]error, 0, 20)
	for task := 1; task <= 20; task++ {
		list = append(list, &storing{subject: SubjectResult(1, task), data: []byte("group"), done: func(err error) { outcomes = append(outcomes, err) }})
	}
	if err := b.publishBatch(g.ctx, list); !IsExists(err) {
		t.Fatalf("a batch with a result that is there: %v", err)
	}
	if got := g.contents(b, 1); len(got) != 1 {
		t.Fatalf("a refused batch left %v", got)
	}
	var group sync.WaitGroup
	for task := 1; task <= 20; task++ {
		group.Go(func() {
			err := b.StoreResult(g.ctx, 1, task, []byte("group"))
			if (task == 7) != errors.Is(err, ErrExists) || task != 7 && err != nil {
				t.Errorf("task %d: %v", task, err)
			}
		})
	}
	group.Wait()
	got := g.contents(b, 1)
	if len(got) != 20 || got[7][0] != "first" {
		t.Errorf("%d results, task 7 has %q", len(got), got[7])
	}
	gone, cancel := context.WithCancel(g.ctx)
	cancel()
	if err := b.StoreResult(gone, 1, 30, []byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits: %v", err)
	}
	if err := b.StoreResult(g.ctx, 1, 31, []byte("x")); err != nil {
		t.Error(err)
	}
}

// A server whose stream takes no batches gets results one by one.
func TestGroupWithoutBatches(t *testing.T) {
	g := newGrouped(t)
	b := g.connect()
	stream, err := b.JS.Stream(g.ctx, streamResults)
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	cfg.AllowAtomicPublish = false
	if _, err := b.JS.UpdateStream(g.ctx, cfg); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for task := 1; task <= 50; task++ {
		group.Go(func() {
			if err := b.StoreResult(g.ctx, 1, task, []byte("x")); err != nil {
				t.Errorf("task %d: %v", task, err)
			}
		})
	}
	group.Wait()
	if got := g.contents(b, 1); len(got) != 50 || g.largest() != 1 {
		t.Errorf("%d results, writes of up to %d", len(got), g.largest())
	}
}

// What is handed in again while it is on its way is written once, a rival's result of the
// same task is refused, and the batch that they wait for is not.
func TestHandedInAgain(t *testing.T) {
	g := newGrouped(t)
	b := g.connect()
	w := &b.group
	w.mu.Lock()
	w.writing = true // nothing is written before all is handed in
	w.mu.Unlock()
	const tasks = 2 * groupLeast
	own, again, rival := make(chan error, tasks), make(chan error, tasks), make(chan error, tasks)
	var given []*storing
	for task := 1; task <= tasks; task++ {
		subject, data := SubjectResult(1, task), fmt.Appendf(nil, "task %d", task)
		given = append(given, w.add(subject, data, func(err error) { own <- err }))
		w.add(subject, data, func(err error) { again <- err })
		w.add(subject, []byte("another"), func(err error) { rival <- err })
	}
	// The first task's result is of no interest to those who handed it in first.
	w.leave(given[0])
	go w.run()
	for range tasks {
		g.must(<-own)
		g.must(<-again)
		if err := <-rival; !IsExists(err) {
			t.Fatalf("a rival's result: %v", err)
		}
	}
	if n := g.largest(); n != tasks {
		t.Errorf("the largest write has %d results, want %d", n, tasks)
	}
	for task, got := range g.contents(b, 1) {
		if len(got) != 1 || got[0] != fmt.Sprint("task ", task) {
			t.Errorf("task %d has %q", task, got)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.onWay) != 0 {
		t.Errorf("%d results are still on their way", len(w.onWay))
	}
}

// Where no broker takes results, a worker stores them itself.
func TestNobodyShares(t *testing.T) {
	g := newGrouped(t)
	b := g.connect()
	b.crowd.until.Store(time.Now().Add(time.Hour).UnixNano())
	if err := b.StoreResult(g.ctx, 1, 1, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if b.crowd.there(time.Now()) {
		t.Error("a broker is asked again at once, after nobody was there")
	}
	if got := g.contents(b, 1); len(got) != 1 {
		t.Errorf("results %v", got)
	}
}

// Who listens to everything takes no results, and keeps no worker waiting for long.
func TestListenerSharesNothing(t *testing.T) {
	g := newGrouped(t)
	b := g.connect()
	if _, err := g.connect().NC.SubscribeSync(">"); err != nil {
		t.Fatal(err)
	}
	b.crowd.until.Store(time.Now().Add(time.Hour).UnixNano())
	if err := b.StoreResult(g.ctx, 1, 1, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if b.crowd.there(time.Now()) {
		t.Error("a broker is asked again at once, after none answered")
	}
}

// What is no result's subject is refused; an answer that can't be read is no success.
func TestShareRefusesNonsense(t *testing.T) {
	g := newGrouped(t)
	b := g.connect()
	stop, err := b.ShareStores()
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	reply, err := b.NC.RequestWithContext(g.ctx, prefixStore+"x.y", []byte("z"))
	if err != nil || len(reply.Data) < 4 || string(reply.Data[:4]) != "-ERR" {
		t.Errorf("answer %q, %v", reply.Data, err)
	}
	if err := b.storeShared(g.ctx, 1, 1, []byte("x")); err != nil {
		t.Error(err)
	}
	if err := b.storeShared(g.ctx, 1, 1, []byte("y")); !IsExists(err) {
		t.Errorf("a second result: %v", err)
	}
}

// Tasks are pulled one after the other over one subscription; an empty queue says so
// at once, and one that is gone is an error.
func TestPull(t *testing.T) {
	g := newGrouped(t)
	b := g.connect()
	name, err := b.OpenQueue(g.ctx, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	queue, err := b.Tasks(g.ctx, "node", name)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := queue.Next(g.ctx); err != nil || d != nil {
		t.Fatalf("an empty queue gave %v, %v", d, err)
	}
	// some asks until there is a task.
	some := func(most int) []Delivery {
		for {
			list, err := queue.(taskQueue).NextSome(g.ctx, most)
			if err != nil || len(list) > most {
				t.Fatalf("%d of %d tasks, %v", len(list), most, err)
			}
			if len(list) > 0 {
				return list
			}
		}
	}
	for task := 1; task <= 3; task++ {
		f, err := b.PublishTask(1, task, fmt.Appendf(nil, "task %d", task))
		if err != nil || f.Wait(g.ctx) != nil {
			t.Fatal(err)
		}
	}
	for task := 1; task <= 3; task++ {
		d := some(1)[0]
		if string(d.Data()) != fmt.Sprintf("task %d", task) || d.Subject() != SubjectTask(1, task) || d.NumDelivered() != 1 {
			t.Fatalf("task %d: %v", task, d)
		}
		if err := d.Ack(); err != nil {
			t.Fatal(err)
		}
	}
	for task := 4; task <= 9; task++ {
		f, err := b.PublishTask(1, task, []byte("x"))
		if err != nil || f.Wait(g.ctx) != nil {
			t.Fatal(err)
		}
	}
	got := make(map[string]bool)
	for most := 4; len(got) < 6; most = 10 {
		for _, d := range some(most) {
			got[d.Subject()] = true
			if err := d.Ack(); err != nil {
				t.Fatal(err)
			}
		}
	}
	gone, cancel := context.WithCancel(g.ctx)
	cancel()
	if _, err := queue.Next(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("a question that is over: %v", err)
	}
	if d, err := queue.Next(g.ctx); err != nil || d != nil {
		t.Errorf("the queue has %v, %v", d, err)
	}
	if err := b.CloseQueue(g.ctx, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := queue.Next(g.ctx); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("a queue that is gone: %v", err)
	}
}

// Changes are told at once, as long as there are not very many for long.
func TestAllowance(t *testing.T) {
	now := time.Unix(1000, 0)
	a := allowance{perSecond: 100, most: 3}
	for i, want := range []time.Duration{0, 0, 0, 10 * time.Millisecond, 20 * time.Millisecond} {
		if got := a.take(now).Round(time.Millisecond); got != want {
			t.Errorf("change %d waits %v, want %v", i+1, got, want)
		}
	}
	if got := a.take(now.Add(time.Hour)); got != 0 {
		t.Errorf("after an hour a change waits %v", got)
	}
}
