package powercut

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process is a running program whose power can be cut.
type Process struct {
	pid  int
	dir  string
	done chan struct{}
	// Written before done is closed.
	err error

	mu   sync.Mutex // guards disk
	disk *disk
}

// Start runs a program. What it writes to standard output and standard error goes
// to stdout and stderr. It returns [ErrTrace] when the system doesn't let it be traced.
func Start(cfg Config, stdout, stderr io.Writer) (*Process, error) {
	dir, err := filepath.EvalSymlinks(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	p := &Process{dir: dir, disk: newDisk(dir), done: make(chan struct{})}
	names, err := p.disk.look()
	if err != nil {
		return nil, err
	}
	// What was there before is taken to be on the disk.
	p.disk.seen++
	p.disk.commit(names, p.disk.seen)
	for rel, e := range names {
		if e.dir {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, rel))
		if err != nil {
			return nil, err
		}
		p.disk.put(e.id, content, p.disk.seen)
	}
	started := make(chan error, 1)
	go p.run(cfg, stdout, stderr, started)
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// run starts the program and follows it until it ends, on a thread of its own: that
// one alone may trace it.
func (p *Process) run(cfg Config, stdout, stderr io.Writer, started chan<- error) {
	runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
	defer close(p.done)
	var copying sync.WaitGroup
	defer copying.Wait()
	files := []*os.File{nil, nil, nil}
	var ends []*os.File
	defer func() {
		for _, f := range ends {
			_ = f.Close()
		}
	}()
	for i, w := range []io.Writer{stdout, stderr} {
		r, out, err := os.Pipe()
		if err != nil {
			started <- err
			return
		}
		files[i+1], ends = out, append(ends, out)
		copying.Go(func() {
			_, _ = io.Copy(w, r)
			_ = r.Close()
		})
	}
	// Preemption of goroutines by signals would stop the program at every one.
	env := append(cfg.Env[:len(cfg.Env):len(cfg.Env)], "GODEBUG=asyncpreemptoff=1")
	child, err := os.StartProcess(cfg.Program, cfg.Args, &os.ProcAttr{Files: files, Env: env,
		Sys: &syscall.SysProcAttr{Ptrace: true, Setpgid: true, Pdeathsig: syscall.SIGKILL}})
	if err != nil {
		started <- fmt.Errorf("%w: %w", ErrTrace, err)
		return
	}
	p.pid = child.Pid
	_ = child.Release() // it is waited for here
	for _, f := range ends {
		_ = f.Close()
	}
	ends = nil
	if err := p.attach(); err != nil {
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
		started <- err
		return
	}
	started <- nil
	p.err = p.follow()
}

// attach waits for the program's beginning and asks for its system calls.
func (p *Process) attach() error {
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(p.pid, &status, 0, nil); err != nil {
		return fmt.Errorf("%w: %w", ErrTrace, err)
	}
	if !status.Stopped() {
		return fmt.Errorf("%w: it ended at once", ErrTrace)
	}
	const options = syscall.PTRACE_O_TRACESYSGOOD | syscall.PTRACE_O_TRACECLONE | syscall.PTRACE_O_TRACEFORK |
		syscall.PTRACE_O_TRACEVFORK | unix.PTRACE_O_EXITKILL
	if err := syscall.PtraceSetOptions(p.pid, options); err != nil {
		return fmt.Errorf("%w: %w", ErrTrace, err)
	}
	if err := syscall.PtraceSyscall(p.pid, 0); err != nil {
		return fmt.Errorf("%w: %w", ErrTrace, err)
	}
	return nil
}

// sysTrap is how a stop at a system call shows.
const sysTrap = syscall.SIGTRAP | 0x80

// thread is a thread of the program.
type thread struct {
	// inside says that it is in a system call, call which one of those that matter.
	inside bool
	call   *call
}

// call is a system call that makes something durable.
type call struct {
	id    inode
	names map[string]entry
	// content is what a sync makes durable; a synchronous write has write set.
	content   []byte
	directory bool
	write     bool
	fd        int
	at        int64 // where it writes, -1 for the file's position
	seen      int   // which look it is from
}

// follow serves the program's stops until it ends.
func (p *Process) follow() error {
	threads := map[int]*thread{p.pid: {}}
	for {
		var status syscall.WaitStatus
		// Of this thread's children only: others have other processes.
		tid, err := syscall.Wait4(-1, &status, unix.WALL|unix.WNOTHREAD, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrTrace, err)
		}
		t := threads[tid]
		if t == nil && status.Stopped() {
			t = &thread{}
			threads[tid] = t
			if status.StopSignal() == syscall.SIGSTOP { // how a new thread begins
				p.resume(tid, 0)
				continue
			}
		}
		switch {
		case status.Exited() || status.Signaled():
			delete(threads, tid)
			if tid == p.pid {
				return nil
			}
		case !status.Stopped():
		case status.StopSignal() == sysTrap:
			if err := p.syscall(tid, t); err != nil {
				return err
			}
			p.resume(tid, 0)
		case status.StopSignal() == syscall.SIGTRAP:
			p.resume(tid, 0) // a new thread was made
		case status.StopSignal() == syscall.SIGSTOP:
			p.resume(tid, 0)
		default:
			p.resume(tid, int(status.StopSignal()))
		}
	}
}

// resume lets a thread go on. It fails when the thread has been killed, which the
// next wait tells.
func (p *Process) resume(tid, signal int) { _ = syscall.PtraceSyscall(tid, signal) }

// syscall looks at a thread that enters or leaves a system call.
func (p *Process) syscall(tid int, t *thread) error {
	var regs syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(tid, &regs); err != nil {
		return nil // it has been killed
	}
	if !t.inside {
		t.inside = true
		var err error
		t.call, err = p.enter(tid, &regs)
		return err
	}
	t.inside = false
	c := t.call
	t.call = nil
	if c == nil || int64(regs.Rax) < 0 {
		return nil
	}
	return p.leave(tid, c, int(regs.Rax))
}

// enter tells what a call is about to make durable, nil for nothing.
func (p *Process) enter(tid int, regs *syscall.PtraceRegs) (*call, error) {
	fd := int(int32(regs.Rdi))
	c := &call{fd: fd, at: -1}
	switch regs.Orig_rax {
	case unix.SYS_FSYNC, unix.SYS_FDATASYNC:
	case unix.SYS_PWRITE64:
		c.write, c.at = true, int64(regs.R10)
	case unix.SYS_WRITE:
		c.write = true
	default:
		return nil, nil
	}
	link := fmt.Sprintf("/proc/%d/fd/%d", tid, fd)
	path, err := os.Readlink(link)
	if err != nil || path != p.dir && !strings.HasPrefix(path, p.dir+"/") {
		return nil, nil // not of the directory
	}
	if c.write && !synchronous(tid, fd) {
		return nil, nil
	}
	info, err := os.Stat(link)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // another thread has closed it meanwhile: the call will fail
	}
	if err != nil {
		return nil, fmt.Errorf("%w: look at %s: %w", ErrTrace, path, err)
	}
	c.id, c.directory = inodeOf(info), info.IsDir()
	p.disk.seen++ // this goroutine's alone
	c.seen = p.disk.seen
	if c.names, err = p.disk.look(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTrace, err)
	}
	if !c.write && !c.directory {
		if c.content, err = os.ReadFile(link); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: read %s: %w", ErrTrace, path, err)
		}
	}
	return c, nil
}

// leave takes note of a call that has made something durable; n is what it returned.
func (p *Process) leave(tid int, c *call, n int) error {
	var content []byte
	at := c.at
	if c.write {
		if at < 0 {
			end, err := position(tid, c.fd)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrTrace, err)
			}
			at = end - int64(n)
		}
		f, err := os.Open(fmt.Sprintf("/proc/%d/fd/%d", tid, c.fd))
		if err != nil {
			return fmt.Errorf("%w: %w", ErrTrace, err)
		}
		content = make([]byte, n)
		_, err = f.ReadAt(content, at)
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("%w: %w", ErrTrace, err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.disk.commit(c.names, c.seen)
	p.disk.syncs++
	switch {
	case c.write:
		p.disk.patch(c.id, content, at)
	case !c.directory:
		p.disk.put(c.id, c.content, c.seen)
	}
	return nil
}

// synchronous reports whether a file was opened so that writes are durable at once.
func synchronous(tid, fd int) bool {
	flags, err := fdinfo(tid, fd, "flags:", 8)
	return err == nil && flags&syscall.O_DSYNC != 0
}

// position is a file's position.
func position(tid, fd int) (int64, error) { return fdinfo(tid, fd, "pos:", 10) }

func fdinfo(tid, fd int, field string, base int) (int64, error) {
	p, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", tid, fd))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(p)) {
		if value, ok := strings.CutPrefix(line, field); ok {
			return strconv.ParseInt(strings.TrimSpace(value), base, 64)
		}
	}
	return 0, fmt.Errorf("no %s of file %d", field, fd)
}

func inodeOf(info fs.FileInfo) inode {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return inode{}
	}
	return inode{st.Dev, st.Ino}
}

// Stats counts what is durable at the moment.
func (p *Process) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.disk.stats()
}

// Cut kills the program and writes what is left of its directory into another one.
// It returns [ErrTrace] when the program had ended before, or could not be followed.
func (p *Process) Cut(to string) error {
	select {
	case <-p.done:
		if p.err != nil {
			return p.err
		}
		return fmt.Errorf("%w: it had ended by itself", ErrTrace)
	default:
	}
	if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("%w: %w", ErrTrace, err)
	}
	<-p.done
	if p.err != nil {
		return p.err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.disk.write(to)
}
