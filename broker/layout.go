package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A stream's leader is the server that answers for it. When it dies the others
// elect a new one, which takes them 4 to 9 seconds, and until then nobody can use
// the stream. A running job needs two streams all the time: that of its tasks, with
// the job's queue, and that of the results. Those are led by one server, so that
// the death of any other stalls no job. The lease is led by another one, so that
// not everything goes at once, and the rest is spread evenly.

// Layout tells where the streams of everything are kept.
type Layout []Placed

// Placed is a stream with the servers that keep it, by name.
type Placed struct {
	Stream string
	// Leader answers for the stream; "" while there is none.
	Leader string
	// Current are the other servers whose copies are up to date, Behind those that
	// are not, or can't be reached.
	Current, Behind []string
}

// Layout asks where everything is kept. Of a server alone it returns nothing. A
// stream for which nobody answers has no leader.
func (b *Broker) Layout(ctx context.Context) (Layout, error) {
	if !b.Clustered() {
		return nil, nil
	}
	var layout Layout
	for _, name := range streamNames() {
		within, cancel := context.WithTimeout(ctx, lookUpWait)
		stream, err := b.JS.Stream(within, name)
		cancel()
		p := Placed{Stream: name}
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			layout = append(layout, p) // nobody answers for it
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look up stream %s: %w", name, err)
		}
		if c := stream.CachedInfo().Cluster; c != nil {
			p.Leader = c.Leader
			for _, r := range c.Replicas {
				if r.Current && !r.Offline {
					p.Current = append(p.Current, r.Name)
				} else {
					p.Behind = append(p.Behind, r.Name)
				}
			}
		}
		layout = append(layout, p)
	}
	return layout, nil
}

// Whole reports whether every stream has a leader and so many copies in all, and
// every copy is up to date.
func (l Layout) Whole(copies int) bool {
	for _, p := range l {
		if p.Leader == "" || len(p.Behind) > 0 || len(p.Current)+1 < copies {
			return false
		}
	}
	return len(l) > 0
}

// Busy is the server that running jobs need most, "" while there is none.
func (l Layout) Busy() string { return l.leader(streamResults) }

// Spread reports whether every leader is where it should be.
func (l Layout) Spread() bool { return len(l.moves()) == 0 }

// move is a change of a stream's leader.
type move struct{ stream, from, to string }

// moves are the changes of leaders that make the layout what it should be. Only a
// stream whose copies are all up to date moves, so that it never gets worse.
func (l Layout) moves() []move {
	leads := make(map[string]int)
	for _, p := range l {
		leads[p.Leader]++
		for _, name := range slices.Concat(p.Current, p.Behind) {
			leads[name] += 0
		}
	}
	delete(leads, "")
	servers := slices.Sorted(maps.Keys(leads))
	hot := l.Busy()
	var out []move
	// Those that must move come first; the others make up for it.
	for _, p := range slices.SortedStableFunc(slices.Values(l), func(a, b Placed) int { return rank(a.Stream) - rank(b.Stream) }) {
		if p.Leader == "" || len(p.Behind) > 0 || len(p.Current) == 0 {
			continue
		}
		to, least := "", leads[p.Leader]-1 // a move to one with as many after it is none
		for _, name := range servers {
			if slices.Contains(p.Current, name) && leads[name] < least {
				to, least = name, leads[name]
			}
		}
		switch p.Stream {
		case streamResults:
			continue
		case streamTasks:
			if to = ""; hot != p.Leader && slices.Contains(p.Current, hot) {
				to = hot
			}
		case streamLease:
			if to == "" && hot == p.Leader {
				to = slices.MinFunc(p.Current, func(a, b string) int { return cmp.Or(leads[a]-leads[b], strings.Compare(a, b)) })
			}
			if to == hot {
				to = ""
			}
		}
		if to == "" {
			continue
		}
		leads[p.Leader]--
		leads[to]++
		out = append(out, move{p.Stream, p.Leader, to})
	}
	return out
}

func rank(stream string) int {
	switch stream {
	case streamResults, streamTasks:
		return 0
	case streamLease:
		return 1
	}
	return 2
}

func (l Layout) leader(stream string) string {
	for _, p := range l {
		if p.Stream == stream {
			return p.Leader
		}
	}
	return ""
}

// stepDownWait bounds the wait for a leader to hand over.
const stepDownWait = 5 * time.Second

// spread moves leaders as [Layout.moves] says, and the leaders of the jobs' queues
// to where the tasks are. It returns how many it moved. A stream is handed over
// within milliseconds.
func (b *Broker) spread(ctx context.Context, layout Layout) (moved int, err error) {
	for _, m := range layout.moves() {
		if err := b.stepDown(ctx, apiStepDown+m.stream, m.to); err != nil {
			return moved, fmt.Errorf("have server %s lead stream %s: %w", m.to, m.stream, err)
		}
		moved++
	}
	if moved > 0 {
		return moved, nil // the queues follow the next time
	}
	stream, err := b.JS.Stream(ctx, streamTasks)
	if err != nil {
		return 0, fmt.Errorf("look up stream %s: %w", streamTasks, err)
	}
	home := layout.leader(streamTasks)
	queues := stream.ListConsumers(ctx)
	for info := range queues.Info() {
		c := info.Cluster
		if home == "" || c == nil || c.Leader == "" || c.Leader == home {
			continue
		}
		if !slices.ContainsFunc(c.Replicas, func(r *jetstream.PeerInfo) bool { return r.Name == home && r.Current && !r.Offline }) {
			continue
		}
		if err := b.stepDown(ctx, apiStepDownQueue+streamTasks+"."+info.Name, home); err != nil {
			return moved, fmt.Errorf("have server %s lead queue %s: %w", home, info.Name, err)
		}
		moved++
	}
	return moved, queues.Err()
}

// stepDown has the leader behind an API subject hand over to another server.
func (b *Broker) stepDown(ctx context.Context, subject, to string) error {
	type placement struct {
		Preferred string `json:"preferred"`
	}
	request, err := json.Marshal(struct {
		Placement placement `json:"placement"`
	}{placement{to}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stepDownWait)
	defer cancel()
	reply, err := b.NC.RequestWithContext(ctx, subject, request)
	if err != nil {
		return err
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return answer.Error
	}
	return nil
}
