package cli

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"idunno/broker"
	"idunno/broker/embedded"
	"idunno/broker/wire"
	"idunno/coordinator/cluster"
)

func (a *app) brokerCommand() *cobra.Command {
	var cfg embedded.Config
	var memory, maxStore, keepFree string
	var tied, temporary, asJSON bool
	cmd := &cobra.Command{
		Use: "broker", Short: "run the message broker of a cluster (a NATS server with JetStream)", Args: nargs(0),
		Long: `Runs a NATS server with JetStream inside this process: the cluster's queues,
results and SDFS. Every write is on disk before it is acknowledged. It listens on
loopback unless --host says otherwise, and asks nobody for a password: give it
another address only inside a network you trust, or use a NATS cluster of your own
with --server and --creds.

The data is kept under --store, by default $XDG_DATA_HOME/idunno or
~/.local/share/idunno.

The server keeps in memory what was written or read last, as much as fits into
--memory ($GOMEMLIMIT when that is set); it uses more when it can't do with less.

When the store is full, uploads and then submissions are refused until there is room
again; what has been accepted is kept, and a part of the room is reserved for its
results. --max-store and --keep-free say what is full.

Three servers, on three machines, make a cluster that survives the death of one:
give each a --name and a --store of its own, the same --cluster-name, and in --routes
the address and --cluster-port of all. Everything is then kept by each of them. A
server starts without the others; the cluster works when two of them run.`,
		Example: `  idunno broker
  idunno broker --host 0.0.0.0 --port 4222 --store /var/lib/idunno
  idunno broker --host 10.0.0.1 --name a --cluster-name ida --cluster-port 6222 --routes 10.0.0.1:6222,10.0.0.2:6222,10.0.0.3:6222
  idunno broker --port -1 --store ./data --json      any free port; the URL on stdout`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.Name, err = nodeName(cmd, cfg.Name, wire.RoleBroker); err != nil {
				return err
			}
			size, err := parseSize(memory)
			if err != nil {
				return usage(cmd, "--memory: %v", err)
			}
			for flag, into := range map[string]struct {
				text string
				size *int64
			}{"max-store": {maxStore, &cfg.MaxStore}, "keep-free": {keepFree, &cfg.KeepFree}} {
				if into.text == "" {
					continue
				}
				if *into.size, err = parseSize(into.text); err != nil {
					return usage(cmd, "--%s: %v", flag, err)
				}
			}
			if cmd.Flags().Changed("memory") || a.getenv("GOMEMLIMIT") == "" {
				// Blocks of files that were written or read lately are left to the garbage
				// collector. Without an aim it lets them grow as large as the files.
				debug.SetMemoryLimit(size)
			}
			return a.runRole(cmd, tied, func(ctx context.Context) error {
				return a.runBroker(ctx, cfg, brokerOptions{tied: tied, json: asJSON, temporary: temporary})
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&cfg.Host, "host", "127.0.0.1", "`ADDRESS` to listen on")
	flags.IntVar(&cfg.Port, "port", 4222, "`PORT` to listen on, -1 for any free one")
	flags.StringVar(&cfg.Store, "store", "", "`DIR` of the data (default: see above)")
	flags.StringVar(&cfg.Name, "name", "broker", "`NAME` of the server")
	flags.StringVar(&cfg.Cluster, "cluster-name", "", "`NAME` of the cluster of servers that this one belongs to")
	flags.IntVar(&cfg.ClusterPort, "cluster-port", 0, "`PORT` for the other servers of the cluster")
	flags.StringSliceVar(&cfg.Routes, "routes", nil, "`HOST:PORT`[,...] of the cluster's servers, this one may be among them")
	flags.StringVar(&memory, "memory", "512MiB", "`SIZE` of memory to aim at")
	flags.StringVar(&maxStore, "max-store", "", "`SIZE` of everything stored here at most (default: what is free, less --keep-free)")
	flags.StringVar(&keepFree, "keep-free", "", "`SIZE` of the disk that is left to others (default 256MiB, or an eighth of a small disk)")
	flags.DurationVar(&cfg.SyncInterval, "sync-interval", 0, "`TIME` between syncs to disk; a power cut loses what was acknowledged since (default: sync every write)")
	flags.BoolVar(&temporary, "temporary", false, "remove at the end what a cluster has put into the store")
	flags.BoolVar(&asJSON, "json", false, "print the URL as one line of JSON when ready")
	untilStdinEnds(cmd, &tied)
	return cmd
}

type brokerOptions struct{ tied, json, temporary bool }

func (a *app) runBroker(ctx context.Context, cfg embedded.Config, opts brokerOptions) error {
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
	if opts.temporary {
		defer cluster.RemoveStore(cfg.Store)
	}
	defer unlock()
	for told := false; ; told = true {
		again, err := a.serveBroker(ctx, &cfg, opts, told)
		if err != nil || !again {
			return err
		}
		a.talk("the server could not write any more, as with a full disk; there is room again, so it starts anew")
	}
}

// serveBroker runs the server until ctx ends, or until it has to be started anew.
func (a *app) serveBroker(ctx context.Context, cfg *embedded.Config, opts brokerOptions, told bool) (again bool, err error) {
	srv, err := embedded.Start(*cfg)
	if err != nil {
		return false, err
	}
	defer srv.Stop()
	at, err := url.Parse(srv.URL())
	if err != nil {
		return false, err
	}
	if cfg.Port, err = strconv.Atoi(at.Port()); err != nil { // it comes back where it was
		return false, err
	}
	member, err := a.joinBroker(ctx, *cfg, srv)
	if err != nil {
		return false, err
	}
	defer func() {
		member()
		if opts.temporary && !again {
			awaitLeaving(srv)
		}
	}()
	if !told {
		if err := a.announce(opts.tied, opts.json, cluster.Ready{Role: wire.RoleBroker, Name: cfg.Name, URL: srv.URL()}); err != nil {
			return false, err
		}
	}
	select {
	case <-ctx.Done():
		return false, nil
	case <-srv.Stuck():
		return true, nil
	case <-srv.Done():
		return false, fmt.Errorf("the server stopped by itself: is the disk of %s full?", cfg.Store)
	}
}

// awaitLeaving waits until nobody is connected: workers that stop at the same
// time, as when the parent of all has died, still write to their cache. It waits
// no longer than they may take.
func awaitLeaving(srv *embedded.Server) {
	late := time.NewTimer(roleExit - 2*time.Second) // the server has to stop too
	defer late.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for srv.Clients() > 0 {
		select {
		case <-tick.C:
		case <-late.C:
			return
		}
	}
}

// joinBroker creates the streams, so that submissions are kept from the first
// moment on, makes the broker a member of the cluster, and has it tell of
// connections that close. The returned function takes it off the list. A server of
// several doesn't wait for the streams: that takes most of the others.
func (a *app) joinBroker(ctx context.Context, cfg embedded.Config, srv *embedded.Server) (leave func(), err error) {
	b, err := broker.Connect(ctx, broker.Config{Servers: srv.URL(), Name: cfg.Name, Leaderless: cfg.Cluster != "", Replicas: a.replicas})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var aside sync.WaitGroup
	if cfg.Cluster == "" {
		if err := b.Ensure(ctx); err != nil {
			cancel()
			b.Close()
			return nil, err
		}
	} else {
		aside.Go(func() { a.ensureSoon(ctx, b) })
	}
	stopEvents, err := srv.Disconnects(func(c embedded.Closed) { broker.TellClosed(b, c.Server, c.Client) })
	if err != nil {
		cancel()
		aside.Wait()
		b.Close()
		return nil, err
	}
	stopStores, err := b.ShareStores()
	if err != nil {
		stopEvents()
		cancel()
		aside.Wait()
		b.Close()
		return nil, err
	}
	beat := wire.Heartbeat{Schema: wire.Schema, Node: cfg.Name, Role: wire.RoleBroker, Incarnation: time.Now().UnixNano(),
		Version: version(), Address: localAddress(b), PID: os.Getpid(), Cores: runtime.NumCPU()}
	aside.Go(func() { _ = broker.Announce(ctx, b, nil, func() wire.Heartbeat { return beat }) })
	return func() {
		stopStores()
		stopEvents()
		cancel()
		aside.Wait()
		b.Close()
	}, nil
}

const (
	// ensureGap is the pause between two tries to create the streams, ensureTell
	// how often the reason for failing is told.
	ensureGap  = 500 * time.Millisecond
	ensureTell = 15 * time.Second
)

// ensureSoon creates the streams when there are servers enough for them.
func (a *app) ensureSoon(ctx context.Context, b *broker.Broker) {
	told := time.Now()
	for {
		within, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := b.Ensure(within)
		cancel()
		if err == nil || ctx.Err() != nil {
			return
		}
		if time.Since(told) > ensureTell {
			a.talk("waiting for the other servers: %v", err)
			told = time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(ensureGap):
		}
	}
}
