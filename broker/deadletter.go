package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker/wire"
)

// StoreAttempt notes a try of a task that ended without a result and waits until
// that is durable. A crash that is told twice, as by two leaders in turn, is noted once.
func (b *Broker) StoreAttempt(ctx context.Context, job uint64, task int, a *wire.Attempt) error {
	var opts []jetstream.PublishOpt
	if a.Cause == wire.CauseCrash {
		opts = append(opts, jetstream.WithMsgID("crash."+a.Node+"."+strconv.FormatInt(a.Incarnation, 10)+"."+jobTask(job, task)))
	}
	if _, err := b.JS.Publish(ctx, SubjectTries(job, task), a.Marshal(), opts...); err != nil {
		return fmt.Errorf("note the try of job %d task %d: %w", job, task, err)
	}
	return nil
}

// Attempts reads the tries of a task that ended without a result, oldest first;
// none once the job has ended.
func (b *Broker) Attempts(ctx context.Context, job uint64, task int) ([]wire.Attempt, error) {
	ctx, cancel := context.WithTimeout(ctx, lookUpWait)
	defer cancel()
	stream, err := b.stream(ctx, &b.tries, streamTries)
	if err != nil {
		return nil, fmt.Errorf("open tries: %w", err)
	}
	var tried []wire.Attempt
	for from := uint64(1); ; {
		msg, err := stream.GetMsg(ctx, from, jetstream.WithGetMsgSubject(SubjectTries(job, task)))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return wire.Distinct(tried), nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the tries of job %d task %d: %w", job, task, err)
		}
		// What can't be read was written by somebody else, and counts for nothing.
		if a, err := wire.ParseAttempt(msg.Data); err == nil {
			tried = append(tried, *a)
		}
		from = msg.Sequence + 1
	}
}

// dropTries forgets the tries of an ended job: its results hold what counts.
func (b *Broker) dropTries(ctx context.Context, job uint64) error {
	stream, err := b.stream(ctx, &b.tries, streamTries)
	if err != nil {
		return fmt.Errorf("open tries: %w", err)
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSubject(triesOf(job))); err != nil {
		return fmt.Errorf("purge tries of job %d: %w", job, err)
	}
	return nil
}

// DeadLetter reads the dead letter of a task; nil when there is none.
func (b *Broker) DeadLetter(ctx context.Context, job uint64, task int) (*wire.DeadLetter, error) {
	stream, err := b.stream(ctx, &b.dead, streamDead)
	if err != nil {
		return nil, fmt.Errorf("open dead letters: %w", err)
	}
	msg, err := stream.GetLastMsgForSubject(ctx, SubjectDead(job, task))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the dead letter of job %d task %d: %w", job, task, err)
	}
	l, err := wire.ParseDeadLetter(msg.Data)
	if err != nil {
		return nil, err
	}
	l.Seq = msg.Sequence
	return l, nil
}

// DeadLetters reads at most limit dead letters of a job, or of all with job 0,
// behind the place after, oldest first, and says whether there are more.
func (b *Broker) DeadLetters(ctx context.Context, job, after uint64, limit int) (letters []wire.DeadLetter, more bool, err error) {
	stream, err := b.stream(ctx, &b.dead, streamDead)
	if err != nil {
		return nil, false, fmt.Errorf("open dead letters: %w", err)
	}
	for len(letters) <= limit {
		msg, err := stream.GetMsg(ctx, after+1, jetstream.WithGetMsgSubject(deadOf(job)))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return letters, false, nil
		}
		if err != nil {
			return nil, false, fmt.Errorf("read dead letters: %w", err)
		}
		after = msg.Sequence
		if l, err := wire.ParseDeadLetter(msg.Data); err == nil {
			l.Seq = msg.Sequence
			letters = append(letters, *l)
		}
	}
	return letters[:limit], true, nil
}

// DeadTasks lists the tasks of a job that have a dead letter, ascending.
func (b *Broker) DeadTasks(ctx context.Context, job uint64) ([]int, error) {
	stream, err := b.stream(ctx, &b.dead, streamDead)
	if err != nil {
		return nil, fmt.Errorf("open dead letters: %w", err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(deadOf(job)))
	if err != nil {
		return nil, fmt.Errorf("list the dead letters of job %d: %w", job, err)
	}
	tasks := make([]int, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		if task, ok := taskOfDead(subject); ok {
			tasks = append(tasks, task)
		}
	}
	slices.Sort(tasks)
	return tasks, nil
}

// letterWait bounds one try to file a dead letter.
const letterWait = 5 * time.Second

// StoreDeadLetters files dead letters, many at a time, and returns those that are
// not known to be stored.
func (b *Broker) StoreDeadLetters(ctx context.Context, letters []*wire.DeadLetter) (left []*wire.DeadLetter) {
	ctx, cancel := context.WithTimeout(ctx, letterWait)
	defer cancel()
	futures := make([]jetstream.PubAckFuture, len(letters))
	for i, l := range letters {
		var err error
		if futures[i], err = b.JS.PublishAsync(SubjectDead(l.Job, l.Task), l.Marshal()); err != nil {
			left = append(left, letters[i:]...)
			break
		}
	}
	for i, future := range futures {
		if future == nil {
			break
		}
		select {
		case <-future.Ok():
		case err := <-future.Err():
			if !IsExists(err) {
				left = append(left, letters[i])
			}
		case <-ctx.Done():
			left = append(left, letters[i])
		}
	}
	return left
}
