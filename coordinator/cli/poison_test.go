//go:build unix

package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/client"
	"idunno/coordinator/cluster"
	"idunno/models/onnx/encode"
	"idunno/objectstore"
)

// classifier is a model that takes images of the given number of pixels, sums each one
// up and passes the sums through nodes, "s" to "y".
func classifier(pixels int, init []encode.Tensor, nodes ...encode.Node) []byte {
	w := encode.Tensor{Name: "w", Dims: []int64{int64(pixels), 10}, Floats: make([]float32, pixels*10)}
	for i := range w.Floats {
		w.Floats[i] = float32(i%10) / 100
	}
	return encode.Model{
		In: []encode.Value{{Name: "x", Dims: []any{"N", pixels}}}, Out: []encode.Value{{Name: "y"}}, Init: append(init, w),
		Nodes: append([]encode.Node{{Op: "MatMul", In: []string{"x", "w"}, Out: []string{"s"}}}, nodes...),
	}.Bytes()
}

func sound() []byte {
	return classifier(784, nil, encode.Node{Op: "Identity", In: []string{"s"}, Out: []string{"y"}})
}

// broken fits no image of the set.
func broken() []byte {
	return classifier(10, nil, encode.Node{Op: "Identity", In: []string{"s"}, Out: []string{"y"}})
}

// loop runs a body without an end. With stacked set it keeps every run's values.
func loop(stacked bool) []byte {
	body := encode.Graph{
		In:    []encode.Value{{Name: "i", DType: encode.Int64, Dims: []any{}}, {Name: "c", DType: 9, Dims: []any{}}, {Name: "p"}},
		Out:   []encode.Value{{Name: "c", DType: 9}, {Name: "q"}},
		Nodes: []encode.Node{{Op: "Identity", In: []string{"p"}, Out: []string{"q"}}},
	}
	outs := []string{"y"}
	if stacked {
		body.Nodes = append(body.Nodes, encode.Node{Op: "Identity", In: []string{"p"}, Out: []string{"r"}})
		body.Out = append(body.Out, encode.Value{Name: "r"})
		outs = append(outs, "all")
	}
	trips := encode.Tensor{Name: "trips", Dims: []int64{}, Ints: []int64{math.MaxInt64 / 2}}
	return classifier(784, []encode.Tensor{trips}, encode.Node{Op: "Loop", In: []string{"trips", "", "s"}, Out: outs, Attrs: encode.Attrs{"body": body}})
}

// poisoned is a cluster of processes with models that do harm.
type poisoned struct {
	t     *testing.T
	ctx   context.Context
	l     *cluster.Local
	store *objectstore.Store
	api   *client.Client
}

func startPoisoned(t *testing.T, workers int, args ...string) *poisoned {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	l, err := cluster.Start(ctx, cluster.Config{Program: program, Store: t.TempDir(), Port: -1, Workers: workers, Cores: workers, WorkerArgs: args, Log: &log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Stop()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	store, err := cluster.OpenStore(ctx, l.Broker())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.Seed(ctx, store, nil); err != nil {
		t.Fatal(err)
	}
	p := &poisoned{t, ctx, l, store, client.New(l.Broker())}
	for name, model := range map[string][]byte{"broken": broken(), "endless": loop(false), "hungry": loop(true)} {
		p.put(name, model)
	}
	return p
}

func (p *poisoned) put(name string, model []byte) {
	p.t.Helper()
	if _, err := p.store.Put(p.ctx, wire.ModelFolder+name, bytes.NewReader(model)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *poisoned) submit(doc string) uint64 {
	p.t.Helper()
	sub, err := p.api.Submit(p.ctx, []byte(doc))
	if err != nil {
		p.t.Fatalf("%s: %v", doc, err)
	}
	return sub.Job
}

func (p *poisoned) wait(job uint64) *wire.JobStats {
	p.t.Helper()
	s, err := p.api.Wait(p.ctx, job, nil)
	if err != nil {
		p.t.Fatalf("job %d: %v", job, err)
	}
	return s
}

// letters reads the dead letters of a job with all that was tried, by task.
func (p *poisoned) letters(job uint64) []wire.DeadLetter {
	p.t.Helper()
	page, err := p.api.DeadLetters(p.ctx, wire.DLQRequest{Job: job})
	if err != nil {
		p.t.Fatal(err)
	}
	for i := range page.Letters {
		one, err := p.api.DeadLetters(p.ctx, wire.DLQRequest{Job: job, Task: page.Letters[i].Task})
		if err != nil {
			p.t.Fatal(err)
		}
		page.Letters[i] = one.Letters[0]
	}
	slices.SortFunc(page.Letters, func(a, b wire.DeadLetter) int { return a.Task - b.Task })
	return page.Letters
}

// run runs the program against the cluster and returns its answer and exit code.
func (p *poisoned) run(args ...string) (stdout, stderr string, code int) {
	cmd := exec.CommandContext(p.ctx, "idunno", append(args, "--server", p.l.URL())...)
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	_ = cmd.Run() // the code tells
	return out.String(), talk.String(), cmd.ProcessState.ExitCode()
}

// TestPoison has models that fail, hang and eat memory next to one that is sound: each
// bad task is tried as often as is set, later each time and on both workers, and
// becomes one dead letter; the sound job is done before the bad ones have ended.
func TestPoison(t *testing.T) {
	p := startPoisoned(t, 2, "--max-attempts", "3", "--batch-timeout", "1s", "--task-memory", "16MiB")
	bad := map[string]uint64{}
	for _, name := range []string{"broken", "endless", "hungry"} {
		bad[name] = p.submit(fmt.Sprintf(`{"model":%q,"from":1,"to":3}`, name))
	}
	sound := p.submit(`{"model":"mlp","from":1,"to":60}`)
	if s := p.wait(sound); s.State != wire.StateDone || s.Batches != 60 {
		t.Fatalf("the sound job ended as %+v", s)
	}
	if reply, err := p.api.Job(p.ctx, bad["endless"]); err != nil || reply.Record.State.Ended() {
		t.Fatalf("the job that hangs ended before the sound one: %+v, %v", reply, err)
	}
	for name, cause := range map[string]wire.Cause{"broken": wire.CauseError, "endless": wire.CauseTimeout, "hungry": wire.CauseMemory} {
		if s := p.wait(bad[name]); s.State != wire.StateDoneWithFailures || s.Failed != 3 || s.Batches != 0 {
			t.Fatalf("%s ended as %+v", name, s)
		}
		letters := p.letters(bad[name])
		if len(letters) != 3 {
			t.Fatalf("%s: %d dead letters", name, len(letters))
		}
		for i, l := range letters {
			if l.Task != i+1 || l.From != i+1 || l.To != i+1 || l.Model != name || len(l.ModelDigest) != 64 || l.Data != "mnist" || len(l.DataDigest) != 64 || l.Error == "" || l.Time.IsZero() {
				t.Errorf("%s: letter %+v", name, l)
			}
			if l.Failures != 3 || l.Crashes != 0 || l.Attempts != 3 || len(l.Tried) != 3 || !slices.Equal(sorted(l.Nodes), []string{"worker-1", "worker-2"}) {
				t.Errorf("%s task %d: %d failures, %d crashes, nodes %v", name, l.Task, l.Failures, l.Crashes, l.Nodes)
			}
			var apart []time.Duration
			for k, a := range l.Tried {
				if a.Cause != cause || a.Error == "" {
					t.Errorf("%s task %d, try %d: %+v", name, l.Task, k+1, a)
				}
				if k > 0 {
					apart = append(apart, a.Time.Sub(l.Tried[k-1].Time))
					if name == "endless" && !a.Isolated {
						t.Errorf("task %d hangs, and had no process of its own in try %d", l.Task, k+1)
					}
				}
			}
			// 0.2 s and 0.4 s are waited at least; more when others come first.
			if len(apart) == 2 && (apart[0] < 200*time.Millisecond || apart[1] < 400*time.Millisecond) {
				t.Errorf("%s task %d: tries %v apart", name, l.Task, apart)
			}
		}
	}
	p.retry(bad["broken"])
	p.commands(bad["broken"], bad["endless"])
}

func sorted(s []string) []string { s = slices.Clone(s); slices.Sort(s); return s }

// retry does failed tasks again, with the model as it was and as it is now.
func (p *poisoned) retry(failed uint64) {
	p.t.Helper()
	p.put("broken", sound())
	again := p.submit(fmt.Sprintf(`{"retry":%d,"tasks":[2]}`, failed))
	if s := p.wait(again); s.State != wire.StateDoneWithFailures || s.Failed != 1 || s.Total != 1 {
		p.t.Errorf("with the model as it was: %+v", s)
	}
	if l := p.letters(again); len(l) != 1 || l[0].Task != 1 || l[0].From != 2 || l[0].To != 2 || l[0].ModelVersion != 1 {
		p.t.Errorf("dead letters of the retry: %+v", l)
	}
	out, talk, code := p.run("dlq", "retry", fmt.Sprint(failed), "--newest", "--watch", "--json")
	if code != 0 {
		p.t.Fatalf("retry with the mended model: exit code %d\n%s%s", code, out, talk)
	}
	// A retry of a retry is the same batch.
	mended := p.submit(fmt.Sprintf(`{"retry":%d,"newest":true}`, again))
	if s := p.wait(mended); s.State != wire.StateDone || s.Batches != 1 {
		p.t.Errorf("retry of the retry: %+v", s)
	}
	seen := 0
	if err := p.api.Results(p.ctx, mended, func(r *wire.Result) error {
		for _, b := range r.Batches {
			if seen++; b.Batch != 2 {
				p.t.Errorf("batch %d was done again, want 2", b.Batch)
			}
		}
		return nil
	}); err != nil || seen != 1 {
		p.t.Errorf("%d batches, %v", seen, err)
	}
}

// commands checks what the command line and the service say of dead letters.
func (p *poisoned) commands(broken, endless uint64) {
	t := p.t
	t.Helper()
	var list struct {
		Schema  int               `json:"schema_version"`
		Letters []wire.DeadLetter `json:"letters"`
		Next    uint64            `json:"next"`
	}
	var places []uint64
	for after := uint64(0); ; after = list.Next {
		list.Letters, list.Next = nil, 0
		out, talk, code := p.run("dlq", "ls", "--limit", "4", "--after", fmt.Sprint(after), "--json")
		if err := json.Unmarshal([]byte(out), &list); err != nil || code != 0 || list.Schema != 1 {
			t.Fatalf("dlq ls: exit code %d, %v\n%s%s", code, err, out, talk)
		}
		for _, l := range list.Letters {
			places = append(places, l.Seq)
			if (l.Job == broken) != (l.RetriedBy > 0) && l.Model != "broken" {
				t.Errorf("letter of job %d is retried by %d", l.Job, l.RetriedBy)
			}
		}
		if list.Next == 0 {
			break
		}
	}
	if len(places) != 10 || !slices.IsSorted(places) || len(slices.Compact(places)) != 10 {
		t.Errorf("pages hold the places %v", places)
	}
	number := fmt.Sprint(broken)
	out, _, code := p.run("dlq", "show", number, "2")
	for _, want := range []string{"failures  3\n", "crashes   0\n", "batches   2 to 2\n", "nodes     worker-", "retried   by job ", "images do not fit the model", "TRY"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("dlq show: exit code %d, no %q in\n%s", code, want, out)
		}
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"dlq", "show", number, "9"}, 1, "has no dead letter"},
		{[]string{"dlq", "show", number, "x"}, 2, "not a task number"},
		{[]string{"dlq", "show", number}, 2, "give JOB TASK"},
		{[]string{"dlq", "ls", "--limit", "0"}, 2, "choose 1 to 1000"},
		{[]string{"dlq", "retry", number, "7"}, 1, "task 7 of job " + number + " has not failed; allowed: 1, 2, 3"},
		{[]string{"dlq", "retry", "999"}, 1, "does not exist"},
		{[]string{"dlq", "retry", fmt.Sprint(endless + 2)}, 1, "has no failed tasks"},
	} {
		if _, talk, code := p.run(c.args...); code != c.code || !strings.Contains(talk, c.says) {
			t.Errorf("%v: exit code %d\n%s", c.args, code, talk)
		}
	}
	// Any NATS client can ask.
	for request, want := range map[[2]string]string{
		{broker.SubjectDLQ, ``}:                                                   `"letters":[{`,
		{broker.SubjectDLQ, `{"job":` + number + `,"task":2}`}:                    `"tried":[{`,
		{broker.SubjectDLQ, `{"task":2}`}:                                         `"code":"bad_request"`,
		{broker.SubjectRetry, `{"job":` + number + `,"tasks":[1],"newest":true}`}: `"job":`,
		{broker.SubjectRetry, `{}`}:                                               `"code":"bad_request"`,
	} {
		msg, err := p.l.Broker().NC.Request(request[0], []byte(request[1]), 5*time.Second)
		if err != nil || !strings.Contains(string(msg.Data), want) {
			t.Errorf("%v: %v, %s", request, err, msg.Data)
		}
	}
}

// TestDeathsOfNodesAreCountedApart kills the workers that compute a task, one after
// the other: the task goes to the third, in a process of its own, and its record
// tells crashes from failures.
func TestDeathsOfNodesAreCountedApart(t *testing.T) {
	p := startPoisoned(t, 3, "--max-attempts", "1", "--batch-timeout", "8s")
	beats := make(chan *wire.Heartbeat, 1000)
	stop, err := p.l.Broker().Listen(broker.SubjectHeartbeats, func(m *broker.Message) {
		if h, err := wire.ParseHeartbeat(m.Data); err == nil {
			select {
			case beats <- h:
			default: // a full channel has what is needed
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	job := p.submit(`{"model":"endless","from":1,"to":1}`)
	var killed []string
	for len(killed) < 2 {
		select {
		case h := <-beats:
			if len(h.InFlight) != 1 || !h.InFlight[0].Started || slices.Contains(killed, h.Node) {
				continue
			}
			if _, err := p.l.Kill(h.Node); err != nil {
				t.Fatal(err)
			}
			killed = append(killed, h.Node)
		case <-p.ctx.Done():
			t.Fatalf("killed %v only", killed)
		}
	}
	if s := p.wait(job); s.State != wire.StateDoneWithFailures || s.Failed != 1 {
		t.Fatalf("the job ended as %+v", s)
	}
	letters := p.letters(job)
	if len(letters) != 1 {
		t.Fatalf("%d dead letters", len(letters))
	}
	l := letters[0]
	if l.Failures != 1 || l.Crashes != 2 || len(l.Tried) != 3 || !l.Tried[2].Isolated || l.Tried[2].Cause != wire.CauseTimeout {
		t.Fatalf("%d failures and %d crashes: %+v", l.Failures, l.Crashes, l.Tried)
	}
	for i, name := range killed {
		if a := l.Tried[i]; a.Cause != wire.CauseCrash || a.Node != name {
			t.Errorf("try %d: %+v, want a crash of %s", i+1, a, name)
		}
	}
	if slices.Contains(killed, l.Node) || len(l.Nodes) != 3 {
		t.Errorf("nodes %v, the last %s", l.Nodes, l.Node)
	}
}
