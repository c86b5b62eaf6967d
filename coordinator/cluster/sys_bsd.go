//go:build unix && !linux

package cluster

import "syscall"

// ownGroup keeps the terminal's signals from the child. Should this process die,
// the system wakes or ends what is frozen in a process group that nobody leads.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
