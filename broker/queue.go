package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// jetstream error codes without a named error in the client.
const (
	codeWrongSequence = 10071
	codeWrongConstant = 10164
	codeNoPeers       = 10005
	codeNoReplicas    = 10074
)

// lookUpWait bounds one look-up. An answer takes a millisecond; what takes longer
// got lost with a connection.
const lookUpWait = time.Second

// IsExists reports whether err says that a subject that takes one message, or a
// key that must be new or unchanged, has been written by someone else.
func IsExists(err error) bool {
	if errors.Is(err, ErrExists) || errors.Is(err, jetstream.ErrKeyExists) {
		return true
	}
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false
	}
	switch api.ErrorCode {
	case codeWrongSequence, codeWrongConstant:
		return true
	case codeStoreFailed:
		// The code stands for any failure of a store, a full one for instance.
		return strings.Contains(api.Description, textOnePerKey)
	}
	return false
}

// StoreResult stores a task's result and waits until it is durable. It returns
// [ErrExists] when the task has a result already, durable too: the first one stands.
func (b *Broker) StoreResult(ctx context.Context, job uint64, task int, data []byte) error {
	err := b.store(ctx, job, task, data)
	if IsExists(err) {
		err = b.confirm(ctx, job, task)
	}
	if errors.Is(err, ErrExists) {
		return ErrExists
	}
	if errors.Is(err, nats.ErrMaxPayload) {
		err = ErrTooLarge
	}
	if err != nil {
		return fmt.Errorf("store result of job %d task %d: %w", job, task, asFull(err))
	}
	return nil
}

// errUnconfirmed is returned for a result that was refused because there is another
// one, which most servers don't have yet.
var errUnconfirmed = errors.New("another result of the task is on its way")

// confirm returns [ErrExists] when the result that came first is stored. A cluster's
// leader also refuses a second one for the sake of one that it has only proposed, and
// that is lost when it dies before others have it.
func (b *Broker) confirm(ctx context.Context, job uint64, task int) error {
	if !b.Clustered() {
		return ErrExists
	}
	switch has, err := b.HasResult(ctx, job, task); {
	case err != nil:
		return err
	case !has:
		return errUnconfirmed
	}
	return ErrExists
}

// LastResult is the place of the newest result, 0 when there is none.
func (b *Broker) LastResult(ctx context.Context) (uint64, error) {
	stream, err := b.Results(ctx)
	if err != nil {
		return 0, fmt.Errorf("open results: %w", err)
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("read results: %w", err)
	}
	return info.State.LastSeq, nil
}

// Submit stores a submission and returns its job number. A second one with the
// same id, unless that is "", is the same job.
func (b *Broker) Submit(ctx context.Context, id string, doc []byte) (job uint64, err error) {
	var opts []jetstream.PublishOpt
	if id != "" {
		opts = append(opts, jetstream.WithMsgID(id))
	}
	ack, err := b.JS.Publish(ctx, SubjectJobs, doc, opts...)
	if err != nil {
		return 0, fmt.Errorf("store the submission: %w", asFull(err))
	}
	return ack.Sequence, nil
}

// HasResult reports whether a task has a stored result.
func (b *Broker) HasResult(ctx context.Context, job uint64, task int) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, lookUpWait)
	defer cancel()
	stream, err := b.Results(ctx)
	if err != nil {
		return false, fmt.Errorf("open results: %w", err)
	}
	_, err = stream.GetLastMsgForSubject(ctx, SubjectResult(job, task))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look up result of job %d task %d: %w", job, task, err)
	}
	return true, nil
}

// PublishTask puts a task into the queue. It returns a future; a task that is
// queued already makes it fail with an error for which [IsExists] is true.
func (b *Broker) PublishTask(job uint64, task int, data []byte) (Future, error) {
	f, err := b.JS.PublishMsgAsync(&nats.Msg{Subject: SubjectTask(job, task), Data: data})
	if err != nil {
		return nil, fmt.Errorf("publish job %d task %d: %w", job, task, err)
	}
	return future{f}, nil
}

// future is a [Future] of an asynchronous publish.
type future struct{ jetstream.PubAckFuture }

func (f future) Wait(ctx context.Context) error {
	select {
	case <-f.Ok():
		return nil
	case err := <-f.Err():
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// HandBack returns a task to its queue on behalf of a node that can't. It does
// nothing for a subject that is no acknowledgement of a task: it comes from a
// heartbeat, which anybody may send.
func (b *Broker) HandBack(reply string) {
	if _, ok := deliveries(reply); ok {
		// A lost connection loses it; the ack wait is the backstop.
		_ = b.NC.Publish(reply, []byte(nak))
	}
}

// deliveries reads from the subject of a task's acknowledgement how often it has
// been delivered: $JS.ACK.STREAM.CONSUMER.DELIVERIES. and more, with a domain and
// an account in front of the stream's name where the server has domains.
func deliveries(reply string) (n int, ok bool) {
	tokens := strings.Split(reply, ".")
	if len(tokens) < 9 || tokens[0] != "$JS" || tokens[1] != "ACK" {
		return 0, false
	}
	tokens = tokens[2:]
	if tokens[0] != streamTasks && tokens[2] == streamTasks {
		tokens = tokens[2:]
	}
	n, err := strconv.Atoi(tokens[2])
	return n, tokens[0] == streamTasks && err == nil && n > 0
}

// Adopt makes a delivery of a task that another worker took.
func (b *Broker) Adopt(reply string, data []byte) (Delivery, error) {
	n, ok := deliveries(reply)
	if !ok {
		return nil, ErrNotTask
	}
	return delivery{b.NC, SubjectWake, reply, data, n}, nil
}

// delivery is a [Delivery] that this connection received, or another one: the server
// takes its acknowledgement from anybody.
type delivery struct {
	nc             *nats.Conn
	subject, reply string
	data           []byte
	n              int
}

func (d delivery) Data() []byte      { return d.data }
func (d delivery) Subject() string   { return d.subject }
func (d delivery) Reply() string     { return d.reply }
func (d delivery) NumDelivered() int { return d.n }
func (d delivery) Ack() error        { return d.say("+ACK") }
func (d delivery) Nak() error        { return d.say(nak) }
func (d delivery) InProgress() error { return d.say("+WPI") }
func (d delivery) Term() error       { return d.say("+TERM") }
func (d delivery) NakWithDelay(delay time.Duration) error {
	return d.say(fmt.Sprintf(`%s {"delay": %d}`, nak, delay.Nanoseconds()))
}
func (d delivery) say(what string) error { return d.nc.Publish(d.reply, []byte(what)) }

// Wake tells every worker to look for tasks.
func (b *Broker) Wake() error { return b.NC.Publish(SubjectWake, nil) }

// OpenQueue makes sure that a job's tasks can be pulled: explicit
// acknowledgement, redelivery after [AckWait] without a sign of life, for ever.
// The name it returns is that of the queue in this life of the server's memory. At
// most inFlight tasks are given out at a time; 0 means no limit of the job's own.
//
// The queue has as many copies as the stream of tasks: the server allows no other
// number for a work queue. One copy of both would cost less a task, but with its
// server every running job would lose its queue; three in memory cost a round trip
// between servers, and go on after an election.
func (b *Broker) OpenQueue(ctx context.Context, job uint64, inFlight int) (queue string, err error) {
	if err := b.ensureStream(ctx, tasksConfig()); err != nil {
		return "", err
	}
	stream, err := b.JS.Stream(ctx, streamTasks)
	if err != nil {
		return "", fmt.Errorf("open task queue: %w", err)
	}
	queue = consumerOf(job, stream.CachedInfo().Created)
	if inFlight < 1 || inFlight > maxInFlight {
		inFlight = maxInFlight
	}
	consumer, err := b.JS.CreateOrUpdateConsumer(ctx, streamTasks, jetstream.ConsumerConfig{
		Durable: queue, FilterSubject: tasksOf(job), AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: AckWait, MaxDeliver: -1, MaxAckPending: inFlight, MemoryStorage: true,
	})
	if err != nil {
		return "", fmt.Errorf("open queue of job %d: %w", job, err)
	}
	home, led := stream.CachedInfo().Cluster, consumer.CachedInfo().Cluster
	if home != nil && led != nil && home.Leader != "" && led.Leader != home.Leader {
		// Beside the tasks, so that the job depends on one server less. Should that
		// fail, Tend does it.
		_ = b.stepDown(ctx, apiStepDownQueue+streamTasks+"."+queue, home.Leader)
	}
	return queue, nil
}

// Tasks opens a queue, by the name that [Broker.OpenQueue] gave it, for a node to pull.
func (b *Broker) Tasks(ctx context.Context, node, queue string) (TaskQueue, error) {
	consumer, err := b.Consumer(ctx, queue)
	if err != nil {
		return nil, err
	}
	info, question := consumer.CachedInfo(), nextSome
	if info.Config.MaxAckPending < maxInFlight {
		question = nextOfLimited
	}
	return taskQueue{&b.pull, node, info.Name, question}, nil
}

// Consumer opens the consumer of a queue.
func (b *Broker) Consumer(ctx context.Context, queue string) (jetstream.Consumer, error) {
	consumer, err := b.JS.Consumer(ctx, streamTasks, queue)
	if err != nil {
		return nil, fmt.Errorf("open queue %s: %w", queue, err)
	}
	return consumer, nil
}

// CloseQueue drops what is left of a job's tasks, and the tries of them.
func (b *Broker) CloseQueue(ctx context.Context, job uint64) error {
	if err := b.SuspendQueue(ctx, job); err != nil {
		return err
	}
	return b.dropTries(ctx, job)
}

// SuspendQueue drops what is left of a job's tasks. The queue may be opened again.
func (b *Broker) SuspendQueue(ctx context.Context, job uint64) error {
	stream, err := b.JS.Stream(ctx, streamTasks)
	if err != nil {
		return fmt.Errorf("open task queue: %w", err)
	}
	err = stream.DeleteConsumer(ctx, consumerOf(job, stream.CachedInfo().Created))
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("close queue of job %d: %w", job, err)
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSubject(tasksOf(job))); err != nil {
		return fmt.Errorf("purge queue of job %d: %w", job, err)
	}
	return nil
}

// QueueDepth is the number of tasks in the queue of a job, in flight included.
func (b *Broker) QueueDepth(ctx context.Context, job uint64) (int, error) {
	stream, err := b.JS.Stream(ctx, streamTasks)
	if err != nil {
		return 0, fmt.Errorf("open task queue: %w", err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(tasksOf(job)))
	if err != nil {
		return 0, fmt.Errorf("read task queue: %w", err)
	}
	return len(info.State.Subjects), nil
}
