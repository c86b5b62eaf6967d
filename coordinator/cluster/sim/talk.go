package sim

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"idunno/broker"
)

// sub is a subscription: its messages come one at a time.
type sub struct {
	c        *Conn
	patterns []string
	fn       func(*message)
	// The world's lock protects the rest.
	waiting []*message
	running bool
	stopped bool
}

type message struct {
	broker.Message
	id string
}

// listen subscribes.
func (c *Conn) listen(fn func(*message), patterns ...string) (stop func()) {
	return c.subscribe(fn, patterns).Stop
}

func (c *Conn) subscribe(fn func(*message), patterns []string) *sub {
	s := &sub{c: c, patterns: slices.Clone(patterns), fn: fn}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.subs[s] = struct{}{}
	return s
}

// arrive gives a message to a subscription.
func (s *sub) arrive(m *message) {
	s.c.w.mu.Lock()
	defer s.c.w.mu.Unlock()
	if s.stopped {
		return
	}
	s.waiting = append(s.waiting, m)
	if !s.running {
		s.running = true
		go s.run()
	}
}

func (s *sub) run() {
	for {
		s.c.thawed()
		s.c.w.mu.Lock()
		if len(s.waiting) == 0 || s.stopped {
			s.running = false
			s.c.w.mu.Unlock()
			return
		}
		m := s.waiting[0]
		s.waiting = s.waiting[1:]
		s.c.w.mu.Unlock()
		s.fn(m)
	}
}

// pattern is what the subscription has for a subject, "" for nothing.
func (s *sub) pattern(subject string) string {
	for _, p := range s.patterns {
		if matches(p, subject) {
			return p
		}
	}
	return ""
}

// listeners finds the subscriptions to a subject, in a fixed order, under the lock.
func (w *World) listeners(subject string) []*sub {
	var found []*sub
	for c := range w.conns {
		if !c.connected {
			continue
		}
		for s := range c.subs {
			if s.pattern(subject) != "" {
				found = append(found, s)
			}
		}
	}
	slices.SortFunc(found, func(x, y *sub) int { return cmp.Compare(x.c.name, y.c.name) })
	return found
}

// deliver sends a message from the server to a subscription, over the connection that
// there is: another one doesn't bring it.
func (s *sub) deliver(m *message) {
	s.c.w.mu.Lock()
	defer s.c.w.mu.Unlock()
	life := s.c.life
	once := func() {
		if s.c.receive(life, s.c.fate()) {
			s.arrive(m)
		}
	}
	go once()
	if s.c.chance(s.c.w.weather.Twice) {
		go once()
	}
}

// Publish sends a message to whoever listens.
func (c *Conn) Publish(subject string, data []byte) error {
	data = slices.Clone(data)
	return c.post(func() {
		c.w.spread(subject, broker.Message{Subject: subject, Data: data})
	})
}

// spread sends a message from the server to whoever listens to a subject, under the
// lock.
func (w *World) spread(subject string, m broker.Message) {
	for _, s := range w.listeners(subject) {
		m.To = s.pattern(subject)
		go s.deliver(&message{Message: m})
	}
}

// Listen subscribes.
func (c *Conn) Listen(subject string, fn func(*broker.Message)) (func(), error) {
	return c.listen(func(m *message) { fn(&m.Message) }, subject), nil
}

// ListenAll subscribes to several subjects.
func (c *Conn) ListenAll(subjects []string, fn func(*broker.Message)) (broker.Listening, error) {
	return c.subscribe(func(m *message) { fn(&m.Message) }, subjects), nil
}

// Add listens to a further subject.
func (s *sub) Add(subject string) error {
	s.c.w.mu.Lock()
	defer s.c.w.mu.Unlock()
	s.patterns = append(s.patterns, subject)
	return nil
}

// Remove ends the listening to a subject.
func (s *sub) Remove(subject string) {
	s.c.w.mu.Lock()
	defer s.c.w.mu.Unlock()
	s.patterns = slices.DeleteFunc(s.patterns, func(p string) bool { return p == subject })
}

// Stop ends the subscription.
func (s *sub) Stop() {
	s.c.w.mu.Lock()
	defer s.c.w.mu.Unlock()
	s.stopped = true
	delete(s.c.subs, s)
}

// Wake calls the workers.
func (c *Conn) Wake() error { return c.Publish(broker.SubjectWake, nil) }

// Ask sends a request.
func (c *Conn) Ask(ctx context.Context, subject string, data []byte) ([]byte, error) {
	return c.Request(ctx, subject, "", data)
}

// Request sends a request with a message identifier.
func (c *Conn) Request(ctx context.Context, subject, id string, data []byte) ([]byte, error) {
	answer := make(chan outcome[[]byte], 4)
	reply := func(p []byte, err error) {
		if c.travel(c.fate()) {
			select {
			case answer <- outcome[[]byte]{p, err}:
			default:
			}
		}
	}
	go func() {
		if !c.travel(c.fate()) {
			return
		}
		c.w.mu.Lock()
		found := c.w.listeners(subject)
		if len(found) == 0 {
			c.w.mu.Unlock()
			reply(nil, broker.ErrNobody)
			return
		}
		s := found[c.rng.IntN(len(found))]
		c.w.mu.Unlock()
		m := &message{id: id, Message: broker.Message{Subject: subject, Data: data}}
		m.Respond = func(p []byte) error {
			go func() {
				if s.c.travel(s.c.fate()) {
					reply(p, nil)
				}
			}()
			return nil
		}
		s.deliver(m)
	}()
	select {
	case o := <-answer:
		c.thawed()
		return o.value, o.err
	case <-ctx.Done():
		c.thawed()
		return nil, fmt.Errorf("ask %s: %w", subject, context.Cause(ctx))
	case <-c.dead:
		return nil, errGone
	case <-c.w.over:
		return nil, errGone
	}
}

// Serve answers requests.
func (c *Conn) Serve(ctx context.Context, s broker.Service) (func(), error) {
	if !c.sleep(ctx, c.delay()) {
		return nil, fmt.Errorf("start the service: %w", cmp.Or(context.Cause(ctx), errGone))
	}
	var stops []func()
	for _, e := range s.Endpoints {
		stops = append(stops, c.listen(func(m *message) {
			go e.Answer(broker.Request{Data: m.Data, ID: m.id, Respond: m.Respond})
		}, e.Subject))
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}, nil
}
