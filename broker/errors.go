package broker

import "errors"

var (
	// ErrUnreachable is returned when no server answers.
	ErrUnreachable = errors.New("no NATS server answers")
	// ErrNoJetStream is returned when the server that answers has no JetStream.
	ErrNoJetStream = errors.New("the NATS server has no JetStream")
	// ErrExists is returned when a first-wins write came second.
	ErrExists = errors.New("already stored")
	// ErrUnknownContext is returned when a NATS context can't be read.
	ErrUnknownContext = errors.New("unknown NATS context")
)
