//go:build unix

package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/client"
	"idunno/coordinator/cluster"
)

// TestKilledRunEqualsCleanRun asks the same query twice, kills two of three
// workers with SIGKILL in the middle of the second run, and compares what
// `idunno results` prints of both, byte for byte.
func TestKilledRunEqualsCleanRun(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l, err := cluster.Start(ctx, cluster.Config{Program: program, Store: t.TempDir(), Port: -1, Workers: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Stop()
	store, err := cluster.OpenStore(ctx, l.Broker())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.Seed(ctx, store, nil); err != nil {
		t.Fatal(err)
	}
	api := client.New(l.Broker())
	const from, to = 1, 210
	run := func() uint64 {
		sub, err := api.Submit(ctx, fmt.Appendf(nil, `{"model":"cnn","from":%d,"to":%d}`, from, to))
		if err != nil {
			t.Fatal(err)
		}
		stats, err := api.Wait(ctx, sub.Job, nil)
		if err != nil || stats.State != wire.StateDone || stats.Batches != to-from+1 {
			t.Fatalf("job ended as %+v, %v", stats, err)
		}
		return sub.Job
	}
	clean := run()

	// The result of the next job's fifth task is the sign to kill.
	early, err := l.Broker().NC.SubscribeSync(broker.SubjectResult(clean+1, 5))
	if err != nil {
		t.Fatal(err)
	}
	killed := make(chan time.Time, 1)
	go func() {
		defer close(killed)
		if _, err := early.NextMsgWithContext(ctx); err != nil {
			t.Error(err)
			return
		}
		for _, name := range []string{"worker-1", "worker-3"} {
			if _, err := l.Kill(name); err != nil {
				t.Error(err)
			}
		}
		killed <- time.Now()
	}()
	broken := run()
	at, ok := <-killed
	if !ok {
		t.Fatal("no worker was killed")
	}
	o, err := cluster.Collect(ctx, api, broken, from, to)
	if err != nil || o.Missing != 0 || o.Duplicates != 0 {
		t.Fatalf("%d batches missing, %d duplicates, %v", o.Missing, o.Duplicates, err)
	}
	after := 0
	for _, r := range o.Results {
		if r.Started.After(at) {
			after++
		}
	}
	if after == 0 {
		t.Fatal("no task began after the kill: nothing was put to the test")
	}
	want, got := printedResults(t, l.URL(), clean), printedResults(t, l.URL(), broken)
	if lines := bytes.Count(want, []byte("\n")); lines != 100*(to-from+1) {
		t.Fatalf("%d predictions printed, want %d", lines, 100*(to-from+1))
	}
	if !bytes.Equal(got, want) {
		t.Fatal("the results of the run with killed workers are not the clean run's")
	}
}

func printedResults(t *testing.T, url string, job uint64) []byte {
	t.Helper()
	cmd := exec.Command("idunno", "results", strconv.FormatUint(job, 10), "--server", url)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("results %d: %v\n%s", job, err, stderr.String())
	}
	return out
}
