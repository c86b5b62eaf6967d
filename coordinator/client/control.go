package client

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go"

	"idunno/broker"
	"idunno/broker/wire"
)

// Cancel stops a job. Cancelling a job that has ended returns a *[wire.Error]
// with code job_ended.
func (c *Client) Cancel(ctx context.Context, job uint64) (*wire.JobReply, error) {
	return c.control(ctx, broker.SubjectCancel, job)
}

// Pause keeps a job from running until it is resumed; its results stay. One that is
// paused already stays so, one that has all its results ends. It returns a
// *[wire.Error] with code job_ended for a job that has ended.
func (c *Client) Pause(ctx context.Context, job uint64) (*wire.JobReply, error) {
	return c.control(ctx, broker.SubjectPause, job)
}

// Resume lets a paused job go on. Its errors are those of [Client.Pause].
func (c *Client) Resume(ctx context.Context, job uint64) (*wire.JobReply, error) {
	return c.control(ctx, broker.SubjectResume, job)
}

// control asks for a change of a job.
func (c *Client) control(ctx context.Context, subject string, job uint64) (*wire.JobReply, error) {
	body, err := json.Marshal(wire.JobRequest{Job: job})
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	var reply wire.JobReply
	if err := c.askMsg(ctx, &nats.Msg{Subject: subject, Data: body}, askWait, &reply); err != nil {
		return nil, err
	}
	if reply.Error != nil {
		return nil, reply.Error
	}
	return &reply, nil
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
	var reply wire.SettingsReply
	if err := c.askMsg(ctx, &nats.Msg{Subject: broker.SubjectSettings, Data: changes}, askWait, &reply); err != nil {
		return nil, err
	}
	if reply.Error != nil {
		return nil, reply.Error
	}
	return reply.Settings, nil
}
