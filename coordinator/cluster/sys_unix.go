//go:build unix

package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Signals that freeze a process and wake it; nil where the system has none.
const (
	SignalStop     = syscall.SIGSTOP
	SignalContinue = syscall.SIGCONT
)

// LockStore takes the store for this process: two brokers on the same files
// would destroy them. The kernel releases the lock with the process, and unlock
// does earlier. It returns [ErrStoreInUse] when another process has it.
func LockStore(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the store: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the store: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		f.Close()
		return nil, fmt.Errorf("%w by another broker: %s; stop that one, or choose another directory with --store", ErrStoreInUse, dir)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the store %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}
