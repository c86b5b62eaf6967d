package broker

import "errors"

var (
	// ErrUnreachable is returned when no server answers.
	ErrUnreachable = errors.New("no NATS server answers")
	// ErrNoJetStream is returned when the server that answers has no JetStream.
	ErrNoJetStream = errors.New("the NATS server has no JetStream")
	// ErrExists is returned when a first-wins write came second.
	ErrExists = errors.New("already stored")
	// ErrFull is returned when there is no room for what was to be stored.
	ErrFull = errors.New("the store is full")
	// ErrTooFewServers is returned when a stream can't get the copies it shall have.
	ErrTooFewServers = errors.New("too few servers")
	// ErrNobody is returned when nobody listens where a question was asked.
	ErrNobody = errors.New("nobody there answers")
	// ErrWatchEnded is returned when a watch of a bucket can't go on.
	ErrWatchEnded = errors.New("the watch ended")
	// ErrTooLarge is returned for what the server's messages don't hold.
	ErrTooLarge = errors.New("larger than the server's messages may be")
	// ErrUnknownContext is returned when a NATS context can't be read.
	ErrUnknownContext = errors.New("unknown NATS context")
	// ErrNotTask is returned for a subject that is not the acknowledgement of a task.
	ErrNotTask = errors.New("not the acknowledgement of a task")
)
