package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A stream's leader is the server that answers for it. When it dies the others
// elect a new one, which takes them 4 to 9 seconds, and until then nobody can use
// the stream. So leaders are spread over the servers: the death of one stops a
// part, and work that is under way needs no other.

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

// Layout asks where everything is kept. Of a server alone it returns nothing.
func (b *Broker) Layout(ctx context.Context) (Layout, error) {
	if !b.Clustered() {
		return nil, nil
	}
	var layout Layout
	for _, name := range streamNames() {
		stream, err := b.JS.Stream(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("look up stream %s: %w", name, err)
		}
		p := Placed{Stream: name}
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

// move is a change of a stream's leader.
type move struct{ stream, from, to string }

// moves are the changes that spread the leaders evenly. Only a stream whose copies
// are all up to date moves, so that spreading never makes anything worse.
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
	var out []move
	for _, p := range l {
		if p.Leader == "" || len(p.Behind) > 0 {
			continue
		}
		to := p.Leader
		for _, name := range servers {
			if slices.Contains(p.Current, name) && leads[name] < leads[to] {
				to = name
			}
		}
		if leads[p.Leader]-leads[to] < 2 {
			continue
		}
		leads[p.Leader]--
		leads[to]++
		out = append(out, move{p.Stream, p.Leader, to})
	}
	return out
}

// stepDownWait bounds the wait for a leader to hand over.
const stepDownWait = 5 * time.Second

// Spread moves stream leaders so that every server has about as many, and returns
// how many it moved. A stream is handed over within milliseconds.
func (b *Broker) Spread(ctx context.Context) (moved int, err error) {
	layout, err := b.Layout(ctx)
	if err != nil {
		return 0, err
	}
	for _, m := range layout.moves() {
		if err := b.stepDown(ctx, m); err != nil {
			return moved, err
		}
		moved++
	}
	return moved, nil
}

// stepDown has a stream's leader hand over to another server.
func (b *Broker) stepDown(ctx context.Context, m move) error {
	type placement struct {
		Preferred string `json:"preferred"`
	}
	request, err := json.Marshal(struct {
		Placement placement `json:"placement"`
	}{placement{m.to}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stepDownWait)
	defer cancel()
	reply, err := b.NC.RequestWithContext(ctx, apiStepDown+m.stream, request)
	if err != nil {
		return fmt.Errorf("move stream %s to server %s: %w", m.stream, m.to, err)
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return fmt.Errorf("move stream %s to server %s: %w", m.stream, m.to, err)
	}
	if answer.Error != nil {
		return fmt.Errorf("move stream %s to server %s: %w", m.stream, m.to, answer.Error)
	}
	return nil
}
