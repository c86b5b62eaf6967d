//go:build unix

package cli_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// demoDocument is the contract of `idunno demo --json`.
type demoDocument struct {
	Schema int `json:"schema_version"`
	Jobs   []struct {
		Job   uint64 `json:"job"`
		Model string `json:"model"`
		From  int    `json:"from"`
		To    int    `json:"to"`
		State string `json:"state"`
		demoFigures
	} `json:"jobs"`
	Nodes []struct {
		Node   string `json:"node"`
		Killed bool   `json:"killed"`
		Tasks  int    `json:"tasks"`
		demoFigures
	} `json:"nodes"`
	Killed *struct {
		Node      string  `json:"node"`
		ResumedMs float64 `json:"resumed_ms"`
	} `json:"killed"`
	Missing    *int  `json:"missing"`
	Duplicates *int  `json:"duplicates"`
	Identical  *bool `json:"identical_to_single_process"`
}

type demoFigures struct {
	Batches         int     `json:"batches"`
	Images          int     `json:"images"`
	Accuracy        float64 `json:"accuracy"`
	Loss            float64 `json:"loss"`
	MeanMs          float64 `json:"mean_ms"`
	SdMs            float64 `json:"sd_ms"`
	VarianceMs2     float64 `json:"variance_ms2"`
	P50Ms           float64 `json:"p50_ms"`
	P95Ms           float64 `json:"p95_ms"`
	P99Ms           float64 `json:"p99_ms"`
	ImagesPerSecond float64 `json:"images_per_s"`
}

// demoCommand prepares `idunno demo` with its temporary files under tmp.
func demoCommand(tmp string, args ...string) *exec.Cmd {
	cmd := exec.Command("idunno", append([]string{"demo"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	return cmd
}

// leftovers are files under tmp and processes that were started with a path there.
func leftovers(t *testing.T, tmp string) []string {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(tmp, "*"))
	if err != nil {
		t.Fatal(err)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range lines {
		// A process that ends meanwhile has nothing to read, and is not left over.
		if p, err := os.ReadFile(f); err == nil && bytes.Contains(p, []byte(tmp)) {
			left = append(left, strings.ReplaceAll(string(p), "\x00", " "))
		}
	}
	return left
}

func TestDemo(t *testing.T) {
	tmp := t.TempDir()
	cmd := demoCommand(tmp, "--json")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	if left := leftovers(t, tmp); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	var doc demoDocument
	dec := json.NewDecoder(&stdout)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	if dec.More() {
		t.Error("more than one document on standard output")
	}
	if doc.Schema != 1 || doc.Missing == nil || *doc.Missing != 0 || doc.Duplicates == nil || *doc.Duplicates != 0 || doc.Identical == nil || !*doc.Identical {
		t.Errorf("outcome: %+v", doc)
	}
	checkDemoJobs(t, &doc)
	if doc.Killed == nil || doc.Killed.Node == "" || doc.Killed.ResumedMs <= 0 || doc.Killed.ResumedMs > 30_000 {
		t.Errorf("killed: %+v", doc.Killed)
	}
	batches, killed := 0, ""
	for _, n := range doc.Nodes {
		batches += n.Batches
		if n.Killed {
			killed = n.Node
		}
	}
	if len(doc.Nodes) != 3 || batches != 400 || killed != doc.Killed.Node {
		t.Errorf("nodes: %+v", doc.Nodes)
	}
	for _, line := range []string{"KILLED   " + killed, "RESUMED  its work on worker-", "job 4  cnn 51-200  150/150  100 %"} {
		if !strings.Contains(stderr.String(), line) {
			t.Errorf("standard error does not say %q:\n%s", line, stderr.String())
		}
	}
	if strings.Contains(stderr.String(), "\x1b") {
		t.Error("terminal control on a standard error that is no terminal")
	}
}

func checkDemoJobs(t *testing.T, doc *demoDocument) {
	t.Helper()
	want := []struct {
		model    string
		from, to int
		accuracy float64
	}{{"mlp", 1, 50, 0.97}, {"mlp", 51, 200, 0.97}, {"cnn", 1, 50, 0.98}, {"cnn", 51, 200, 0.98}}
	if len(doc.Jobs) != len(want) {
		t.Fatalf("jobs: %+v", doc.Jobs)
	}
	for i, j := range doc.Jobs {
		w := want[i]
		if j.Job != uint64(i+1) || j.Model != w.model || j.From != w.from || j.To != w.to || j.State != "done" {
			t.Errorf("job: %+v", j)
		}
		if n := w.to - w.from + 1; j.Batches != n || j.Images != 100*n {
			t.Errorf("job %d: %d batches, %d images", j.Job, j.Batches, j.Images)
		}
		if j.Accuracy < w.accuracy || j.Accuracy > 1 || j.Loss <= 0 || j.Loss > 0.5 {
			t.Errorf("job %d: accuracy %v, loss %v", j.Job, j.Accuracy, j.Loss)
		}
		if j.MeanMs <= 0 || j.P50Ms <= 0 || j.P95Ms < j.P50Ms || j.P99Ms < j.P95Ms || j.ImagesPerSecond <= 0 ||
			j.VarianceMs2 <= 0 || abs(j.SdMs*j.SdMs-j.VarianceMs2) > 0.01*j.VarianceMs2 {
			t.Errorf("job %d: times %+v", j.Job, j.demoFigures)
		}
	}
}

func abs(x float64) float64 { return max(x, -x) }

// startDemo starts the demo and calls when once its queries run; it returns what
// the demo said when it has ended.
func startDemo(t *testing.T, cmd *exec.Cmd, when func()) (said []string) {
	t.Helper()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	limit := time.AfterFunc(3*time.Minute, func() {
		_ = cmd.Process.Kill() // it may have ended already
	})
	defer limit.Stop()
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		said = append(said, lines.Text())
		if strings.HasPrefix(lines.Text(), "job 1  mlp 1-50  ") {
			when()
		}
	}
	_ = cmd.Wait() // the exit code is looked at by the test
	return said
}

func TestInterruptedDemoLeavesNothing(t *testing.T) {
	tmp := t.TempDir()
	cmd := demoCommand(tmp)
	said := startDemo(t, cmd, func() {
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
	})
	if code := cmd.ProcessState.ExitCode(); code != 130 || said[len(said)-1] != "idunno: interrupted" {
		t.Fatalf("exit code %d, said %q", code, said)
	}
	if left := leftovers(t, tmp); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// Its processes notice that the demo is gone, and clean up after it.
func TestKilledDemoLeavesNothing(t *testing.T) {
	tmp := t.TempDir()
	cmd := demoCommand(tmp)
	startDemo(t, cmd, func() { _ = cmd.Process.Kill() }) // a second line may come after it
	if code := cmd.ProcessState.ExitCode(); code != -1 {
		t.Fatalf("exit code %d: it was not killed", code)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(3 * time.Minute)
	for left := leftovers(t, tmp); len(left) > 0; left = leftovers(t, tmp) {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("left behind: %q", left)
		}
	}
}
