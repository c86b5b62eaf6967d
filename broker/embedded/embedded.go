// Package embedded runs a nats-server inside this process, so that a cluster
// needs nothing installed. It is the only package that imports nats-server; the
// rest of the program sees a URL, or an in-process connection.
package embedded

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

var (
	// ErrNotReady is returned when the server doesn't come up in time.
	ErrNotReady = errors.New("the embedded NATS server did not become ready")
	// ErrPort is returned when the server can't listen where it is told to.
	ErrPort = errors.New("can't listen")
	// ErrConfig is returned when the configuration contradicts itself.
	ErrConfig = errors.New("the server can't be configured like this")
	// ErrStoreKind is returned when a store belongs to a server of another name, or
	// was made by a server alone and is opened by one of a cluster, or the reverse.
	ErrStoreKind = errors.New("the store was made by another kind of server")
)

// Config says where the server listens and keeps its data.
type Config struct {
	// Name of the server; default "idunno".
	Name string
	// Host to listen on; default loopback, 127.0.0.1.
	Host string
	// Port to listen on; 0 means 4222, -1 any free one.
	Port int
	// Store is the directory of the durable data. Required.
	Store string
	// Log shows the server's own log lines; default none.
	Log bool
	// Cluster is the name of the cluster of servers that this one belongs to; default
	// none: the server is alone. Every server of a cluster has a Name of its own.
	Cluster string
	// ClusterPort is where the other servers of the cluster connect, at Host.
	// Required in a cluster.
	ClusterPort int
	// Routes are the addresses, HOST:PORT or nats://HOST:PORT, of the cluster's
	// servers; the server's own may be among them. They need not run yet.
	Routes []string
	// MaxStore bounds the bytes of all streams on this server's disk; default: what
	// is free, less KeepFree.
	MaxStore int64
	// KeepFree is how many bytes of the disk are left to others; default
	// [DefaultKeepFree], or an eighth of a smaller disk.
	KeepFree int64
	// SyncInterval, when it is not 0, is how often writes are synced to disk, instead
	// of every one before it is acknowledged. What was acknowledged in between is
	// lost with the machine's power: it is there to measure that.
	SyncInterval time.Duration
	// disk is the file system of the store; tests have one of their own.
	disk disk
}

// Server is a running nats-server.
type Server struct {
	srv      *server.Server
	cfg      Config
	password string
	// servers is the number of servers of the cluster.
	servers int64
	disk    disk
	// limit is what all servers may store, as last set.
	limit               int64
	stop, looked, stuck chan struct{}
	stopping            sync.Once
}

// readyWait bounds the start. A large store is read again at the start, so it is generous.
const readyWait = 30 * time.Second

// Start runs a server with JetStream that syncs every write to disk before it
// acknowledges it, and returns once it accepts connections. A server of a cluster
// doesn't wait for the others: JetStream answers when most of them are there. It
// returns [ErrPort], [ErrConfig], [ErrStoreKind] or [ErrNotReady].
func Start(cfg Config) (*Server, error) {
	if cfg.Store == "" {
		return nil, errors.New("no store directory: give one with --store")
	}
	if cfg.Name == "" {
		cfg.Name = "idunno"
	}
	if cfg.Host == "" {
		cfg.Host = "127.0.0.1"
	}
	if err := cfg.checkCluster(); err != nil {
		return nil, err
	}
	if err := checkPort(cfg.Host, cfg.Port); err != nil {
		return nil, err
	}
	if err := makeStore(cfg); err != nil {
		return nil, err
	}
	opts, err := cfg.options()
	if err != nil {
		return nil, err
	}
	password := withEvents(opts)
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("configure the embedded NATS server: %w", err)
	}
	if cfg.Log {
		srv.ConfigureLogger()
	}
	startServer(srv)
	if !srv.ReadyForConnections(readyWait) {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, fmt.Errorf("%w within %v on %s port %d: is the port taken, or the store %s in use by another server?",
			ErrNotReady, readyWait, cfg.Host, cfg.Port, filepath.Clean(cfg.Store))
	}
	s := &Server{srv: srv, cfg: cfg, password: password, servers: cfg.servers(), disk: cfg.disk,
		stop: make(chan struct{}), looked: make(chan struct{}), stuck: make(chan struct{})}
	if s.disk == nil {
		s.disk = diskOf
	}
	if err := s.setRoom(); err != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, err
	}
	go s.look()
	return s, nil
}

// servers is the number of servers of the cluster, this one included.
func (cfg Config) servers() int64 {
	if cfg.Cluster == "" {
		return 1
	}
	own := net.JoinHostPort(cfg.Host, strconv.Itoa(cfg.ClusterPort))
	all := map[string]bool{own: true}
	for _, route := range cfg.Routes {
		_, at, found := strings.Cut(route, "://")
		if !found {
			at = route
		}
		all[strings.TrimSuffix(at, "/")] = true
	}
	return int64(len(all))
}

// options are those of the server.
func (cfg Config) options() (*server.Options, error) {
	opts := &server.Options{
		ServerName: cfg.Name, Host: cfg.Host, Port: cfg.Port,
		JetStream: true, StoreDir: cfg.Store, SyncAlways: cfg.SyncInterval == 0, SyncInterval: cfg.SyncInterval,
		JetStreamMaxMemory: -1, JetStreamMaxStore: noLimit,
		PingInterval: time.Second, MaxPingsOut: 3,
		NoLog: !cfg.Log, NoSigs: true, WriteDeadline: 10 * time.Second,
	}
	if cfg.Cluster == "" {
		return opts, nil
	}
	opts.Cluster = server.ClusterOpts{Name: cfg.Cluster, Host: cfg.Host, Port: cfg.ClusterPort,
		PingInterval: time.Second, MaxPingsOut: 3, ConnectBackoff: false}
	for _, route := range cfg.Routes {
		if !strings.Contains(route, "://") {
			route = "nats://" + route
		}
		u, err := url.Parse(route)
		if err != nil || u.Host == "" || u.Port() == "" {
			return nil, fmt.Errorf("%w: route %q: give HOST:PORT", ErrConfig, route)
		}
		opts.Routes = append(opts.Routes, u)
	}
	return opts, nil
}

// checkCluster fails for what the server would refuse less clearly, or take.
func (cfg Config) checkCluster() error {
	switch {
	case cfg.Cluster == "" && (cfg.ClusterPort != 0 || len(cfg.Routes) > 0):
		return fmt.Errorf("%w: routes and a port for them belong to a cluster: give its name with --cluster-name", ErrConfig)
	case cfg.Cluster == "":
		return nil
	case cfg.ClusterPort < 1 || cfg.ClusterPort > 65535:
		return fmt.Errorf("%w: the servers of a cluster need a fixed port for each other: give one with --cluster-port", ErrConfig)
	case len(cfg.Routes) == 0:
		return fmt.Errorf("%w: a cluster has several servers: name them with --routes HOST:PORT,HOST:PORT", ErrConfig)
	}
	return checkPort(cfg.Host, cfg.ClusterPort)
}

// checkPort fails at once when the port is taken: the server itself would only
// not become ready.
func checkPort(host string, port int) error {
	if port < 0 {
		return nil
	}
	if port == 0 {
		port = server.DEFAULT_PORT
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("%w: %w: stop what uses the port, or choose another with --port (-1: any free one)", ErrPort, err)
	}
	return l.Close()
}

// URL is where clients connect.
func (s *Server) URL() string { return s.srv.ClientURL() }

// Clients is the number of connections.
func (s *Server) Clients() int { return s.srv.NumClients() }

// Done is closed when the server has stopped.
func (s *Server) Done() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		s.srv.WaitForShutdown()
		close(done)
	}()
	return done
}

// Stop shuts the server down in order and waits until it has stopped. It may be
// called again.
func (s *Server) Stop() {
	s.stopping.Do(func() { close(s.stop) })
	<-s.looked
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
}

// apiWorkers is how many requests about streams and consumers a server works on at a
// time. It takes as many as there are processors when it starts. On two that is too
// few: a request waits while its stream makes a message durable, and two of those hold
// up everything else, a new job's queue too.
const apiWorkers = 16

// starting lets one server of a process start at a time.
var starting sync.Mutex

// startServer starts a server as if there were apiWorkers processors.
func startServer(srv *server.Server) {
	starting.Lock()
	defer starting.Unlock()
	if was := runtime.GOMAXPROCS(0); was < apiWorkers {
		runtime.GOMAXPROCS(apiWorkers)
		defer runtime.GOMAXPROCS(was)
	}
	srv.Start()
}
