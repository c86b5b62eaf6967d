package worker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"idunno/broker"
	"idunno/broker/brokertest"
	"idunno/broker/wire"
	"idunno/models"
	"idunno/models/dataset"
	"idunno/models/zoo"
	"idunno/objectstore"
	"idunno/worker"
)

// TestMain makes the test binary a process that computes for a worker when it is
// started as one.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "isolated" {
		if err := worker.Isolated(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m, brokertest.Leaks()...)
}

const job = 1

// rig is a broker with the mlp and ten batches of ten images, and a job queue
// that the test fills as the coordinator does.
type rig struct {
	t           *testing.T
	ctx         context.Context
	url         string
	b           *broker.Broker
	files       *objectstore.Store
	set         *dataset.Set
	model, data objectstore.Version
	queue       string
}

func newRig(t *testing.T) *rig { return newRigAt(t, brokertest.Start(t)) }

func newRigAt(t *testing.T, url string) *rig {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	r := &rig{t: t, ctx: ctx, url: url}
	r.b = brokertest.Connect(t, r.url)
	r.must(r.b.Ensure(ctx))
	objects, index, err := r.b.Files(ctx)
	r.must(err)
	r.files = objectstore.Open(objects, index)
	r.set, err = dataset.MNISTTest()
	r.must(err)
	r.model, err = r.files.Put(ctx, "models/mlp", bytes.NewReader(zoo.MLP()))
	r.must(err)
	r.data = r.storeSet("mnist", 10, 10)
	r.openQueue()
	return r
}

// openQueue opens the job's queue, as a coordinator does.
func (r *rig) openQueue() {
	var err error
	r.queue, err = r.b.OpenQueue(r.ctx, job, 0)
	r.must(err)
}

// storeSet stores the first n batches of the test set under a name.
func (r *rig) storeSet(name string, n, size int) objectstore.Version {
	m := &dataset.Manifest{Schema: dataset.ManifestSchema, Name: name, Batches: n, BatchSize: size, Images: n * size,
		Shape: r.set.Shape, DType: r.set.DType, Classes: r.set.Classes, Source: "test", Licence: "test"}
	for i := 1; i <= n; i++ {
		b, err := r.set.Batch(i, size)
		r.must(err)
		o, err := r.files.PutObject(r.ctx, bytes.NewReader(b.Marshal()))
		r.must(err)
		m.Objects = append(m.Objects, dataset.Object{Digest: o.Digest, Size: o.Size})
	}
	v, err := r.files.PutBundle(r.ctx, "data/"+name, m.Marshal())
	r.must(err)
	return v
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// active publishes the table of active jobs.
func (r *rig) active(jobs ...wire.ActiveJob) {
	r.t.Helper()
	state, err := r.b.State(r.ctx)
	r.must(err)
	for i := range jobs {
		jobs[i].Queue = r.queue
	}
	p, err := json.Marshal(wire.ActiveJobs{Schema: wire.Schema, Jobs: jobs})
	r.must(err)
	_, err = state.Put(r.ctx, broker.KeyActive, p)
	r.must(err)
}

// publish queues a task of one batch for each batch from 1 to n.
func (r *rig) publish(n int, change func(*wire.Task)) {
	r.t.Helper()
	for i := 1; i <= n; i++ {
		r.publishTask(i, change)
	}
	r.must(r.b.Wake())
}

// publishTask queues a task of one batch; the ten batches are used in turn.
func (r *rig) publishTask(i int, change func(*wire.Task)) {
	r.t.Helper()
	batch := (i-1)%10 + 1
	t := &wire.Task{Schema: wire.Schema, Job: job, Task: i, Model: "mlp", ModelDigest: r.model.Digest, DataDigest: r.data.Digest, From: batch, To: batch}
	if change != nil {
		change(t)
	}
	future, err := r.b.PublishTask(job, i, t.Marshal())
	r.must(err)
	r.must(future.Wait(r.ctx))
}

// start runs a worker; the returned function drains it.
func (r *rig) start(name string, slots int) (drain func()) {
	b := brokertest.Connect(r.t, r.url)
	ctx, cancel := context.WithCancel(r.ctx)
	done := make(chan error, 1)
	go func() {
		done <- worker.Run(ctx, worker.Config{Broker: b, Name: name, Slots: slots, CacheDir: r.t.TempDir()})
	}()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("worker %s: %v", name, err)
		}
		b.Close()
	})
}

// results waits until n tasks have results and returns them by task.
func (r *rig) results(n int) map[int]*wire.Result {
	r.t.Helper()
	for {
		got := make(map[int]*wire.Result)
		r.must(r.b.ReadResults(r.ctx, job, func(_ string, p []byte) (bool, error) {
			res, err := wire.ParseResult(p)
			if err == nil {
				if got[res.Task] != nil {
					r.t.Errorf("task %d has two results", res.Task)
				}
				got[res.Task] = res
			}
			return true, err
		}))
		if len(got) >= n {
			return got
		}
	}
}

// patient makes the ack wait so long that nothing can be due to it: a task that
// wasn't handed back never comes.
func (r *rig) patient() {
	r.t.Helper()
	queue, err := r.b.Consumer(r.ctx, r.queue)
	r.must(err)
	info := queue.CachedInfo()
	info.Config.AckWait = time.Hour
	_, err = r.b.JS.UpdateConsumer(r.ctx, info.Stream, info.Config)
	r.must(err)
}

// drained waits until the queue is empty.
func (r *rig) drained() {
	r.t.Helper()
	for {
		depth, err := r.b.QueueDepth(r.ctx, job)
		r.must(err)
		if depth == 0 {
			return
		}
	}
}

func TestResultsAreTheModels(t *testing.T) {
	r := newRig(t)
	one, two := r.start("one", 1), r.start("two", 2)
	defer one()
	defer two()
	r.active(wire.ActiveJob{Job: job, Model: "mlp"})
	r.publish(10, nil)
	got := r.results(10)
	r.drained()
	m, err := models.Load(zoo.MLP(), models.Options{})
	r.must(err)
	session := m.NewSession()
	for i := 1; i <= 10; i++ {
		b, err := r.set.Batch(i, 10)
		r.must(err)
		want, err := session.Predict(r.ctx, b)
		r.must(err)
		have := got[i].Batches[0]
		if !slices.Equal(have.Class, want.Class) || !slices.Equal(have.Prob, want.Prob) || !slices.Equal(have.Labels, b.Y) ||
			have.Correct != want.Correct || have.LossSum != want.LossSum || have.Nanos <= 0 {
			t.Errorf("batch %d: %+v, want %+v", i, have, want)
		}
	}
}

func TestHeartbeatsTellWhatIsInHand(t *testing.T) {
	r := newRig(t)
	beats := make(chan *wire.Heartbeat, 1000)
	_, err := r.b.NC.Subscribe(broker.SubjectHeartbeats, func(m *nats.Msg) {
		if h, err := wire.ParseHeartbeat(m.Data); err == nil {
			select {
			case beats <- h:
			default:
			}
		}
	})
	r.must(err)
	r.must(r.b.NC.Flush())
	drain := r.start("one", 1)
	defer drain()
	r.active(wire.ActiveJob{Job: job, Model: "mlp"})
	r.publish(10, nil)
	for h := range beats {
		if len(h.InFlight) > 4 { // two to compute, two being stored
			t.Fatalf("%d tasks in hand of a worker with one slot", len(h.InFlight))
		}
		if len(h.InFlight) > 0 {
			if f := h.InFlight[0]; f.Job != job || f.Reply == "" || h.Node != "one" || h.Role != wire.RoleWorker || h.Slots != 1 {
				t.Fatalf("heartbeat %+v", h)
			}
			break
		}
	}
	drain()
	for h := range beats {
		if h.Leaving {
			break
		}
	}
}

func TestStoredResultIsNotComputedAgain(t *testing.T) {
	r := newRig(t)
	first := &wire.Result{Schema: wire.Schema, Job: job, Task: 1, From: 1, To: 1, Node: "dead", Attempt: 1,
		Batches: []wire.BatchResult{{Batch: 1}}}
	r.must(r.b.StoreResult(r.ctx, job, 1, first.Marshal()))
	drain := r.start("one", 1)
	defer drain()
	r.active(wire.ActiveJob{Job: job, Model: "mlp"})
	r.publish(3, func(t *wire.Task) { t.Check = true })
	got := r.results(3)
	r.drained()
	if got[1].Node != "dead" || got[2].Node != "one" {
		t.Fatalf("task 1 from %s, task 2 from %s", got[1].Node, got[2].Node)
	}
	nodes, err := r.b.NC.Request(broker.SubjectPing("one"), nil, 5*time.Second)
	r.must(err)
	h, err := wire.ParseHeartbeat(nodes.Data)
	r.must(err)
	if h.Batches != 2 {
		t.Fatalf("%d batches computed, want 2", h.Batches)
	}
}

func TestDrainHandsBackAndAnotherGoesOn(t *testing.T) {
	r := newRig(t)
	drain := r.start("one", 1)
	defer drain()
	r.active(wire.ActiveJob{Job: job, Model: "mlp"})
	r.patient()
	const many = 200 // more than one can do until it is told
	r.publish(many, nil)
	r.results(1)
	drain()
	other := r.start("two", 2)
	defer other()
	got := r.results(many)
	r.drained()
	nodes := make(map[string]int)
	for _, res := range got {
		nodes[res.Node]++
	}
	if nodes["one"]+nodes["two"] != many {
		t.Fatalf("results by node %v", nodes)
	}
}

func TestTaskThatFailsEndsWithItsError(t *testing.T) {
	r := newRig(t)
	drain := r.start("one", 1)
	defer drain()
	r.active(wire.ActiveJob{Job: job, Model: "mlp"})
	bad := r.storeBad()
	r.publish(3, func(t *wire.Task) {
		if t.Task == 2 {
			t.ModelDigest = bad
		}
	})
	got := r.results(3)
	r.drained()
	if got[2].Error == "" || got[2].Attempt < 2 || got[1].Error != "" || got[3].Error != "" {
		t.Fatalf("task 2: %q after %d attempts; task 1: %q", got[2].Error, got[2].Attempt, got[1].Error)
	}
}

// storeBad stores bytes that are no model.
func (r *rig) storeBad() string {
	o, err := r.files.PutObject(r.ctx, strings.NewReader("no model at all"))
	r.must(err)
	return o.Digest
}

func TestEndedJobIsDropped(t *testing.T) {
	r := newRig(t)
	drain := r.start("one", 1)
	defer drain()
	r.active(wire.ActiveJob{Job: job, Model: "mlp"})
	r.publish(10, nil)
	r.results(1)
	r.active()
	for {
		reply, err := r.b.NC.Request(broker.SubjectPing("one"), nil, 5*time.Second)
		r.must(err)
		h, err := wire.ParseHeartbeat(reply.Data)
		r.must(err)
		if len(h.InFlight) == 0 {
			return
		}
	}
}

func TestTrainingTask(t *testing.T) {
	r := newRig(t)
	set := r.storeSet("mnist-train", 10, 20)
	progress, err := r.b.NC.SubscribeSync(broker.SubjectProgress(job))
	r.must(err)
	drain := r.start("one", 1)
	defer drain()
	r.active(wire.ActiveJob{Job: job, Model: "mlp", Train: true})
	r.publish(1, func(t *wire.Task) {
		*t = wire.Task{Schema: wire.Schema, Job: job, Task: 1, Model: "mlp", DataDigest: set.Digest, Train: "mlp", Epochs: 2, Seed: 7}
	})
	res := r.results(1)[1]
	r.drained()
	trained := res.Trained
	if res.Error != "" || trained == nil || len(trained.Epochs) != 2 || trained.Version != 2 || trained.HeldOut <= 0.1 {
		t.Fatalf("trained %+v, error %q", trained, res.Error)
	}
	var stored bytes.Buffer
	v, err := r.files.Get(r.ctx, "models/mlp", &stored)
	r.must(err)
	if v.Digest != trained.Digest {
		t.Fatalf("stored %s, told %s", v.Digest, trained.Digest)
	}
	if _, err := models.Load(stored.Bytes(), models.Options{}); err != nil {
		t.Fatal(err)
	}
	var seen int
	for seen < 2 {
		msg, err := progress.NextMsg(5 * time.Second)
		r.must(err)
		var p wire.Progress
		r.must(json.Unmarshal(msg.Data, &p))
		if p.Epoch != nil {
			seen++
		}
	}
}

func TestBadConfigurations(t *testing.T) {
	b := brokertest.New(t)
	for _, c := range []worker.Config{
		{Broker: b, Name: "no good", CacheDir: t.TempDir()},
		{Broker: b, Name: "x", Slots: -1, CacheDir: t.TempDir()},
	} {
		if err := worker.Run(context.Background(), c); err == nil {
			t.Errorf("accepted %s", fmt.Sprint(c.Name, c.Slots))
		}
	}
}
