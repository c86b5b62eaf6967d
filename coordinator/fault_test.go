package coordinator_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
	"idunno/broker/brokertest"
	"idunno/broker/embedded"
	"idunno/broker/wire"
	"idunno/coordinator/client"
)

// A broker that is away for longer than the lease lasts: afterwards somebody leads,
// every request is answered, and the job goes on.
func TestBrokerOutageLongerThanTheLease(t *testing.T) {
	cfg := embedded.Config{Port: brokertest.FreePort(t), Store: t.TempDir()}
	server, err := embedded.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := newRigOn(t, server.URL())
	r.coordinator("c1")
	r.coordinator("c2")
	job := r.submit(1, 10)
	r.work(job, 3, "one")
	server.Stop()
	// The outage has to outlast the lease, and nothing happens meanwhile that
	// could be waited for.
	<-time.After(broker.LeaseTTL + time.Second)
	if server, err = embedded.Start(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	r.work(job, 7, "one")
	if s := r.wait(job, ended); s.Batches != 10 || s.State != wire.StateDone {
		t.Fatalf("summary %+v", s)
	}
	for i := range 20 {
		msg, err := r.b.NC.Request(broker.SubjectNodes, nil, 2*time.Second)
		if err != nil {
			t.Fatalf("request %d of 20 after the outage: %v", i+1, err)
		}
		var reply wire.NodesReply
		if err := json.Unmarshal(msg.Data, &reply); err != nil || reply.Leader == "" {
			t.Fatalf("answer %s, %v", msg.Data, err)
		}
	}
}

// The newest result is gone from the stream when a new leader replays it.
func TestTakeOverWithoutTheLastResult(t *testing.T) {
	r := newRig(t)
	stop := r.coordinator("c1")
	job := r.submit(1, 4)
	r.work(job, 2, "one")
	r.wait(job, func(s *wire.JobStats) bool { return s.Batches == 2 })
	stop()
	results, err := r.b.Results(r.ctx)
	r.must(err)
	info, err := results.Info(r.ctx)
	r.must(err)
	r.must(results.DeleteMsg(r.ctx, info.State.LastSeq))
	r.coordinator("c2")
	// The task whose result was deleted is planned again.
	r.work(job, 3, "one")
	if s := r.wait(job, ended); s.Batches != 4 {
		t.Fatalf("summary %+v", s)
	}
}

// Whatever others write where results belong, the job ends and says so, and the
// next job isn't touched.
func TestForeignResultsFailTheirTasksOnly(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	job := r.submit(1, 6)
	r.wait(job, func(s *wire.JobStats) bool { return s.State == wire.StateRunning })
	huge := `{"v":1,"job":%d,"task":%d,"from":3,"to":3,"node":"n","attempt":1,"started":"2024-01-01T00:00:00Z","batches":[{"batch":3,"images":0,"labeled":false,"correct":0,"loss_sum":1.7e308,"ns":1,"class":"","prob":""}]}`
	for task, data := range map[int]string{
		1: "garbage",
		2: fmt.Sprintf(`{"v":1,"job":%d,"task":2,"node":"n","trained":{"model":"mlp"}}`, job),
		3: fmt.Sprintf(huge, job, 3),
		4: fmt.Sprintf(`{"v":1,"job":%d,"task":1,"node":"n","error":"of another task"}`, job),
		5: fmt.Sprintf(`{"v":1,"job":%d,"task":5,"node":"evil\u0000\u001b[31m","error":"x"}`, job),
	} {
		r.must(r.b.StoreResult(r.ctx, job, task, []byte(data)))
	}
	r.work(job, 6, "one")
	s := r.wait(job, ended)
	if s.State != wire.StateDoneWithFailures || s.Failed != 5 || s.Batches != 1 || s.Reason == "" {
		t.Fatalf("summary %+v", s)
	}
	read := 0
	r.must(r.c.Results(r.ctx, job, func(res *wire.Result) error {
		if read++; res.Task < 6 && res.Error == "" && len(res.Batches) > 0 {
			t.Errorf("task %d came out as a good result", res.Task)
		}
		return nil
	}))
	if read != 6 {
		t.Fatalf("%d results read", read)
	}
	next := r.submit(1, 1)
	r.work(next, 1, "one")
	r.wait(next, ended)
}

// Heartbeats that nobody sane would send change nothing and crash nobody.
func TestForeignHeartbeats(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	first := r.submit(1, 1)
	for _, h := range []string{
		`garbage`,
		`{"v":1,"node":"x","role":"worker","incarnation":1,"slots":4611686018427387904}`,
		`{"v":1,"node":"x","role":"worker","incarnation":1,"slots":-5}`,
		`{"v":1,"node":"a b","role":"worker","incarnation":1}`,
		`{"v":1,"node":"y","role":"king","incarnation":1}`,
		`{"v":1,"node":"z","role":"worker","incarnation":1,"leaving":true,"in_flight":[{"job":1,"task":1,"reply":"idunno.jobs"}]}`,
	} {
		r.must(r.b.NC.Publish(broker.SubjectHeartbeat("x"), []byte(h)))
	}
	r.must(r.b.NC.Flush())
	r.work(first, 1, "one")
	r.wait(first, ended)
	// A heartbeat's reply subject is no way to publish elsewhere.
	if next := r.submit(1, 1); next != first+1 {
		t.Fatalf("next job has number %d: something was submitted meanwhile", next)
	}
}

func TestLateAnswerIsNoSecondJob(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	doc := []byte(`{"model":"net","data":"set","from":1,"to":1}`)
	ask := func() uint64 {
		msg, err := r.b.NC.RequestMsg(&nats.Msg{Subject: broker.SubjectSubmit, Data: doc,
			Header: nats.Header{jetstream.MsgIDHeader: []string{"same"}}}, 10*time.Second)
		r.must(err)
		var reply wire.SubmitReply
		r.must(json.Unmarshal(msg.Data, &reply))
		return reply.Job
	}
	r.leads("c1")
	if one, two := ask(), ask(); one != two || one == 0 {
		t.Fatalf("jobs %d and %d of one submission", one, two)
	}
	ack, err := r.b.JS.Publish(r.ctx, broker.SubjectJobs, doc, jetstream.WithMsgID("same"))
	r.must(err)
	if !ack.Duplicate {
		t.Fatal("handed in past the coordinator, it became another job")
	}
}

// An index entry that nobody can read keeps no other job waiting.
func TestUnreadableFileHoldsUpNobody(t *testing.T) {
	r := newRig(t)
	_, index, err := r.b.Files(r.ctx)
	r.must(err)
	keys, err := index.Keys(r.ctx)
	r.must(err)
	for _, key := range keys {
		if entry, err := index.Get(r.ctx, key); err == nil && strings.Contains(key, "set") {
			_, err = index.Update(r.ctx, key, []byte("{broken"), entry.Revision())
			r.must(err)
		}
	}
	r.coordinator("c1")
	for _, doc := range []string{`{"model":"other","data":"set","from":1,"to":1}`, `{"model":"other","data":"nosuch","from":1,"to":1}`} {
		_, err := r.b.JS.Publish(r.ctx, broker.SubjectJobs, []byte(doc))
		r.must(err)
	}
	for job := uint64(1); job <= 2; job++ {
		if s := r.wait(job, ended); s.State != wire.StateRejected {
			t.Fatalf("job %d: %+v", job, s)
		}
	}
}

func TestOldCoordinatorIsFenced(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	job := r.submit(1, 4)
	r.work(job, 1, "one")
	r.wait(job, func(s *wire.JobStats) bool { return s.Batches == 1 })
	// Another leader, unknown to c1, rewrites the record: c1 must give way, and
	// comes back by taking over anew.
	state, err := r.b.State(r.ctx)
	r.must(err)
	entry, err := state.Get(r.ctx, broker.KeyJob(job))
	r.must(err)
	_, err = state.Update(r.ctx, broker.KeyJob(job), entry.Value(), entry.Revision())
	r.must(err)
	r.work(job, 3, "one")
	if s := r.wait(job, ended); s.State != wire.StateDone || s.Batches != 4 {
		t.Fatalf("summary %+v", s)
	}
}

func TestNoCoordinator(t *testing.T) {
	b := brokertest.New(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if _, err := client.New(b).Nodes(ctx); !errors.Is(err, client.ErrNoCoordinator) {
		t.Fatalf("nobody there: %v", err)
	}
}

// Epochs go on above those in the records, also when the bucket of the lease has
// been deleted and counts from 1 again.
func TestEpochsGrowWithoutTheOldLease(t *testing.T) {
	r := newRig(t)
	stop := r.coordinator("c1")
	job := r.submit(1, 4)
	stop()
	stop = r.coordinator("c2")
	epoch := func() uint64 {
		state, err := r.b.State(r.ctx)
		r.must(err)
		entry, err := state.Get(r.ctx, broker.KeyJob(job))
		r.must(err)
		var rec wire.JobRecord
		r.must(json.Unmarshal(entry.Value(), &rec))
		return rec.Epoch
	}
	r.work(job, 1, "one")
	r.wait(job, func(s *wire.JobStats) bool { return s.Batches == 1 })
	stop()
	before := epoch()
	if before < 2 {
		t.Fatalf("the second leader has epoch %d", before)
	}
	r.must(r.b.JS.DeleteKeyValue(r.ctx, "idunno_lease"))
	r.coordinator("c3")
	r.work(job, 3, "one")
	r.wait(job, ended)
	if after := epoch(); after <= before {
		t.Errorf("epoch %d after %d", after, before)
	}
}
