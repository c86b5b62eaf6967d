// Package powercut runs a program and cuts its power: it kills the process and
// leaves, of a directory that the program wrote to, what would be on the disk.
//
// Killing a process loses nothing that it wrote: the kernel has it. A machine that
// loses its power also loses what the kernel had not written yet. So the program
// runs under ptrace, and at each fsync and fdatasync, before the kernel carries it
// out, the file is read, and kept when the call has succeeded; of a write to a file
// that was opened with O_SYNC the bytes written are kept. What was kept last is what
// the disk holds. Nothing more is: the kernel's own writing back, after half a
// minute or so, is taken not to happen.
//
// Names follow the file systems with a journal (ext4, XFS, btrfs): the names and
// sizes that there are at an fsync are durable with it, also those of other files,
// and what is created, renamed, removed or cut after the last fsync is undone. A
// file that has a name but was never synced is empty. The disk is taken to be
// honest: what it says it has, it has.
//
// It works on Linux on amd64, without root; elsewhere Start returns [ErrUnsupported].
package powercut

import "errors"

var (
	// ErrUnsupported is returned where processes can't be traced.
	ErrUnsupported = errors.New("power cuts need Linux on amd64")
	// ErrTrace is returned when the program can't be traced, or is no more.
	ErrTrace = errors.New("can't trace the program")
)

// Config says what to run.
type Config struct {
	// Program is the path of the program, Args are its arguments, the name included.
	Program string
	Args    []string
	// Env is its environment.
	Env []string
	// Dir is the directory of which only what is synced shall be left.
	Dir string
}
