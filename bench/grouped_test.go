//go:build unix

package bench_test

import (
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"idunno/bench/chaos"
	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/client"
	"idunno/coordinator/cluster"
	"idunno/models"
	"idunno/models/dataset"
	"idunno/models/zoo"
	"idunno/objectstore"
)

const (
	// A job of so many batches, so many times over; its tasks have one each.
	smallBatches, smallRounds = 200, 4
	// groupedSeen is how many results must have been stored in groups before workers are
	// to be caught with some.
	groupedSeen = 30
)

// storing is a cluster of real processes, the workers behind proxies, whose many small
// results share durable writes.
type storing struct {
	t       *testing.T
	ctx     context.Context
	l       *cluster.Local
	api     *client.Client
	files   *objectstore.Store
	alone   map[int]*models.Prediction
	proxies map[string]*chaos.Proxy
	jobs    int

	mu   sync.Mutex
	seen map[uint64]map[int]string // nodes of stored results, by job and task
	// shared are those that were in a group.
	shared map[uint64]map[int]bool
}

func newStoring(t *testing.T) *storing {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &storing{t: t, ctx: ctx, proxies: make(map[string]*chaos.Proxy), seen: make(map[uint64]map[int]string), shared: make(map[uint64]map[int]bool)}
	t.Cleanup(func() {
		for _, p := range s.proxies {
			p.Close()
		}
	})
	s.l, err = cluster.Start(ctx, cluster.Config{Program: program, Store: t.TempDir(), Port: -1, Workers: 2, ServerFor: s.through, Log: t.Output()})
	s.must(err)
	t.Cleanup(s.l.Stop)
	s.api = client.New(s.l.Broker())
	s.files, err = cluster.OpenStore(ctx, s.l.Broker())
	s.must(err)
	set, err := dataset.MNISTTest()
	s.must(err)
	_, err = cluster.StoreSet(ctx, s.files, set, cluster.BatchSize, nil)
	s.must(err)
	s.alone, err = cluster.RunAlone(ctx, zoo.MLP(), set, cluster.BatchSize, 1, smallBatches, 2, nil)
	s.must(err)
	stop, err := s.l.Broker().FollowResults(ctx, 1, s.see)
	s.must(err)
	t.Cleanup(stop)
	return s
}

func (s *storing) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// through puts a proxy before a worker.
func (s *storing) through(name, url string) string {
	if name == "coordinator-1" {
		return url
	}
	if s.proxies[name] == nil {
		p, err := chaos.NewProxy(url)
		s.must(err)
		s.proxies[name] = p
	}
	return s.proxies[name].URLs()
}

// see notes a stored result. A task has one, for ever.
func (s *storing) see(_ context.Context, m *broker.Stored) {
	if m == nil {
		return
	}
	job, task, _ := broker.TaskOfResult(m.Subject)
	r := wire.ReceiveResult(job, task, m.Data)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen[job] == nil {
		s.seen[job], s.shared[job] = make(map[int]string), make(map[int]bool)
	}
	if first := s.seen[job][task]; first != "" {
		s.t.Errorf("job %d task %d was stored twice, first by %s, then by %s", job, task, first, r.Node)
	}
	s.seen[job][task], s.shared[job][task] = r.Node, m.Group != ""
}

// stored counts the results of a job that a node has stored, or with "" all nodes, and
// those of them that were in a group.
func (s *storing) stored(job uint64, node string) (n, grouped int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for task, by := range s.seen[job] {
		if node != "" && by != node {
			continue
		}
		n++
		if s.shared[job][task] {
			grouped++
		}
	}
	return n, grouped
}

// over reports whether a job has all results.
func (s *storing) over(job uint64) bool {
	n, _ := s.stored(job, "")
	return n == smallBatches*smallRounds
}

func (s *storing) until(what string, holds func() bool) {
	s.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			s.t.Fatalf("not in time: %s", what)
		}
	}
}

// submit submits a job of a model that nobody knows yet, so that its tasks have a batch
// each. It is the same model under another digest.
func (s *storing) submit() uint64 {
	s.t.Helper()
	s.jobs++
	name := "small-" + strconv.Itoa(s.jobs)
	const docString = 6<<3 | 2 // a field of the model that says nothing to the engine
	_, err := cluster.StoreModel(s.ctx, s.files, name, slices.Concat(zoo.MLP(), []byte{docString, byte(len(name))}, []byte(name)))
	s.must(err)
	sub, err := s.api.Submit(s.ctx, fmt.Appendf(nil, `{"model":%q,"from":1,"to":%d,"rounds":%d}`, name, smallBatches, smallRounds))
	s.must(err)
	return sub.Job
}

// node is what the cluster knows of a node.
func (s *storing) node(name string) (n wire.Node) {
	if reply, err := s.api.Nodes(s.ctx); err == nil {
		for _, n := range reply.Nodes {
			if n.Node == name {
				return n
			}
		}
	}
	return n
}

// caught submits a job and has nodes heard and not hear. It returns when they hold
// results that are stored, in groups, and that they can't know of. When they were given
// up before that, it does so again with another job. Before a job it calls first.
func (s *storing) caught(first func(), names ...string) (job uint64) {
	s.t.Helper()
	for range 20 {
		first()
		job = s.submit()
		s.until("results are stored in groups", func() bool {
			_, grouped := s.stored(job, names[0])
			return grouped >= groupedSeen || s.over(job)
		})
		s.hear(chaos.CutToNode, names...)
		deaf, held := time.Now(), 0
		s.until("results are stored that their workers don't know of, or all are", func() bool {
			held = 0
			for _, name := range names {
				held += s.held(name, deaf)
			}
			return held > 0 || s.over(job)
		})
		if held > 0 {
			return job
		}
		s.hear(chaos.CutNone, names...)
		s.whole(job, "nobody was caught")
		for _, name := range names {
			s.idle(name)
		}
	}
	s.t.Fatal("twenty jobs ended before a worker was caught between store and acknowledgement")
	return 0
}

func (s *storing) hear(cut chaos.Cut, names ...string) {
	for _, name := range names {
		s.proxies[name].Set(cut)
	}
}

// held counts the results of groups that a node has stored and not acknowledged, as it
// says itself after a moment.
func (s *storing) held(name string, after time.Time) (n int) {
	node := s.node(name)
	if !node.Seen.After(after) {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range node.InFlight {
		if s.shared[f.Job][f.Task] && s.seen[f.Job][f.Task] == name {
			n++
		}
	}
	return n
}

// idle waits until a node says that it has nothing in hand, and returns the number of
// batches that it has computed.
func (s *storing) idle(name string) int64 {
	s.t.Helper()
	var n wire.Node
	now := time.Now()
	s.until(name+" has nothing in hand", func() bool {
		n = s.node(name)
		return n.State == wire.NodeAlive && n.Seen.After(now) && len(n.InFlight) == 0
	})
	return n.Batches
}

func (s *storing) kill(name string) {
	s.t.Helper()
	_, err := s.l.Kill(name)
	s.must(err)
}

// whole waits for the end of a job and compares its results with the model alone, bit
// for bit.
func (s *storing) whole(job uint64, what string) {
	s.t.Helper()
	stats, err := s.api.Wait(s.ctx, job, nil)
	if err != nil || stats.State != wire.StateDone {
		s.t.Fatalf("%s: job %d ended as %+v, %v", what, job, stats, err)
	}
	rounds, tasks := make(map[int]int), make(map[int]bool)
	err = s.api.Results(s.ctx, job, func(r *wire.Result) error {
		if tasks[r.Task] {
			s.t.Errorf("%s: task %d has two results", what, r.Task)
		}
		tasks[r.Task] = true
		for i := range r.Batches {
			b := &r.Batches[i]
			rounds[b.Batch]++
			p := s.alone[b.Batch]
			same := p != nil && slices.Equal(b.Class, p.Class) && slices.EqualFunc(b.Prob, p.Prob, func(x, y float32) bool {
				return math.Float32bits(x) == math.Float32bits(y)
			})
			if !same {
				s.t.Errorf("%s: task %d, batch %d differs from the model alone", what, r.Task, b.Batch)
			}
		}
		return nil
	})
	s.must(err)
	for batch := 1; batch <= smallBatches; batch++ {
		if rounds[batch] != smallRounds {
			s.t.Errorf("%s: batch %d has %d of %d results", what, batch, rounds[batch], smallRounds)
		}
	}
	s.until("all results were seen", func() bool { return s.over(job) })
	n, grouped := s.stored(job, "")
	s.t.Logf("%s: %d results, %d of them shared a durable write", what, n, grouped)
}

// Whoever stores results in groups dies between the durable write and the word of it:
// every task has one result, the bytes of the model alone, and what was stored isn't
// computed again.
func TestGroupedWritersDie(t *testing.T) {
	s := newStoring(t)

	var before int64
	job := s.caught(func() { before = s.idle("worker-2") }, "worker-1")
	s.kill("worker-1")
	known, _ := s.stored(job, "worker-1")
	s.whole(job, "a worker killed that had stored and not acknowledged")
	computed := s.idle("worker-2") - before
	// Results that were still on their way to the disk may be computed again, and the one
	// task that was last heard to be in computation.
	own, _ := s.stored(job, "worker-2")
	all, _ := s.stored(job, "worker-1")
	if late := all - known; computed > int64(own+late+1) {
		t.Errorf("worker-2 computed %d batches for %d results, and %d of the dead one came late: what that had stored was computed again", computed, own, late)
	}
	s.must(s.l.Restart(s.ctx, "worker-1"))
	s.hear(chaos.CutNone, "worker-1")
	s.idle("worker-1")

	job = s.caught(func() {}, "worker-1", "worker-2")
	s.kill("broker")
	s.hear(chaos.CutNone, "worker-1", "worker-2")
	s.must(s.l.Restart(s.ctx, "broker"))
	s.whole(job, "the server killed that had stored and not said so")

	job = s.submit()
	s.until("results are stored", func() bool { n, _ := s.stored(job, ""); return n >= 200 })
	s.kill("broker") // with groups on their way
	s.must(s.l.Restart(s.ctx, "broker"))
	s.whole(job, "the server killed under load")
}
