//go:build unix

package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"idunno/broker/brokertest"
	"idunno/broker/wire"
	"idunno/coordinator/cli"
	"idunno/coordinator/client"
	"idunno/coordinator/cluster"
	"idunno/models"
	"idunno/models/dataset"
	"idunno/models/zoo"
)

// TestMain makes the test binary the program: a child is started under its name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "idunno" {
		os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv))
	}
	goleak.VerifyTestMain(m, brokertest.Leaks()...)
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func program(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// eventually asks until it holds.
func eventually(t *testing.T, ctx context.Context, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not in time: %s", what)
		}
	}
}

func nodeState(ctx context.Context, api *client.Client, name string) wire.NodeState {
	reply, err := api.Nodes(ctx)
	if err != nil {
		return ""
	}
	for _, n := range reply.Nodes {
		if n.Node == name {
			return n.State
		}
	}
	return ""
}

func TestClusterComputesAndLosesAWorker(t *testing.T) {
	ctx := testContext(t)
	l, err := cluster.Start(ctx, cluster.Config{Program: program(t), Store: t.TempDir(), Port: -1, Workers: 2, Coordinators: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Stop()
	store, err := cluster.OpenStore(ctx, l.Broker())
	if err != nil {
		t.Fatal(err)
	}
	set, err := dataset.MNISTTest()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.StoreModel(ctx, store, "mlp", zoo.MLP()); err != nil {
		t.Fatal(err)
	}
	set.X, set.Y = set.X[:20*50*784], set.Y[:20*50]
	steps := 0
	v, err := cluster.StoreSet(ctx, store, set, 50, func(done, total int) { steps++ })
	if err != nil || steps != 20 || v.Parts != 20 {
		t.Fatalf("stored %+v in %d steps, %v", v, steps, err)
	}
	if again, err := cluster.StoreSet(ctx, store, set, 50, nil); err != nil || again.Version != v.Version {
		t.Fatalf("the same set again is version %d, %v", again.Version, err)
	}

	api := client.New(l.Broker())
	sub, err := api.Submit(ctx, []byte(`{"model":"mlp","from":3,"to":20}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Kill("worker-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Kill("worker-1"); !errors.Is(err, cluster.ErrNoSuchChild) {
		t.Fatalf("killing it twice: %v", err)
	}
	stats, err := api.Wait(ctx, sub.Job, nil)
	if err != nil || stats.State != wire.StateDone {
		t.Fatalf("job ended as %+v, %v", stats, err)
	}
	eventually(t, ctx, "worker-1 is known dead", func() bool { return nodeState(ctx, api, "worker-1") == wire.NodeDead })

	alone, err := cluster.RunAlone(ctx, zoo.MLP(), set, 50, 3, 20, 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	o, err := cluster.Collect(ctx, api, sub.Job, 3, 20)
	if err != nil || o.Missing != 0 || o.Duplicates != 0 || o.Failed != 0 || len(o.Batches) != 18 {
		t.Fatalf("outcome %+v, %v", o, err)
	}
	if n := o.Differing(alone); n != 0 {
		t.Fatalf("%d batches differ from a run alone", n)
	}
	alone[5].Prob[7] *= 1.0001
	delete(alone, 6)
	if n := o.Differing(alone); n != 2 {
		t.Fatalf("%d batches differ from a run with two changes", n)
	}
	select {
	case err := <-l.Died():
		t.Fatalf("a process died by itself: %v", err)
	default:
	}
	pids := []int{l.PID("broker"), l.PID("coordinator-1"), l.PID("coordinator-2"), l.PID("worker-2")}
	l.Stop()
	for _, pid := range pids {
		if pid == 0 || !gone(pid) {
			t.Errorf("process %d is left after Stop", pid)
		}
	}
}

func TestOutcomeCountsWhatIsMissing(t *testing.T) {
	o := cluster.Outcome{Batches: map[int]*wire.BatchResult{1: {Batch: 1, Images: 1, Class: []int32{3}, Prob: []float32{0.5}}}}
	same := map[int]*models.Prediction{1: {Class: []int32{3}, Prob: []float32{0.5}}}
	other := map[int]*models.Prediction{1: {Class: []int32{4}, Prob: []float32{0.5}}}
	if o.Differing(same) != 0 || o.Differing(other) != 1 || o.Differing(nil) != 1 {
		t.Fatalf("differing: %d %d %d", o.Differing(same), o.Differing(other), o.Differing(nil))
	}
}

func TestNoProcessOutlivesItsParent(t *testing.T) {
	ctx := testContext(t)
	dir := t.TempDir()
	parent := startUp(t, ctx, dir)
	b := connect(t, ctx, parent.url)
	reply, err := client.New(b).Nodes(ctx)
	b.Close()
	if err != nil || len(reply.Nodes) != 4 { // the broker, a coordinator, two workers
		t.Fatalf("nodes %+v, %v", reply, err)
	}
	if err := parent.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.cmd.Wait() // it was killed
	for _, n := range reply.Nodes {
		eventually(t, ctx, n.Node+" ends after its parent", func() bool { return gone(n.PID) })
	}
	eventually(t, ctx, "the broker ends after its parent", func() bool {
		unlock, err := cluster.LockStore(dir)
		if err == nil {
			unlock()
		}
		return err == nil
	})
}

func TestADeathIsTold(t *testing.T) {
	ctx := testContext(t)
	l, err := cluster.Start(ctx, cluster.Config{Program: program(t), Store: t.TempDir(), Port: -1, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Stop()
	p, err := os.FindProcess(l.PID("worker-1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-l.Died():
		if !errors.Is(err, cluster.ErrChild) || !strings.Contains(err.Error(), "worker-1") {
			t.Fatalf("told %v", err)
		}
	case <-ctx.Done():
		t.Fatal("nobody told that the worker died")
	}
	if crashed := l.Crashed(); l.PID("worker-1") != 0 || l.PID("broker") == 0 || !slices.Equal(crashed, []string{"worker-1"}) {
		t.Fatalf("running: worker %d, broker %d; crashed: %v", l.PID("worker-1"), l.PID("broker"), crashed)
	}
}

func TestStartSaysWhyItFails(t *testing.T) {
	ctx := testContext(t)
	dir := t.TempDir()
	unlock, err := cluster.LockStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	_, err = cluster.Start(ctx, cluster.Config{Program: program(t), Store: dir, Port: -1, Workers: 1})
	if !errors.Is(err, cluster.ErrChild) || !strings.Contains(err.Error(), "in use by another broker") {
		t.Errorf("store in use: %v", err)
	}
	if _, err := cluster.LockStore(dir); !errors.Is(err, cluster.ErrStoreInUse) {
		t.Errorf("locking it twice: %v", err)
	}

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, err = cluster.Start(ctx, cluster.Config{Program: program(t), Store: t.TempDir(), Port: taken.Addr().(*net.TCPAddr).Port, Workers: 1})
	if !errors.Is(err, cluster.ErrChild) || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("port taken: %v", err)
	}

	if _, err = cluster.Start(ctx, cluster.Config{Program: filepath.Join(dir, "none"), Store: t.TempDir(), Port: -1}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no program: %v", err)
	}
	cancelled, cancel := context.WithCancelCause(ctx)
	cancel(fmt.Errorf("changed my mind"))
	_, err = cluster.Start(cancelled, cluster.Config{Program: program(t), Store: t.TempDir(), Port: -1})
	if err == nil || !strings.Contains(err.Error(), "changed my mind") {
		t.Errorf("cancelled: %v", err)
	}
}
