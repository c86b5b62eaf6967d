package coordinator_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"idunno/broker"
	"idunno/broker/brokertest"
	"idunno/broker/wire"
	"idunno/coordinator/client"
)

// posed is a worker that tells of tasks in hand and carries none out.
type posed struct {
	conn    *broker.Broker
	mu      sync.Mutex
	held    []wire.InFlight
	changed chan struct{}
	leave   func()
}

// pose announces a worker of one slot.
func (r *rig) pose(name string) *posed {
	p := &posed{conn: brokertest.Connect(r.t, r.url), changed: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(r.ctx)
	var done sync.WaitGroup
	started := time.Now().UnixNano()
	done.Go(func() {
		_ = broker.Announce(ctx, p.conn, p.changed, func() wire.Heartbeat {
			p.mu.Lock()
			defer p.mu.Unlock()
			return wire.Heartbeat{Schema: wire.Schema, Node: name, Role: wire.RoleWorker, Incarnation: started, Slots: 1, InFlight: slices.Clone(p.held)}
		})
	})
	p.leave = sync.OnceFunc(func() { cancel(); done.Wait() })
	r.t.Cleanup(p.leave)
	return p
}

func (p *posed) hold(tasks ...wire.InFlight) {
	p.mu.Lock()
	p.held = tasks
	p.mu.Unlock()
	p.changed <- struct{}{}
}

// assigned waits until the stored table says of a job what is wanted.
func (r *rig) assigned(job uint64, what string, want func(wire.Assignment) bool) (found wire.Assignment) {
	r.t.Helper()
	state, err := r.b.State(r.ctx)
	r.must(err)
	var last wire.Assignments
	if !r.poll(func() bool {
		e, err := state.Get(r.ctx, broker.KeyAssignments)
		if err != nil {
			return false
		}
		r.must(json.Unmarshal(e.Value(), &last))
		i := slices.IndexFunc(last.Jobs, func(a wire.Assignment) bool { return a.Job == job && want(a) })
		if i >= 0 {
			found = last.Jobs[i]
		}
		return i >= 0
	}) {
		r.t.Fatalf("job %d is never assigned %s: %+v", job, what, last)
	}
	return found
}

func on(nodes ...string) func(wire.Assignment) bool {
	return func(a wire.Assignment) bool { return slices.Equal(a.Nodes, nodes) }
}

func TestAssignmentsFollowJobsAndNodes(t *testing.T) {
	r := newRig(t)
	stop := r.coordinator("c1")
	a := r.pose("a")
	large := r.submit(1, 10)
	r.assigned(large, "the only node", on("a"))
	r.pose("b")
	c := r.pose("c")
	r.assigned(large, "all nodes", on("a", "b", "c"))
	limited, err := r.c.Submit(r.ctx, []byte(`{"model":"net","data":"set","from":1,"to":10,"max_nodes":1,"max_in_flight":2,"priority":-1}`))
	r.must(err)
	got := r.assigned(limited.Job, "one node", func(a wire.Assignment) bool { return len(a.Nodes) == 1 })
	if !got.Only || got.Slots != 1 || got.Share != 0 || got.Model != "net" {
		t.Errorf("%+v", got)
	}
	// What workers follow says the same, and the queue gives out no more than allowed.
	state, err := r.b.State(r.ctx)
	r.must(err)
	var table wire.ActiveJobs
	for len(table.Jobs) != 2 || len(table.Jobs[1].Nodes) != 1 {
		e, err := state.Get(r.ctx, broker.KeyActive)
		r.must(err)
		r.must(json.Unmarshal(e.Value(), &table))
	}
	if j := table.Jobs[1]; !j.Only || j.Priority != -1 || j.MaxInFlight != 2 || !slices.Equal(j.Nodes, got.Nodes) || table.Jobs[0].Nodes != nil {
		t.Errorf("%+v", table)
	}
	queue, err := r.b.Consumer(r.ctx, r.queueOf(limited.Job))
	r.must(err)
	if most := queue.CachedInfo().Config.MaxAckPending; most != 2 {
		t.Errorf("the queue gives out %d tasks at a time", most)
	}
	// A node that leaves is replaced, one that dies too.
	if got.Nodes[0] == "a" {
		a.leave()
	} else {
		c.leave()
	}
	r.assigned(limited.Job, "another node", func(now wire.Assignment) bool { return len(now.Nodes) == 1 && now.Nodes[0] != got.Nodes[0] })
	answer, err := r.b.Ask(r.ctx, broker.SubjectAssignments, []byte("{}"))
	r.must(err)
	var told wire.Assignments
	if err := json.Unmarshal(answer, &told); err != nil || len(told.Jobs) != 2 || told.Slots != 2 || told.Jobs[0].Reason == "" {
		t.Errorf("%s, %v", answer, err)
	}
	// Without a coordinator the table is what was stored last; where there is none,
	// there has been nobody.
	stop()
	if stored, err := r.c.Assignments(r.ctx); err != nil || len(stored.Jobs) != 2 {
		t.Errorf("%+v, %v", stored, err)
	}
	r.must(state.Purge(r.ctx, broker.KeyAssignments))
	if _, err := r.c.Assignments(r.ctx); !errors.Is(err, client.ErrNoCoordinator) {
		t.Errorf("no table: %v", err)
	}
}

// The last task of a job is computed by an idle worker too when the one that has it is
// slow, once.
func TestSlowTaskIsCopied(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	slow := r.pose("slow")
	job := r.submit(1, 4)
	r.work(job, 3, "slow")
	msg, last := r.pull(job)
	copies := make(chan *wire.Rescue, 10)
	idle := brokertest.Connect(t, r.url)
	stop, err := idle.Listen(broker.SubjectRescue("idle"), func(m *broker.Message) {
		c, err := wire.ParseRescue(m.Data)
		r.must(err)
		copies <- c
		_ = m.Respond([]byte(wire.RescueTaken))
	})
	r.must(err)
	defer stop()
	r.pose("idle")
	slow.hold(wire.InFlight{Job: job, Task: last.Task, Reply: msg.Reply(), Started: true})
	var c *wire.Rescue
	select {
	case c = <-copies:
	case <-r.ctx.Done():
		t.Fatal("nobody is asked to help")
	}
	if !c.Copy || c.Reply != "" || c.Task.Job != job || c.Task.Task != last.Task || c.Task.From != last.From || c.Task.To != last.To {
		t.Errorf("%+v", c)
	}
	r.must(r.answer(c.Task, "idle"))
	if err := r.answer(last, "slow"); !errors.Is(err, broker.ErrExists) {
		t.Errorf("the second result: %v", err)
	}
	if s := r.wait(job, ended); s.Batches != 4 || s.State != wire.StateDone {
		t.Errorf("%+v", s)
	}
	if len(copies) > 0 {
		t.Error("more than one copy")
	}
}

// Which jobs are ahead shows in what workers are told.
func TestWorkersHearWhoIsAhead(t *testing.T) {
	r := newRig(t)
	r.coordinator("c1")
	r.pose("a")
	var jobs []uint64
	for range 2 {
		s, err := r.c.Submit(r.ctx, []byte(`{"model":"net","data":"set","from":1,"to":10,"rounds":30}`))
		r.must(err)
		jobs = append(jobs, s.Job)
	}
	ahead, behind := jobs[0], jobs[1]
	heard := make(chan wire.Leads, 100)
	stop, err := r.b.Listen(broker.SubjectLeads, func(m *broker.Message) {
		l, err := wire.ParseLeads(m.Data)
		r.must(err)
		heard <- *l
	})
	r.must(err)
	defer stop()
	r.assigned(ahead, "the node", on("a"))
	r.assigned(behind, "the node", on("a"))
	// The second counts from its first result on, as soon as the leader has looked.
	r.work(behind, 1, "a")
	for range 30 {
		r.work(ahead, 8, "a")
		select {
		case l := <-heard:
			if len(l.Jobs) != 2 || l.Jobs[0].Lead <= 0 || l.Jobs[1].Lead >= 0 || l.Jobs[0].Job != ahead {
				t.Error(l.Jobs)
			}
			return
		case <-r.ctx.Done():
			t.Fatal("nothing is heard")
		case <-time.After(200 * time.Millisecond):
		}
	}
	t.Fatal("nothing is heard")
}
