package coordinator_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
	"idunno/broker/brokertest"
	"idunno/broker/wire"
)

// leads waits until the coordinator of that name leads.
func (r *rig) leads(name string) {
	r.t.Helper()
	var reply *wire.NodesReply
	var err error
	if !r.poll(func() bool {
		reply, err = r.c.Nodes(r.ctx)
		return err == nil && reply.Leader == name
	}) {
		r.t.Fatalf("%s never leads: %+v, %v", name, reply, err)
	}
}

// settled is how long a node must have been there until it has heard of the others.
const settled = 500 * time.Millisecond

// present waits until a node is alive in the list, and has been for a moment.
func (r *rig) present(name string) {
	r.t.Helper()
	var reply *wire.NodesReply
	var err error
	if !r.poll(func() bool {
		reply, err = r.c.Nodes(r.ctx)
		return err == nil && slices.ContainsFunc(reply.Nodes, func(n wire.Node) bool {
			return n.Node == name && n.State == wire.NodeAlive && time.Since(n.Since) > settled
		})
	}) {
		r.t.Fatalf("%s never joins: %+v, %v", name, reply, err)
	}
}

// patient makes the ack wait of a job's queue so long that nothing can be due to it.
func (r *rig) patient(job uint64) {
	r.t.Helper()
	queue, err := r.b.Consumer(r.ctx, r.queueOf(job))
	r.must(err)
	info := queue.CachedInfo()
	info.Config.AckWait = time.Hour
	_, err = r.b.JS.UpdateConsumer(r.ctx, info.Stream, info.Config)
	r.must(err)
}

// worker is a node on a connection of its own that says that it computes a task.
func (r *rig) worker(name string, held ...wire.InFlight) (die func()) {
	b := brokertest.Connect(r.t, r.url)
	ctx, cancel := context.WithCancel(r.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = broker.Announce(ctx, b, nil, func() wire.Heartbeat {
			return wire.Heartbeat{Schema: wire.Schema, Node: name, Role: wire.RoleWorker, Incarnation: 1, Slots: 1, InFlight: held}
		})
	}()
	die = func() {
		b.NC.Close() // no word of farewell gets out any more
		cancel()
		<-done
	}
	r.t.Cleanup(die)
	return die
}

// The lease of a leader whose connection closed is taken over while it lasts.
func TestDeadLeadersLeaseIsNotWaitedFor(t *testing.T) {
	r := newRig(t)
	b := brokertest.Connect(t, r.url)
	r.coordinatorOn(b, "c1")
	r.leads("c1")
	r.coordinator("c2")
	r.present("c2")
	bucket, err := r.b.Lease(r.ctx)
	r.must(err)
	watch, err := bucket.Watch(r.ctx, broker.KeyLeader)
	r.must(err)
	defer func() { _ = watch.Stop() }()
	var before jetstream.KeyValueEntry
	for e := range watch.Updates() {
		switch {
		case e == nil:
			b.NC.Close() // the leader's entry has been seen
		case e.Operation() != jetstream.KeyValuePut:
			t.Fatalf("the lease was given up: %v", e.Operation())
		case before != nil && string(before.Value()) != string(e.Value()):
			if age := e.Created().Sub(before.Created()); age >= broker.LeaseTTL || e.Revision() <= before.Revision() {
				t.Fatalf("taken over %v after it was renewed last, when it had expired", age)
			}
			r.leads("c2")
			return
		default:
			before = e
		}
	}
}

// What a worker held that died while nobody led is handed on by the next leader.
func TestWorkerThatDiesWithTheLeader(t *testing.T) {
	r := newRig(t)
	b := brokertest.Connect(t, r.url)
	r.coordinatorOn(b, "c1")
	job := r.submit(1, 2)
	msg, task := r.pull(job)
	r.patient(job)
	die := r.worker("w1", wire.InFlight{Job: job, Task: task.Task, Reply: msg.Reply()})
	r.present("w1")
	r.coordinator("c2")
	r.present("c2")
	b.NC.Close()
	die()
	r.leads("c2")
	r.work(job, 2, "another")
	if s := r.wait(job, ended); s.State != wire.StateDone || s.Batches != 2 {
		t.Fatalf("summary %+v", s)
	}
}

// A task that its worker computed when it died goes to a worker that lives, not
// through the queue.
func TestTaskInComputationIsRescued(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	job := r.submit(1, 2)
	msg, task := r.pull(job)
	r.patient(job)
	die := r.worker("w1", wire.InFlight{Job: job, Task: task.Task, Reply: msg.Reply(), Started: true})
	r.worker("w2")
	r.present("w1")
	r.present("w2")
	rescued := make(chan *wire.Rescue, 1)
	stop, err := r.b.Listen(broker.SubjectRescue("w2"), func(m *broker.Message) {
		if rescue, err := wire.ParseRescue(m.Data); err == nil {
			rescued <- rescue
			_ = m.Respond([]byte(wire.RescueTaken))
		}
	})
	r.must(err)
	defer stop()
	r.must(r.b.NC.Flush())
	die()
	got := <-rescued
	if got.Task.Job != job || got.Task.Task != task.Task || got.Task.From != task.From || got.Reply != msg.Reply() || !got.Task.Check {
		t.Fatalf("rescue %+v of %+v", got, got.Task)
	}
	r.must(r.answer(got.Task, "w2"))
	d, err := r.b.Adopt(got.Reply, nil)
	r.must(err)
	r.must(d.Ack())
	r.work(job, 1, "w2")
	r.wait(job, ended)
	r.emptied(job)
}

// A rescue that nobody takes goes back to the queue.
func TestRescueThatNobodyTakes(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	job := r.submit(1, 1)
	msg, task := r.pull(job)
	r.patient(job)
	die := r.worker("w1", wire.InFlight{Job: job, Task: task.Task, Reply: msg.Reply(), Started: true})
	r.worker("w2") // listens to no rescues
	r.present("w1")
	r.present("w2")
	die()
	r.work(job, 1, "another")
	r.wait(job, ended)
}

// Without a broker that tells of closed connections the node's own subject tells.
func TestDeadNodeIsFoundWithoutTheServersWord(t *testing.T) {
	r := newRigOn(t, brokertest.StartQuiet(t))
	r.coordinator("c1")
	job := r.submit(1, 1)
	msg, task := r.pull(job)
	r.patient(job)
	die := r.worker("w1", wire.InFlight{Job: job, Task: task.Task, Reply: msg.Reply()})
	r.present("w1")
	die()
	r.work(job, 1, "another")
	r.wait(job, ended)
	reply, err := r.c.Nodes(r.ctx)
	r.must(err)
	for _, n := range reply.Nodes {
		// Silence alone would take longer.
		if n.Node == "w1" && (n.State != wire.NodeDead || n.Since.Sub(n.Seen) >= 1500*time.Millisecond) {
			t.Errorf("%s %v after its last heartbeat", n.State, n.Since.Sub(n.Seen))
		}
	}
}
