//go:build unix

package cluster_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"idunno/broker/wire"
	"idunno/coordinator/client"
	"idunno/coordinator/cluster"
	"idunno/models/dataset"
	"idunno/models/zoo"
)

// Everything is killed and started anew in place, and the queries go on.
func TestRestartInPlace(t *testing.T) {
	ctx := testContext(t)
	store := filepath.Join(t.TempDir(), "store")
	var mu sync.Mutex
	asked := map[string]int{}
	l, err := cluster.Start(ctx, cluster.Config{Program: program(t), Store: store, Temporary: true, Port: -1, Workers: 2, Coordinators: 1,
		ServerFor: func(name, url string) string {
			mu.Lock()
			defer mu.Unlock()
			asked[name]++
			return url
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Stop()
	if got := l.Names(wire.RoleWorker); !slices.Equal(got, []string{"worker-1", "worker-2"}) {
		t.Fatalf("workers %v", got)
	}
	files, err := cluster.OpenStore(ctx, l.Broker())
	if err != nil {
		t.Fatal(err)
	}
	set, err := dataset.MNISTTest()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.StoreModel(ctx, files, "mlp", zoo.MLP()); err != nil {
		t.Fatal(err)
	}
	set.X, set.Y = set.X[:10*50*784], set.Y[:10*50]
	if _, err := cluster.StoreSet(ctx, files, set, 50, nil); err != nil {
		t.Fatal(err)
	}
	api := client.New(l.Broker())
	url, all := l.URL(), []string{"broker", "coordinator-1", "worker-1", "worker-2"}
	if err := l.Restart(ctx, "worker-1"); !errors.Is(err, cluster.ErrRunning) {
		t.Fatalf("restart of what runs: %v", err)
	}
	if err := l.Restart(ctx, "worker-9"); !errors.Is(err, cluster.ErrNoSuchChild) {
		t.Fatalf("restart of what never was: %v", err)
	}
	for _, name := range all {
		if _, err := l.Kill(name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(store); err != nil {
		t.Fatalf("the store of a killed broker: %v", err)
	}
	for _, name := range all {
		if err := l.Restart(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if l.URL() != url {
		t.Fatalf("the cluster is at %s, was at %s", l.URL(), url)
	}
	sub, err := api.Submit(ctx, []byte(`{"model":"mlp","from":1,"to":10}`))
	if err != nil {
		t.Fatal(err)
	}
	stats, err := api.Wait(ctx, sub.Job, nil)
	if err != nil || stats.State != wire.StateDone {
		t.Fatalf("job ended as %+v, %v", stats, err)
	}
	mu.Lock()
	if asked["worker-1"] != 2 || asked["coordinator-1"] != 2 || asked["broker"] != 0 {
		t.Errorf("asked for servers: %v", asked)
	}
	mu.Unlock()
	l.Stop()
	if _, err := os.Stat(store); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary store after Stop: %v", err)
	}
	if err := l.Restart(ctx, "broker"); !errors.Is(err, cluster.ErrStopped) {
		t.Errorf("restart after Stop: %v", err)
	}
}

// A frozen worker does nothing until it is woken, and doesn't outlive the cluster.
func TestFrozenProcesses(t *testing.T) {
	ctx := testContext(t)
	l, err := cluster.Start(ctx, cluster.Config{Program: program(t), Store: t.TempDir(), Port: -1, Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Stop()
	api := client.New(l.Broker())
	signal := func(name string, sig os.Signal) {
		t.Helper()
		if _, err := l.Signal(name, sig); err != nil {
			t.Fatal(err)
		}
	}
	signal("worker-1", cluster.SignalStop)
	eventually(t, ctx, "the frozen worker is known dead", func() bool { return nodeState(ctx, api, "worker-1") == wire.NodeDead })
	signal("worker-1", cluster.SignalContinue)
	eventually(t, ctx, "the woken worker is alive", func() bool { return nodeState(ctx, api, "worker-1") == wire.NodeAlive })
	if _, err := l.Signal("worker-1", nil); !errors.Is(err, cluster.ErrNoSignal) {
		t.Errorf("no signal: %v", err)
	}
	if _, err := l.Signal("worker-9", cluster.SignalStop); !errors.Is(err, cluster.ErrNoSuchChild) {
		t.Errorf("no such process: %v", err)
	}
	signal("worker-1", cluster.SignalStop)
	signal("worker-2", cluster.SignalStop)
	killed, stopped := l.PID("worker-1"), l.PID("worker-2")
	if _, err := l.Kill("worker-1"); err != nil {
		t.Fatal(err)
	}
	l.Stop()
	if !gone(killed) || !gone(stopped) {
		t.Error("a frozen process is left")
	}
}

func TestNoFrozenProcessOutlivesItsParent(t *testing.T) {
	ctx := testContext(t)
	parent := startUp(t, ctx, t.TempDir())
	b := connect(t, ctx, parent.url)
	reply, err := client.New(b).Nodes(ctx)
	b.Close()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range reply.Nodes {
		if n.Role == wire.RoleWorker {
			if err := syscall.Kill(n.PID, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := parent.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.cmd.Wait() // it was killed
	for _, n := range reply.Nodes {
		eventually(t, ctx, n.Node+" ends after its parent", func() bool { return gone(n.PID) })
	}
}
