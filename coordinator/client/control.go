package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"idunno/broker"
	"idunno/broker/wire"
)

// Cancel stops a job. Cancelling a job that has ended returns a *[wire.Error]
// with code job_ended.
func (c *Client) Cancel(ctx context.Context, job uint64) (*wire.JobReply, error) {
	reply, again, err := c.control(ctx, broker.SubjectCancel, job)
	var refusal *wire.Error
	if !again || !errors.As(err, &refusal) || refusal.Code != wire.CodeJobEnded {
		return reply, err
	}
	// It may have been cancelled by an earlier request, which had no answer or another one.
	if now, lookErr := c.Job(ctx, job); lookErr == nil && now.Stats != nil && now.Stats.State == wire.StateCancelled {
		return now, nil
	}
	return nil, err
}

// Pause keeps a job from running until it is resumed; its results stay. One that is
// paused already stays so, one that has all its results ends. It returns a
// *[wire.Error] with code job_ended for a job that has ended.
func (c *Client) Pause(ctx context.Context, job uint64) (*wire.JobReply, error) {
	reply, _, err := c.control(ctx, broker.SubjectPause, job)
	return reply, err
}

// Resume lets a paused job go on. Its errors are those of [Client.Pause].
func (c *Client) Resume(ctx context.Context, job uint64) (*wire.JobReply, error) {
	reply, _, err := c.control(ctx, broker.SubjectResume, job)
	return reply, err
}

// control asks for a change of a job. Again says that it took more than one request: an
// earlier one may have made the change.
func (c *Client) control(ctx context.Context, subject string, job uint64) (reply *wire.JobReply, again bool, err error) {
	body, err := json.Marshal(wire.JobRequest{Job: job})
	if err != nil {
		return nil, false, fmt.Errorf("encode request: %w", err)
	}
	return change(ctx, c, subject, body, func(r *wire.JobReply) *wire.Error { return r.Error })
}

// change asks for a change, and insists on it. Again says that it took more than one
// request.
func change[R any](ctx context.Context, c *Client, subject string, body []byte, refused func(*R) *wire.Error) (*R, bool, error) {
	repeated := false
	reply, again, err := insist(ctx, func() (*R, error) {
		reply := new(R)
		more, err := c.askMsg(ctx, &nats.Msg{Subject: subject, Data: body}, askWait, reply)
		repeated = repeated || more
		if err != nil {
			return nil, err
		}
		if e := refused(reply); e != nil {
			return nil, e
		}
		return reply, nil
	})
	return reply, again || repeated, err
}

// Settings returns the cluster's settings.
func (c *Client) Settings(ctx context.Context) (*wire.Settings, error) {
	return c.settings(ctx, nil)
}

// Set changes the settings that the members of a JSON object name, see
// [wire.Settings.Change], and returns what they are then. It returns a *[wire.Error]
// for values that are not allowed.
func (c *Client) Set(ctx context.Context, changes []byte) (*wire.Settings, error) {
	return c.settings(ctx, changes)
}

func (c *Client) settings(ctx context.Context, changes []byte) (*wire.Settings, error) {
	reply, _, err := change(ctx, c, broker.SubjectSettings, changes, func(r *wire.SettingsReply) *wire.Error { return r.Error })
	if err != nil {
		return nil, err
	}
	return reply.Settings, nil
}
