// Package embedded runs a nats-server inside this process, so that a cluster
// needs nothing installed. It is the only package that imports nats-server; the
// rest of the program sees a URL, or an in-process connection.
package embedded

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

var (
	// ErrNotReady is returned when the server doesn't come up in time.
	ErrNotReady = errors.New("the embedded NATS server did not become ready")
	// ErrPort is returned when the server can't listen where it is told to.
	ErrPort = errors.New("can't listen")
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
}

// Server is a running nats-server.
type Server struct {
	srv      *server.Server
	store    string
	password string
}

// readyWait bounds the start. A large store is read again at the start, so it is generous.
const readyWait = 30 * time.Second

// Start runs a server with JetStream that syncs every write to disk before it
// acknowledges it, and returns once it accepts connections.
func Start(cfg Config) (*Server, error) {
	if cfg.Store == "" {
		return nil, errors.New("no store directory: give one with --store")
	}
	if err := os.MkdirAll(cfg.Store, 0o700); err != nil {
		return nil, fmt.Errorf("create the store: %w", err)
	}
	if cfg.Name == "" {
		cfg.Name = "idunno"
	}
	if cfg.Host == "" {
		cfg.Host = "127.0.0.1"
	}
	if err := checkPort(cfg.Host, cfg.Port); err != nil {
		return nil, err
	}
	opts := &server.Options{
		ServerName: cfg.Name, Host: cfg.Host, Port: cfg.Port,
		JetStream: true, StoreDir: cfg.Store, SyncAlways: true,
		JetStreamMaxMemory: -1, JetStreamMaxStore: -1,
		PingInterval: time.Second, MaxPingsOut: 3,
		NoLog: !cfg.Log, NoSigs: true, WriteDeadline: 10 * time.Second,
	}
	password := withEvents(opts)
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("configure the embedded NATS server: %w", err)
	}
	if cfg.Log {
		srv.ConfigureLogger()
	}
	srv.Start()
	if !srv.ReadyForConnections(readyWait) {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, fmt.Errorf("%w within %v on %s port %d: is the port taken, or the store %s in use by another server?",
			ErrNotReady, readyWait, cfg.Host, cfg.Port, filepath.Clean(cfg.Store))
	}
	return &Server{srv: srv, store: cfg.Store, password: password}, nil
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

// Stop shuts the server down in order and waits until it has stopped.
func (s *Server) Stop() {
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
}
