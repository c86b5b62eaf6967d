package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/client"
)

const (
	readyWait = 45 * time.Second
	// stopWait is how long a role has to stop in order. A worker that computes a
	// task finishes it first.
	stopWait = 10 * time.Second
	pollRate = 50 * time.Millisecond
)

// Config says what cluster to start. Program and Store are the only fields
// without a default.
type Config struct {
	// Program is the path of this program, see os.Executable.
	Program string
	// Store is the directory of everything that the cluster keeps.
	Store string
	// Temporary has everything removed at the end, Store included when nothing else
	// is in it, also when this process dies without a word.
	Temporary bool
	// Host to listen on; default loopback.
	Host string
	// Port to listen on; 0 means 4222, -1 any free one. Several servers take this one
	// and those behind it.
	Port int
	// Servers is the number of brokers, 1 or 3; default 1. Three, called broker-1 to
	// broker-3, keep everything three times, each under a directory of its own in
	// Store, and survive the death of one.
	Servers int
	// MaxStore bounds what each server stores, in bytes; default: what its disk has room for.
	MaxStore int64
	// Coordinators and Workers are numbers of processes; default 1 and 3.
	Coordinators, Workers int
	// Cores are split over the workers' compute slots, at least one each;
	// default the machine's.
	Cores int
	// NoWorkers starts none: they come from elsewhere.
	NoWorkers bool
	// WorkerArgs are further arguments of every worker, CoordinatorArgs of every
	// coordinator.
	WorkerArgs, CoordinatorArgs []string
	// Env is the children's environment; default this process's.
	Env []string
	// ServerFor says where a coordinator or worker connects, instead of to url,
	// which is the cluster's: a proxy between the two, for instance. It is asked
	// again when the process is started anew. Default: url.
	ServerFor func(name, url string) string
	// Log gets every line that a child writes, "NAME  LINE"; default nothing.
	Log io.Writer
}

// Ready is what a role prints with --json once it works, as one line.
type Ready struct {
	Schema int       `json:"schema_version"`
	Role   wire.Role `json:"role"`
	Name   string    `json:"name"`
	URL    string    `json:"url"`
	PID    int       `json:"pid"`
}

// Local is a running cluster of child processes.
type Local struct {
	cfg    Config
	url    string
	broker *broker.Broker
	died   chan error

	out      sync.Mutex // guards writes to cfg.Log
	mu       sync.Mutex // guards what follows
	stopped  bool
	children []*child // in the order first started, the latest process of each
}

// Start starts a cluster and returns when every process has joined it. When it
// can't, nothing is left running. It returns [ErrChild] with the last words of
// the process that failed, or [ErrNotReady].
func Start(ctx context.Context, cfg Config) (*Local, error) {
	if cfg.Coordinators == 0 {
		cfg.Coordinators = 1
	}
	switch {
	case cfg.NoWorkers:
		cfg.Workers = 0
	case cfg.Workers == 0:
		cfg.Workers = 3
	}
	if cfg.Cores == 0 {
		cfg.Cores = runtime.NumCPU()
	}
	if cfg.Host == "" {
		cfg.Host = "127.0.0.1"
	}
	if cfg.Servers == 0 {
		cfg.Servers = 1
	}
	if err := checkLayout(cfg.Store, cfg.Servers); err != nil {
		return nil, err
	}
	l := &Local{cfg: cfg, died: make(chan error, cfg.Servers+cfg.Coordinators+cfg.Workers)}
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	if err := l.start(ctx); err != nil {
		l.Stop()
		return nil, err
	}
	return l, nil
}

func (l *Local) start(ctx context.Context) error {
	if err := l.startBrokers(ctx); err != nil {
		return err
	}
	names, err := l.spawnRoles()
	if err != nil {
		return err
	}
	return l.join(ctx, names)
}

// spawnRoles starts the coordinators and the workers.
func (l *Local) spawnRoles() (names []string, err error) {
	for i := range l.cfg.Coordinators {
		name := "coordinator-" + strconv.Itoa(i+1)
		if _, err := l.spawn(wire.RoleCoordinator, name, append([]string{"--name", name}, l.cfg.CoordinatorArgs...)); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	for i, slots := range split(l.cfg.Cores, l.cfg.Workers) {
		name := "worker-" + strconv.Itoa(i+1)
		_, err := l.spawn(wire.RoleWorker, name, append([]string{"--name", name,
			"--slots", strconv.Itoa(slots), "--cache", filepath.Join(l.cfg.Store, cacheDir)}, l.cfg.WorkerArgs...))
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// split divides cores over n workers as evenly as it goes, at least one each.
func split(cores, n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = max(1, cores/n)
		if cores > n && i < cores%n {
			out[i]++
		}
	}
	return out
}

// spawn starts a process; the role is also the command that runs it. A process of
// that name that has ended gives up its place to the new one.
func (l *Local) spawn(role wire.Role, name string, args []string) (*child, error) {
	env := l.cfg.Env
	if env == nil {
		env = os.Environ()
	}
	// What the user set to reach other clusters is not for this one's processes.
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, "NATS_") })
	line := append([]string{string(role), "--until-stdin-ends"}, args...)
	if role != wire.RoleBroker {
		line = append(line, "--server", l.serverFor(name))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return nil, fmt.Errorf("start %s: %w", name, ErrStopped)
	}
	c, err := start(l.cfg.Program, name, env, line, l.say)
	if err != nil {
		return nil, err
	}
	c.role, c.args = role, args
	if i := slices.IndexFunc(l.children, func(c *child) bool { return c.name == name }); i >= 0 {
		l.children[i] = c
	} else {
		l.children = append(l.children, c)
	}
	go func() {
		<-c.done
		if c.asked() {
			return
		}
		select {
		case l.died <- c.failure():
		default: // nobody has read what there was before
		}
	}()
	return c, nil
}

func (l *Local) serverFor(name string) string {
	if l.cfg.ServerFor == nil {
		return l.url
	}
	return l.cfg.ServerFor(name, l.url)
}

func (l *Local) say(name, line string) {
	if l.cfg.Log == nil {
		return
	}
	l.out.Lock()
	defer l.out.Unlock()
	fmt.Fprintf(l.cfg.Log, "%-13s  %s\n", name, line)
}

// join waits until every named node is in the membership list.
func (l *Local) join(ctx context.Context, names []string) error {
	api := client.New(l.broker)
	tick := time.NewTicker(pollRate)
	defer tick.Stop()
	for {
		missing, err := absent(ctx, api, names)
		if err == nil && len(missing) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case err := <-l.died:
			return err
		case <-ctx.Done():
			if err != nil && !errors.Is(err, ctx.Err()) {
				return fmt.Errorf("%w: %w", ErrNotReady, err)
			}
			return fmt.Errorf("%w: still missing %v: %w", ErrNotReady, missing, context.Cause(ctx))
		}
	}
}

func absent(ctx context.Context, api *client.Client, names []string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	reply, err := api.Nodes(ctx)
	if err != nil {
		return names, err
	}
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return slices.ContainsFunc(reply.Nodes, func(n wire.Node) bool {
			return n.Node == name && n.State == wire.NodeAlive
		})
	}), nil
}

// URL is where clients connect: the URLs of all servers, separated by commas.
func (l *Local) URL() string { return l.url }

// Broker is the cluster's own connection; Stop closes it.
func (l *Local) Broker() *broker.Broker { return l.broker }

// Died tells of every process that ended without having been asked to; the
// errors are [ErrChild].
func (l *Local) Died() <-chan error { return l.died }
