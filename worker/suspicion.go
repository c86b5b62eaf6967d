package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
)

const (
	// unexplained is how many deliveries of a task without a known reason make it
	// suspicious: its workers may have died before anybody knew what they did.
	unexplained = 6
	// harmful is how many nodes must have died at a task for it to be suspicious: a
	// single death is usually the node's own, and the task shall go on at once.
	harmful = 2
	// leaveFor is how long a worker leaves a task that failed here to others.
	leaveFor = 10 * time.Second
	// peersWait bounds the question who lives; its answer holds for peersAge.
	peersWait = 500 * time.Millisecond
	peersAge  = time.Second
)

// suspicious reports whether a task may harm the process that computes it, and has
// to have one of its own. Training has none: it ends by itself and takes a known
// amount of memory.
func (w *worker) suspicious(t *held) bool {
	if w.Isolate.Path == "" || t.task.Train != "" {
		return false
	}
	if t.attempt > len(t.tried)+unexplained || max(t.crashes, wire.Crashes(t.tried)) >= harmful || w.tally.suspects(t.task.ModelDigest) {
		return true
	}
	return slices.ContainsFunc(t.tried, func(a wire.Attempt) bool {
		switch a.Cause {
		case wire.CauseTimeout, wire.CausePanic, wire.CauseKilled:
			return true
		}
		return a.Isolated
	})
}

// slowBefore reports whether a task is likely to take all the time it may.
func (w *worker) slowBefore(t *held) bool {
	return w.tally.suspects(t.task.ModelDigest) ||
		slices.ContainsFunc(t.tried, func(a wire.Attempt) bool { return a.Cause == wire.CauseTimeout })
}

// leave reports whether a task that failed here is better left to others: there
// are live workers that haven't tried it. Should none of them take it, this one does
// after a while.
func (w *worker) leave(ctx context.Context, t *held) bool {
	var mine time.Time
	for _, a := range t.tried {
		if a.Node == w.Name {
			mine = a.Time
		}
	}
	if mine.IsZero() || time.Since(mine) > leaveFor {
		return false
	}
	others, err := w.others(ctx)
	if err != nil {
		return true // there may be some
	}
	return slices.ContainsFunc(others, func(name string) bool {
		return !slices.ContainsFunc(t.tried, func(a wire.Attempt) bool { return a.Node == name })
	})
}

// peers are the other live workers, as last told.
type peers struct {
	mu    sync.Mutex
	names []string
	asked time.Time
}

// others names the other workers that live, for all that is known; none when there
// is no coordinator.
func (w *worker) others(ctx context.Context) ([]string, error) {
	w.peers.mu.Lock()
	names, fresh := w.peers.names, time.Since(w.peers.asked) < peersAge
	w.peers.mu.Unlock()
	if fresh {
		return names, nil
	}
	// Nobody shall wait for the network under the lock; two may ask at once.
	names, err := w.askOthers(ctx)
	if err != nil {
		return nil, err
	}
	w.peers.mu.Lock()
	defer w.peers.mu.Unlock()
	w.peers.names, w.peers.asked = names, time.Now()
	return names, nil
}

func (w *worker) askOthers(ctx context.Context) (names []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, peersWait)
	defer cancel()
	p, err := w.Broker.Ask(ctx, broker.SubjectNodes, nil)
	var reply wire.NodesReply
	switch {
	case errors.Is(err, broker.ErrNobody):
	case err != nil:
		return nil, err
	default:
		if err := json.Unmarshal(p, &reply); err != nil {
			return nil, fmt.Errorf("decode the list of nodes: %w", err)
		}
	}
	for i := range reply.Nodes {
		n := &reply.Nodes[i]
		if n.Role == wire.RoleWorker && n.Node != w.Name && (n.State == wire.NodeAlive || n.State == wire.NodeSuspect) {
			names = append(names, n.Node)
		}
	}
	return names, nil
}
