package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"idunno/broker/wire"
)

// tailLines is how many of a child's last lines are kept for an error message.
const tailLines = 5

// maxLine bounds what is kept of a line without end.
const maxLine = 16 << 10

// child is a running process of the cluster.
type child struct {
	name  string
	role  wire.Role
	args  []string // without the command and the server
	cmd   *exec.Cmd
	stdin io.WriteCloser
	first chan string // the first line of standard output
	done  chan struct{}
	// Written before done is closed.
	err error

	mu       sync.Mutex
	stopping bool
	frozen   bool
	tail     []string
}

// start runs program with args as a child that stops when its standard input
// ends. Every line that it writes goes to say.
func start(program, name string, env, args []string, say func(name, line string)) (*child, error) {
	c := &child{name: name, first: make(chan string, 1), done: make(chan struct{})}
	c.cmd = exec.Command(program)
	c.cmd.Args = append([]string{"idunno"}, args...)
	c.cmd.Env = env
	c.cmd.SysProcAttr = ownGroup()
	// What a killed child leaves running may hold the pipes open.
	c.cmd.WaitDelay = time.Second
	c.cmd.Stdout = &lines{emit: func(line string) {
		select {
		case c.first <- line:
		default:
			say(name, line)
		}
	}}
	c.cmd.Stderr = &lines{emit: func(line string) {
		c.remember(line)
		say(name, line)
	}}
	var err error
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

func (c *child) remember(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tail = append(c.tail, line); len(c.tail) > tailLines {
		c.tail = c.tail[1:]
	}
}

// runs reports whether the child has not ended.
func (c *child) runs() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// stop asks the child to stop in order.
func (c *child) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopping = true
	c.stdin.Close()
	if c.frozen {
		_ = c.cmd.Process.Signal(SignalContinue) // its only error says that the child is gone already
	}
}

// signal sends a signal, and notes whether the child is frozen from then on.
func (c *child) signal(sig os.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.cmd.Process.Signal(sig); err != nil {
		return err
	}
	c.frozen = sig == SignalStop || c.frozen && sig != SignalContinue
	return nil
}

// asked reports whether stop or kill has been called.
func (c *child) asked() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopping
}

// kill ends the child with SIGKILL and waits until it is gone.
func (c *child) kill() {
	c.mu.Lock()
	c.stopping = true
	c.mu.Unlock()
	_ = c.cmd.Process.Kill() // its only error says that the child is gone already
	<-c.done
}

// failure describes a child that ended by itself. Call it after done is closed.
func (c *child) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	how := "exit status 0"
	if c.err != nil {
		how = c.err.Error()
	}
	var exit *exec.ExitError
	killed := errors.As(c.err, &exit) && !exit.Exited()
	if last := lastWords(c.tail, killed); last != "" {
		return fmt.Errorf("%w: %s (%s): %s", ErrChild, c.name, how, last)
	}
	return fmt.Errorf("%w: %s (%s)", ErrChild, c.name, how)
}

// lastWords finds in what a child wrote last why it ended: the line in which it
// says so, or else the last one of a child that ended by itself. One that was
// killed by a signal was in the middle of something else.
func lastWords(tail []string, killed bool) string {
	for _, line := range slices.Backward(tail) {
		if reason, ok := strings.CutPrefix(line, "idunno: "); ok {
			return reason
		}
	}
	if len(tail) == 0 || killed {
		return ""
	}
	return tail[len(tail)-1]
}

// line waits for the first line of the child's standard output.
func (c *child) line(ctx context.Context) (string, error) {
	select {
	case s := <-c.first:
		return s, nil
	case <-c.done:
		return "", c.failure()
	case <-ctx.Done():
		return "", fmt.Errorf("%w: %s: %w", ErrNotReady, c.name, context.Cause(ctx))
	}
}

// lines cuts what is written to it into lines. One goroutine writes.
type lines struct {
	emit func(line string)
	rest []byte
}

func (l *lines) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			break
		}
		l.emit(string(append(l.rest, p[:i]...)))
		l.rest, p = l.rest[:0], p[i+1:]
	}
	if room := maxLine - len(l.rest); len(p) > room {
		p = p[:room]
	}
	l.rest = append(l.rest, p...)
	return n, nil
}
