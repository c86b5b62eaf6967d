package worker

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
	"idunno/broker/brokertest"
	"idunno/broker/wire"
	"idunno/models/dataset"
	"idunno/objectstore"
)

// newBench makes a worker whose parts are driven by the test, and the queue of job 1.
func newBench(t *testing.T, slots int) (*worker, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	b := brokertest.New(t)
	w, err := newWorker(ctx, Config{Broker: b, Name: "w", Slots: slots, CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	name, err := b.OpenQueue(ctx, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.table.update(&wire.ActiveJobs{Jobs: []wire.ActiveJob{{Job: 1, Queue: name}}})
	<-w.table.fresh // nobody is to be welcomed
	return w, ctx
}

// onNATS is the worker's connection, for what the worker itself can't do.
func onNATS(w *worker) *broker.Broker { return w.Broker.(*broker.Broker) }

// queue puts tasks 1 to n into the queue of job 1.
func queue(t *testing.T, w *worker, n int, change func(*wire.Task)) {
	t.Helper()
	for i := 1; i <= n; i++ {
		task := &wire.Task{Schema: wire.Schema, Job: 1, Task: i, Model: "m", ModelDigest: "m", DataDigest: "d", From: i, To: i}
		if change != nil {
			change(task)
		}
		future, err := w.Broker.PublishTask(1, i, task.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		if err := future.Wait(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

// pulls starts pulling and returns what ends it.
func pulls(ctx context.Context, w *worker) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { _ = w.pull(ctx, ctx) })
	return func() { cancel(); done.Wait() }
}

func TestOneComputingAndOneReadyASlot(t *testing.T) {
	w, ctx := newBench(t, 2)
	queue(t, w, 10, nil)
	stop := pulls(ctx, w)
	consumer, err := onNATS(w).Consumer(ctx, w.table.jobs[1].name)
	if err != nil {
		t.Fatal(err)
	}
	inHand := func(want int) {
		t.Helper()
		for {
			info, err := consumer.Info(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if tasks, _ := w.hand.list(); len(tasks) > want || info.NumAckPending > want {
				t.Fatalf("%d tasks in hand, %d pulled, want %d", len(tasks), info.NumAckPending, want)
			}
			if len(w.ready.some) == want && info.NumAckPending == want && len(w.tokens) == want {
				return
			}
		}
	}
	inHand(4)
	<-w.ready.some
	first := w.ready.take()
	first.token() // computed: its result is being stored
	first.token()
	for len(w.ready.some) < 4 {
		if ctx.Err() != nil {
			t.Fatal("no task took the place")
		}
	}
	if tasks, _ := w.hand.list(); len(tasks) != 5 {
		t.Errorf("%d tasks in hand, want 4 and the one being stored", len(tasks))
	}
	stop()
	w.handBack(first, 0)
	if tasks, _ := w.hand.list(); len(tasks) != 0 || len(w.tokens) != 0 {
		t.Errorf("%d tasks and %d tokens after the drain", len(tasks), len(w.tokens))
	}
	again, err := consumer.Fetch(10, jetstream.FetchMaxWait(2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	back := 0
	for range again.Messages() {
		back++
	}
	if back != 10 {
		t.Errorf("%d tasks can be pulled at once after the drain, want 10", back)
	}
}

// drained is a queue whose worker is told to stop while a request is under way.
type drained struct {
	broker.TaskQueue
	stop func()
}

func (d drained) Next(ctx context.Context) (broker.Delivery, error) {
	msg, err := d.TaskQueue.Next(ctx)
	if msg != nil || err != nil {
		d.stop()
	}
	return msg, err
}

func TestTaskThatComesDuringADrainGoesBack(t *testing.T) {
	w, ctx := newBench(t, 1)
	queue(t, w, 1, nil)
	consumer, err := onNATS(w).Consumer(ctx, w.table.jobs[1].name)
	if err != nil {
		t.Fatal(err)
	}
	pulling, stop := context.WithCancel(ctx)
	tasks, err := w.Broker.Tasks(ctx, "node", w.table.jobs[1].name)
	if err != nil {
		t.Fatal(err)
	}
	w.table.opened(1, w.table.jobs[1].name, drained{tasks, stop})
	if _, err := w.next(pulling, 1); !errors.Is(err, context.Canceled) {
		t.Fatalf("next: %v", err)
	}
	msg, err := consumer.Next(jetstream.FetchMaxWait(time.Second)) // the ack wait is longer
	if err != nil {
		t.Fatalf("the task is not back: %v", err)
	}
	if meta, err := msg.Metadata(); err != nil || meta.NumDelivered != 2 {
		t.Errorf("%+v, %v", meta, err)
	}
}

func TestUnreadableTaskStaysInTheQueue(t *testing.T) {
	w, ctx := newBench(t, 1)
	queue(t, w, 1, func(task *wire.Task) { task.Schema = wire.Schema + 1 })
	p, err := w.next(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	w.tokens <- struct{}{}
	if held := w.take(ctx, ctx, p[0], w.tokens); held != nil || len(w.tokens) != 0 {
		t.Fatalf("took %+v", held)
	}
	if err := onNATS(w).NC.FlushWithContext(ctx); err != nil {
		t.Fatal(err)
	}
	if depth, err := w.Broker.QueueDepth(ctx, 1); err != nil || depth != 1 {
		t.Errorf("%d tasks in the queue, %v", depth, err)
	}
	if _, _, _, ok := w.table.pick(); ok {
		t.Error("the job of unreadable tasks is asked again at once")
	}
}

func TestBatchesComeFromMemory(t *testing.T) {
	w, ctx := newBench(t, 1)
	set, err := dataset.MNISTTest()
	if err != nil {
		t.Fatal(err)
	}
	m := &dataset.Manifest{Name: "m"}
	for i := 1; i <= 4; i++ {
		b, err := set.Batch(i, 10)
		if err != nil {
			t.Fatal(err)
		}
		o, err := w.files.PutObject(ctx, bytes.NewReader(b.Marshal()))
		if err != nil {
			t.Fatal(err)
		}
		m.Objects = append(m.Objects, dataset.Object{Digest: o.Digest, Size: o.Size})
	}
	cache, err := objectstore.OpenCache(w.files, t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	one, err := w.library.read(ctx, m, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		room  int64 // batches that fit
		loads int64 // of three passes over four batches
	}{{4, 4}, {3, 12}, {0, 12}} {
		before := cache.Stats()
		l := newLibrary(cache, w.link, &Config{MemoryBytes: c.room * batchBytes(one), BatchTimeout: time.Minute})
		for range 3 {
			for n := 1; n <= 4; n++ {
				b, err := l.batch(ctx, m, n)
				if err != nil {
					t.Fatal(err)
				}
				if want, err := set.Batch(n, 10); err != nil || !bytes.Equal(b.X, want.X) {
					t.Fatalf("batch %d differs (%v)", n, err)
				}
			}
		}
		after := cache.Stats()
		if loads := after.Hits + after.Misses - before.Hits - before.Misses; loads != c.loads {
			t.Errorf("room for %d: %d loads, want %d", c.room, loads, c.loads)
		}
	}
}
