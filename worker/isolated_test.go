package worker

import (
	"context"
	"encoding/gob"
	"errors"
	"math"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"idunno/broker/wire"
	"idunno/models"
	"idunno/models/dataset"
	"idunno/models/onnx/encode"
	"idunno/models/zoo"
)

// itself is this test binary as a process that computes, see TestMain.
func itself(t *testing.T) Command {
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Command{Path: path, Args: []string{"worker", "isolated"}}
}

// endless is a model that never comes to an end.
func endless() []byte {
	return encode.Model{
		In: []encode.Value{{Name: "x", Dims: []any{"N", 784}}}, Out: []encode.Value{{Name: "y"}},
		Init: []encode.Tensor{{Name: "trips", Dims: []int64{}, Ints: []int64{math.MaxInt64 / 2}}},
		Nodes: []encode.Node{{Op: "Loop", In: []string{"trips", "", "x"}, Out: []string{"y"}, Attrs: encode.Attrs{"body": encode.Graph{
			In:    []encode.Value{{Name: "i", DType: encode.Int64, Dims: []any{}}, {Name: "c", DType: 9, Dims: []any{}}, {Name: "p"}},
			Out:   []encode.Value{{Name: "c", DType: 9}, {Name: "q"}},
			Nodes: []encode.Node{{Op: "Identity", In: []string{"p"}, Out: []string{"q"}}},
		}}}},
	}.Bytes()
}

func firstBatch(t *testing.T) *dataset.Batch {
	t.Helper()
	set, err := dataset.MNISTTest()
	if err != nil {
		t.Fatal(err)
	}
	b, err := set.Batch(1, 10)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// startLoaded starts a process with a model and ends it with the test.
func startLoaded(t *testing.T, most int64, model []byte) *isolated {
	t.Helper()
	p, err := startIsolated(t.Context(), itself(t), most)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	if err := p.load(t.Context(), "m", model, 1<<30, time.Minute); err != nil {
		t.Fatal(err)
	}
	return p
}

const plenty = 8 << 30

func TestProcessComputesWhatTheWorkerDoes(t *testing.T) {
	const outputs = wire.OutputsProbs
	b := firstBatch(t)
	m, err := models.Load(zoo.MLP(), models.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want, err := predict(t.Context(), m.NewSession(), 7, b, outputs)
	if err != nil {
		t.Fatal(err)
	}
	p := startLoaded(t, plenty, zoo.MLP())
	for range 2 {
		got, err := p.predict(t.Context(), 7, b, outputs, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		got.Nanos = want.Nanos
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v, want %+v", got, want)
		}
	}
	// An error of the model leaves the process as it was; another model replaces the first.
	wrong := *b
	wrong.Shape = []int{10, 784, 1}
	wrong.Shape[1] = 1
	wrong.X = wrong.X[:10]
	if _, err := p.predict(t.Context(), 7, &wrong, "", time.Minute); !isFault(err) || causeOf(err) != wire.CauseError || p.broken {
		t.Fatalf("images of another size: %v", err)
	}
	if err := p.load(t.Context(), "other", []byte("no model at all"), 1<<30, time.Minute); !isFault(err) || p.model != "" {
		t.Fatalf("no model at all: %v", err)
	}
	if err := p.load(t.Context(), "m", zoo.MLP(), 1000, time.Minute); causeOf(err) != wire.CauseMemory {
		t.Fatalf("a model that is larger than allowed: %v", err)
	}
}

func TestProcessIsKilled(t *testing.T) {
	b := firstBatch(t)
	for _, c := range []struct {
		name  string
		most  int64
		limit time.Duration
		// harm is done while the process computes.
		harm  func(p *isolated, cancel func())
		cause wire.Cause
		says  string
	}{
		{"time", plenty, 200 * time.Millisecond, nil, wire.CauseTimeout, "took longer than allowed: 200ms"},
		{"its own death", plenty, time.Minute, func(p *isolated, _ func()) { _ = p.cmd.Process.Kill() }, wire.CauseKilled, "signal: killed"},
		{"end of the task", plenty, time.Minute, func(_ *isolated, cancel func()) { cancel() }, "", "context canceled"},
	} {
		p := startLoaded(t, c.most, endless())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if c.harm != nil {
			time.AfterFunc(50*time.Millisecond, func() { c.harm(p, cancel) })
		}
		_, err := p.predict(ctx, 1, b, "", c.limit)
		if err == nil || !strings.Contains(err.Error(), c.says) || isFault(err) != (c.cause != "") || c.cause != "" && causeOf(err) != c.cause || !p.broken {
			t.Errorf("%s: %v", c.name, err)
		}
		select {
		case <-p.gone:
		default:
			t.Errorf("%s: the process is still there", c.name)
		}
	}
}

func TestProcessThatCanNotBeStarted(t *testing.T) {
	if _, err := startIsolated(t.Context(), Command{Path: "/nowhere/at/all"}, plenty); err == nil {
		t.Error("a program that isn't there was started")
	}
	c := itself(t)
	c.Args = []string{"worker", "-no-such-flag"}
	if _, err := startIsolated(t.Context(), c, plenty); !errors.Is(err, errDied) || !strings.Contains(err.Error(), "flag provided but not defined") {
		t.Errorf("a program that ends at once: %v", err)
	}
}

// A process ends with the worker, even in the middle of a computation.
func TestProcessEndsWithItsWorker(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := itself(t)
	cmd := exec.CommandContext(ctx, c.Path)
	cmd.Args = c.Args
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	enc, dec := gob.NewEncoder(in), gob.NewDecoder(out)
	for _, o := range []*order{{Model: endless(), Memory: 1 << 30}, {Batch: firstBatch(t).Marshal()}} {
		var a answer
		if err := dec.Decode(&a); err != nil || a.Error != "" {
			t.Fatalf("%+v, %v", a, err)
		}
		if err := enc.Encode(o); err != nil {
			t.Fatal(err)
		}
	}
	in.Close() // as the kernel does for a worker that dies
	if err := cmd.Wait(); err != nil {
		t.Fatalf("it ended with %v", err)
	}
}
