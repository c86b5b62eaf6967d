package cluster

import "errors"

var (
	// ErrChild is returned when a child process ended before it was asked to.
	ErrChild = errors.New("a process of the cluster ended")
	// ErrNotReady is returned when a child process is not ready in time.
	ErrNotReady = errors.New("the cluster did not become ready")
	// ErrNoSuchChild is returned for a name that is not running, by Restart for one
	// that never was.
	ErrNoSuchChild = errors.New("no such process in the cluster")
	// ErrRunning is returned by Restart for a process that has not ended.
	ErrRunning = errors.New("the process is still running")
	// ErrStopped is returned by Restart once the cluster has been stopped.
	ErrStopped = errors.New("the cluster has been stopped")
	// ErrNoSignal is returned by Signal for a signal that the system doesn't have.
	ErrNoSignal = errors.New("this system doesn't have the signal")
	// ErrStoreInUse is returned when another broker works on the same store.
	ErrStoreInUse = errors.New("the store is in use")
	// ErrStoreLayout is returned when a store was made with another number of servers.
	ErrStoreLayout = errors.New("the store was made with another number of servers")
)
