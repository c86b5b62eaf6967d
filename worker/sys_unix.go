//go:build unix

package worker

import "syscall"

// ownGroup keeps the terminal's signals from a child.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// calm gives a child of its own group a low priority.
func calm(pid int) {
	_ = syscall.Setpriority(syscall.PRIO_PGRP, pid, lowPriority) // without, it is only less polite
}
