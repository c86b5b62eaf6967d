package coordinator

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
	"idunno/broker/wire"
)

const (
	// retainEvery is how often results are looked for that are kept no longer.
	retainEvery = time.Minute
	// strayAge is how old outputs must be that came after their job's results had
	// been moved.
	strayAge = time.Hour
)

// retain removes the archives of jobs that ended longer ago than results are kept,
// and outputs that belong to none, until ctx ends.
func (l *leader) retain(ctx context.Context) {
	if l.CompactAfter < 0 {
		return
	}
	for wait, swept := time.Second, time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		keep, err := l.retention(ctx)
		// Without a limit there is nothing to find but outputs that came late.
		if err == nil && (keep > 0 || time.Since(swept) > strayAge) {
			swept = time.Now()
			err = l.removeOld(ctx, keep, swept)
		}
		if err != nil && ctx.Err() == nil {
			l.Log.Warn("can't remove old results yet", "error", err)
		}
		wait = retainEvery
		if keep > 0 {
			wait = min(wait, max(keep/2, time.Second))
		}
	}
}

// retention is how long results are kept, 0 for ever.
func (l *leader) retention(ctx context.Context) (time.Duration, error) {
	within, cancel := context.WithTimeout(ctx, recordWait)
	defer cancel()
	e, err := l.state.Get(within, broker.KeySettings)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read settings: %w", err)
	}
	s, err := wire.ParseSettings(e.Value)
	if err != nil {
		return 0, err
	}
	return s.ResultRetention, nil
}

// removeOld does that once; keep is 0 for results that are kept for ever.
func (l *leader) removeOld(ctx context.Context, keep time.Duration, now time.Time) error {
	files, err := l.files.List(ctx, wire.ResultFolder)
	if err != nil {
		return err
	}
	for _, f := range files {
		number, _, outputs := strings.Cut(strings.TrimPrefix(f.Name, wire.ResultFolder), "/")
		job, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			continue // somebody else's
		}
		age := now.Sub(f.Newest.Created)
		if outputs && age < strayAge || !outputs && (keep <= 0 || age < keep) {
			continue
		}
		if err := l.removeFile(ctx, job, f.Name, outputs, keep, now); err != nil {
			return err
		}
	}
	return nil
}

// removeFile removes an archive, or outputs, if the job's record agrees.
func (l *leader) removeFile(ctx context.Context, job uint64, name string, outputs bool, keep time.Duration, now time.Time) error {
	rec, rev, err := l.recordOf(ctx, job)
	if err != nil || rec == nil || !rec.State.Ended() || rec.Results == nil {
		return err
	}
	if outputs {
		// The archive has them, if they are a result's.
		return l.files.Erase(ctx, name)
	}
	if now.Sub(rec.Ended) < keep {
		return nil
	}
	if rec.Results.Removed.IsZero() {
		stored := *rec.Results
		stored.Removed = now
		rec.Results = &stored
		if err := l.rewrite(ctx, rec, rev); err != nil {
			return err
		}
		l.Log.Info("results removed", "job", job, "ended", rec.Ended, "kept_for", keep)
	}
	return l.files.Erase(ctx, name)
}
