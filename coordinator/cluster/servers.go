package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
)

// clusterName is what the servers of a local cluster call it.
const clusterName = "idunno"

// ensureGap is the pause between two tries to create the streams, ensureWait how
// long one may take.
const (
	ensureGap  = 100 * time.Millisecond
	ensureWait = 5 * time.Second
)

// brokerName is the name of a server, and of its directory in the store when there
// are several.
func brokerName(i, servers int) string {
	if servers == 1 {
		return string(wire.RoleBroker)
	}
	return fmt.Sprintf("%s-%d", wire.RoleBroker, i+1)
}

// checkLayout refuses a store that was made with another number of servers: none of
// them would find the data of one, and it alone would miss theirs.
func checkLayout(store string, servers int) error {
	const other = "%w: %s was made with --servers %d: start it so, or choose another directory with --store"
	made := 1
	if servers == 1 {
		made = 3
	}
	inside := filepath.Join(store, queueDir)
	if servers == 1 {
		inside = filepath.Join(store, brokerName(0, made), queueDir)
	}
	if _, err := os.Stat(inside); err == nil {
		return fmt.Errorf(other, ErrStoreLayout, filepath.Clean(store), made)
	}
	return nil
}

// startBrokers starts the servers and connects to them. It returns when they have
// made the streams, which takes all of them.
func (l *Local) startBrokers(ctx context.Context) error {
	routes, err := freePorts(l.cfg.Host, l.cfg.Servers)
	if err != nil {
		return err
	}
	brokers := make([]*child, l.cfg.Servers)
	for i := range brokers {
		if brokers[i], err = l.spawn(wire.RoleBroker, brokerName(i, l.cfg.Servers), l.brokerArgs(i, routes)); err != nil {
			return err
		}
	}
	urls := make([]string, len(brokers))
	for i, c := range brokers {
		if urls[i], err = c.serves(ctx); err != nil {
			return err
		}
	}
	l.url = strings.Join(urls, ",")
	l.broker, err = broker.Connect(ctx, broker.Config{Servers: l.url, Name: "cluster", Wait: readyWait})
	if err != nil {
		return err
	}
	for {
		// While the servers have no leader, requests get lost.
		within, cancel := context.WithTimeout(ctx, ensureWait)
		err := l.broker.Ensure(within)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case err := <-l.died:
			return err
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrNotReady, err)
		case <-time.After(ensureGap):
		}
	}
}

func (l *Local) brokerArgs(i int, routes []string) []string {
	port, store := l.cfg.Port, l.cfg.Store
	if l.cfg.Servers > 1 {
		store = filepath.Join(store, brokerName(i, l.cfg.Servers))
		if port == 0 {
			port = defaultPort
		}
		if port > 0 {
			port += i
		}
	}
	args := []string{"--host", l.cfg.Host, "--port", strconv.Itoa(port), "--store", store, "--json"}
	if l.cfg.MaxStore > 0 {
		args = append(args, "--max-store", strconv.FormatInt(l.cfg.MaxStore, 10))
	}
	if l.cfg.Temporary {
		args = append(args, "--temporary")
	}
	if l.cfg.Servers == 1 {
		return args
	}
	_, routePort, _ := net.SplitHostPort(routes[i])
	return append(args, "--name", brokerName(i, l.cfg.Servers), "--cluster-name", clusterName,
		"--cluster-port", routePort, "--routes", strings.Join(routes, ","))
}

const defaultPort = 4222

// freePorts finds n addresses at which nobody listens. Servers tell each other
// theirs, so they must be known beforehand.
func freePorts(host string, n int) (at []string, err error) {
	if n < 2 {
		return nil, nil
	}
	var held []net.Listener
	defer func() {
		for _, l := range held {
			err = errors.Join(err, l.Close())
		}
	}()
	for range n {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return nil, fmt.Errorf("find ports for the servers: %w", err)
		}
		held = append(held, l)
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, fmt.Errorf("find ports for the servers: %w", err)
		}
		at = append(at, net.JoinHostPort(host, port))
	}
	return at, nil
}
