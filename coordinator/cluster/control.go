package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"idunno/broker/wire"
)

// portGap is the pause before a broker tries again to listen where it did before.
const portGap = 50 * time.Millisecond

// Names are the names of all processes of a role, running or not, in the order
// first started.
func (l *Local) Names(role wire.Role) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for _, c := range l.children {
		if c.role == role {
			names = append(names, c.name)
		}
	}
	return names
}

// PID is the process number of a child by its name ("broker", "worker-1"), 0
// when it is not running.
func (l *Local) PID(name string) int {
	if c, err := l.find(name); err == nil {
		return c.cmd.Process.Pid
	}
	return 0
}

// Crashed are the names of the processes that ended without having been asked to.
func (l *Local) Crashed() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for _, c := range l.children {
		if !c.runs() && !c.asked() {
			names = append(names, c.name)
		}
	}
	return names
}

// Kill ends a process with SIGKILL, as a crash would, and returns the time just
// before. It returns [ErrNoSuchChild] when no process of that name is running.
func (l *Local) Kill(name string) (time.Time, error) {
	c, err := l.find(name)
	if err != nil {
		return time.Time{}, err
	}
	at := time.Now()
	c.kill()
	return at, nil
}

// Signal sends a signal to a process and returns the time just before.
// [SignalStop] freezes it until [SignalContinue]; Stop and Kill end a frozen
// process too. It returns [ErrNoSuchChild] when no process of that name is
// running, and [ErrNoSignal] where the system doesn't have the signal.
func (l *Local) Signal(name string, sig os.Signal) (time.Time, error) {
	c, err := l.find(name)
	if err != nil {
		return time.Time{}, err
	}
	if sig == nil {
		return time.Time{}, fmt.Errorf("signal %s: %w", name, ErrNoSignal)
	}
	at := time.Now()
	if err := c.signal(sig); err != nil {
		return at, fmt.Errorf("signal %s: %w", name, err)
	}
	return at, nil
}

// Restart starts a process that has ended anew, as it was started before: a broker
// on its store and its port. It returns once the process runs, and for a broker
// once it accepts connections. A broker whose port somebody else has taken
// meanwhile waits for it until ctx ends. It returns [ErrNoSuchChild], [ErrRunning],
// [ErrStopped], or what Start returns.
func (l *Local) Restart(ctx context.Context, name string) error {
	l.mu.Lock()
	i := slices.IndexFunc(l.children, func(c *child) bool { return c.name == name })
	if i < 0 {
		l.mu.Unlock()
		return fmt.Errorf("%w: %s", ErrNoSuchChild, name)
	}
	old := l.children[i]
	l.mu.Unlock()
	if old.runs() {
		return fmt.Errorf("restart %s: %w", name, ErrRunning)
	}
	for {
		c, err := l.spawn(old.role, name, old.args)
		if err != nil || old.role != wire.RoleBroker {
			return err
		}
		_, err = c.serves(ctx)
		// A client that looks for the server connects to a free port of its own
		// machine with just that port as its own, once in many thousand tries, and
		// holds it until it gives up.
		if err == nil || !errors.Is(err, ErrChild) || !strings.Contains(err.Error(), "can't listen") {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(portGap):
		}
	}
}

// serves waits until a broker accepts connections and returns where. It notes the
// port, so that the broker comes back there.
func (c *child) serves(ctx context.Context) (string, error) {
	line, err := c.line(ctx)
	if err != nil {
		return "", err
	}
	var ready Ready
	if err := json.Unmarshal([]byte(line), &ready); err != nil || ready.URL == "" {
		return "", fmt.Errorf("%w: %s said %q", ErrNotReady, c.name, line)
	}
	at, err := url.Parse(ready.URL)
	if err != nil {
		return "", fmt.Errorf("%w: %s is at %q", ErrNotReady, c.name, ready.URL)
	}
	if i := slices.Index(c.args, "--port"); i >= 0 && i+1 < len(c.args) {
		c.args[i+1] = at.Port()
	}
	return ready.URL, nil
}

// find returns the running process of that name, or ErrNoSuchChild.
func (l *Local) find(name string) (*child, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.children {
		if c.name == name && c.runs() {
			return c, nil
		}
	}
	return nil, fmt.Errorf("%w: %s", ErrNoSuchChild, name)
}

// Stop stops the workers, then the coordinators, then the broker, and returns
// when all are gone. What does not stop in time is killed; what is frozen is woken
// first. It may be called again.
func (l *Local) Stop() {
	l.mu.Lock()
	l.stopped = true // nothing is started any more
	all := slices.Clone(l.children)
	l.mu.Unlock()
	stopAll(all, wire.RoleWorker)
	stopAll(all, wire.RoleCoordinator)
	if l.broker != nil {
		l.broker.Close()
	}
	stopAll(all, wire.RoleBroker)
	if l.cfg.Temporary {
		// Should a broker have been killed.
		for i := range max(l.cfg.Servers, 1) {
			if l.cfg.Servers > 1 {
				RemoveStore(filepath.Join(l.cfg.Store, brokerName(i, l.cfg.Servers)))
			}
		}
		RemoveStore(l.cfg.Store)
	}
}

func stopAll(all []*child, role wire.Role) {
	deadline := time.NewTimer(stopWait)
	defer deadline.Stop()
	var waiting []*child
	for _, c := range all {
		if c.role == role {
			c.stop()
			waiting = append(waiting, c)
		}
	}
	for i, c := range waiting {
		select {
		case <-c.done:
		case <-deadline.C:
			for _, late := range waiting[i:] {
				late.kill()
			}
			return
		}
	}
}
