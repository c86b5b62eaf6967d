package broker_test

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	"idunno/broker"
	"idunno/broker/brokertest"
)

// Messages to several subjects come in the order in which they were sent, and none after
// the end.
func TestListenAllKeepsTheOrder(t *testing.T) {
	const messages = 20_000
	b, ctx := brokertest.New(t), testContext(t)
	seen, all := 0, make(chan struct{})
	listening, err := b.ListenAll([]string{"one", "two"}, func(m *broker.Message) {
		if want := [...]string{"one", "two"}[seen%2]; m.Subject != want || string(m.Data) != strconv.Itoa(seen) {
			t.Errorf("message %s of %s, want %d of %s", m.Data, m.Subject, seen, want)
		}
		if seen++; seen == messages {
			close(all)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listening.Stop()
	for i := range messages {
		if err := b.Publish([...]string{"one", "two"}[i%2], []byte(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-all:
	case <-ctx.Done():
		t.Fatal("some are missing")
	}
	listening.Stop()
	listening.Stop() // does nothing
	if err := b.Publish("one", []byte("after the end")); err != nil {
		t.Fatal(err)
	}
	if err := b.NC.FlushWithContext(ctx); err != nil {
		t.Fatal(err)
	}
}

// Whoever listens to what a node is given sees each task, with the subject of its
// acknowledgement, and only that node's.
func TestWhatANodeIsGiven(t *testing.T) {
	b, ctx := brokertest.New(t), testContext(t)
	var seen []string
	told := make(chan string, 100)
	listening, err := b.ListenAll(nil, func(m *broker.Message) {
		if node, job, task, ok := broker.Given(m); ok {
			told <- fmt.Sprintf("%s %d %d %s", node, job, task, m.Reply)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listening.Stop()
	for range 2 { // the second time does nothing
		if err := listening.Add(broker.SubjectGiven("one")); err != nil {
			t.Fatal(err)
		}
	}
	name, err := b.OpenQueue(ctx, 7, 0)
	if err != nil {
		t.Fatal(err)
	}
	for task := range 5 {
		if err := publish(t, b, 7, task+1); err != nil {
			t.Fatal(err)
		}
	}
	take := func(node string) string {
		queue, err := b.Tasks(ctx, node, name)
		if err != nil {
			t.Fatal(err)
		}
		d := next(t, ctx, queue)
		_, task, _ := broker.TaskOf(d.Subject())
		return fmt.Sprintf("%s 7 %d %s", node, task, d.Reply())
	}
	want := []string{take("one")}
	take("two")
	want = append(want, take("one"))
	for range want {
		select {
		case s := <-told:
			seen = append(seen, s)
		case <-ctx.Done():
			t.Fatalf("told of %v, want %v", seen, want)
		}
	}
	if !slices.Equal(seen, want) {
		t.Errorf("told of %v, want %v", seen, want)
	}
	listening.Remove(broker.SubjectGiven("one"))
	listening.Remove(broker.SubjectGiven("none")) // does nothing
	if err := listening.Add(broker.SubjectGiven("three")); err != nil {
		t.Fatal(err)
	}
	if err := b.NC.FlushWithContext(ctx); err != nil {
		t.Fatal(err)
	}
	take("one")
	last := take("three")
	select {
	case s := <-told:
		if s != last {
			t.Errorf("told of %s, want only %s", s, last)
		}
	case <-ctx.Done():
		t.Fatal("not told of what comes later")
	}
}
