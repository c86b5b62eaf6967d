package broker_test

import (
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
