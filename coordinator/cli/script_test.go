package cli_test

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"idunno/coordinator/cli"
	"idunno/coordinator/cluster"
	"idunno/models/dataset"
	"idunno/models/zoo"
)

// TestMain makes the test binary the program when it is started under its name,
// by a script or as a child of the cluster.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"idunno": func() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv)) },
	})
}

// TestScripts runs the command line's specification. Scripts share one cluster,
// of one worker so that who did what is always the same, unless they start their
// own. IDUNNO_UPDATE_SCRIPTS=1 rewrites the expected outputs in the scripts.
func TestScripts(t *testing.T) {
	url := sharedCluster(t)
	idx := t.TempDir()
	writeIDX(t, idx)
	if err := os.WriteFile(filepath.Join(idx, "mlp.onnx"), zoo.MLP(), 0o644); err != nil {
		t.Fatal(err)
	}
	writeOutside(t, idx)
	cases := t.TempDir()
	writeCases(t, cases)
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("IDUNNO_UPDATE_SCRIPTS") != "",
		Setup: func(e *testscript.Env) error {
			e.Setenv("NATS_URL", url)
			e.Setenv("IDX", idx)
			e.Setenv("CASES", cases)
			e.Values[processKey{}] = processes{}
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			return os.MkdirAll(filepath.Join(e.WorkDir, "home"), 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "norm": norm, "capture": capture, "start": startProcess, "halt": haltProcess,
		},
	})
}

func sharedCluster(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l, err := cluster.Start(ctx, cluster.Config{Program: program, Store: t.TempDir(), Port: -1, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Stop)
	store, err := cluster.OpenStore(ctx, l.Broker())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.Seed(ctx, store, nil); err != nil {
		t.Fatal(err)
	}
	return l.URL()
}

// writeIDX writes 256 images as files in MNIST's format, as both parts of a set.
func writeIDX(t *testing.T, dir string) {
	t.Helper()
	set, err := dataset.MNISTTest()
	if err != nil {
		t.Fatal(err)
	}
	const n = 256
	labels := make([]byte, n)
	for i := range labels {
		labels[i] = byte(set.Y[i])
	}
	x, y := dataset.IDX{Shape: []int{n, 28, 28}, Data: set.X[:n*784]}, dataset.IDX{Shape: []int{n}, Data: labels}
	for _, part := range []string{"train", "t10k"} {
		for name, p := range map[string][]byte{part + "-images-idx3-ubyte": x.Marshal(), part + "-labels-idx1-ubyte": y.Marshal()} {
			if err := os.WriteFile(filepath.Join(dir, name), p, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// writeCases writes two cases of the ONNX backend suite, good/test_relu and
// bad/test_relu, which expects the result of another operator.
func writeCases(t *testing.T, dir string) {
	t.Helper()
	z, err := zip.OpenReader("../../models/testdata/onnx-backend.zip")
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for to, from := range map[string]string{
		"good/test_relu/model.onnx": "test_relu/model.onnx", "good/test_relu/test_data_set_0/input_0.pb": "test_relu/test_data_set_0/input_0.pb",
		"good/test_relu/test_data_set_0/output_0.pb": "test_relu/test_data_set_0/output_0.pb",
		"bad/test_relu/model.onnx":                   "test_relu/model.onnx", "bad/test_relu/test_data_set_0/input_0.pb": "test_relu/test_data_set_0/input_0.pb",
		"bad/test_relu/test_data_set_0/output_0.pb": "test_reshape_zero_dim/test_data_set_0/output_0.pb",
	} {
		b, err := fs.ReadFile(z, "node/"+from)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, filepath.FromSlash(to))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// exits CODE COMMAND [ARG...] runs a command and checks its exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var failed *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &failed) {
		got = failed.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// What differs from run to run, and what stands for it in expected outputs.
var volatile = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`"\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)"`), `"TIME"`},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`), `TIME`},
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), `DIGEST`},
	{regexp.MustCompile(`nats://127\.0\.0\.1:\d+`), `URL`},
	{regexp.MustCompile(`("(?:job|pid|task_size|results_from|epoch|incarnation|cores|slots|stored|seconds|accuracy|loss|held_out|loss_sum|` +
		`rate|batch_rate|images_per_s|sum_ns|min_ns|max_ns|tasks|correct|[a-z0-9]+_ms2?)": )-?[0-9][0-9.e+-]*`), `${1}0`},
	{regexp.MustCompile(`("(?:version|go|platform|times|id|conn)": )"[^"]*"`), `${1}"TEXT"`},
	{regexp.MustCompile(`,\n +"results": \{[^}]*\}`), ``}, // of an ended job, some seconds later
	{regexp.MustCompile(`\n +"tail": \d+,`), ``},          // none while no worker is known to be well
	{regexp.MustCompile(`"sum_sq": \[[^]]*\]`), `"sum_sq": []`},
	{regexp.MustCompile(`\bjob \d+`), `job N`},
	{regexp.MustCompile(`[0-9.,]+ img/s( +ETA [0-9a-z. ]+)?`), `RATE`},
	{regexp.MustCompile(`[0-9.]+ s\b`), `SPAN`},
}

// norm FROM TO writes a file, or stdout or stderr, with what differs from run to
// run replaced, so that it can be compared.
func norm(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: norm stdout|stderr|FILE FILE")
	}
	text := ts.ReadFile(args[0])
	for _, v := range volatile {
		text = v.what.ReplaceAllString(text, v.with)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o644))
}

// capture NAME FROM PATTERN sets a variable to the first match of the pattern's
// group in a file, or stdout or stderr.
func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: capture NAME stdout|stderr|FILE PATTERN")
	}
	re, err := regexp.Compile(args[2])
	ts.Check(err)
	m := re.FindStringSubmatch(ts.ReadFile(args[1]))
	if len(m) != 2 {
		ts.Fatalf("%q has no match with one group in %s", args[2], args[1])
	}
	ts.Setenv(args[0], m[1])
}

// process is a long-running idunno that a script has started.
type process struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer
	done   chan error
}

type processes map[string]*process

// processKey is where a script keeps its processes.
type processKey struct{}

var running = regexp.MustCompile(`"url":"([^"]+)"`)

// start NAME ARG... runs `idunno ARG...` until halt NAME, and returns when it has
// printed a line; NAME_URL is the url in it.
func startProcess(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start NAME ARG...")
	}
	p := &process{cmd: exec.Command("idunno", args[1:]...), done: make(chan error, 1)}
	p.cmd.Dir = ts.MkAbs(".")
	p.cmd.Env = os.Environ()
	for _, name := range []string{"HOME", "NATS_URL", "TMPDIR", "XDG_DATA_HOME"} {
		p.cmd.Env = append(p.cmd.Env, name+"="+ts.Getenv(name))
	}
	first := make(chan string, 1)
	p.cmd.Stdout = &firstLine{to: first}
	p.cmd.Stderr = &p.stderr
	ts.Check(p.cmd.Start())
	go func() { p.done <- p.cmd.Wait() }()
	ts.Defer(func() {
		_ = p.cmd.Process.Kill() // it may have ended already
	})
	select {
	case line := <-first:
		if m := running.FindStringSubmatch(line); m != nil {
			ts.Setenv(args[0]+"_URL", m[1])
		}
	case err := <-p.done:
		ts.Fatalf("idunno %s ended: %v\n%s", args[1], err, p.stderr.String())
	case <-time.After(2 * time.Minute):
		ts.Fatalf("idunno %s said nothing", args[1])
	}
	started(ts)[args[0]] = p
}

func started(ts *testscript.TestScript) processes { return ts.Value(processKey{}).(processes) }

// firstLine passes on the first line written to it.
type firstLine struct {
	to  chan<- string
	buf []byte
}

func (f *firstLine) Write(p []byte) (int, error) {
	if f.to != nil {
		f.buf = append(f.buf, p...)
		if line, _, ok := bytes.Cut(f.buf, []byte("\n")); ok {
			f.to <- string(line)
			f.to = nil
		}
	}
	return len(p), nil
}

// halt NAME SIGNAL CODE sends SIGNAL (INT or TERM), waits for the end, checks the
// exit code, and leaves what the process said on standard error in NAME.stderr.
func haltProcess(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: halt NAME INT|TERM CODE")
	}
	p := started(ts)[args[0]]
	if p == nil {
		ts.Fatalf("%s is not running", args[0])
	}
	ts.Check(p.cmd.Process.Signal(map[string]os.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM}[args[1]]))
	select {
	case <-p.done:
	case <-time.After(2 * time.Minute):
		ts.Fatalf("%s did not stop\n%s", args[0], p.stderr.String())
	}
	if code := strconv.Itoa(p.cmd.ProcessState.ExitCode()); code != args[2] {
		ts.Fatalf("%s: exit code %s, want %s\n%s", args[0], code, args[2], p.stderr.String())
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".stderr"), []byte(strings.TrimSpace(p.stderr.String())+"\n"), 0o644))
}
