package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
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
	// directAfter is how long a reader goes without a consumer until it reads without.
	directAfter = 3 * time.Second
	// forgetReader is how long a server keeps the consumer of a reader that has gone.
	forgetReader = time.Minute
)

// FollowJobs calls fn for every submission from the given job on; see [Core].
func (b *Broker) FollowJobs(ctx context.Context, from uint64, fn func(context.Context, *Stored)) (stop func(), err error) {
	return b.follow(ctx, streamJobs, "", from, fn)
}

// FollowResults calls fn for every result from the given place on; see [Core].
func (b *Broker) FollowResults(ctx context.Context, from uint64, fn func(context.Context, *Stored)) (stop func(), err error) {
	return b.follow(ctx, streamResults, "", from, fn)
}

// reader reads a stream in order. What it has read it never reads again: a
// consumer that a server lost is replaced by one that begins behind it.
type reader struct {
	name   string
	stream jetstream.Stream
	// subject is what it reads of the stream, "" for everything.
	subject string
	// next is the place to read from, last the newest one at the beginning.
	next, last uint64
	// delivered counts what the present consumer has delivered.
	delivered uint64
	told      bool
	fn        func(context.Context, *Stored)
	// missed says that the present consumer didn't deliver what there was.
	missed bool
}

func (b *Broker) follow(ctx context.Context, name, subject string, from uint64, fn func(context.Context, *Stored)) (stop func(), err error) {
	stream, err := b.JS.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", name, err)
	}
	r := &reader{name: name, stream: stream, subject: subject, next: max(from, 1), last: stream.CachedInfo().State.LastSeq, fn: fn}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	changes, stopChanges := b.ConnectionChanges()
	go func() {
		defer close(done)
		defer stopChanges()
		failing := time.Time{}
		for ctx.Err() == nil {
			err := b.readOnce(ctx, r, changes)
			switch {
			case err == nil && !r.missed:
				failing = time.Time{}
				continue
			case r.missed:
				b.tell(EventRebuilt, fmt.Errorf("a reader of stream %s got nothing although there was something from place %d on: reading anew", name, r.next))
				r.missed = false
				err = b.readDirectly(ctx, r)
			case failing.IsZero():
				failing = time.Now()
			case time.Since(failing) > directAfter:
				err = b.readDirectly(ctx, r)
			}
			if err == nil && failing.IsZero() {
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

// readOnce reads until something fails or the connection is made anew, which may
// mean that the server has forgotten the consumer. It ends with ctx at once: the
// client's own ordered consumer would go on trying to replace what is lost.
func (b *Broker) readOnce(ctx context.Context, r *reader, changes <-chan bool) error {
	once, cancel := context.WithCancel(ctx)
	defer cancel()
	open, opened := context.WithTimeout(once, lookUpWait)
	defer opened()
	consumer, err := r.stream.CreateConsumer(open, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: r.next, AckPolicy: jetstream.AckNonePolicy,
		FilterSubject: r.subject, MaxDeliver: 1, MemoryStorage: true, Replicas: 1, InactiveThreshold: forgetReader})
	if err != nil {
		return err
	}
	r.delivered = 0
	r.caughtUp(ctx, consumer.CachedInfo().NumPending)
	for empty := 0; ; {
		before := r.next
		again, err := r.fetch(once, consumer, changes)
		if again || err != nil {
			return err
		}
		// A consumer may be alive and blind, on a server whose copy of the stream has
		// fallen behind.
		if empty++; r.next != before || !b.behind(once, r) {
			empty = 0
		}
		if empty >= 2 {
			r.missed = true
			return nil
		}
	}
}

// behind reports whether there is something to read. What was removed before it was
// read is passed over.
func (b *Broker) behind(ctx context.Context, r *reader) bool {
	within, cancel := context.WithTimeout(ctx, lookUpWait)
	defer cancel()
	info, err := r.stream.Info(within)
	if err != nil || info.State.LastSeq < r.next {
		return false
	}
	_, err = b.nextMessage(ctx, r.name, r.filter(), r.next)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		r.next = info.State.LastSeq + 1
	}
	return err == nil
}

// filter is the subject that it reads.
func (r *reader) filter() string {
	if r.subject == "" {
		return ">"
	}
	return r.subject
}

// fetch makes one request for messages.
func (r *reader) fetch(ctx context.Context, consumer jetstream.Consumer, changes <-chan bool) (again bool, err error) {
	// The server is told of an end a little earlier.
	within, cancel := context.WithTimeout(ctx, pullExpiry)
	defer cancel()
	batch, err := consumer.Fetch(readAhead, jetstream.FetchContext(within), jetstream.FetchHeartbeat(pullBeat))
	if err != nil {
		return false, err
	}
	again, err = r.take(ctx, batch, changes)
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil // what came too late leaves a gap, which is noticed
	}
	return again, err
}

// take hands over what a request to the server brings. It reports true when the
// reader shall begin again at once.
func (r *reader) take(ctx context.Context, batch jetstream.MessageBatch, changes <-chan bool) (again bool, err error) {
	for {
		select {
		case <-ctx.Done():
			return true, nil
		case connected := <-changes:
			if connected {
				return true, nil
			}
		case m, ok := <-batch.Messages():
			if !ok {
				return false, batch.Error()
			}
			if err := r.read(ctx, m); err != nil {
				return false, err
			}
		}
	}
}

func (r *reader) read(ctx context.Context, m jetstream.Msg) error {
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	if r.delivered++; meta.Sequence.Consumer != r.delivered {
		return fmt.Errorf("message %d of the reader came as number %d", meta.Sequence.Consumer, r.delivered)
	}
	if meta.Sequence.Stream < r.next {
		return nil
	}
	r.give(ctx, &Stored{Seq: meta.Sequence.Stream, At: meta.Timestamp, Subject: m.Subject(), Data: m.Data(), Group: m.Headers().Get(headerBatch)})
	left := meta.NumPending
	if meta.Sequence.Stream >= r.last {
		left = 0 // what is still to come was stored after the reader began
	}
	r.caughtUp(ctx, left)
	return nil
}

// give passes a message on.
func (r *reader) give(ctx context.Context, m *Stored) {
	r.fn(ctx, m)
	r.next = m.Seq + 1
}

// readDirectly reads what there is, message by message, from the server that leads
// the stream, without a consumer: that one has missed it, or can't be made.
func (b *Broker) readDirectly(ctx context.Context, r *reader) error {
	for {
		m, err := b.nextMessage(ctx, r.name, r.filter(), r.next)
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

// nextMessage asks the leader of a stream for the first message of a subject, which may
// have wildcards, from a place on. It returns [jetstream.ErrMsgNotFound] when there is none.
func (b *Broker) nextMessage(ctx context.Context, stream, subject string, from uint64) (*Stored, error) {
	request, err := json.Marshal(struct {
		Seq     uint64 `json:"seq"`
		Subject string `json:"next_by_subj"`
	}{from, subject})
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
			Headers []byte    `json:"hdrs"`
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
	// Headers that can't be read are anybody's: they say nothing of a group.
	headers, _ := nats.DecodeHeadersMsg(m.Headers)
	return &Stored{Seq: m.Seq, At: m.At, Subject: m.Subject, Data: m.Data, Group: headers.Get(headerBatch), removed: headers.Get(headerOperation) != ""}, nil
}

// caughtUp says, once, that what was stored is through.
func (r *reader) caughtUp(ctx context.Context, pending uint64) {
	if pending == 0 && !r.told {
		r.told = true
		r.fn(ctx, nil)
	}
}
