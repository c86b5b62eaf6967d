package cli_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"

	"idunno/broker"
	"idunno/coordinator/cluster"
)

// TestBrokerKeepsToItsMemory stores and reads a file in a broker that aims at less
// memory than the file has. Without the aim it takes two to three times the file.
func TestBrokerKeepsToItsMemory(t *testing.T) {
	const size, most = 96 << 20, 176 << 20
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "idunno", "broker", "--port", "-1", "--store", t.TempDir(), "--json", "--memory", "80MiB")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var ready cluster.Ready
	if err := json.Unmarshal([]byte(line), &ready); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	b, err := broker.Connect(ctx, broker.Config{Servers: ready.URL, Name: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	store, err := cluster.OpenStore(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Put(ctx, "big", io.LimitReader(rand.NewChaCha8([32]byte{}), size)); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Get(ctx, "big", io.Discard); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	peak := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if peak == nil {
		t.Fatalf("no peak in %s", status)
	}
	kib, err := strconv.ParseInt(string(peak[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("peak %d MiB", kib>>10)
	if kib<<10 > most {
		t.Errorf("the broker took %d MiB for a file of %d MiB", kib>>10, size>>20)
	}
}
