package coordinator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"idunno/broker"
	"idunno/broker/brokertest"
	"idunno/broker/wire"
	"idunno/coordinator"
	"idunno/coordinator/client"
	"idunno/objectstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, brokertest.Leaks()...) }

// rig is a broker with a model and a data set of ten batches.
type rig struct {
	t   *testing.T
	ctx context.Context
	url string
	b   *broker.Broker
	c   *client.Client
}

func newRig(t *testing.T) *rig { return newRigOn(t, brokertest.Start(t)) }

func newRigOn(t *testing.T, url string) *rig {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	b := brokertest.Connect(t, url)
	if err := b.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, ctx: ctx, url: url, b: b, c: client.New(b)}
	objects, index, err := b.Files(ctx)
	r.must(err)
	files := objectstore.Open(objects, index)
	_, err = files.Put(ctx, "models/net", strings.NewReader("a model; the coordinator never looks inside"))
	r.must(err)
	var parts []objectstore.Object
	for i := range 10 {
		o, err := files.PutObject(ctx, bytes.NewReader([]byte{byte(i)}))
		r.must(err)
		parts = append(parts, o)
	}
	manifest, err := json.Marshal(map[string]any{"objects": parts})
	r.must(err)
	_, err = files.PutBundle(ctx, "data/set", manifest)
	r.must(err)
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// coordinator starts a coordinator and returns what stops it in order.
func (r *rig) coordinator(name string) (stop func()) {
	return r.coordinatorOn(brokertest.Connect(r.t, r.url), name)
}

// coordinatorOn is coordinator on a connection.
func (r *rig) coordinatorOn(b *broker.Broker, name string) (stop func()) {
	return r.coordinatorWith(coordinator.Config{Broker: b, Name: name, Version: "1.2.3"})
}

// coordinatorWith is coordinator with a configuration, whose connection it closes.
func (r *rig) coordinatorWith(cfg coordinator.Config) (stop func()) {
	b, name := cfg.Broker.(interface{ Close() }), cfg.Name
	ctx, cancel := context.WithCancel(r.ctx)
	done := make(chan error, 1)
	go func() { done <- coordinator.Run(ctx, cfg) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("coordinator %s: %v", name, err)
		}
		b.Close()
	}
	r.t.Cleanup(stop)
	return stop
}

func (r *rig) submit(from, to int) uint64 {
	r.t.Helper()
	s, err := r.c.Submit(r.ctx, fmt.Appendf(nil, `{"model":"net","data":"set","from":%d,"to":%d}`, from, to))
	r.must(err)
	return s.Job
}

// pull takes the next task of a job as a worker does.
func (r *rig) pull(job uint64) (jetstream.Msg, *wire.Task) {
	r.t.Helper()
	for r.ctx.Err() == nil {
		// An error says that the queue isn't open yet, or the server away: again.
		queue, err := r.b.Consumer(r.ctx, r.queueOf(job))
		if err != nil {
			continue
		}
		batch, err := queue.Fetch(1, jetstream.FetchMaxWait(time.Second))
		if err != nil {
			continue
		}
		if msg, ok := <-batch.Messages(); ok {
			task, err := wire.ParseTask(msg.Data())
			r.must(err)
			return msg, task
		}
	}
	r.t.Fatal("no task came")
	return nil, nil
}

// queueOf is where the table of active jobs says that a job's tasks are, "" when it doesn't.
func (r *rig) queueOf(job uint64) string {
	state, err := r.b.State(r.ctx)
	if err != nil {
		return ""
	}
	entry, err := state.Get(r.ctx, broker.KeyActive)
	if err != nil {
		return ""
	}
	var table wire.ActiveJobs
	r.must(json.Unmarshal(entry.Value(), &table))
	for _, j := range table.Jobs {
		if j.Job == job {
			return j.Queue
		}
	}
	return ""
}

// answer stores a task's result: one image a batch, every other one right.
func (r *rig) answer(task *wire.Task, node string) error {
	res := &wire.Result{Schema: wire.Schema, Job: task.Job, Task: task.Task, From: task.From, To: task.To, Node: node, Attempt: 1, Started: time.Now()}
	for n := task.From; n <= task.To; n++ {
		res.Batches = append(res.Batches, wire.BatchResult{Batch: n, Images: 1, Labeled: true, Correct: n % 2, LossSum: 0.5,
			Nanos: int64(n) * int64(time.Millisecond), Class: []int32{1}, Prob: []float32{0.5}, Labels: []int32{int32(n % 2)}})
	}
	return r.b.StoreResult(r.ctx, task.Job, task.Task, res.Marshal())
}

// work carries out n tasks of a job.
func (r *rig) work(job uint64, n int, node string) {
	r.t.Helper()
	for range n {
		msg, task := r.pull(job)
		if err := r.answer(task, node); err != nil && !errors.Is(err, broker.ErrExists) {
			r.t.Fatal(err)
		}
		r.must(msg.Ack())
	}
}

// look is how often tests look whether what they wait for is there.
const look = 2 * time.Millisecond

// poll waits until ok says so, and reports false when that takes too long.
func (r *rig) poll(ok func() bool) bool {
	for !ok() {
		select {
		case <-r.ctx.Done():
			return false
		case <-time.After(look):
		}
	}
	return true
}

func (r *rig) wait(job uint64, done func(*wire.JobStats) bool) *wire.JobStats {
	r.t.Helper()
	var reply *wire.JobReply
	var err error
	if !r.poll(func() bool {
		reply, err = r.c.Job(r.ctx, job)
		return err == nil && done(reply.Stats)
	}) {
		r.t.Fatalf("job %d does not get there: %+v, %v", job, reply, err)
	}
	return reply.Stats
}

func ended(s *wire.JobStats) bool { return s.State.Ended() }

func TestJobFromSubmissionToSummary(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	job := r.submit(3, 8)
	if job != 1 {
		t.Fatalf("first job has number %d", job)
	}
	r.work(job, 2, "one")
	r.work(job, 4, "two")
	s, err := r.c.Wait(r.ctx, job, nil)
	r.must(err)
	if s.State != wire.StateDone || s.Batches != 6 || s.Images != 6 || s.Accuracy != 0.5 || s.Loss != 0.5 || len(s.Nodes) != 2 {
		t.Fatalf("summary %+v", s)
	}
	if s.MeanMs != 5.5 || s.Nodes[0].Batches+s.Nodes[1].Batches != 6 {
		t.Fatalf("mean %v ms of 3..8, nodes %+v", s.MeanMs, s.Nodes)
	}
	stats, err := r.c.Stats(r.ctx, 0)
	r.must(err)
	if len(stats.Jobs) != 1 || len(stats.Nodes) != 2 || stats.Nodes[0].Batches+stats.Nodes[1].Batches != 6 {
		t.Fatalf("statistics %+v", stats)
	}
	r.emptied(job)
}

func TestRefusedDocuments(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	for doc, want := range map[string]struct{ code, field string }{
		`{"model":"other","data":"set","from":1,"to":2}`:     {wire.CodeUnknownModel, "model"},
		`{"model":"net","data":"other","from":1,"to":2}`:     {wire.CodeUnknownData, "data"},
		`{"model":"net","data":"set","from":1,"to":11}`:      {wire.CodeBadRange, "to"},
		`{"model":"net","data":"set","from":11,"to":11}`:     {wire.CodeBadRange, "from"},
		`{"model":"net@2","data":"set","from":1,"to":1}`:     {wire.CodeUnknownModel, "model"},
		`{"model":"net","data":"set","from":1,"to":2,"x":1}`: {wire.CodeBadDocument, "x"},
		`{"train":"mlp"}`: {wire.CodeUnknownData, "data"},
		`nonsense`:        {wire.CodeBadDocument, "document"},
	} {
		_, err := r.c.Submit(r.ctx, []byte(doc))
		var refusal *wire.Error
		if !errors.As(err, &refusal) || refusal.Code != want.code || refusal.Field != want.field || !strings.Contains(refusal.Message, "allowed") {
			t.Errorf("%s: %v", doc, err)
		}
	}
	// Stored without being asked first, a bad document becomes a rejected job and
	// holds nobody up.
	for _, doc := range []string{`nonsense`, `{"model":"other","from":1,"to":2}`, strings.Repeat("x", 1<<20-256)} {
		_, err := r.b.JS.Publish(r.ctx, broker.SubjectJobs, []byte(doc))
		r.must(err)
	}
	job := r.submit(1, 2)
	if job != 4 {
		t.Fatalf("job after three bad ones has number %d", job)
	}
	r.work(job, 2, "one")
	r.wait(job, ended)
	for bad := uint64(1); bad <= 3; bad++ {
		if s := r.wait(bad, ended); s.State != wire.StateRejected || !strings.Contains(s.Reason, "allowed") && !strings.Contains(s.Reason, "at most") {
			t.Errorf("bad job %d: %s, %q", bad, s.State, s.Reason)
		}
	}
}

func TestSecondResultChangesNothing(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	job := r.submit(1, 2)
	msg, task := r.pull(job)
	r.must(r.answer(task, "first"))
	if err := r.answer(task, "second"); !errors.Is(err, broker.ErrExists) {
		t.Fatalf("second result: %v", err)
	}
	r.must(msg.Ack())
	r.work(job, 1, "first")
	if s := r.wait(job, ended); len(s.Nodes) != 1 || s.Nodes[0].Node != "first" || s.Batches != 2 {
		t.Fatalf("summary %+v", s)
	}
}

func TestStandbyTakesOver(t *testing.T) {
	r := newRig(t)
	stop := r.coordinator("c1")
	job := r.submit(1, 10)
	r.work(job, 4, "one")
	r.wait(job, func(s *wire.JobStats) bool { return s.Batches == 4 })
	r.coordinator("c2")
	stop()
	r.work(job, 6, "one")
	s := r.wait(job, ended)
	if s.State != wire.StateDone || s.Batches != 10 || s.MeanMs != 5.5 {
		t.Fatalf("summary %+v", s)
	}
	next := r.submit(1, 1)
	if next != job+1 {
		t.Fatalf("next job has number %d", next)
	}
	r.work(next, 1, "one")
	r.wait(next, ended)
	nodes, err := r.c.Nodes(r.ctx)
	r.must(err)
	if nodes.Leader != "c2" {
		t.Fatalf("leader %q", nodes.Leader)
	}
	stats, err := r.c.Stats(r.ctx, 0)
	r.must(err)
	if len(stats.Nodes) != 1 || stats.Nodes[0].Batches != 11 {
		t.Fatalf("node statistics over two coordinators %+v", stats.Nodes)
	}
}

func TestDeadNodeTasksMoveAtOnce(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	job := r.submit(1, 1)
	dying := brokertest.Connect(t, r.url)
	msg, task := r.pull(job)
	ctx, cancel := context.WithCancel(r.ctx)
	announced := make(chan error, 1)
	go func() {
		announced <- broker.Announce(ctx, dying, nil, func() wire.Heartbeat {
			return wire.Heartbeat{Schema: wire.Schema, Node: "dying", Role: wire.RoleWorker, Incarnation: 1, Slots: 1,
				InFlight: []wire.InFlight{{Job: job, Task: task.Task, Reply: msg.Reply()}}}
		})
	}()
	defer func() { cancel(); <-announced }()
	alive := func(want wire.NodeState) func() bool {
		return func() bool {
			nodes, err := r.c.Nodes(r.ctx)
			r.must(err)
			for _, n := range nodes.Nodes {
				if n.Node == "dying" {
					return n.State == want
				}
			}
			return false
		}
	}
	r.until(alive(wire.NodeAlive))
	// The ack wait brings the task too, but says nothing on its behalf.
	spoken, err := r.b.NC.SubscribeSync(msg.Reply())
	r.must(err)
	r.must(r.b.NC.Flush())
	dying.NC.Close()
	again, second := r.pull(job)
	if said, err := spoken.NextMsgWithContext(r.ctx); err != nil || string(said.Data) != "-NAK" {
		t.Errorf("on the dead node's behalf: %v, %v", said, err)
	}
	meta, err := again.Metadata()
	r.must(err)
	if second.Task != task.Task || meta.NumDelivered != 2 {
		t.Fatalf("task %d, delivery %d", second.Task, meta.NumDelivered)
	}
	r.until(alive(wire.NodeDead))
}

// A worker dies before it comes to say what it was given, and is given another task when
// it is dead already.
func TestWhatADeadNodeWasGivenMovesAtOnce(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	dying := brokertest.Connect(t, r.url)
	ctx, cancel := context.WithCancel(r.ctx)
	announced := make(chan error, 1)
	go func() {
		announced <- broker.Announce(ctx, dying, nil, func() wire.Heartbeat {
			return wire.Heartbeat{Schema: wire.Schema, Node: "dying", Role: wire.RoleWorker, Incarnation: 1, Slots: 1}
		})
	}()
	defer func() { cancel(); <-announced }()
	state := func(want wire.NodeState) func() bool {
		return func() bool {
			nodes, err := r.c.Nodes(r.ctx)
			r.must(err)
			return slices.ContainsFunc(nodes.Nodes, func(n wire.Node) bool { return n.Node == "dying" && n.State == want })
		}
	}
	r.until(state(wire.NodeAlive))
	job := r.submit(1, 3)
	r.until(func() bool { return r.queueOf(job) != "" })
	// The ack wait brings tasks too, but says nothing on anybody's behalf.
	spoken, err := r.b.NC.SubscribeSync("$JS.ACK.>")
	r.must(err)
	r.must(r.b.NC.Flush())
	take := func(b *broker.Broker) (reply string) {
		tasks, err := b.Tasks(r.ctx, "dying", r.queueOf(job))
		r.must(err)
		r.until(func() bool {
			d, err := tasks.Next(r.ctx)
			r.must(err)
			if d != nil {
				reply = d.Reply()
			}
			return d != nil
		})
		return reply
	}
	handedBack := func(replies ...string) {
		t.Helper()
		for range replies {
			said, err := spoken.NextMsgWithContext(r.ctx)
			r.must(err)
			if string(said.Data) != "-NAK" || !slices.Contains(replies, said.Subject) {
				t.Errorf("%s to %s, want -NAK to one of %v", said.Data, said.Subject, replies)
			}
		}
	}
	first, second := take(dying), take(dying)
	dying.NC.Close()
	handedBack(first, second)
	r.until(state(wire.NodeDead))
	handedBack(take(r.b))
}

func (r *rig) until(ok func() bool) {
	r.t.Helper()
	if !r.poll(ok) {
		r.t.Fatal("not in time")
	}
}

// emptied waits until a job's queue is empty: the leader does that after the job's end is known.
func (r *rig) emptied(job uint64) {
	r.t.Helper()
	r.until(func() bool {
		depth, err := r.b.QueueDepth(r.ctx, job)
		r.must(err)
		return depth == 0
	})
}

func TestCancel(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	job := r.submit(1, 10)
	r.work(job, 2, "one")
	_, err := r.c.Cancel(r.ctx, job)
	r.must(err)
	if s := r.wait(job, ended); s.State != wire.StateCancelled {
		t.Fatalf("state %s", s.State)
	}
	r.emptied(job)
	_, err = r.c.Cancel(r.ctx, job)
	var refusal *wire.Error
	if !errors.As(err, &refusal) || refusal.Code != wire.CodeJobEnded {
		t.Fatalf("cancelled twice: %v", err)
	}
	_, err = r.c.Cancel(r.ctx, 99)
	if !errors.As(err, &refusal) || refusal.Code != wire.CodeNoSuchJob {
		t.Fatalf("cancelled a job that isn't: %v", err)
	}
}

func TestSubmissionsWaitForACoordinator(t *testing.T) {
	r := newRig(t)
	ack, err := r.b.JS.Publish(r.ctx, broker.SubjectJobs, []byte(`{"model":"net","data":"set","from":1,"to":1}`))
	r.must(err)
	r.coordinator("late")
	r.work(ack.Sequence, 1, "one")
	if s := r.wait(ack.Sequence, ended); s.State != wire.StateDone {
		t.Fatalf("state %s", s.State)
	}
}
