package broker_test

import (
	"errors"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"idunno/broker"
	"idunno/broker/brokertest"
	"idunno/broker/embedded"
	"idunno/broker/wire"
)

// What was acknowledged is there after a restart; what may be derived again is not.
func TestRestartOnTheSameStore(t *testing.T) {
	defer goleak.VerifyNone(t, append(brokertest.Leaks(), goleak.IgnoreCurrent())...)
	dir, ctx := t.TempDir(), testContext(t)
	start := func() (*embedded.Server, *broker.Broker) {
		s, err := embedded.Start(embedded.Config{Port: -1, Store: dir})
		if err != nil {
			t.Fatal(err)
		}
		b, err := broker.Connect(ctx, broker.Config{Servers: s.URL(), Name: t.Name()})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Ensure(ctx); err != nil {
			t.Fatal(err)
		}
		return s, b
	}

	s, b := start()
	fillStore(t, b)
	done := s.Done()
	b.Close()
	s.Stop()
	select {
	case <-done:
	case <-ctx.Done():
		t.Fatal("Done was not closed")
	}

	s, b = start()
	defer s.Stop()
	defer b.Close()
	checkStore(t, b)
}

// What is said about a task of a server's life before reaches no task of this one,
// whoever says it.
func TestAcknowledgementOfAnotherLife(t *testing.T) {
	dir, ctx := t.TempDir(), testContext(t)
	life := func(say func(b *broker.Broker)) (d broker.Delivery, name string) {
		s, err := embedded.Start(embedded.Config{Port: -1, Store: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Stop()
		b, err := broker.Connect(ctx, broker.Config{Servers: s.URL(), Name: t.Name()})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if err := b.Ensure(ctx); err != nil {
			t.Fatal(err)
		}
		if name, err = b.OpenQueue(ctx, 1, 0); err != nil {
			t.Fatal(err)
		}
		for task := range 2 {
			if err := publish(t, b, 1, task+1); err != nil {
				t.Fatal(err)
			}
		}
		tasks, err := b.Tasks(ctx, "node", name)
		if err != nil {
			t.Fatal(err)
		}
		d = next(t, ctx, tasks)
		if say != nil {
			say(b)
			if err := b.NC.FlushWithContext(ctx); err != nil {
				t.Fatal(err)
			}
			if depth, err := b.QueueDepth(ctx, 1); err != nil || depth != 2 {
				t.Errorf("%d tasks in the queue, %v", depth, err)
			}
		}
		return d, name
	}
	before, name := life(nil)
	_, again := life(func(b *broker.Broker) {
		adopted, err := b.Adopt(before.Reply(), before.Data())
		if err != nil || adopted.NumDelivered() != 1 {
			t.Fatalf("adopt: %v", err)
		}
		if err := adopted.Ack(); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Adopt(broker.SubjectJobs, nil); !errors.Is(err, broker.ErrNotTask) {
			t.Errorf("adopted what is no task: %v", err)
		}
	})
	if name == again {
		t.Errorf("the queue has the name %s in both lives", name)
	}
}

// A task that one connection took is acknowledged, handed back and kept by another.
func TestAdoptedTask(t *testing.T) {
	b, ctx := brokertest.New(t), testContext(t)
	name, err := b.OpenQueue(ctx, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := publish(t, b, 1, 1); err != nil {
		t.Fatal(err)
	}
	tasks, err := b.Tasks(ctx, "node", name)
	if err != nil {
		t.Fatal(err)
	}
	adopt := func(deliveries int) broker.Delivery {
		d := next(t, ctx, tasks) // what was said before may still be under way
		if d.NumDelivered() != deliveries {
			t.Fatalf("delivery %d, want number %d", d.NumDelivered(), deliveries)
		}
		adopted, err := b.Adopt(d.Reply(), d.Data())
		if err != nil || adopted.NumDelivered() != deliveries {
			t.Fatalf("adopted %v, %v", adopted, err)
		}
		return adopted
	}
	first := adopt(1)
	if err := first.Nak(); err != nil {
		t.Fatal(err)
	}
	again := adopt(2)
	if err := again.InProgress(); err != nil {
		t.Fatal(err)
	}
	if err := again.Ack(); err != nil {
		t.Fatal(err)
	}
	for ctx.Err() == nil {
		if depth, err := b.QueueDepth(ctx, 1); err == nil && depth == 0 {
			return
		}
	}
	t.Fatal("acknowledged tasks stay in the queue")
}

// A server tells of every connection that closes, and of none that lives.
func TestClosedConnectionsAreTold(t *testing.T) {
	url, ctx := brokertest.Start(t), testContext(t)
	watching, dying := brokertest.Connect(t, url), brokertest.Connect(t, url)
	told := make(chan string, 10)
	stop, err := watching.Listen(broker.SubjectClosed, func(m *broker.Message) {
		if c, err := wire.ParseConnClosed(m.Data); err == nil {
			told <- c.Conn
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := watching.NC.FlushWithContext(ctx); err != nil {
		t.Fatal(err)
	}
	conn := dying.ConnID()
	dying.Close()
	select {
	case got := <-told:
		if got != conn || conn == "" || got == watching.ConnID() {
			t.Errorf("told of %q, %q was closed", got, conn)
		}
	case <-ctx.Done():
		t.Fatal("nobody told")
	}
}

func fillStore(t *testing.T, b *broker.Broker) {
	t.Helper()
	ctx := testContext(t)
	ack, err := b.JS.Publish(ctx, broker.SubjectJobs, []byte(`{"model":"mlp"}`))
	if err != nil || ack.Sequence != 1 {
		t.Fatalf("submission: %+v, %v", ack, err)
	}
	if err := b.StoreResult(ctx, 1, 1, []byte("result")); err != nil {
		t.Fatal(err)
	}
	objects, index, err := b.Files(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := objects.PutString(ctx, "object", "contents"); err != nil {
		t.Fatal(err)
	}
	if _, err := index.PutString(ctx, "key", "value"); err != nil {
		t.Fatal(err)
	}
	state, err := b.State(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := state.PutString(ctx, broker.KeyJob(1), "record"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.OpenQueue(ctx, 1, 0); err != nil {
		t.Fatal(err)
	}
	if err := publish(t, b, 1, 1); err != nil {
		t.Fatal(err)
	}
}

func checkStore(t *testing.T, b *broker.Broker) {
	t.Helper()
	ctx := testContext(t)
	if err := b.StoreResult(ctx, 1, 1, []byte("second")); !errors.Is(err, broker.ErrExists) {
		t.Errorf("second result after the restart: %v", err)
	}
	var results []string
	err := b.ReadResults(ctx, 1, func(_ string, p []byte) (bool, error) { results = append(results, string(p)); return true, nil })
	if err != nil || len(results) != 1 || results[0] != "result" {
		t.Errorf("results %q, %v", results, err)
	}
	jobs, err := b.Jobs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if msg, err := jobs.GetMsg(ctx, 1); err != nil || string(msg.Data) != `{"model":"mlp"}` {
		t.Errorf("job 1: %v, %v", msg, err)
	}
	if ack, err := b.JS.Publish(ctx, broker.SubjectJobs, []byte("next")); err != nil || ack.Sequence != 2 {
		t.Errorf("the next job: %+v, %v", ack, err)
	}
	objects, index, err := b.Files(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := objects.GetString(ctx, "object"); err != nil || got != "contents" {
		t.Errorf("object %q, %v", got, err)
	}
	if kve, err := index.Get(ctx, "key"); err != nil || string(kve.Value()) != "value" {
		t.Errorf("index: %v, %v", kve, err)
	}
	state, err := b.State(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if kve, err := state.Get(ctx, broker.KeyJob(1)); err != nil || string(kve.Value()) != "record" {
		t.Errorf("job record: %v, %v", kve, err)
	}
	if depth, err := b.QueueDepth(ctx, 1); err != nil || depth != 0 {
		t.Errorf("queue depth %d, %v; the queue is in memory", depth, err)
	}
	if err := publish(t, b, 1, 1); err != nil {
		t.Errorf("queue the task again: %v", err)
	}
}

// A client that is connected while the server restarts goes on by itself.
func TestClientSurvivesARestart(t *testing.T) {
	dir, ctx := t.TempDir(), testContext(t)
	s, err := embedded.Start(embedded.Config{Port: -1, Store: dir})
	if err != nil {
		t.Fatal(err)
	}
	events := make(chan string, 16)
	b, err := broker.Connect(ctx, broker.Config{Servers: s.URL(), Events: func(event string, _ error) {
		select {
		case events <- event:
		default:
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	port := portOf(t, s.URL())
	s.Stop()
	again, err := embedded.Start(embedded.Config{Port: port, Store: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Stop()
	for seen := ""; !strings.HasSuffix(seen, "reconnected"); {
		select {
		case event := <-events:
			seen = event
		case <-ctx.Done():
			t.Fatalf("no reconnection; last event %q", seen)
		}
	}
	if err := b.StoreResult(ctx, 1, 1, []byte("result")); err != nil {
		t.Error(err)
	}
}

func TestEmbeddedServerNeedsAStore(t *testing.T) {
	if _, err := embedded.Start(embedded.Config{}); err == nil || !strings.Contains(err.Error(), "--store") {
		t.Errorf("a server without a store: %v", err)
	}
}

func portOf(t *testing.T, serverURL string) int {
	t.Helper()
	u, err := url.Parse(serverURL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
