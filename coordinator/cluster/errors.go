package cluster

import "errors"

var (
	// ErrChild is returned when a child process ended before it was asked to.
	ErrChild = errors.New("a process of the cluster ended")
	// ErrNotReady is returned when a child process is not ready in time.
	ErrNotReady = errors.New("the cluster did not become ready")
	// ErrNoSuchChild is returned by Kill for a name that is not running.
	ErrNoSuchChild = errors.New("no such process in the cluster")
	// ErrStoreInUse is returned when another broker works on the same store.
	ErrStoreInUse = errors.New("the store is in use")
)
