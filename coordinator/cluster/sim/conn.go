package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
	"idunno/broker/wire"
)

// errGone ends what a killed process was doing.
var errGone = errors.New("the process is no more")

// errAway is the server's answer where a stream is missing.
var errAway = errors.New("no stream answers")

// Conn is the connection of a process.
type Conn struct {
	w    *World
	name string
	dead chan struct{}
	// Begin is told, when a write of a record begins, before it travels; may be nil.
	Begin func(key string, value []byte)

	// The world's lock protects what follows.
	rng       *rand.Rand
	connected bool
	cut       bool
	server    string
	client    uint64        // the connection's number
	life      chan struct{} // closed when the connection breaks
	frozen    chan struct{} // closed at the thaw; nil while it runs
	thaw      time.Time     // the last one
	subs      map[*sub]struct{}
	watchers  map[chan bool]struct{}
	joining   bool
	leaves    bool
	trouble   time.Time // when it last was frozen, cut off or without a connection
}

var _ broker.Core = (*Conn)(nil)

// Connect opens a connection; name is unique.
func (w *World) Connect(name string) *Conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := &Conn{w: w, name: name, dead: make(chan struct{}), rng: w.random(name), life: make(chan struct{}),
		subs: make(map[*sub]struct{}), watchers: make(map[chan bool]struct{})}
	close(c.life)
	w.conns[c] = struct{}{}
	if w.up {
		c.connect()
	} else {
		c.rejoin()
	}
	return c
}

// Kill ends the process as SIGKILL does: nothing more is heard of it.
func (c *Conn) Kill() {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	select {
	case <-c.dead:
		return
	default:
	}
	close(c.dead)
	c.disconnect()
	delete(c.w.conns, c)
	if c.frozen != nil {
		close(c.frozen)
		c.frozen = nil
	}
}

// Freeze stops everything that goes in or out, until Thaw.
func (c *Conn) Freeze() {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.frozen != nil {
		return
	}
	thawed := make(chan struct{})
	c.frozen = thawed
	go func() {
		select {
		case <-time.After(silence):
		case <-thawed:
			return
		case <-c.w.over:
			return
		}
		c.w.mu.Lock()
		defer c.w.mu.Unlock()
		if c.frozen == thawed {
			c.disconnect() // the server has heard nothing
		}
	}()
}

// Thaw ends a freeze: what was stopped goes on where it was.
func (c *Conn) Thaw() {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.frozen != nil {
		close(c.frozen)
		c.frozen, c.thaw, c.trouble = nil, time.Now(), time.Now()
	}
}

// Leaves notes that the process is told to stop: what it has it gives up from now on.
func (c *Conn) Leaves() {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.leaves = true
}

// Cut takes the network away, or gives it back.
func (c *Conn) Cut(cut bool) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.cut = cut
	if !cut {
		c.trouble = time.Now()
		c.w.touch()
		return
	}
	life := c.life
	go func() {
		select {
		case <-time.After(silence):
		case <-c.w.over:
			return
		}
		c.w.mu.Lock()
		defer c.w.mu.Unlock()
		if c.cut && c.life == life {
			c.disconnect()
		}
	}()
}

// Well is how long a living process has been running with its network, by name; 0
// when it isn't. It is for Observe.
func (w *World) Well(name string) time.Duration {
	for c := range w.conns {
		if c.name == name && c.connected && !c.cut && c.frozen == nil && !c.leaves {
			return time.Since(c.trouble)
		}
	}
	return 0
}

// disconnect breaks the connection, under the lock.
func (c *Conn) disconnect() {
	if !c.connected {
		return
	}
	if c.w.up && c.w.TellsClosed {
		closed := wire.ConnClosed{Schema: wire.Schema, Conn: wire.Conn(c.server, c.client)}
		news := &message{Message: broker.Message{Subject: broker.SubjectClosed, Data: closed.Marshal()}}
		for _, s := range c.w.listeners(broker.SubjectClosed) {
			go s.deliver(news)
		}
	}
	c.connected, c.server, c.trouble = false, "", time.Now()
	close(c.life)
	c.tell(false)
	c.rejoin()
}

// connect makes it again, under the lock.
func (c *Conn) connect() {
	c.w.clients++
	c.trouble = time.Now()
	c.connected, c.server, c.client, c.life = true, fmt.Sprintf("S%d", c.w.server), c.w.clients, make(chan struct{})
	c.tell(true)
	c.w.touch()
}

func (c *Conn) tell(connected bool) {
	for ch := range c.watchers {
		select {
		case ch <- connected:
		default:
		}
	}
}

// rejoin tries until there is a connection, under the lock.
func (c *Conn) rejoin() {
	if c.joining {
		return
	}
	c.joining = true
	wait := 50*time.Millisecond + time.Duration(c.rng.Int64N(int64(100*time.Millisecond)))
	var try func()
	try = func() {
		c.w.mu.Lock()
		defer c.w.mu.Unlock()
		select {
		case <-c.dead:
			return
		case <-c.w.over:
			return
		default:
		}
		if c.w.up && !c.cut && c.frozen == nil {
			c.joining = false
			c.connect()
			return
		}
		time.AfterFunc(wait, try)
	}
	time.AfterFunc(wait, try)
}

// thawed waits for the end of a freeze: nothing reaches a frozen process.
func (c *Conn) thawed() {
	for {
		c.w.mu.Lock()
		frozen := c.frozen
		c.w.mu.Unlock()
		if frozen == nil {
			return
		}
		select {
		case <-frozen:
		case <-c.w.over:
			return
		}
	}
}

func (c *Conn) isFrozen() bool {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.frozen != nil
}

// begin tells of a write that is about to be sent.
func (c *Conn) begin(kind, key string, value []byte) {
	if c.Begin == nil || kind != "record" {
		return
	}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	// A frozen process does nothing. One that wakes up does first what it was about
	// to do, before it learns how late it is.
	if c.frozen == nil && time.Since(c.thaw) > 0 {
		c.Begin(key, value)
	}
}

type outcome[T any] struct {
	value T
	err   error
}

// call is a request to the server: fn runs there, under the lock, perhaps after
// the caller has given up, and perhaps a second time with nobody to hear of it.
func call[T any](ctx context.Context, c *Conn, what string, repeatable bool, fn func() (T, error)) (T, error) {
	var none T
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, apiWait)
		defer cancel()
	}
	if ctx.Err() != nil {
		return none, context.Cause(ctx)
	}
	there, back := c.fate(), c.fate()
	answer := make(chan outcome[T], 1)
	go func() {
		if !c.travel(there) {
			return
		}
		v, err := apply(c, fn)
		if there.twice && repeatable {
			go func() {
				if c.travel(c.fate()) {
					_, _ = apply(c, fn)
				}
			}()
		}
		if c.travel(back) {
			answer <- outcome[T]{v, err}
		}
	}()
	select {
	case o := <-answer:
		c.thawed()
		return o.value, o.err
	case <-ctx.Done():
		c.thawed()
		return none, fmt.Errorf("%s: %w", what, context.Cause(ctx))
	case <-c.dead:
	case <-c.w.over:
	}
	return none, errGone
}

func apply[T any](c *Conn, fn func() (T, error)) (T, error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return fn()
}

// post sends what nobody waits for.
func (c *Conn) post(fn func()) error {
	select {
	case <-c.dead:
		return errGone
	default:
	}
	f := c.fate()
	if c.isFrozen() && !f.resent {
		return nil // a frozen process sends nothing; but some of it was sent just before
	}
	go func() {
		if c.travel(f) {
			_, _ = apply(c, func() (struct{}, error) { fn(); return struct{}{}, nil })
		}
	}()
	if f.twice {
		again := c.fate()
		go func() {
			if c.travel(again) {
				_, _ = apply(c, func() (struct{}, error) { fn(); return struct{}{}, nil })
			}
		}()
	}
	return nil
}

// Ensure creates the task queue that a restart forgot.
func (c *Conn) Ensure(ctx context.Context) error {
	_, err := call(ctx, c, "ensure", true, func() (struct{}, error) {
		c.w.ensureTasks()
		return struct{}{}, nil
	})
	return err
}

// Files opens the store.
func (c *Conn) Files(context.Context) (broker.Objects, jetstream.KeyValue, error) {
	return objects{c: c}, index{c: c}, nil
}

// Records opens the bucket of job records.
func (c *Conn) Records(context.Context) (broker.Bucket, error) { return bucket{c, &c.w.records}, nil }

// Leases opens the bucket of the lease.
func (c *Conn) Leases(context.Context) (broker.Bucket, error) { return bucket{c, &c.w.leases}, nil }

// Connected reports whether there is a connection.
func (c *Conn) Connected() bool {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.connected
}

// ServerID names the server connected to.
func (c *Conn) ServerID() string {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.server
}

// ConnID names the connection.
func (c *Conn) ConnID() string {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if !c.connected {
		return ""
	}
	return wire.Conn(c.server, c.client)
}

// ConnectionChanges tells of connections lost and made.
func (c *Conn) ConnectionChanges() (<-chan bool, func()) {
	ch := make(chan bool, 10)
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.watchers[ch] = struct{}{}
	return ch, func() {
		c.w.mu.Lock()
		defer c.w.mu.Unlock()
		delete(c.watchers, ch)
	}
}

// Submit stores a submission.
func (c *Conn) Submit(ctx context.Context, id string, doc []byte) (uint64, error) {
	return call(ctx, c, "submit", id != "", func() (uint64, error) {
		w := c.w
		if job := w.submitted[id]; id != "" && job > 0 {
			return job, nil
		}
		job := uint64(len(w.jobs)) + 1
		w.submitted[id] = job
		w.jobs = append(w.jobs, broker.Stored{Seq: job, At: time.Now(), Subject: broker.SubjectJobs, Data: slices.Clone(doc)})
		w.logf("%s: job %d submitted: %s", c.name, job, doc)
		w.touch()
		return job, nil
	})
}

// StoreResult stores a task's first result.
func (c *Conn) StoreResult(ctx context.Context, job uint64, task int, data []byte) error {
	_, err := call(ctx, c, "store result", true, func() (struct{}, error) {
		w, subject := c.w, broker.SubjectResult(job, task)
		refused := w.stored[subject]
		w.observe(Step{Kind: "result", Conn: c.name, Key: subject, Data: data, Refused: refused})
		if refused {
			return struct{}{}, broker.ErrExists
		}
		w.stored[subject] = true
		w.results = append(w.results, broker.Stored{Seq: uint64(len(w.results)) + 1, At: time.Now(), Subject: subject, Data: slices.Clone(data)})
		w.logf("%s: result of job %d task %d", c.name, job, task)
		w.touch()
		return struct{}{}, nil
	})
	return err
}

// HasResult reports whether a task has a result.
func (c *Conn) HasResult(ctx context.Context, job uint64, task int) (bool, error) {
	return call(ctx, c, "look up result", true, func() (bool, error) { return c.w.stored[broker.SubjectResult(job, task)], nil })
}

// LastResult is the place of the newest result.
func (c *Conn) LastResult(ctx context.Context) (uint64, error) {
	return call(ctx, c, "last result", true, func() (uint64, error) { return uint64(len(c.w.results)), nil })
}

// FollowJobs reads the submissions in order.
func (c *Conn) FollowJobs(ctx context.Context, from uint64, fn func(context.Context, *broker.Stored)) (func(), error) {
	return c.follow(ctx, &c.w.jobs, from, fn)
}

// FollowResults reads the results in order.
func (c *Conn) FollowResults(ctx context.Context, from uint64, fn func(context.Context, *broker.Stored)) (func(), error) {
	return c.follow(ctx, &c.w.results, from, fn)
}

func (c *Conn) follow(ctx context.Context, stream *[]broker.Stored, from uint64, fn func(context.Context, *broker.Stored)) (func(), error) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		told := false
		for next := max(from, 1); ; {
			if !c.ready(ctx) || !c.sleep(ctx, c.delay()) || !c.ready(ctx) {
				return
			}
			c.w.mu.Lock()
			all, changed := *stream, c.w.changed
			c.w.mu.Unlock()
			for ; next <= uint64(len(all)) && ctx.Err() == nil; next++ {
				m := all[next-1]
				fn(ctx, &m)
			}
			if !told {
				told = true
				fn(ctx, nil)
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			case <-c.dead:
				return
			case <-c.w.over:
				return
			}
		}
	}()
	return func() { cancel(); <-done }, nil
}

// matches reports whether a subject is one of a pattern's.
func matches(pattern, subject string) bool {
	if prefix, all := strings.CutSuffix(pattern, ">"); all {
		return strings.HasPrefix(subject, prefix) && subject != prefix
	}
	prefix, wild := strings.CutSuffix(pattern, "*")
	return pattern == subject || wild && strings.HasPrefix(subject, prefix) && !strings.Contains(subject[len(prefix):], ".")
}
