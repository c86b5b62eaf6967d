//go:build !unix

package cluster

import (
	"fmt"
	"os"
	"syscall"
)

// Signals that freeze a process and wake it; this system has none.
var SignalStop, SignalContinue os.Signal

func ownGroup() *syscall.SysProcAttr { return nil }

// LockStore makes the store's directory; this system has no advisory locks that
// end with the process, so nothing keeps a second broker out.
func LockStore(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the store: %w", err)
	}
	return func() {}, nil
}
