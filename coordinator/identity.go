package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
	"idunno/broker/wire"
)

// identityWait bounds one look at who has an id.
const identityWait = 5 * time.Second

// Submissions with an id. The first job that is admitted with an id gets a key of that
// name, written only if it isn't there: for ever the one with the id. Whatever comes
// later with the same id, through the service or straight into the stream, after
// minutes or restarts, becomes no job, or one that says which it repeats. Jobs are
// admitted in order, each by one leader in the end, so the first submission wins.
// One that was refused has not run and gives its id away.

// claimID returns the job that has the record's id: this one, unless there was another.
func (l *leader) claimID(ctx context.Context, rec *wire.JobRecord) (owner uint64, err error) {
	if rec.Doc.ID == "" {
		return rec.Job, nil
	}
	ctx, cancel := context.WithTimeout(ctx, identityWait)
	defer cancel()
	key := broker.KeyID(rec.Doc.ID)
	value, err := json.Marshal(wire.IDOwner{Schema: wire.Schema, ID: rec.Doc.ID, Job: rec.Job})
	if err != nil {
		return 0, fmt.Errorf("encode id of job %d: %w", rec.Job, err)
	}
	for ctx.Err() == nil {
		_, err := l.state.Create(ctx, key, value)
		if err == nil {
			return rec.Job, nil
		}
		if !broker.IsExists(err) {
			return 0, fmt.Errorf("claim id of job %d: %w", rec.Job, err)
		}
		owner, rev, err := l.owner(ctx, rec.Doc.ID)
		if err != nil {
			return 0, err
		}
		refused, err := l.refused(ctx, owner)
		if err != nil || owner == rec.Job || owner > 0 && !refused {
			return owner, err
		}
		if _, err = l.state.Update(ctx, key, value, rev); err == nil {
			return rec.Job, nil
		}
		if !broker.IsExists(err) {
			return 0, fmt.Errorf("claim id of job %d: %w", rec.Job, err)
		}
	}
	return 0, context.Cause(ctx)
}

// owner returns the job that has an id, 0 for none, and the revision of the key.
func (l *leader) owner(ctx context.Context, id string) (job, rev uint64, err error) {
	entry, err := l.state.Get(ctx, broker.KeyID(id))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("look up id: %w", err)
	}
	var o wire.IDOwner
	if err := json.Unmarshal(entry.Value, &o); err != nil || o.ID != id {
		l.Log.Error("unreadable owner of an id, replaced", "key", entry.Key, "error", err)
		o.Job = 0
	}
	return o.Job, entry.Revision, nil
}

// refused reports whether a job was rejected for its own document: it has never run.
func (l *leader) refused(ctx context.Context, job uint64) (bool, error) {
	refused, ok := inLoop(ctx, l, func() bool { return l.ended.refused.has(job) })
	if !ok {
		return false, ctx.Err()
	}
	return refused, nil
}

// submittedAs returns the job that was admitted with an id before, 0 for none.
func (l *leader) submittedAs(ctx context.Context, id string) (uint64, error) {
	if id == "" {
		return 0, nil
	}
	job, _, err := l.owner(ctx, id)
	if err != nil || job == 0 {
		return 0, err
	}
	refused, err := l.refused(ctx, job)
	if err != nil || refused {
		return 0, err
	}
	return job, nil
}

// storeDoc stores a submission. One with an id has the identifier that every
// submission with that id has, so that two that come at once are the same job.
func (l *leader) storeDoc(ctx context.Context, message string, doc wire.JobDoc, p []byte) (uint64, error) {
	if doc.ID == "" {
		return l.Broker.Submit(ctx, message, p)
	}
	message = broker.MessageID(doc.ID)
	for {
		job, err := l.Broker.Submit(ctx, message, p)
		if err != nil {
			return 0, err
		}
		// The stream may remember one that was refused.
		refused, err := l.refused(ctx, job)
		if err != nil || !refused {
			return job, err
		}
		message = fmt.Sprintf("%s.%d", broker.MessageID(doc.ID), job)
	}
}
