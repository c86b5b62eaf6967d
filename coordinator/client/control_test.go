package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"idunno/broker"
	"idunno/broker/brokertest"
	"idunno/broker/wire"
	"idunno/coordinator/client"
)

// A coordinator that has to give up leading while it has a request says that it can't
// answer now. Whoever asked doesn't notice, whether the change was made or not.
func TestChangesAreAskedForAgain(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b := brokertest.New(t)
	c := client.New(b)
	unavailable := &wire.Error{Code: wire.CodeUnavailable, Message: "try again"}
	ended := &wire.Error{Code: wire.CodeJobEnded, Message: "it has ended"}
	answers := func(subject string, replies ...any) (asked *int) {
		t.Helper()
		asked = new(int)
		sub, err := b.NC.Subscribe(subject, func(m *nats.Msg) {
			p, err := json.Marshal(replies[min(*asked, len(replies)-1)])
			if err != nil {
				t.Error(err)
			}
			*asked++
			_ = m.Respond(p)
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sub.Unsubscribe() })
		return asked
	}
	state := func(s wire.State) *wire.JobReply { return &wire.JobReply{Stats: &wire.JobStats{Job: 7, State: s}} }

	paused := answers(broker.SubjectPause, wire.JobReply{Error: unavailable}, wire.JobReply{Error: unavailable}, state(wire.StatePaused))
	if r, err := c.Pause(ctx, 7); err != nil || r.Error != nil || r.Stats.State != wire.StatePaused || *paused != 3 {
		t.Errorf("paused with %d requests: %+v, %v", *paused, r, err)
	}
	answers(broker.SubjectSettings, wire.SettingsReply{Error: unavailable}, wire.SettingsReply{Settings: &wire.Settings{Fair: wire.FairTime}})
	if s, err := c.Settings(ctx); err != nil || s.Fair != wire.FairTime {
		t.Errorf("settings %+v, %v", s, err)
	}
	// The first request has cancelled job 7, and something else ended job 8 before.
	var refusal *wire.Error
	answers(broker.SubjectCancel, wire.JobReply{Error: unavailable}, wire.JobReply{Error: ended})
	looked := answers(broker.SubjectJob, state(wire.StateCancelled), state(wire.StateDone))
	if r, err := c.Cancel(ctx, 7); err != nil || r.Stats.State != wire.StateCancelled || *looked != 1 {
		t.Errorf("cancelled: %+v, %v", r, err)
	}
	if _, err := c.Cancel(ctx, 7); !errors.As(err, &refusal) || refusal.Code != wire.CodeJobEnded || *looked != 1 {
		t.Errorf("cancelled a second time: %v", err)
	}
	ctx, cancel = context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	answers(broker.SubjectResume, wire.JobReply{Error: unavailable})
	if _, err := c.Resume(ctx, 7); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("never available: %v", err)
	}
}
