package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/models"
	"idunno/models/dataset"
	"idunno/models/train"
	"idunno/objectstore"
)

func TestWhoseFaultAnErrorIs(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{models.ErrUnsupported, true}, {models.ErrResult, true}, {train.ErrDiverged, true}, {dataset.ErrFormat, true},
		{objectstore.ErrNotFound, true}, {objectstore.ErrCorrupt, true}, {objectstore.ErrTooLarge, true},
		{panicked("compute", "x"), true}, {outOfRange(&dataset.Manifest{}, 3), true},
		{asFault(context.Background(), errors.New("run failed")), true},
		{objectstore.ErrInterrupted, false}, {objectstore.ErrBusy, false}, {nats.ErrTimeout, false}, {nats.ErrConnectionClosed, false},
		{context.DeadlineExceeded, false}, {errLost, false}, {&fs.PathError{Op: "open", Path: "x", Err: syscall.ENOSPC}, false},
	} {
		if got := isFault(fmt.Errorf("fetch batch 3: %w", c.err)); got != c.want {
			t.Errorf("%v: the task's own fault: %v, want %v", c.err, got, c.want)
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if isFault(asFault(ended, context.Canceled)) {
		t.Error("a task that was stopped is at fault")
	}
}

func TestHowATryEnded(t *testing.T) {
	for _, c := range []struct {
		err  error
		want wire.Cause
	}{
		{fault{errors.New("no model at all")}, wire.CauseError}, {models.ErrInput, wire.CauseError},
		{panicked("compute", "x"), wire.CausePanic}, {slow("compute", time.Second), wire.CauseTimeout},
		{models.ErrTooLarge, wire.CauseMemory}, {fault{fmt.Errorf("x: %w", errHungry)}, wire.CauseMemory}, {fault{fmt.Errorf("x: %w", errDied)}, wire.CauseKilled},
		{told(&answer{Error: "x", Cause: wire.CausePanic}), wire.CausePanic}, {told(&answer{Error: "x", Cause: wire.CauseMemory}), wire.CauseMemory},
		{told(&answer{Error: "x", Cause: wire.CauseError}), wire.CauseError},
	} {
		if got := causeOf(fmt.Errorf("batch 3: %w", c.err)); got != c.want || !isFault(c.err) {
			t.Errorf("%v: %s, want %s", c.err, got, c.want)
		}
	}
}

// tries makes tries of one cause each on one node each.
func tries(all ...wire.Attempt) []wire.Attempt {
	for i := range all {
		all[i].Schema, all[i].Delivery = wire.Schema, i+1
		if all[i].Time.IsZero() {
			all[i].Time = time.Now()
		}
	}
	return all
}

func TestWhichTasksAreSuspicious(t *testing.T) {
	w := &worker{Config: Config{Name: "w", MaxAttempts: 3, Isolate: Command{Path: "/bin/x"}}, tally: newTally()}
	failed, late, crashed := wire.Attempt{Cause: wire.CauseError, Node: "a"}, wire.Attempt{Cause: wire.CauseTimeout, Node: "a"}, wire.Attempt{Cause: wire.CauseCrash, Node: "b"}
	for _, c := range []struct {
		name           string
		attempt        int
		tried          []wire.Attempt
		suspicious     bool
		final, slowOne bool
	}{
		{"the first time", 1, nil, false, false, false},
		{"handed back a few times", 1 + unexplained, nil, true, false, false},
		{"failed", 2, tries(failed), false, false, false},
		{"failed often", 4, tries(failed, failed, failed), false, true, false},
		{"took too long", 2, tries(late), true, false, true},
		{"its node died", 2, tries(crashed), false, false, false},
		{"two nodes died", 3, tries(crashed, crashed), true, false, false},
		{"panicked", 2, tries(wire.Attempt{Cause: wire.CausePanic}), true, false, false},
		{"crashes and failures apart", 5, tries(crashed, crashed, failed, failed), true, false, false},
		{"killed many nodes", 4, tries(crashed, crashed, crashed), true, true, false},
		{"had a process of its own", 2, tries(wire.Attempt{Cause: wire.CauseError, Isolated: true}), true, false, false},
	} {
		h := &held{task: &wire.Task{Job: 1, Task: 1, ModelDigest: "m"}, attempt: c.attempt, tried: c.tried}
		if c.attempt == 1+unexplained && len(c.tried) == 0 && w.suspicious(&held{task: h.task, attempt: unexplained}) {
			t.Error("a task is suspicious too early")
		}
		if got := w.suspicious(h); got != c.suspicious {
			t.Errorf("%s: suspicious %v", c.name, got)
		}
		if got := w.final(h); got != c.final {
			t.Errorf("%s: final %v", c.name, got)
		}
		if got := w.slowBefore(h); got != c.slowOne {
			t.Errorf("%s: slow %v", c.name, got)
		}
	}
	w.MaxAttempts = 1
	if w.final(&held{task: &wire.Task{}, tried: tries(crashed, crashed)}) || !w.final(&held{task: &wire.Task{}, tried: tries(crashed, failed)}) {
		t.Error("a task that is tried once is given up because nodes died, or isn't because it failed")
	}
	if w.final(&held{task: &wire.Task{Train: "mlp"}, tried: tries(crashed, crashed, crashed)}) {
		t.Error("a training run is given up because three nodes died")
	}
	fresh := &held{task: &wire.Task{Job: 1, Task: 2, ModelDigest: "m"}, attempt: 1}
	w.tally.fault("m", wire.CauseTimeout)
	if w.suspicious(fresh) {
		t.Error("one slow batch makes the whole model suspicious")
	}
	w.tally.fault("m", wire.CauseTimeout)
	if !w.suspicious(fresh) {
		t.Error("a model that is slow again and again gets slots")
	}
	w.tally.success(fresh.task)
	if w.suspicious(fresh) {
		t.Error("a success changes nothing")
	}
	w.Isolate = Command{}
	if w.suspicious(&held{task: fresh.task, attempt: 9}) {
		t.Error("there is no process to be had")
	}
}

func TestSomeLaneIsLeftForTasksThatAreNotSlow(t *testing.T) {
	w := &worker{Config: Config{Slots: 2}, tally: newTally()}
	s := &isolation{w: w, lanes: 3}
	late := &held{task: &wire.Task{}, tried: tries(wire.Attempt{Cause: wire.CauseTimeout, Node: "a"})}
	crashed := &held{task: &wire.Task{}, tried: tries(wire.Attempt{Cause: wire.CauseCrash, Node: "a"})}
	for i, c := range []struct {
		t    *held
		want bool
	}{{late, true}, {late, true}, {late, false}, {crashed, true}, {crashed, false}} {
		if got := s.admit(c.t); got != c.want {
			t.Errorf("task %d admitted: %v", i+1, got)
		}
	}
}

func TestMemoryOfTriesIsBounded(t *testing.T) {
	y := newTally()
	for i := range 2 * maxTallied {
		y.keep(taskKey{1, i}, wire.Attempt{})
		y.fault(fmt.Sprint(i), wire.CauseTimeout)
	}
	y.keep(taskKey{2, 1}, wire.Attempt{Node: "n"})
	if len(y.unsaved) > maxTallied || len(y.slow) > maxTallied {
		t.Errorf("%d tries and %d models kept", len(y.unsaved), len(y.slow))
	}
	y.dropExcept(map[uint64]bool{2: true})
	if len(y.unsaved) != 1 || len(y.kept(taskKey{2, 1})) != 1 {
		t.Errorf("%d tries kept of ended jobs", len(y.unsaved)-1)
	}
}

// A computation that doesn't stop holds up nobody.
func TestComputationThatDoesNotStopIsLeftBehind(t *testing.T) {
	w := &worker{Config: Config{BatchTimeout: 10 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}}
	stop, ended := make(chan struct{}), make(chan struct{})
	_, left, err := w.inTime(t.Context(), func(context.Context) (*wire.BatchResult, error) {
		defer close(ended)
		<-stop
		return nil, nil
	})
	if !left || causeOf(err) != wire.CauseTimeout || !isFault(err) {
		t.Errorf("left behind %v, %v", left, err)
	}
	close(stop)
	<-ended
	_, left, err = w.inTime(t.Context(), func(ctx context.Context) (*wire.BatchResult, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	if left || causeOf(err) != wire.CauseTimeout {
		t.Errorf("left behind %v, %v", left, err)
	}
	_, _, err = w.inTime(t.Context(), func(context.Context) (*wire.BatchResult, error) { panic("boom") })
	if causeOf(err) != wire.CausePanic || !isFault(err) {
		t.Errorf("a panic became %v", err)
	}
}

func TestSickWorkerPauses(t *testing.T) {
	y, now := newTally(), time.Now()
	for i, want := range []time.Duration{0, 0, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second, 10 * time.Second} {
		if got := y.failure(now); got != want || y.pause(now) != want {
			t.Errorf("failure %d: pause %v and %v, want %v", i+1, got, y.pause(now), want)
		}
	}
	if left := y.pause(now.Add(4 * time.Second)); left != 6*time.Second {
		t.Errorf("%v left of the pause, want 6s", left)
	}
	if y.pause(now.Add(time.Minute)) != 0 {
		t.Error("the pause has no end")
	}
	y.success(&wire.Task{Job: 1, Task: 1})
	if pause := y.failure(now); pause != 0 {
		t.Errorf("pause of %v after the first failure since a success", pause)
	}
}

func TestOnlyFaultsBecomeResults(t *testing.T) {
	w, ctx := newBench(t, 1)
	queue(t, w, 2, nil)
	takeNext := func(delivery int) *held {
		p, err := w.next(ctx, 1)
		if err != nil {
			t.Fatal(err)
		}
		w.tokens <- struct{}{}
		h := w.take(ctx, ctx, p[0], w.tokens)
		h.attempt = delivery
		return h
	}
	h := takeNext(50)
	if p := w.failed(h, fmt.Errorf("fetch batch 1: %w", nats.ErrTimeout)); p != nil {
		t.Errorf("a time-out became the result %s", p)
	}
	if tasks, _ := w.hand.list(); len(tasks) != 0 || w.tally.row != 1 {
		t.Errorf("%d tasks in hand, %d failures in a row", len(tasks), w.tally.row)
	}
	h = takeNext(3)
	if p := w.failed(h, fault{errors.New("no model at all")}); p != nil {
		t.Errorf("the first failure became the result %s", p)
	}
	tried, err := w.Broker.Attempts(ctx, 1, h.task.Task)
	if err != nil || len(tried) != 1 || tried[0].Error != "no model at all" || tried[0].Node != "w" || tried[0].Delivery != 3 {
		t.Fatalf("noted %+v, %v", tried, err)
	}
	again := takeNext(4)
	for again.task.Task != h.task.Task { // the other one comes back as well
		w.handBack(again, 0)
		again = takeNext(4)
	}
	h = again
	defer w.giveUp(h)
	h.tried = append(h.tried, h.tried[0], h.tried[0], h.tried[0])
	r, err := wire.ParseResult(w.failed(h, fault{errors.New("still no model")}))
	if err != nil || r.Error != "still no model" || len(r.Tried) != 5 || r.Tried[4].Error != r.Error {
		t.Errorf("%+v, %v", r, err)
	}
}

// A task that failed here goes to a worker that hasn't tried it, as far as there
// are any and for a while.
func TestTaskIsLeftToOthers(t *testing.T) {
	w, ctx := newBench(t, 1)
	here, there := wire.Attempt{Cause: wire.CauseError, Node: "w"}, wire.Attempt{Cause: wire.CauseError, Node: "other"}
	late := wire.Attempt{Cause: wire.CauseError, Node: "w", Time: time.Now().Add(-2 * leaveFor)}
	leaves := func(tried ...wire.Attempt) bool {
		w.peers.asked = time.Time{}
		return w.leave(ctx, &held{task: &wire.Task{}, tried: tries(tried...)})
	}
	if leaves(here) {
		t.Error("left to others where nobody knows of any")
	}
	node := func(name string, role wire.Role, state wire.NodeState) wire.Node {
		return wire.Node{Heartbeat: wire.Heartbeat{Node: name, Role: role}, State: state}
	}
	var told atomic.Pointer[wire.NodesReply]
	list := wire.NodesReply{Nodes: []wire.Node{node("w", wire.RoleWorker, wire.NodeAlive), node("c", wire.RoleCoordinator, wire.NodeAlive),
		node("dead", wire.RoleWorker, wire.NodeDead), node("going", wire.RoleWorker, wire.NodeDraining)}}
	told.Store(&list)
	stop, err := w.Broker.Listen(broker.SubjectNodes, func(m *broker.Message) {
		if p, err := json.Marshal(told.Load()); err == nil {
			_ = m.Respond(p)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if leaves(here) {
		t.Error("left to workers that take none")
	}
	told.Store(&wire.NodesReply{Nodes: append(slices.Clone(list.Nodes), node("other", wire.RoleWorker, wire.NodeSuspect))})
	for _, c := range []struct {
		name  string
		tried []wire.Attempt
		want  bool
	}{
		{"failed here", []wire.Attempt{here}, true}, {"failed there", []wire.Attempt{there}, false},
		{"failed everywhere", []wire.Attempt{here, there}, false}, {"nobody took it", []wire.Attempt{late}, false}, {"never failed", nil, false},
	} {
		if got := leaves(c.tried...); got != c.want {
			t.Errorf("%s: left to others: %v", c.name, got)
		}
	}
}
