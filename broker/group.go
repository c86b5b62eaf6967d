package broker

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A server that syncs every write to disk stores some thousand messages a second,
// however many wait. So results that wait for the disk at the same time are written
// together, with one sync: as the server's atomic batch, in which each result is a
// message of its own, under its task's subject, refused when there is one already.
// What there is when the write before ends is the next write. Nobody waits for others
// to come, but for a moment after a batch: where results come so fast, the next ones
// are about to.
//
// The batch is all or nothing: a single result that is there already has it
// refused, and each is stored by itself then. That, and not the batch, is what makes
// a result the first; the batch only saves syncs.
const (
	// groupLeast is from how many results on a batch is worth its cost. The server writes
	// one down twice, and syncs some files of its own, while all others wait: of many
	// workers none may make small ones. A broker, which stores for all, may from
	// sharedLeast on.
	groupLeast  = 64
	sharedLeast = 8
	// groupMost and groupBytes bound a batch. The server takes a thousand messages.
	groupMost  = 512
	groupBytes = 8 << 20
	// groupWait bounds the wait for the answer to a write.
	groupWait = 5 * time.Second
	// groupGather is how long after a batch others are waited for, until there are
	// groupEnough: one costs about 2 ms of computing, and 20 µs more for each result.
	groupGather = 30 * time.Millisecond
	groupEnough = 128
	// groupPause is how long nothing is grouped after the server refused a batch for
	// another reason than a result in it.
	groupPause = 5 * time.Second
)

// Headers of a batch's messages.
const (
	headerBatch    = "Nats-Batch-Id"
	headerBatchSeq = "Nats-Batch-Sequence"
	headerCommit   = "Nats-Batch-Commit"
)

// storing is a result on its way to the disk.
type storing struct {
	subject string
	data    []byte
	// done is called once, with the outcome.
	done func(error)
	// after are results of the same task that came while this one was on its way, first
	// is the one that it came after itself.
	after []*storing
	first *storing
	// left says that the outcome is of no interest to whoever handed it in, over that it
	// is to nobody any more: it need not be written.
	left bool
	over atomic.Bool
	// write is the write that it is part of, nil while it waits; few says that it was
	// too small for a batch.
	write *groupWrite
	few   bool
}

// groupWrite is a write under way. It ends when nobody waits for it any more: the
// answer may have got lost with the connection.
type groupWrite struct {
	cancel  context.CancelFunc
	waiting int
}

// grouper writes results, one write at a time.
type grouper struct {
	b *Broker
	// stored is told how many results each write had; may be nil.
	stored func(n int)

	mu      sync.Mutex
	waiting []*storing
	writing bool
	// onWay are the results that wait or are being written, by subject.
	onWay map[string]*storing
	// least is from how many results on they are written together, wait bounds the wait
	// for the answer to a write; 0 means groupLeast and groupWait.
	least int
	wait  time.Duration
	// until is the end of a pause in grouping.
	until time.Time
	// batched is when the last batch was written; enough is told when as many wait as
	// the next one takes.
	batched time.Time
	enough  chan struct{}
}

// add has a result written and calls done with the outcome. One of a task that has
// another one on its way, mostly the same handed in again, waits for that one: in a batch
// two would have all refused.
func (g *grouper) add(subject string, data []byte, done func(error)) *storing {
	s := &storing{subject: subject, data: data, done: done}
	g.mu.Lock()
	defer g.mu.Unlock()
	if first := g.onWay[subject]; first != nil && (first.write != nil || !first.over.Load()) {
		s.first = first
		first.after = append(first.after, s)
		return s
	}
	if g.onWay == nil {
		g.onWay, g.enough = make(map[string]*storing), make(chan struct{}, 1)
	}
	g.onWay[subject] = s
	g.waiting = append(g.waiting, s)
	if !g.writing {
		g.writing = true
		go g.run()
	}
	if len(g.waiting) == groupEnough {
		select {
		case g.enough <- struct{}{}:
		default:
		}
	}
	return s
}

// leave says that the outcome is of no interest any more.
func (g *grouper) leave(s *storing) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.left = true
	if s.first != nil {
		s = s.first
	}
	if !s.left || slices.ContainsFunc(s.after, func(s *storing) bool { return !s.left }) {
		return
	}
	if s.over.Swap(true) || s.write == nil {
		return
	}
	if s.write.waiting--; s.write.waiting == 0 {
		s.write.cancel()
	}
}

// settle tells the outcome of a result to all who wait for it.
func (g *grouper) settle(s *storing, err error) {
	g.mu.Lock()
	g.forget(s)
	after := s.after
	g.mu.Unlock()
	s.done(err)
	for _, a := range after {
		if err == nil && !bytes.Equal(a.data, s.data) {
			a.done(ErrExists)
			continue
		}
		a.done(err)
	}
}

// forget makes room for another result of the task. Call it locked.
func (g *grouper) forget(s *storing) {
	if g.onWay[s.subject] == s {
		delete(g.onWay, s.subject)
	}
}

// store is add and the wait for the outcome. Few says that neither the write was a
// batch nor the next one will be.
func (g *grouper) store(ctx context.Context, subject string, data []byte) (few bool, err error) {
	done := make(chan error, 1)
	s := g.add(subject, data, func(err error) { done <- err })
	select {
	case err := <-done:
		return s.few && g.few(), err
	case <-ctx.Done():
		g.leave(s)
		return false, context.Cause(ctx)
	}
}

// batch is the least number of results that are written together. Call it locked.
func (g *grouper) batch() int { return cmp.Or(g.least, groupLeast) }

// few reports whether what waits is too little for a batch.
func (g *grouper) few() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting) < g.batch()
}

// gather waits for a moment after a batch until there are enough results for another.
func (g *grouper) gather() {
	select {
	case <-g.enough: // of before
	default:
	}
	g.mu.Lock()
	left, enough := groupGather-time.Since(g.batched), len(g.waiting) >= groupEnough
	g.mu.Unlock()
	if left <= 0 || enough {
		return
	}
	late := time.NewTimer(left)
	defer late.Stop()
	select {
	case <-g.enough:
	case <-late.C:
	}
}

// run writes until nothing waits.
func (g *grouper) run() {
	for {
		g.gather()
		ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(g.wait, groupWait))
		list, grouped := g.next(cancel)
		if len(list) == 0 {
			cancel()
			return
		}
		g.write(ctx, list, grouped)
		cancel()
	}
}

// next takes what is to be written now; nothing ends the writer.
func (g *grouper) next(cancel context.CancelFunc) (list []*storing, grouped bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	write, size, taken := &groupWrite{cancel: cancel}, 0, 0
	for _, s := range g.waiting {
		if len(list) > 0 && (len(list) == groupMost || size+len(s.data) > groupBytes) {
			break
		}
		if taken++; s.over.Load() {
			g.forget(s)
			continue
		}
		s.write = write
		list, size = append(list, s), size+len(s.data)
	}
	g.waiting = g.waiting[taken:]
	if len(g.waiting) == 0 {
		g.waiting = nil
	}
	write.waiting = len(list)
	g.writing = len(list) > 0
	grouped = len(list) >= g.batch() && time.Now().After(g.until)
	for _, s := range list {
		s.few = !grouped
	}
	return list, grouped
}

func (g *grouper) write(ctx context.Context, list []*storing, grouped bool) {
	if grouped {
		err := g.b.publishBatch(ctx, list)
		if err == nil {
			g.mu.Lock()
			g.batched = time.Now()
			g.mu.Unlock()
			if g.stored != nil {
				g.stored(len(list))
			}
			for _, s := range list {
				g.settle(s, nil)
			}
			return
		}
		if !IsExists(err) && ctx.Err() == nil {
			// Too many batches at a time, a server that knows none: each by itself works
			// there too, and tells what is wrong with it.
			g.mu.Lock()
			g.until = time.Now().Add(groupPause)
			g.mu.Unlock()
		}
	}
	g.each(ctx, list)
}

// each writes results one by one.
func (g *grouper) each(ctx context.Context, list []*storing) {
	var group sync.WaitGroup
	for _, s := range list {
		if s.over.Load() {
			g.settle(s, errLeft)
			continue
		}
		group.Go(func() {
			_, err := g.b.JS.Publish(ctx, s.subject, s.data)
			if g.stored != nil && err == nil {
				g.stored(1)
			}
			g.settle(s, err)
		})
	}
	group.Wait()
}

// errLeft is the outcome of a result that nobody waited for any more.
var errLeft = errors.New("given up before it was written")

// errNoBatch is returned by a server that took the messages of a batch for others.
var errNoBatch = errors.New("the server knows no batches")

// publishBatch stores results durably, all or none. It returns an error for which
// [IsExists] is true when one of them is there already.
func (b *Broker) publishBatch(ctx context.Context, list []*storing) error {
	id := rand.Text()
	message := func(i int) *nats.Msg {
		return &nats.Msg{Subject: list[i].subject, Data: list[i].data,
			Header: nats.Header{headerBatch: {id}, headerBatchSeq: {strconv.Itoa(i + 1)}}}
	}
	last := len(list) - 1
	for i := range last {
		if err := b.NC.PublishMsg(message(i)); err != nil {
			return fmt.Errorf("store %d results: %w", len(list), err)
		}
	}
	m := message(last)
	m.Header[headerCommit] = []string{"1"}
	reply, err := b.NC.RequestMsgWithContext(ctx, m)
	if err != nil {
		return fmt.Errorf("store %d results: %w", len(list), err)
	}
	var ack struct {
		Error *jetstream.APIError `json:"error"`
		Batch string              `json:"batch"`
		Count int                 `json:"count"`
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return fmt.Errorf("store %d results: %w", len(list), err)
	}
	switch {
	case ack.Error != nil:
		return fmt.Errorf("store %d results: %w", len(list), ack.Error)
	case ack.Batch != id || ack.Count != len(list):
		return errNoBatch
	}
	return nil
}
