package cli

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"idunno/broker"
	"idunno/coordinator/client"
	"idunno/coordinator/cluster"
	"idunno/objectstore"
)

// brokerConfig resolves the global flags and the environment: what is said on the
// command line wins over NATS_URL, that over the selected context.
func (a *app) brokerConfig(name string) broker.Config {
	cfg := broker.Config{Name: name, Servers: a.server, Creds: a.creds, Replicas: a.replicas}
	if cfg.Creds == "" {
		cfg.Creds = a.getenv("NATS_CREDS")
	}
	if cfg.Servers != "" {
		return cfg
	}
	if cfg.Context = a.natsContext; cfg.Context != "" {
		return cfg
	}
	if cfg.Servers = a.getenv("NATS_URL"); cfg.Servers == "" {
		cfg.Context = broker.SelectedContext(a.getenv)
	}
	return cfg
}

func (a *app) connect(cmd *cobra.Command) (*broker.Broker, error) {
	cfg := a.brokerConfig("idunno " + cmd.Name())
	cfg.Events = func(event string, err error) {
		switch {
		case event == "disconnected" && err != nil:
			a.talk("lost the connection to the cluster (%v); waiting for it to come back, Ctrl-C ends the wait", err)
		case event == "reconnected":
			a.talk("connected to the cluster again")
		}
	}
	return open(cmd.Context(), cfg)
}

// open connects. Credentials that can't be read are the user's own mistake, not a
// cluster that does not answer.
func open(ctx context.Context, cfg broker.Config) (*broker.Broker, error) {
	if cfg.Creds != "" {
		if _, err := os.Stat(cfg.Creds); err != nil {
			return nil, fmt.Errorf("read credentials: %w", err)
		}
	}
	return broker.Connect(ctx, cfg)
}

// withClient runs do with a connection to the coordinator.
func (a *app) withClient(cmd *cobra.Command, do func(ctx context.Context, api *client.Client) error) error {
	b, err := a.connect(cmd)
	if err != nil {
		return err
	}
	defer b.Close()
	return do(cmd.Context(), client.New(b))
}

// withStore runs do with the SDFS open.
func (a *app) withStore(cmd *cobra.Command, do func(ctx context.Context, store *objectstore.Store) error) error {
	b, err := a.connect(cmd)
	if err != nil {
		return err
	}
	defer b.Close()
	store, err := cluster.OpenStore(cmd.Context(), b)
	if err != nil {
		return err
	}
	return do(cmd.Context(), store)
}

// localAddress is this machine's address on the way to the server.
func localAddress(b *broker.Broker) string {
	host, err := b.NC.GetClientIP()
	if err != nil || host == nil {
		return ""
	}
	return host.String()
}

// jobNumber reads a job's number.
func jobNumber(cmd *cobra.Command, s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || n == 0 {
		return 0, usage(cmd, "%q is not a job number; `idunno jobs` lists them", s)
	}
	return n, nil
}

// joinWait is how long a role waits for its server at the start.
const joinWait = 30 * time.Second
