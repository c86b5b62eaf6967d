//go:build unix

package cluster_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"idunno/broker"
	"idunno/coordinator/cluster"
)

// gone reports whether a process has ended. One that nobody has reaped yet, a
// zombie, has: it holds nothing and runs no more.
func gone(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return errors.Is(err, os.ErrNotExist) && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(after, "Z") || strings.HasPrefix(after, "X")
}

type upProcess struct {
	cmd *exec.Cmd
	url string
}

// startUp runs `idunno up` as a process of its own, as a user does.
func startUp(t *testing.T, ctx context.Context, store string) *upProcess {
	t.Helper()
	cmd := exec.CommandContext(ctx, program(t))
	cmd.Args = []string{"idunno", "up", "--port", "-1", "--workers", "2", "--store", store, "--json", "--quiet"}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("idunno up said nothing: %v", err)
	}
	var ready cluster.Ready
	if err := json.Unmarshal([]byte(line), &ready); err != nil || ready.URL == "" || ready.PID != cmd.Process.Pid {
		t.Fatalf("idunno up said %q", line)
	}
	return &upProcess{cmd, ready.URL}
}

func connect(t *testing.T, ctx context.Context, url string) *broker.Broker {
	t.Helper()
	b, err := broker.Connect(ctx, broker.Config{Servers: url, Name: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	return b
}
