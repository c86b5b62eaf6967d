package broker

import (
	"testing"

	"github.com/nats-io/nats.go"
)

// A task that comes in answer to a question that was given up goes back to its queue, and
// what is no task is left alone.
func TestLateAnswersAreHandedBack(t *testing.T) {
	g := newGrouped(t)
	ctx, b := g.ctx, g.connect()
	said, err := b.NC.SubscribeSync("reply.*")
	if err != nil {
		t.Fatal(err)
	}
	answers, err := b.NC.SubscribeSync(prefixGiven + "one.x.*")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		handBackLate(b.NC, answers)
		close(ended)
	}()
	for _, m := range []*nats.Msg{
		{Subject: prefixGiven + "one.x.1", Reply: "reply.none", Header: nats.Header{headerStatus: {statusNone}}},
		{Subject: prefixGiven + "one.x.1", Reply: "reply.task"},
	} {
		if err := b.NC.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := said.NextMsgWithContext(ctx); err != nil || m.Subject != "reply.task" || string(m.Data) != nak {
		t.Fatalf("said %+v, %v", m, err)
	}
	if err := answers.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-ctx.Done():
		t.Fatal("it waits without a subscription")
	}
}
