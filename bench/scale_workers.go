package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/worker"
)

// joinAtOnce is how many workers join at a time.
const joinAtOnce = 16

// crew is a number of workers in this process, each with a connection of its own.
type crew struct {
	stop context.CancelFunc
	done sync.WaitGroup
	mu   sync.Mutex
	err  error
}

// hire starts workers and returns when all have joined.
func (s *scale) hire(ctx context.Context, workers, slots int) (*crew, error) {
	ctx, cancel := context.WithCancel(ctx)
	k := &crew{stop: cancel}
	group, joining := errgroup.WithContext(ctx)
	group.SetLimit(joinAtOnce)
	for i := range workers {
		group.Go(func() error {
			name := fmt.Sprintf("null-%d", i+1)
			b, err := broker.Connect(joining, broker.Config{Servers: s.local.URL(), Name: name, Wait: time.Minute})
			if err != nil {
				return err
			}
			k.done.Go(func() {
				defer b.Close()
				err := worker.Run(ctx, worker.Config{Broker: b, Name: name, Slots: slots, CacheDir: filepath.Join(s.dir, "null-cache"), Version: "bench"})
				if err != nil {
					k.mu.Lock()
					k.err = errors.Join(k.err, err)
					k.mu.Unlock()
				}
			})
			return nil
		})
	}
	err := group.Wait()
	if err == nil {
		err = s.joined(ctx, workers)
	}
	if err != nil {
		return nil, errors.Join(err, k.dismiss())
	}
	return k, nil
}

// joined waits until so many workers are on the list.
func (s *scale) joined(ctx context.Context, workers int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		reply, err := s.api.Nodes(ctx)
		switch {
		case err == nil:
		case passing(err):
			reply = &wire.NodesReply{}
		default:
			return err
		}
		n := 0
		for i := range reply.Nodes {
			if reply.Nodes[i].Role == wire.RoleWorker && reply.Nodes[i].State == wire.NodeAlive {
				n++
			}
		}
		if n >= workers {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d workers have joined: %w", n, workers, context.Cause(ctx))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// dismiss stops the workers and waits until they are gone.
func (k *crew) dismiss() error {
	k.stop()
	k.done.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}
