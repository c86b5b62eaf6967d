package bench

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/sched"
)

// What nats.go alone moves: tasks through a queue in memory, a durable result for
// each in a stream that takes one a subject, the task's acknowledgement behind it, and
// all results to one reader. No line of it is iDunno's.
const (
	plainTasks   = "BENCH_TASKS"
	plainResults = "BENCH_RESULTS"
	plainTask    = "bench.tasks."
	plainResult  = "bench.results."
	// plainBatch is the most results in a batch.
	plainBatch = 256
)

// plain is one run of it.
type plain struct {
	n       int
	grouped bool
	task    []byte
	result  []byte
	last    time.Time
}

// plainRate moves as many messages as a job has and returns tasks a second, from the
// first published task to the last stored result.
func (s *scale) plainRate(ctx context.Context, grouped bool) (float64, error) {
	p, err := s.plainMessages(ctx)
	if err != nil {
		return 0, err
	}
	p.n, p.grouped = s.Tasks, grouped
	admin, err := broker.Connect(ctx, broker.Config{Servers: s.local.URL(), Name: "plain"})
	if err != nil {
		return 0, err
	}
	defer admin.Close()
	for _, cfg := range []jetstream.StreamConfig{
		{Name: plainTasks, Subjects: []string{plainTask + "*"}, Storage: jetstream.MemoryStorage, Retention: jetstream.WorkQueuePolicy,
			MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true},
		{Name: plainResults, Subjects: []string{plainResult + "*"}, Storage: jetstream.FileStorage, MaxMsgsPerSubject: 1,
			Discard: jetstream.DiscardNew, DiscardNewPerSubject: true, AllowAtomicPublish: true},
	} {
		if _, err := admin.JS.CreateStream(ctx, cfg); err != nil {
			return 0, err
		}
		defer func() { _ = admin.JS.DeleteStream(context.WithoutCancel(ctx), cfg.Name) }()
	}
	queue, err := admin.JS.CreateConsumer(ctx, plainTasks, jetstream.ConsumerConfig{Durable: "workers", AckPolicy: jetstream.AckExplicitPolicy,
		MaxAckPending: 20_000, MemoryStorage: true})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, run := errgroup.WithContext(ctx)
	work, stopWork := context.WithCancel(run)
	defer stopWork()
	began := time.Now()
	group.Go(func() error { return p.produce(run, admin.JS) })
	group.Go(func() error { defer stopWork(); return p.read(run, admin.JS) })
	for range dispatchWorkers {
		group.Go(func() error { return p.work(work, s.local.URL(), queue.CachedInfo().Name) })
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	return float64(p.n) / p.last.Sub(began).Seconds(), nil
}

// plainMessages are a task and a result as they are on the way of a job of the null
// model.
func (s *scale) plainMessages(ctx context.Context) (*plain, error) {
	alone, err := s.null.alone(ctx)
	if err != nil {
		return nil, err
	}
	rec := &wire.JobRecord{Job: 10, Doc: wire.JobDoc{Model: "null-10", From: 1, To: s.Tasks}, TaskSize: 1,
		ModelDigest: fmt.Sprintf("%064d", 1), DataDigest: fmt.Sprintf("%064d", 2)}
	task := sched.Task(rec, s.Tasks)
	r := wire.Result{Schema: wire.Schema, Job: 10, Task: task.Task, From: task.From, To: task.To, Node: "null-1", Attempt: 1, Started: time.Now(),
		Batches: []wire.BatchResult{{Batch: task.From, Images: nullImages, Labeled: true, Correct: alone.Correct, LossSum: alone.LossSum, Nanos: 1234,
			Class: alone.Class, Prob: alone.Prob, Labels: []int32{1, 3}}}}
	return &plain{task: task.Marshal(), result: r.Marshal()}, nil
}

// produce publishes the tasks.
func (p *plain) produce(ctx context.Context, js jetstream.JetStream) error {
	for i := range p.n {
		if _, err := js.PublishMsgAsync(&nats.Msg{Subject: plainTask + strconv.Itoa(i+1), Data: p.task}); err != nil {
			return err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// read reads every result, and notes when the last was stored.
func (p *plain) read(ctx context.Context, js jetstream.JetStream) error {
	c, err := js.OrderedConsumer(ctx, plainResults, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return err
	}
	messages, err := c.Messages(jetstream.PullMaxMessages(plainBatch))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, messages.Stop)()
	defer messages.Stop()
	for range p.n {
		m, err := messages.Next()
		if err != nil {
			return errors.Join(context.Cause(ctx), err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if _, err := wire.ParseResult(m.Data()); err != nil {
			return err
		}
		p.last = meta.Timestamp
	}
	return nil
}

// work takes tasks, stores a result for each and then acknowledges it, until ctx ends.
// What has come while it stored is what it stores next.
func (p *plain) work(ctx context.Context, url, queue string) error {
	b, err := broker.Connect(ctx, broker.Config{Servers: url, Name: "plain"})
	if err != nil {
		return err
	}
	defer b.Close()
	c, err := b.JS.Consumer(ctx, plainTasks, queue)
	if err != nil {
		return err
	}
	messages, err := c.Messages(jetstream.PullMaxMessages(plainBatch))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, messages.Stop)()
	defer messages.Stop()
	come := make(chan jetstream.Msg, plainBatch)
	go func() {
		defer close(come)
		for {
			m, err := messages.Next()
			if err != nil {
				return
			}
			select {
			case come <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	for m := range come {
		held := []jetstream.Msg{m}
		for more := true; more && len(held) < plainBatch; {
			select {
			case m, ok := <-come:
				if more = ok; ok {
					held = append(held, m)
				}
			default:
				more = false
			}
		}
		if err := p.store(ctx, b, held); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// store makes the results of tasks durable, and acknowledges the tasks.
func (p *plain) store(ctx context.Context, b *broker.Broker, tasks []jetstream.Msg) error {
	if p.grouped && len(tasks) > 1 {
		if err := p.batch(ctx, b.NC, tasks); err != nil {
			return err
		}
		for _, m := range tasks {
			if err := m.Ack(); err != nil {
				return err
			}
		}
		return nil
	}
	var stored []jetstream.PubAckFuture
	for _, m := range tasks {
		f, err := b.JS.PublishMsgAsync(p.resultOf(m))
		if err != nil {
			return err
		}
		stored = append(stored, f)
	}
	for i, f := range stored {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := tasks[i].Ack(); err != nil {
			return err
		}
	}
	return nil
}

func (p *plain) resultOf(m jetstream.Msg) *nats.Msg {
	return &nats.Msg{Subject: plainResult + m.Subject()[len(plainTask):], Data: p.result}
}

// batch stores results as an atomic batch of the server.
func (p *plain) batch(ctx context.Context, nc *nats.Conn, tasks []jetstream.Msg) error {
	id := rand.Text()
	for i, m := range tasks {
		msg := p.resultOf(m)
		msg.Header = nats.Header{"Nats-Batch-Id": {id}, "Nats-Batch-Sequence": {strconv.Itoa(i + 1)}}
		if i < len(tasks)-1 {
			if err := nc.PublishMsg(msg); err != nil {
				return err
			}
			continue
		}
		msg.Header["Nats-Batch-Commit"] = []string{"1"}
		reply, err := nc.RequestMsgWithContext(ctx, msg)
		if err != nil {
			return err
		}
		var ack struct {
			Error *jetstream.APIError `json:"error"`
		}
		if err := json.Unmarshal(reply.Data, &ack); err != nil {
			return err
		}
		if ack.Error != nil {
			return ack.Error
		}
	}
	return nil
}
