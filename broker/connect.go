package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// DefaultURL is where a local cluster listens.
const DefaultURL = nats.DefaultURL

// Config says how to reach the cluster. The zero value reaches a local one.
type Config struct {
	// Servers is a comma-separated list of URLs; default [DefaultURL].
	Servers string
	// Creds is the path of a credentials file; default none.
	Creds string
	// Context names a context of the `nats` client, used when Servers is empty.
	Context string
	// Name is how the connection shows up on the server.
	Name string
	// Replicas is the number of copies of every stream that this process
	// creates; default: 3 on a cluster of servers, 1 on a server alone.
	Replicas int
	// Leaderless leaves out the check that JetStream answers, which it doesn't until
	// most servers of a cluster run.
	Leaderless bool
	// InProcess connects to a server in the same process instead.
	InProcess nats.InProcessConnProvider
	// StoreAlone has this process write its results itself where a broker would take
	// them to store them with those of others; for measuring and tests.
	StoreAlone bool
	// Wait is how long to wait for a server at the start; default none: one try.
	Wait time.Duration
	// Events is told of disconnections and reconnections, and of readers that had to
	// be made anew ([EventRebuilt]); may be nil.
	Events func(event string, err error)
}

// EventRebuilt tells that a consumer did not deliver what there was, and was replaced.
const EventRebuilt = "rebuilt"

func (b *Broker) tell(event string, err error) {
	if b.cfg.Events != nil {
		b.cfg.Events(event, err)
	}
}

// Connect opens a connection that reconnects for ever and checks that JetStream
// answers. It returns [ErrUnreachable], [ErrNoJetStream] or [ErrUnknownContext].
func Connect(ctx context.Context, cfg Config) (*Broker, error) {
	opts, servers, err := cfg.options()
	if err != nil {
		return nil, err
	}
	nc, err := dial(ctx, servers, cfg.Wait, opts)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1024))
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	b := &Broker{NC: nc, JS: js, cfg: cfg}
	b.group.b, b.pull.nc = b, nc
	if cfg.Leaderless {
		return b, nil
	}
	if err := b.checkJetStream(ctx, servers, time.Now().Add(cfg.Wait)); err != nil {
		nc.Close()
		return nil, err
	}
	return b, nil
}

// checkJetStream asks JetStream for a sign of life until the deadline, at least
// once.
func (b *Broker) checkJetStream(ctx context.Context, servers string, deadline time.Time) error {
	for {
		within, cancel := context.WithTimeout(ctx, accountWait)
		_, err := b.JS.AccountInfo(within)
		cancel()
		switch {
		case err == nil:
			return nil
		case errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
			// A server of a cluster says so too for a moment, while it starts.
			if !b.Clustered() || time.Now().After(deadline) {
				return fmt.Errorf("%w at %s: start it with -js, or use `idunno up`", ErrNoJetStream, redact(servers))
			}
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case time.Now().After(deadline):
			return fmt.Errorf("%w at %s: JetStream does not answer (%v): %s", ErrUnreachable, redact(servers), err, b.missingServers())
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// missingServers is what to do when JetStream doesn't answer.
func (b *Broker) missingServers() string {
	if b.Clustered() {
		return "a cluster needs most of its servers: start those that are missing, then try again"
	}
	return "try again"
}

// Clustered reports whether the server connected to belongs to a cluster.
func (b *Broker) Clustered() bool { return b.NC.ConnectedClusterName() != "" }

// accountWait bounds the wait for one sign of life of JetStream.
const accountWait = 5 * time.Second

// Dup opens another connection to the same cluster.
func (b *Broker) Dup(ctx context.Context) (*Broker, error) { return Connect(ctx, b.cfg) }

func dial(ctx context.Context, servers string, wait time.Duration, opts []nats.Option) (*nats.Conn, error) {
	deadline := time.Now().Add(wait)
	for {
		nc, err := nats.Connect(servers, opts...)
		if err == nil {
			return nc, nil
		}
		if !retriable(err) || time.Now().After(deadline) {
			// Errors about a URL quote it, password and all.
			reason := err.Error()
			for url := range strings.SplitSeq(servers, ",") {
				reason = strings.ReplaceAll(reason, strings.TrimSpace(url), redact(strings.TrimSpace(url)))
			}
			return nil, fmt.Errorf("%w at %s (%s): start a cluster with `idunno up`, or name one with --server", ErrUnreachable, redact(servers), reason)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// retriable reports whether a server may be about to come. A connection that is
// closed before the server has said a word is that of one that stops or starts, or of
// a proxy in front of one.
func retriable(err error) bool {
	var op *net.OpError
	return errors.Is(err, nats.ErrNoServers) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, io.EOF) || errors.As(err, &op) ||
		strings.HasPrefix(err.Error(), textOverlap)
}

// textOverlap begins the client's error about a server that asks a question before it
// answers the client's own: as one does after two seconds, where the way is slow.
const textOverlap = "nats: expected 'PONG'"

// redact removes user names and passwords from URLs before they are shown.
func redact(servers string) string {
	list := strings.Split(servers, ",")
	for i, s := range list {
		scheme, rest, ok := strings.Cut(s, "://")
		if !ok {
			scheme, rest = "", s
		} else {
			scheme += "://"
		}
		list[i] = scheme + rest[strings.LastIndex(rest, "@")+1:]
	}
	return strings.Join(list, ",")
}

func (cfg Config) options() ([]nats.Option, string, error) {
	event := cfg.Events
	if event == nil {
		event = func(string, error) {}
	}
	opts := []nats.Option{
		nats.Name(cfg.Name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(50 * time.Millisecond),
		nats.ReconnectJitter(50*time.Millisecond, 50*time.Millisecond),
		nats.ReconnectBufSize(8 << 20),
		nats.PingInterval(time.Second),
		nats.MaxPingsOutstanding(2),
		nats.Timeout(2 * time.Second),
		nats.DrainTimeout(5 * time.Second),
		nats.IgnoreAuthErrorAbort(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { event("disconnected", err) }),
		nats.ReconnectHandler(func(*nats.Conn) { event("reconnected", nil) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { event("error", err) }),
	}
	servers := cfg.Servers
	if servers == "" && cfg.Context != "" && cfg.InProcess == nil {
		c, err := readContext(cfg.Context)
		if err != nil {
			return nil, "", err
		}
		opts = append(opts, c.options()...)
		servers = c.URL
	}
	if servers == "" {
		servers = DefaultURL
	}
	if strings.Contains(servers, ",") {
		// Whoever names several servers has named those that can be reached from here;
		// what they say of each other holds on their side of a proxy or translation.
		opts = append(opts, nats.IgnoreDiscoveredServers())
	}
	if cfg.Creds != "" {
		opts = append(opts, nats.UserCredentials(cfg.Creds))
	}
	if cfg.InProcess != nil {
		opts = append(opts, nats.InProcessServer(cfg.InProcess))
	}
	return opts, servers, nil
}

// Close closes the connection, sending first what is buffered.
func (b *Broker) Close() {
	if b.NC.IsConnected() {
		_ = b.NC.FlushTimeout(time.Second)
	}
	b.JS.CleanupPublisher()
	b.NC.Close()
}
