package sim

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
	"idunno/broker/wire"
)

// tasks is the task stream of a server's life, under the world's lock.
type tasks struct {
	life   int
	last   uint64
	queues map[string]*queue
	waits  map[string]*waiting // by subject
}

// queue is the consumer of a job's tasks. It gives out so many at a time, with 0 any
// number.
type queue struct {
	job      uint64
	inFlight int
}

// waiting is a task in the stream.
type waiting struct {
	seq       uint64
	job       uint64
	subject   string
	data      []byte
	delivered int
	// until is when a delivery without a sign of life ends, or a delay.
	until time.Time
}

// replyPrefix begins the subjects of acknowledgements.
const replyPrefix = "ack."

func (w *World) ensureTasks() {
	if w.tasks == nil {
		w.tasks = &tasks{life: w.server, queues: make(map[string]*queue), waits: make(map[string]*waiting)}
	}
}

func (t *tasks) name(job uint64) string { return fmt.Sprintf("%d-%d", job, t.life) }

// OpenQueue makes sure that a job's tasks can be pulled.
func (c *Conn) OpenQueue(ctx context.Context, job uint64, inFlight int) (string, error) {
	return call(ctx, c, "open queue", true, func() (string, error) {
		c.w.ensureTasks()
		name := c.w.tasks.name(job)
		if c.w.tasks.queues[name] == nil {
			c.w.logf("%s: queue %s opened", c.name, name)
			c.w.tasks.queues[name] = &queue{job: job}
		}
		c.w.tasks.queues[name].inFlight = inFlight
		return name, nil
	})
}

// CloseQueue drops what is left of a job's tasks, and their tries.
func (c *Conn) CloseQueue(ctx context.Context, job uint64) error {
	return c.dropQueue(ctx, "close queue", job, func() {
		maps.DeleteFunc(c.w.tries, func(at place, _ []wire.Attempt) bool { return at.job == job })
	})
}

// SuspendQueue drops what is left of a job's tasks.
func (c *Conn) SuspendQueue(ctx context.Context, job uint64) error {
	return c.dropQueue(ctx, "suspend queue", job, func() {})
}

// dropQueue removes a queue and its tasks, and what belongs to it besides.
func (c *Conn) dropQueue(ctx context.Context, verb string, job uint64, besides func()) error {
	_, err := call(ctx, c, verb, true, func() (struct{}, error) {
		t := c.w.tasks
		if t == nil {
			return struct{}{}, errAway
		}
		delete(t.queues, t.name(job))
		for subject, m := range t.waits {
			if m.job == job {
				delete(t.waits, subject)
			}
		}
		besides()
		c.w.logf("%s: %s of job %d", c.name, verb, job)
		return struct{}{}, nil
	})
	return err
}

// QueueDepth counts a job's tasks.
func (c *Conn) QueueDepth(ctx context.Context, job uint64) (int, error) {
	return call(ctx, c, "queue depth", true, func() (int, error) {
		if c.w.tasks == nil {
			return 0, errAway
		}
		n := 0
		for _, m := range c.w.tasks.waits {
			if m.job == job {
				n++
			}
		}
		return n, nil
	})
}

// future waits for the queue's answer.
type future struct {
	c      *Conn
	answer chan error
}

func (f future) Wait(ctx context.Context) error {
	select {
	case err := <-f.answer:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-f.c.dead:
	case <-f.c.w.over:
	}
	return errGone
}

// PublishTask puts a task into the queue.
func (c *Conn) PublishTask(job uint64, task int, data []byte) (broker.Future, error) {
	f := future{c, make(chan error, 1)}
	go func() {
		_, err := call(context.Background(), c, "publish task", true, func() (struct{}, error) {
			return struct{}{}, c.w.publishTask(c.name, job, task, data)
		})
		f.answer <- err
	}()
	return f, nil
}

func (w *World) publishTask(by string, job uint64, task int, data []byte) error {
	t, subject := w.tasks, broker.SubjectTask(job, task)
	if t == nil {
		return errAway
	}
	if t.waits[subject] != nil {
		return broker.ErrExists
	}
	w.observe(Step{Kind: "task", Conn: by, Key: subject, Data: data})
	t.last++
	t.waits[subject] = &waiting{seq: t.last, job: job, subject: subject, data: slices.Clone(data)}
	return nil
}

// Tasks opens a queue for pulling.
func (c *Conn) Tasks(ctx context.Context, node, name string) (broker.TaskQueue, error) {
	return call(ctx, c, "tasks", true, func() (broker.TaskQueue, error) {
		if c.w.tasks == nil {
			return nil, errAway
		}
		if c.w.tasks.queues[name] == nil {
			return nil, jetstream.ErrConsumerNotFound
		}
		return taskQueue{c, node, name}, nil
	})
}

type taskQueue struct {
	c          *Conn
	node, name string
}

// Next takes the oldest task that is free.
func (q taskQueue) Next(ctx context.Context) (broker.Delivery, error) {
	c := q.c
	d, err := call(ctx, c, "next task", false, func() (*delivery, error) {
		t := c.w.tasks
		if t == nil || t.queues[q.name] == nil {
			return nil, jetstream.ErrConsumerDeleted
		}
		var first *waiting
		inFlight := 0
		for _, m := range t.waits {
			if m.job != t.queues[q.name].job {
				continue
			}
			if time.Now().Before(m.until) {
				inFlight++
				continue
			}
			if first == nil || (m.delivered > 0) != (first.delivered > 0) && m.delivered > 0 ||
				(m.delivered > 0) == (first.delivered > 0) && m.seq < first.seq {
				first = m
			}
		}
		if most := t.queues[q.name].inFlight; first == nil || most > 0 && inFlight >= most {
			return nil, nil
		}
		first.delivered++
		first.until = time.Now().Add(broker.AckWait)
		c.w.logf("%s: delivery %d of %s", c.name, first.delivered, first.subject)
		d := &delivery{c: c, data: first.data, subject: first.subject, number: first.delivered,
			reply: fmt.Sprintf("%s%s.%d.%d", replyPrefix, q.name, first.seq, first.delivered)}
		c.w.spread(strings.TrimSuffix(broker.SubjectGiven(q.node), ">")+"task", broker.Message{Subject: d.subject, Data: d.data, Reply: d.reply})
		return d, nil
	})
	if d == nil || err != nil {
		return nil, err
	}
	return d, nil
}

// delivery is a task that was taken.
type delivery struct {
	c       *Conn
	data    []byte
	subject string
	number  int
	reply   string
}

func (d *delivery) Data() []byte      { return d.data }
func (d *delivery) Subject() string   { return d.subject }
func (d *delivery) Reply() string     { return d.reply }
func (d *delivery) NumDelivered() int { return d.number }

// about finds the task that a reply subject names, under the lock. Which delivery
// the reply comes from makes no difference to a server.
func (w *World) about(reply string) *waiting {
	name, seq, _, ok := parseReply(reply)
	if !ok || w.tasks == nil || w.tasks.queues[name] == nil {
		return nil
	}
	for _, m := range w.tasks.waits {
		if m.seq == seq && m.delivered > 0 {
			return m
		}
	}
	return nil
}

func (d *delivery) say(what string, fn func(*waiting)) error {
	return d.c.post(func() {
		if m := d.c.w.about(d.reply); m != nil {
			d.c.w.logf("%s: %s %s", d.c.name, what, m.subject)
			fn(m)
		}
	})
}

func (d *delivery) Ack() error {
	return d.say("ack", func(m *waiting) {
		d.c.w.observe(Step{Kind: "ack", Conn: d.c.name, Key: m.subject})
		delete(d.c.w.tasks.waits, m.subject)
	})
}

func (d *delivery) Term() error {
	return d.say("term", func(m *waiting) { delete(d.c.w.tasks.waits, m.subject) })
}

func (d *delivery) Nak() error { return d.NakWithDelay(0) }

func (d *delivery) NakWithDelay(delay time.Duration) error {
	return d.say("nak", func(m *waiting) { m.until = time.Now().Add(delay) })
}

func (d *delivery) InProgress() error {
	return d.say("progress", func(m *waiting) { m.until = time.Now().Add(broker.AckWait) })
}

// parseReply reads the subject of an acknowledgement.
func parseReply(reply string) (queue string, seq uint64, delivered int, ok bool) {
	rest, ok := strings.CutPrefix(reply, replyPrefix)
	tokens := strings.Split(rest, ".")
	if !ok || len(tokens) != 3 {
		return "", 0, 0, false
	}
	seq, errSeq := strconv.ParseUint(tokens[1], 10, 64)
	delivered, errNumber := strconv.Atoi(tokens[2])
	return tokens[0], seq, delivered, errSeq == nil && errNumber == nil
}

// Adopt makes a delivery of one that another worker had.
func (c *Conn) Adopt(reply string, data []byte) (broker.Delivery, error) {
	_, _, n, ok := parseReply(reply)
	if !ok {
		return nil, broker.ErrNotTask
	}
	return &delivery{c: c, data: data, number: n, reply: reply}, nil
}

// HandBack returns a task on behalf of another.
func (c *Conn) HandBack(reply string) {
	if !strings.HasPrefix(reply, replyPrefix) {
		return
	}
	_ = c.post(func() {
		if m := c.w.about(reply); m != nil {
			c.w.logf("%s: hands back %s", c.name, m.subject)
			m.until = time.Time{}
		}
	})
}
