package broker

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker/wire"
)

// Core is what a role needs of the cluster: messages, requests, the job records,
// the lease, the task queue, the results. A [Broker] is one, over NATS. Another
// one may keep it all in memory and lose, delay and repeat what it likes, as far
// as the comments here allow it.
type Core interface {
	// Ensure creates or updates every stream and bucket; it may be called again
	// at any time, by several processes.
	Ensure(ctx context.Context) error
	// Files opens what the SDFS stands on.
	Files(ctx context.Context) (Objects, jetstream.KeyValue, error)
	// Records opens the bucket of job records, Leases that of the coordinator's
	// lease, whose entries expire.
	Records(ctx context.Context) (Bucket, error)
	Leases(ctx context.Context) (Bucket, error)

	// Publish sends a message to whoever listens. It may get lost.
	Publish(subject string, data []byte) error
	// Listen calls fn for every message to the subject, one at a time, until stop
	// is called.
	Listen(subject string, fn func(*Message)) (stop func(), err error)
	// ListenAll is Listen for several subjects. Their messages come in the order in which
	// they have reached this process.
	ListenAll(subjects []string, fn func(*Message)) (Listening, error)
	// Ask sends a request and waits for one answer. It returns [ErrNobody] when
	// the server knows that nobody listens.
	Ask(ctx context.Context, subject string, data []byte) ([]byte, error)
	// Serve answers requests as a service that NATS clients can discover, until
	// stop is called. An endpoint's function is called in a goroutine of its own.
	Serve(ctx context.Context, s Service) (stop func(), err error)
	// Wake tells every worker to look for tasks.
	Wake() error

	// Connected reports whether there is a connection at the moment.
	Connected() bool
	// ServerID is the identity of the server process connected to, "" without one.
	ServerID() string
	// ConnID names the connection, see [wire.Conn]; "" without one.
	ConnID() string
	// ConnectionChanges tells of connections lost (false) and made (true) from now
	// on. A reader that is slow misses some; [Core.Connected] is the truth.
	ConnectionChanges() (changes <-chan bool, stop func())

	// Submit stores a submission durably and returns its job number. A second one
	// with the same id, unless that is "", is the same job.
	Submit(ctx context.Context, id string, doc []byte) (job uint64, err error)
	// FollowJobs calls fn for every submission from the given job on, in order,
	// each once, however often the server restarts, until stop is called; with
	// nil it says, once, that those stored before are through. The context that
	// fn gets ends with stop, which waits for fn to return.
	FollowJobs(ctx context.Context, from uint64, fn func(context.Context, *Stored)) (stop func(), err error)
	// FollowResults does the same with the results of all jobs.
	FollowResults(ctx context.Context, from uint64, fn func(context.Context, *Stored)) (stop func(), err error)
	// LastResult is the place of the newest result, 0 when there is none.
	LastResult(ctx context.Context) (uint64, error)
	// StoreResult stores a task's result and waits until it is durable. It returns
	// [ErrExists] when the task has one: the first stands.
	StoreResult(ctx context.Context, job uint64, task int, data []byte) error
	// HasResult reports whether a task has a result, Result reads it, nil for none.
	HasResult(ctx context.Context, job uint64, task int) (bool, error)
	Result(ctx context.Context, job uint64, task int) (*Stored, error)
	// JobResults calls fn for every stored result of a job, in the order stored, until
	// fn returns false. DropResults removes those that lie before a place, 0 for all;
	// their subjects are free then.
	JobResults(ctx context.Context, job uint64, fn func(*Stored) (more bool, err error)) error
	DropResults(ctx context.Context, job, before uint64) error

	// StoreAttempt notes durably a try of a task that gave no result, and Attempts
	// reads them, oldest first, until CloseQueue forgets those of the job.
	StoreAttempt(ctx context.Context, job uint64, task int, a *wire.Attempt) error
	Attempts(ctx context.Context, job uint64, task int) ([]wire.Attempt, error)
	// StoreDeadLetters stores the dead letters of tasks durably and returns those
	// that aren't known to be stored. The first one of a task stands.
	StoreDeadLetters(ctx context.Context, letters []*wire.DeadLetter) (left []*wire.DeadLetter)
	// DeadLetter reads that of a task, nil for none; DeadLetters at most limit of a
	// job, or with 0 of all, that lie behind the place after, in order; DeadTasks
	// lists the tasks of a job that have one, ascending.
	DeadLetter(ctx context.Context, job uint64, task int) (*wire.DeadLetter, error)
	DeadLetters(ctx context.Context, job, after uint64, limit int) (letters []wire.DeadLetter, more bool, err error)
	DeadTasks(ctx context.Context, job uint64) ([]int, error)

	// OpenQueue makes sure that a job's tasks can be pulled, and returns the queue's
	// name, another one after each loss of the server's memory: what is said about
	// a delivery from before then reaches nobody. CloseQueue drops what is left of
	// the tasks for good, SuspendQueue until the queue is opened again: the tries of
	// tasks stay. QueueDepth counts the tasks, those in flight included. At most
	// inFlight tasks are given out at a time, with 0 as many as are asked for.
	OpenQueue(ctx context.Context, job uint64, inFlight int) (queue string, err error)
	SuspendQueue(ctx context.Context, job uint64) error
	CloseQueue(ctx context.Context, job uint64) error
	QueueDepth(ctx context.Context, job uint64) (int, error)
	// PublishTask puts a task into the queue. It doesn't wait: the future does. A
	// task that is queued already is refused, which [IsExists] tells.
	PublishTask(job uint64, task int, data []byte) (Future, error)
	// Tasks opens a queue, by its name, for a node to pull. Who listens to
	// [SubjectGiven] is told of every task that it is given.
	Tasks(ctx context.Context, node, queue string) (TaskQueue, error)
	// Adopt makes a delivery of a task that another worker took and can't carry out
	// any more, from its reply subject. It returns [ErrNotTask] for a subject that
	// is none.
	Adopt(reply string, data []byte) (Delivery, error)
	// HandBack returns a task to its queue on behalf of a node that can't.
	HandBack(reply string)
}

// Objects is the SDFS's bucket of objects.
type Objects interface {
	jetstream.ObjectStore
	// Chunk reads the first chunk, from place from of the stream on, of the object
	// whose chunks have the given identifier. It returns [jetstream.ErrMsgNotFound]
	// when there is none.
	Chunk(ctx context.Context, id string, from uint64) (*jetstream.RawStreamMsg, error)
	// Stream is the stream that the bucket stands on.
	Stream() jetstream.Stream
}

// Bucket keeps values under keys. Each write of the bucket has a number of its
// own, higher than all before: the revision of its key.
type Bucket interface {
	// Get returns [jetstream.ErrKeyNotFound] when the key has no value. What it
	// returns may be old: nothing may be decided by it alone.
	Get(ctx context.Context, key string) (*Entry, error)
	// Create writes a key that has no value and returns its revision. It returns
	// [jetstream.ErrKeyExists] when there is one.
	Create(ctx context.Context, key string, value []byte) (uint64, error)
	// Update writes a key that has the given revision, 0 for none, and returns the
	// new one. [IsExists] tells that it had another.
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	// Delete removes a key that has the given revision.
	Delete(ctx context.Context, key string, revision uint64) error
	// Watch calls fn for every key that matches and has a value, then with nil,
	// then for every new value, until fn returns false or ctx ends, which is no
	// error. It returns one when the watch can't go on.
	Watch(ctx context.Context, keys string, fn func(*Entry) (more bool)) error
	// WatchFrom is Watch without what was written before a revision, 0 for all.
	WatchFrom(ctx context.Context, keys string, revision uint64, fn func(*Entry) (more bool)) error
}

// Entry is a key's value.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64
}

// Stored is a message of a stream.
type Stored struct {
	// Seq is its place, At when it was stored.
	Seq     uint64
	At      time.Time
	Subject string
	Data    []byte
	// Group names the durable write that it shared with others, "" when it had one
	// of its own.
	Group string
	// removed says that it is the end of a key.
	removed bool
}

// Listening is what [Core.ListenAll] began.
type Listening interface {
	// Add listens to a further subject, Remove no longer.
	Add(subject string) error
	Remove(subject string)
	// Stop ends it. It may be called again.
	Stop()
}

// Message is one that isn't stored.
type Message struct {
	Subject string
	// To is the subject, perhaps one with wildcards, that was listened to.
	To    string
	Data  []byte
	Reply string
	// Respond answers a request; nil when none was made.
	Respond func([]byte) error
}

// Future waits for what was sent to be stored.
type Future interface {
	// Wait returns nil when it is stored, and why it isn't otherwise.
	Wait(ctx context.Context) error
}

// TaskQueue is the open queue of a job.
type TaskQueue interface {
	// Next takes the next task; nil when there is none now. When ctx ends first, a
	// task may have been taken and be lost until its ack wait ends.
	Next(ctx context.Context) (Delivery, error)
}

// Delivery is a task that was taken from its queue. The queue takes it back when
// it hears nothing for [AckWait].
type Delivery interface {
	Data() []byte
	Subject() string
	// Reply is the subject of everything that is said about the task.
	Reply() string
	// NumDelivered counts the deliveries of the task, from 1.
	NumDelivered() int
	// Ack removes the task from the queue, Nak hands it back. Neither waits for
	// the server: it may get lost.
	Ack() error
	Nak() error
	NakWithDelay(d time.Duration) error
	// InProgress says that the task is being worked on.
	InProgress() error
	// Term removes the task without its having been done.
	Term() error
}

// Service is a set of endpoints under one name.
type Service struct {
	Name, Version, Description string
	Endpoints                  []Endpoint
}

// Endpoint answers the requests to a subject.
type Endpoint struct {
	Name, Subject string
	Answer        func(Request)
}

// Request is a request to a service.
type Request struct {
	Data []byte
	// ID is the message's identifier, "" for none: a repeated request has the same.
	ID string
	// Respond sends the answer.
	Respond func([]byte) error
}
