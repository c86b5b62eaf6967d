package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// followPause is the pause before a reader that failed begins again.
	followPause = 100 * time.Millisecond
	// readAhead is how many messages of a stream are under way to a reader.
	readAhead = 256
	// pullExpiry is how long a server may keep a reader's request, and pullBeat how
	// often it says meanwhile that it still has it. After twice that the consumer is
	// taken for lost: it was on a server that has died.
	pullExpiry = 4 * time.Second
	pullBeat   = time.Second
	// stallLook is how often a reader that gets nothing asks whether there is
	// something.
	stallLook = 2 * time.Second
	// forgetReader is how long a server keeps the consumer of a reader that has gone.
	forgetReader = time.Minute
)

// FollowJobs calls fn for every submission from the given job on; see [Core].
func (b *Broker) FollowJobs(ctx context.Context, from uint64, fn func(context.Context, *Stored)) (stop func(), err error) {
	return b.follow(ctx, streamJobs, from, fn)
}

// FollowResults calls fn for every result from the given place on; see [Core].
func (b *Broker) FollowResults(ctx context.Context, from uint64, fn func(context.Context, *Stored)) (stop func(), err error) {
	return b.follow(ctx, streamResults, from, fn)
}

// reader reads a stream in order. What it has read it never reads again: a
// consumer that a server lost is replaced by one that begins behind it.
type reader struct {
	name   string
	stream jetstream.Stream
	// next is the place to read from, last the newest one at the beginning.
	next, last uint64
	told       bool
	fn         func(context.Context, *Stored)
	// read counts the messages read, at is next for other goroutines to see; missed
	// says that a consumer didn't deliver what there was.
	read, at atomic.Uint64
	missed   atomic.Bool
}

func (b *Broker) follow(ctx context.Context, name string, from uint64, fn func(context.Context, *Stored)) (stop func(), err error) {
	stream, err := b.JS.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", name, err)
	}
	r := &reader{name: name, stream: stream, next: max(from, 1), last: stream.CachedInfo().State.LastSeq, fn: fn}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	changes, stopChanges := b.ConnectionChanges()
	go func() {
		defer close(done)
		defer stopChanges()
		for ctx.Err() == nil {
			err := b.readOnce(ctx, r, changes)
			if r.missed.Swap(false) {
				b.tell(EventRebuilt, fmt.Errorf("a reader of stream %s got nothing although there was something from place %d on: reading anew", name, r.next))
				err = b.readDirectly(ctx, r)
			}
			if err == nil {
				continue
			}
			// The server is away or just back.
			select {
			case <-ctx.Done():
			case <-changes:
			case <-time.After(followPause):
			}
		}
	}()
	return func() { cancel(); <-done }, nil
}

// readOnce reads until something fails or the connection changes, which may mean
// that the server has forgotten the consumer.
func (b *Broker) readOnce(ctx context.Context, r *reader, changes <-chan bool) error {
	once, cancel := context.WithCancel(ctx)
	defer cancel()
	open, opened := context.WithTimeout(once, lookUpWait)
	defer opened()
	consumer, err := r.stream.OrderedConsumer(open, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: r.next, InactiveThreshold: forgetReader})
	if err != nil {
		return err
	}
	info, err := consumer.Info(open)
	if err != nil {
		return err
	}
	r.caughtUp(ctx, info.NumPending)
	messages, err := consumer.Messages(jetstream.PullMaxMessages(readAhead), jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(pullBeat))
	if err != nil {
		return err
	}
	defer messages.Stop()
	watched := make(chan struct{})
	r.at.Store(r.next)
	go func() {
		defer close(watched)
		tick := time.NewTicker(stallLook)
		defer tick.Stop()
		stall := stall{read: r.read.Load()}
		for {
			select {
			case <-once.Done():
				return
			case connected := <-changes:
				if connected {
					cancel()
				}
			case <-tick.C:
				if stall.look(once, r) {
					r.missed.Store(true)
					cancel()
				}
			}
		}
	}()
	defer func() { cancel(); <-watched }()
	for {
		m, err := messages.Next(jetstream.NextContext(once))
		if err != nil {
			if ctx.Err() == nil && once.Err() != nil {
				return nil // begin again at once
			}
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if meta.Sequence.Stream < r.next {
			continue
		}
		r.give(ctx, &Stored{Seq: meta.Sequence.Stream, At: meta.Timestamp, Subject: m.Subject(), Data: m.Data()})
		left := meta.NumPending
		if meta.Sequence.Stream >= r.last {
			left = 0 // what is still to come was stored after the reader began
		}
		r.caughtUp(ctx, left)
	}
}

// give passes a message on.
func (r *reader) give(ctx context.Context, m *Stored) {
	r.fn(ctx, m)
	r.next = m.Seq + 1
	r.read.Add(1)
	r.at.Store(r.next)
}

// stall finds out that a consumer doesn't deliver what there is. It may be alive all
// the same: on a server whose copy of the stream has fallen behind.
type stall struct {
	read, behind uint64
}

// look reports whether the reader got nothing since the last look although there was
// something by then.
func (s *stall) look(ctx context.Context, r *reader) bool {
	read := r.read.Load()
	if read != s.read {
		s.read, s.behind = read, 0
		return false
	}
	within, cancel := context.WithTimeout(ctx, lookUpWait)
	defer cancel()
	info, err := r.stream.Info(within)
	if err != nil || info.State.LastSeq < r.at.Load() || r.read.Load() != read {
		s.behind = 0
		return false
	}
	if s.behind == 0 {
		s.behind = info.State.LastSeq
		return false
	}
	return true
}

// readDirectly reads what a consumer has missed, message by message, from the server
// that leads the stream.
func (b *Broker) readDirectly(ctx context.Context, r *reader) error {
	for {
		m, err := b.nextMessage(ctx, r.name, r.next)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			r.caughtUp(ctx, 0)
			return nil
		}
		if err != nil {
			return err
		}
		r.give(ctx, m)
		if m.Seq >= r.last {
			r.caughtUp(ctx, 0)
		}
	}
}

// nextMessage asks the leader of a stream for the first message from a place on. It
// returns [jetstream.ErrMsgNotFound] when there is none.
func (b *Broker) nextMessage(ctx context.Context, stream string, from uint64) (*Stored, error) {
	request, err := json.Marshal(struct {
		Seq     uint64 `json:"seq"`
		Subject string `json:"next_by_subj"`
	}{from, ">"})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookUpWait)
	defer cancel()
	reply, err := b.NC.RequestWithContext(ctx, apiMessage+stream, request)
	if err != nil {
		return nil, fmt.Errorf("read stream %s: %w", stream, err)
	}
	var answer struct {
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Data    []byte    `json:"data"`
			At      time.Time `json:"time"`
		} `json:"message"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return nil, fmt.Errorf("read stream %s: %w", stream, err)
	}
	if e := answer.Error; e != nil {
		if e.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return nil, jetstream.ErrMsgNotFound
		}
		return nil, fmt.Errorf("read stream %s: %w", stream, e)
	}
	m := answer.Message
	if m.Seq < from {
		return nil, fmt.Errorf("read stream %s: message %d instead of one from %d on", stream, m.Seq, from)
	}
	return &Stored{Seq: m.Seq, At: m.At, Subject: m.Subject, Data: m.Data}, nil
}

// caughtUp says, once, that what was stored is through.
func (r *reader) caughtUp(ctx context.Context, pending uint64) {
	if pending == 0 && !r.told {
		r.told = true
		r.fn(ctx, nil)
	}
}
