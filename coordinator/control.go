package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/sched"
)

const (
	// admitWait is how long a request waits for a job that was submitted just now to be
	// admitted.
	admitWait = 500 * time.Millisecond
	admitGap  = 10 * time.Millisecond
)

// control answers a request that changes a job, in the loop.
func (l *leader) control(ctx context.Context, req broker.Request, fn func(context.Context, *sched.Job) error) any {
	r, err := wire.ParseJobRequest(req.Data)
	if err != nil {
		return wire.JobReply{Error: asWireError(err)}
	}
	if _, err := l.admitted(ctx, r.Job); err != nil {
		return wire.JobReply{Error: unavailable(err)}
	}
	reply, ok := inLoop(ctx, l, func() wire.JobReply {
		j := l.jobs[r.Job]
		if j == nil {
			return l.endedAlready(ctx, r.Job)
		}
		if err := fn(ctx, j); err != nil {
			return wire.JobReply{Error: asWireError(err)}
		}
		return l.describe(ctx, r.Job)
	})
	if !ok {
		return wire.JobReply{Error: unavailable(ctx.Err())}
	}
	return reply
}

// endedAlready refuses to change a job that has ended, or isn't there.
func (l *leader) endedAlready(ctx context.Context, job uint64) wire.JobReply {
	reply := l.describe(ctx, job)
	if reply.Error == nil {
		reply.Error = &wire.Error{Code: wire.CodeJobEnded, Field: "job",
			Message: fmt.Sprintf("job %d has ended already (%s)", job, reply.Record.State)}
	}
	return reply
}

func (l *leader) answerCancel(ctx context.Context, req broker.Request) any {
	return l.control(ctx, req, func(ctx context.Context, j *sched.Job) error {
		return l.cease(ctx, j, wire.StateCancelled, "cancelled by request")
	})
}

// answerPause keeps a job from running until it is resumed. One that has all its
// results ends instead. A request that is made twice changes nothing more.
func (l *leader) answerPause(ctx context.Context, req broker.Request) any {
	return l.control(ctx, req, func(ctx context.Context, j *sched.Job) error {
		if j.Rec.State == wire.StatePaused || j.Finished() {
			return nil
		}
		return l.suspend(ctx, j, wire.StatePaused)
	})
}

func (l *leader) answerResume(ctx context.Context, req broker.Request) any {
	return l.control(ctx, req, func(ctx context.Context, j *sched.Job) error {
		if j.Rec.State != wire.StatePaused {
			return nil
		}
		if err := l.change(ctx, j, wire.StateQueued); err != nil {
			return err
		}
		l.Log.Info("job resumed", "job", j.Rec.Job)
		l.enqueue(j)
		return nil
	})
}

// loadSettings reads the cluster's settings and writes them again, so that an earlier
// leader that doesn't know that it is deposed can't change them any more.
func (l *leader) loadSettings(ctx context.Context) error {
	s := &wire.Settings{}
	entry, err := l.state.Get(ctx, broker.KeySettings)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		l.settingsRev = 0
	case err != nil:
		return fmt.Errorf("read settings: %w", err)
	default:
		l.settingsRev = entry.Revision
		if stored, err := wire.ParseSettings(entry.Value); err != nil {
			l.Log.Error("unreadable settings: the defaults are used", "error", err)
		} else {
			s = stored
		}
	}
	return l.storeSettings(ctx, s)
}

// storeSettings makes settings those of the cluster.
func (l *leader) storeSettings(ctx context.Context, s *wire.Settings) error {
	s.Schema = wire.Schema
	rev, err := l.decide(ctx, broker.KeySettings, s.Marshal(), l.settingsRev)
	if err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	l.settingsRev = rev
	l.settings.Store(s)
	return nil
}

// answerSettings tells the cluster's settings, after changing those that are named.
func (l *leader) answerSettings(ctx context.Context, req broker.Request) any {
	reply, ok := inLoop(ctx, l, func() wire.SettingsReply {
		if len(req.Data) == 0 {
			return wire.SettingsReply{Settings: l.settings.Load()}
		}
		next, err := l.settings.Load().Change(req.Data)
		if err == nil {
			err = l.storeSettings(ctx, next)
		}
		if err != nil {
			return wire.SettingsReply{Error: asWireError(err)}
		}
		l.Log.Info("settings changed", "settings", string(next.Marshal()))
		l.regardPhase()
		return wire.SettingsReply{Settings: next}
	})
	if !ok {
		return wire.SettingsReply{Error: unavailable(ctx.Err())}
	}
	return reply
}

// regardPhase sorts the waiting jobs anew into those that may run and those that
// the phase doesn't let run.
func (l *leader) regardPhase() {
	waiting := l.line.First(l.line.Len())
	l.line = sched.Line{}
	for _, turn := range waiting {
		l.enqueue(l.jobs[turn.Job])
	}
	held := l.held
	l.held = make(map[uint64]bool)
	for job := range held {
		l.enqueue(l.jobs[job])
	}
}

// heedPhase puts running jobs back that the phase doesn't let run.
func (l *leader) heedPhase(ctx context.Context) error {
	var failed []error
	for _, job := range slices.Clone(l.active) {
		if j := l.jobs[job]; !l.settings.Load().Runs(j.Rec.Doc.Training()) {
			failed = append(failed, l.suspend(ctx, j, wire.StateQueued))
		}
	}
	return errors.Join(failed...)
}

// checkTimes checks what a document says of when the job is to run. A record that has
// no number yet is that of a submission.
func (l *leader) checkTimes(ctx context.Context, rec *wire.JobRecord) error {
	doc := rec.Doc
	if now := time.Now(); rec.Job == 0 && doc.Deadline != "" && !doc.DeadlineAt(now).After(now) {
		return &wire.Error{Code: wire.CodeBadDocument, Field: "deadline", Message: fmt.Sprintf("deadline %s has passed; allowed: a time that is yet to come", doc.Deadline)}
	}
	if doc.After == 0 {
		return nil
	}
	last := rec.Job - 1
	if rec.Job == 0 {
		var err error
		if last, err = l.admitted(ctx, doc.After); err != nil {
			return err
		}
	}
	if doc.After > last {
		return &wire.Error{Code: wire.CodeNoSuchJob, Field: "after", Message: fmt.Sprintf("after is %d, and there is no such job before this one; `idunno jobs` lists them", doc.After)}
	}
	return nil
}

// admitted returns the number of the last job that was admitted. One that was
// submitted just now is waited for.
func (l *leader) admitted(ctx context.Context, job uint64) (last uint64, err error) {
	end := time.Now().Add(admitWait)
	for {
		last, ok := inLoop(ctx, l, func() uint64 { return l.last })
		if !ok {
			return 0, ctx.Err()
		}
		if last >= job || time.Now().After(end) {
			return last, nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(admitGap):
		}
	}
}
