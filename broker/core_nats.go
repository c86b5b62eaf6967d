package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"idunno/broker/wire"
)

var _ Core = (*Broker)(nil)

// Publish sends a message to whoever listens.
func (b *Broker) Publish(subject string, data []byte) error { return b.NC.Publish(subject, data) }

// Listen calls fn for every message to the subject, one at a time, until stop is called.
func (b *Broker) Listen(subject string, fn func(*Message)) (stop func(), err error) {
	sub, err := b.NC.Subscribe(subject, func(m *nats.Msg) { fn(message(m)) })
	if err != nil {
		return nil, fmt.Errorf("listen to %s: %w", subject, err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}

func message(m *nats.Msg) *Message {
	msg := &Message{Subject: m.Subject, To: m.Sub.Subject, Data: m.Data, Reply: m.Reply}
	if m.Reply != "" {
		msg.Respond = m.Respond
	}
	return msg
}

// listenAhead is how many messages may wait for whoever listens to several subjects.
const listenAhead = 1 << 16

// listening is a [Listening].
type listening struct {
	nc   *nats.Conn
	ch   chan *nats.Msg
	over chan struct{}
	mu   sync.Mutex
	subs map[string]*nats.Subscription // nil when it has ended
}

// ListenAll is Listen for several subjects: the client has a goroutine for each
// subscription, and they would overtake each other.
func (b *Broker) ListenAll(subjects []string, fn func(*Message)) (Listening, error) {
	l := &listening{nc: b.NC, ch: make(chan *nats.Msg, listenAhead), over: make(chan struct{}), subs: make(map[string]*nats.Subscription)}
	for _, subject := range subjects {
		if err := l.Add(subject); err != nil {
			l.Stop()
			return nil, err
		}
	}
	go func() {
		for {
			select {
			case m := <-l.ch:
				fn(message(m))
			case <-l.over:
				return
			}
		}
	}()
	return l, nil
}

// Add listens to a further subject.
func (l *listening) Add(subject string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.subs == nil || l.subs[subject] != nil {
		return nil
	}
	sub, err := l.nc.ChanSubscribe(subject, l.ch)
	if err != nil {
		return fmt.Errorf("listen to %s: %w", subject, err)
	}
	l.subs[subject] = sub
	return nil
}

// Remove ends the listening to a subject.
func (l *listening) Remove(subject string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if sub := l.subs[subject]; sub != nil {
		_ = sub.Unsubscribe()
		delete(l.subs, subject)
	}
}

// Stop ends it.
func (l *listening) Stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.subs == nil {
		return
	}
	for _, sub := range l.subs {
		_ = sub.Unsubscribe()
	}
	l.subs = nil
	close(l.over)
}

// Ask sends a request and waits for one answer. It returns [ErrNobody] when
// nobody listens.
func (b *Broker) Ask(ctx context.Context, subject string, data []byte) ([]byte, error) {
	reply, err := b.NC.RequestWithContext(ctx, subject, data)
	if errors.Is(err, nats.ErrNoResponders) {
		return nil, ErrNobody
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", subject, err)
	}
	return reply.Data, nil
}

// Connected reports whether there is a connection at the moment.
func (b *Broker) Connected() bool { return b.NC.IsConnected() }

// ServerID is the identity of the server process connected to, "" without one.
func (b *Broker) ServerID() string { return b.NC.ConnectedServerId() }

// ConnID names the connection, see [wire.Conn].
func (b *Broker) ConnID() string {
	id, err := b.NC.GetClientID()
	if err != nil {
		return ""
	}
	return wire.Conn(b.NC.ConnectedServerId(), id)
}

// ConnectionChanges tells of connections lost (false) and made (true).
func (b *Broker) ConnectionChanges() (changes <-chan bool, stop func()) {
	statuses := b.NC.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.CLOSED)
	out, done := make(chan bool, cap(statuses)), make(chan struct{})
	go func() {
		defer close(done)
		for s := range statuses {
			select {
			case out <- s == nats.CONNECTED:
			default: // nobody reads; whoever does so later asks for the state first
			}
		}
	}()
	return out, func() {
		b.NC.RemoveStatusListener(statuses)
		<-done
	}
}

// Serve answers requests as a service.
//
// The service has a connection of its own, closed with it. Unsubscribing instead
// can fail without a trace while the server is away: the subscription is made
// again with the reconnection, and the server goes on giving requests to a
// service that has stopped.
func (b *Broker) Serve(ctx context.Context, s Service) (stop func(), err error) {
	conn, err := b.Dup(ctx)
	if err != nil {
		return nil, fmt.Errorf("start the service: %w", err)
	}
	service, err := micro.AddService(conn.NC, micro.Config{Name: s.Name, Version: s.Version, Description: s.Description})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("start the service: %w", err)
	}
	for _, e := range s.Endpoints {
		handler := micro.HandlerFunc(func(req micro.Request) {
			go e.Answer(Request{Data: req.Data(), ID: req.Headers().Get(jetstream.MsgIDHeader),
				Respond: func(p []byte) error { return req.Respond(p) }})
		})
		if err := service.AddEndpoint(e.Name, handler, micro.WithEndpointSubject(e.Subject)); err != nil {
			conn.Close()
			return nil, fmt.Errorf("start endpoint %s: %w", e.Name, err)
		}
	}
	return conn.Close, nil
}

// Records opens the bucket of job records.
func (b *Broker) Records(ctx context.Context) (Bucket, error) {
	kv, err := b.State(ctx)
	return bucket{kv}, err
}

// Leases opens the bucket of the coordinator's lease.
func (b *Broker) Leases(ctx context.Context) (Bucket, error) {
	kv, err := b.Lease(ctx)
	return bucket{kv}, err
}

// bucket is a [Bucket] on a key-value store.
type bucket struct{ kv jetstream.KeyValue }

func (b bucket) Get(ctx context.Context, key string) (*Entry, error) {
	e, err := b.kv.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	return entryOf(e), nil
}

func entryOf(e jetstream.KeyValueEntry) *Entry {
	return &Entry{Key: e.Key(), Value: e.Value(), Revision: e.Revision()}
}

func (b bucket) Create(ctx context.Context, key string, value []byte) (uint64, error) {
	return b.kv.Create(ctx, key, value)
}

func (b bucket) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return b.kv.Update(ctx, key, value, revision)
}

func (b bucket) Delete(ctx context.Context, key string, revision uint64) error {
	return b.kv.Delete(ctx, key, jetstream.LastRevision(revision))
}

func (b bucket) Watch(ctx context.Context, keys string, fn func(*Entry) bool) error {
	return b.WatchFrom(ctx, keys, 0, fn)
}

func (b bucket) WatchFrom(ctx context.Context, keys string, revision uint64, fn func(*Entry) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opts := []jetstream.WatchOpt{jetstream.IgnoreDeletes()}
	if revision > 0 {
		opts = append(opts, jetstream.ResumeFromRevision(revision))
	}
	w, err := b.kv.Watch(ctx, keys, opts...)
	if err != nil {
		return err
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.Updates():
			var entry *Entry
			switch {
			case !ok && ctx.Err() != nil:
				return nil
			case !ok:
				return fmt.Errorf("watch %s: %w", keys, ErrWatchEnded)
			case e != nil:
				entry = entryOf(e)
			}
			if !fn(entry) {
				return nil
			}
		}
	}
}
