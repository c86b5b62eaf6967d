package broker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// Where many workers store results at once, each has few that wait, and no batches
// of its own. Then the brokers store for all: a worker hands its result
// to one of them, which groups what comes from everywhere and answers when it is
// durable. The worker acknowledges its task then, as ever. A broker keeps nothing:
// when it dies its workers hear nothing, and store by themselves.
const (
	// slowStore is the time for a write from which on the server has more to do than
	// it can, and crowded how long others write for us then.
	slowStore = 4 * time.Millisecond
	crowded   = time.Second
	// aloneFor is how long nobody is asked after nobody was there, or nobody answered
	// within answerWait: who listens to everything is no broker.
	aloneFor   = 5 * time.Second
	answerWait = 2 * time.Second
	// maxShared bounds the bytes that a broker has taken and not yet stored.
	maxShared = 64 << 20
)

// What a broker answers.
const (
	answerStored = "+OK"
	answerExists = "+EXISTS"
	answerFailed = "-ERR "
)

// errShared is returned when a broker could not store a result.
var errShared = errors.New("the broker could not store the result")

// crowd knows whether the server has more to write than it can.
type crowd struct {
	// since is until when others write for us, alone until when they are not asked.
	until, alone atomic.Int64
}

func (c *crowd) there(now time.Time) bool {
	return now.UnixNano() < c.until.Load() && now.UnixNano() > c.alone.Load()
}

// took notes how long a write took.
func (c *crowd) took(d time.Duration, now time.Time) {
	if d > slowStore {
		c.until.Store(now.Add(crowded).UnixNano())
	}
}

func (c *crowd) nobody(now time.Time) { c.alone.Store(now.Add(aloneFor).UnixNano()) }

// store stores a result, together with others that wait.
func (b *Broker) store(ctx context.Context, job uint64, task int, data []byte) error {
	if !b.cfg.StoreAlone && b.crowd.there(time.Now()) {
		if err := b.storeShared(ctx, job, task, data); err == nil || IsExists(err) || ctx.Err() != nil {
			return err
		}
	}
	began := time.Now()
	few, err := b.group.store(ctx, SubjectResult(job, task), data)
	if few && err == nil {
		b.crowd.took(time.Since(began), time.Now())
	}
	return err
}

// storeShared has a broker store a result.
func (b *Broker) storeShared(ctx context.Context, job uint64, task int, data []byte) error {
	within, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	reply, err := b.NC.RequestWithContext(within, subjectStore(job, task), data)
	switch {
	case errors.Is(err, nats.ErrNoResponders), err != nil && ctx.Err() == nil && within.Err() != nil:
		b.crowd.nobody(time.Now())
		return ErrNobody
	case err != nil:
		return fmt.Errorf("ask a broker to store: %w", err)
	}
	switch string(reply.Data) {
	case answerStored:
		return nil
	case answerExists:
		return ErrExists
	}
	return fmt.Errorf("%w: %s", errShared, reply.Data)
}

// ShareStores takes results from workers and stores them together, until stop is
// called. It is for the process of a server, which is as near to the disk as can be.
func (b *Broker) ShareStores() (stop func(), err error) {
	b.group.mu.Lock()
	b.group.least = sharedLeast
	b.group.mu.Unlock()
	var taken atomic.Int64
	sub, err := b.NC.QueueSubscribe(prefixStore+"*.*", groupStore, func(m *nats.Msg) {
		if m.Reply == "" {
			return
		}
		subject, ok := resultOfStore(m.Subject)
		if !ok {
			_ = m.Respond([]byte(answerFailed + "no task: " + m.Subject))
			return
		}
		size := int64(len(m.Data))
		if taken.Add(size) > maxShared {
			taken.Add(-size)
			_ = m.Respond([]byte(answerFailed + "too much waits already"))
			return
		}
		b.group.add(subject, m.Data, func(err error) {
			taken.Add(-size)
			answer := answerStored
			switch {
			case IsExists(err):
				answer = answerExists
			case err != nil:
				answer = answerFailed + err.Error()
			}
			// Whoever doesn't get the answer asks again, or stores by itself.
			_ = m.Respond([]byte(answer))
		})
	})
	if err != nil {
		return nil, fmt.Errorf("take results: %w", err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}
