package broker_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
	"idunno/broker/brokertest"
	"idunno/broker/wire"
)

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// publish puts a task into the queue and returns the server's answer.
func publish(t *testing.T, b *broker.Broker, job uint64, task int) error {
	t.Helper()
	future, err := b.PublishTask(job, task, []byte(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err = future.Wait(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		t.Fatal("no answer to a published task")
	}
	return err
}

// next waits for a queue's next task, of which the queue may hear a moment after its
// publisher did.
func next(t *testing.T, ctx context.Context, queue broker.TaskQueue) broker.Delivery {
	t.Helper()
	for {
		d, err := queue.Next(ctx)
		if err != nil {
			t.Fatalf("no task: %v", err)
		}
		if d != nil {
			return d
		}
	}
}

func pull(t *testing.T, ctx context.Context, b *broker.Broker, job uint64) jetstream.Msg {
	t.Helper()
	name, err := b.OpenQueue(ctx, job, 0)
	if err != nil {
		t.Fatal(err)
	}
	queue, err := b.Consumer(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := queue.Fetch(1, jetstream.FetchMaxWait(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	msg, ok := <-batch.Messages()
	if !ok {
		t.Fatalf("no task delivered: %v", batch.Error())
	}
	return msg
}

func TestFirstResultWins(t *testing.T) {
	b, ctx := brokertest.New(t), testContext(t)
	if has, err := b.HasResult(ctx, 3, 1); err != nil || has {
		t.Fatalf("result before any was stored: %v, %v", has, err)
	}
	if err := b.StoreResult(ctx, 3, 1, []byte("first")); err != nil {
		t.Fatal(err)
	}
	if err := b.StoreResult(ctx, 3, 1, []byte("second")); !errors.Is(err, broker.ErrExists) {
		t.Fatalf("second result: %v, want ErrExists", err)
	}
	if err := b.StoreResult(ctx, 3, 2, []byte("other")); err != nil {
		t.Fatal(err)
	}
	if has, err := b.HasResult(ctx, 3, 1); err != nil || !has {
		t.Fatalf("stored result not seen: %v, %v", has, err)
	}
	var got []string
	err := b.ReadResults(ctx, 3, func(_ string, p []byte) (bool, error) { got = append(got, string(p)); return true, nil })
	if err != nil || len(got) != 2 || got[0] != "first" || got[1] != "other" {
		t.Fatalf("results %q, %v", got, err)
	}
}

func TestTaskQueuedOnceAndRedelivered(t *testing.T) {
	b, ctx := brokertest.New(t), testContext(t)
	if _, err := b.OpenQueue(ctx, 7, 0); err != nil {
		t.Fatal(err)
	}
	if err := publish(t, b, 7, 1); err != nil {
		t.Fatal(err)
	}
	if err := publish(t, b, 7, 1); !broker.IsExists(err) {
		t.Fatalf("task queued twice: %v", err)
	}
	msg := pull(t, ctx, b, 7)

	// Another connection hands the task back, as the coordinator does for a dead worker.
	other := brokertest.Connect(t, b.NC.ConnectedUrl())
	other.HandBack(msg.Reply())
	again := pull(t, ctx, b, 7)
	meta, err := again.Metadata()
	if err != nil || meta.NumDelivered != 2 {
		t.Fatalf("delivery %+v, %v; want the second", meta, err)
	}
	if err := again.DoubleAck(ctx); err != nil {
		t.Fatal(err)
	}
	if depth, err := b.QueueDepth(ctx, 7); err != nil || depth != 0 {
		t.Fatalf("queue depth %d, %v after the acknowledgement", depth, err)
	}
}

func TestCloseQueueDropsOnlyItsJob(t *testing.T) {
	b, ctx := brokertest.New(t), testContext(t)
	for _, job := range []uint64{1, 12} {
		if _, err := b.OpenQueue(ctx, job, 0); err != nil {
			t.Fatal(err)
		}
		if err := publish(t, b, job, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.CloseQueue(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if err := b.CloseQueue(ctx, 1); err != nil {
		t.Fatalf("closing twice: %v", err)
	}
	if depth, _ := b.QueueDepth(ctx, 1); depth != 0 {
		t.Fatalf("%d tasks left of the closed queue", depth)
	}
	if depth, _ := b.QueueDepth(ctx, 12); depth != 1 {
		t.Fatalf("%d tasks in the other queue, want 1", depth)
	}
	if err := b.Ensure(ctx); err != nil {
		t.Fatalf("ensure again: %v", err)
	}
}

// A suspended queue gives out nothing, knows what was tried, and can be opened again.
func TestSuspendedQueueIsOpenedAgain(t *testing.T) {
	b, ctx := brokertest.New(t), testContext(t)
	queue, err := b.OpenQueue(ctx, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := publish(t, b, 1, 1); err != nil {
		t.Fatal(err)
	}
	tasks, err := b.Tasks(ctx, "node", queue)
	if err != nil {
		t.Fatal(err)
	}
	old := next(t, ctx, tasks)
	if err := b.StoreAttempt(ctx, 1, 1, &wire.Attempt{Schema: wire.Schema, Cause: wire.CauseError, Node: "a"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.SuspendQueue(ctx, 1); err != nil {
			t.Fatal(err)
		}
	}
	if depth, err := b.QueueDepth(ctx, 1); err != nil || depth != 0 {
		t.Fatalf("%d tasks left, %v", depth, err)
	}
	if queue, err = b.OpenQueue(ctx, 1, 0); err != nil {
		t.Fatal(err)
	}
	if err := publish(t, b, 1, 1); err != nil {
		t.Fatal(err)
	}
	// What is still said about a delivery from before concerns no task of now.
	late, err := b.Adopt(old.Reply(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(late.InProgress(), late.Nak(), late.Ack()); err != nil {
		t.Fatal(err)
	}
	if tasks, err = b.Tasks(ctx, "node", queue); err != nil {
		t.Fatal(err)
	}
	if again := next(t, ctx, tasks); again.NumDelivered() != 1 {
		t.Fatalf("delivery %d", again.NumDelivered())
	}
	if tried, err := b.Attempts(ctx, 1, 1); err != nil || len(tried) != 1 {
		t.Fatalf("tries %+v, %v", tried, err)
	}
}

// A queue with a limit gives out no more, says so without waiting long, and goes on when
// a task is done.
func TestQueueWithALimit(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b := brokertest.New(t)
	if err := b.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	name, err := b.OpenQueue(ctx, 5, 2)
	if err != nil {
		t.Fatal(err)
	}
	queue, err := b.Tasks(ctx, "node", name)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := queue.Next(ctx); d != nil || err != nil {
		t.Errorf("an empty queue gave %v, %v", d, err)
	}
	for task := 1; task <= 3; task++ {
		f, err := b.PublishTask(5, task, []byte("task"))
		if err != nil || f.Wait(ctx) != nil {
			t.Fatal(err)
		}
	}
	one, _ := next(t, ctx, queue), next(t, ctx, queue)
	if d, err := queue.Next(ctx); err != nil || d != nil && d.NumDelivered() == 1 { // on a slow machine one may come again
		t.Errorf("a third one in flight: %v, %v", d, err)
	}
	if err := one.Ack(); err != nil {
		t.Fatal(err)
	}
	for next(t, ctx, queue).NumDelivered() > 1 {
	}
}
