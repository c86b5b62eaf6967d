package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"idunno/broker"
	"idunno/broker/embedded"
	"idunno/broker/wire"
	"idunno/coordinator/cluster"
)

func (a *app) brokerCommand() *cobra.Command {
	var cfg embedded.Config
	var tied, asJSON bool
	cmd := &cobra.Command{
		Use: "broker", Short: "run the message broker of a cluster (a NATS server with JetStream)", Args: nargs(0),
		Long: `Runs a NATS server with JetStream inside this process: the cluster's queues,
results and SDFS. Every write is on disk before it is acknowledged. It listens on
loopback unless --host says otherwise, and asks nobody for a password: give it
another address only inside a network you trust, or use a NATS cluster of your own
with --server and --creds.

The data is kept under --store, by default $XDG_DATA_HOME/idunno or
~/.local/share/idunno.`,
		Example: `  idunno broker
  idunno broker --host 0.0.0.0 --port 4222 --store /var/lib/idunno
  idunno broker --port -1 --store ./data --json      any free port; the URL on stdout`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.Name, err = nodeName(cmd, cfg.Name, wire.RoleBroker); err != nil {
				return err
			}
			return a.runRole(cmd, tied, func(ctx context.Context) error { return a.runBroker(ctx, cfg, tied, asJSON) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&cfg.Host, "host", "127.0.0.1", "`ADDRESS` to listen on")
	flags.IntVar(&cfg.Port, "port", 4222, "`PORT` to listen on, -1 for any free one")
	flags.StringVar(&cfg.Store, "store", "", "`DIR` of the data (default: see above)")
	flags.StringVar(&cfg.Name, "name", "broker", "`NAME` of the server")
	flags.BoolVar(&asJSON, "json", false, "print the URL as one line of JSON when ready")
	untilStdinEnds(cmd, &tied)
	return cmd
}

func (a *app) runBroker(ctx context.Context, cfg embedded.Config, tied, asJSON bool) error {
	var err error
	if cfg.Store == "" {
		if cfg.Store, err = a.dataDir(); err != nil {
			return err
		}
	}
	if cfg.Store, err = filepath.Abs(cfg.Store); err != nil {
		return fmt.Errorf("find the store: %w", err)
	}
	unlock, err := cluster.LockStore(cfg.Store)
	if err != nil {
		return err
	}
	defer unlock()
	srv, err := embedded.Start(cfg)
	if err != nil {
		return err
	}
	defer srv.Stop()
	member, err := joinBroker(ctx, cfg, srv.URL())
	if err != nil {
		return err
	}
	defer member()
	if err := a.announce(tied, asJSON, cluster.Ready{Role: wire.RoleBroker, Name: cfg.Name, URL: srv.URL()}); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case <-srv.Done():
		return fmt.Errorf("the server stopped by itself: is the disk of %s full?", cfg.Store)
	}
}

// joinBroker creates the streams, so that submissions are kept from the first
// moment on, and makes the broker a member of the cluster. The returned function
// takes it off the list.
func joinBroker(ctx context.Context, cfg embedded.Config, url string) (leave func(), err error) {
	b, err := broker.Connect(ctx, broker.Config{Servers: url, Name: cfg.Name})
	if err != nil {
		return nil, err
	}
	if err := b.Ensure(ctx); err != nil {
		b.Close()
		return nil, err
	}
	beat := wire.Heartbeat{Schema: wire.Schema, Node: cfg.Name, Role: wire.RoleBroker, Incarnation: time.Now().UnixNano(),
		Version: version(), Address: localAddress(b), PID: os.Getpid(), Cores: runtime.NumCPU()}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = broker.Announce(ctx, b.NC, nil, func() wire.Heartbeat { return beat })
	}()
	return func() {
		cancel()
		<-done
		b.Close()
	}, nil
}
