package cluster

import "syscall"

// ownGroup keeps the terminal's signals from the child. A frozen child is woken
// when this process dies, so that it sees the end of its standard input; one that
// runs doesn't notice the signal.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGCONT}
}
