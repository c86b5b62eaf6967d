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
	// ErrUnknownContext is returned when a NATS context can't be read.
	ErrUnknownContext = errors.New("unknown NATS context")
)
