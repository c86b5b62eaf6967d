package worker

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"idunno/broker/wire"
	"idunno/models"
	"idunno/models/dataset"
)

const (
	// startWait bounds the start of a process.
	startWait = 30 * time.Second
	// lookEvery is how often the memory of a process that computes is looked at.
	lookEvery = 20 * time.Millisecond
	// lastWords is how much is kept of what a process says on standard error.
	lastWords = 2 << 10
	// lowPriority is the niceness of a process: what is suspicious shall not slow
	// down what is not.
	lowPriority = 10
)

// isolatedMemory is what a process may take whose models may take the given bytes:
// weights, their packed copies and values, and the program itself.
func isolatedMemory(task int64) int64 { return 3*task + 256<<20 }

// order is what a process is told to do: take a model, or compute a batch with it.
type order struct {
	Model  []byte
	Memory int64
	Batch  []byte
	Number int
	// Outputs is what the task asks for beside classes.
	Outputs string
}

// answer is what comes back; the first one says that the process is ready.
type answer struct {
	Batch *wire.BatchResult
	// Error is empty for success, Cause tells its kind.
	Error string
	Cause wire.Cause
}

// Isolated computes batches for a worker, which has started this process and writes
// to in and reads from out. It returns when in ends, as it does when the worker
// dies; the caller must end the process then, for a computation may still go on.
func Isolated(in io.Reader, out io.Writer) error {
	ended := make(chan error, 1)
	orders := make(chan order)
	go func() {
		dec := gob.NewDecoder(in)
		for {
			var o order
			if err := dec.Decode(&o); err != nil {
				ended <- err
				return
			}
			orders <- o
		}
	}()
	go func() {
		enc, c := gob.NewEncoder(out), &computer{}
		a := &answer{}
		for {
			if err := enc.Encode(a); err != nil {
				ended <- err
				return
			}
			a = c.do(<-orders)
		}
	}()
	if err := <-ended; !errors.Is(err, io.EOF) {
		return fmt.Errorf("talk to the worker: %w", err)
	}
	return nil
}

// computer is the model that a process has.
type computer struct{ session *models.Session }

// do carries an order out. A panic is an error.
func (c *computer) do(o order) (a *answer) {
	defer func() {
		if r := recover(); r != nil {
			a = &answer{Error: fmt.Sprintf("panic: %v", r), Cause: wire.CausePanic}
		}
	}()
	b, err := c.carryOut(o)
	if err != nil {
		return &answer{Error: err.Error(), Cause: causeOf(err)}
	}
	return &answer{Batch: b}
}

func (c *computer) carryOut(o order) (*wire.BatchResult, error) {
	if o.Model != nil {
		c.session = nil
		m, err := LoadModel(o.Model, models.Options{MaxMemory: o.Memory, AnyOutput: true})
		if err != nil {
			return nil, fmt.Errorf("load model: %w", err)
		}
		c.session = m.NewSession()
		debug.FreeOSMemory() // the file has done its work
		return nil, nil
	}
	if c.session == nil {
		return nil, errors.New("there is no model")
	}
	batch, err := dataset.UnmarshalBatch(o.Batch)
	if err != nil {
		return nil, err
	}
	return predict(context.Background(), c.session, o.Number, batch, o.Outputs)
}

// isolated is such a process, as the worker sees it.
type isolated struct {
	cmd    *exec.Cmd
	enc    *gob.Encoder
	dec    *gob.Decoder
	most   int64
	said   *excerpt
	model  string
	broken bool
	rest   *time.Timer
	gone   chan struct{} // closed when the process has ended, with err
	err    error
	once   sync.Once
}

// startIsolated starts a process and waits until it is ready.
func startIsolated(ctx context.Context, c Command, most int64) (*isolated, error) {
	p := &isolated{cmd: exec.Command(c.Path), most: most, said: &excerpt{}, gone: make(chan struct{})}
	p.cmd.Args = c.Args
	p.cmd.SysProcAttr = ownGroup()
	p.cmd.Env = append(os.Environ(), fmt.Sprintf("GOMEMLIMIT=%d", most/4*3), "GOMAXPROCS=2")
	p.cmd.Stderr = p.said
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start a process: %w", err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start a process: %w", err)
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a process: %w", err)
	}
	calm(p.cmd.Process.Pid)
	p.enc, p.dec = gob.NewEncoder(in), gob.NewDecoder(out)
	if _, err := p.ask(ctx, nil, startWait, "start a process"); err != nil {
		p.kill()
		return nil, err
	}
	return p, nil
}

// load gives the process a model, unless it has it.
func (p *isolated) load(ctx context.Context, digest string, model []byte, memory int64, limit time.Duration) error {
	if p.model == digest {
		return nil
	}
	p.model = ""
	if _, err := p.ask(ctx, &order{Model: model, Memory: memory}, limit, "load model"); err != nil {
		return err
	}
	p.model = digest
	return nil
}

// predict has a batch computed.
func (p *isolated) predict(ctx context.Context, n int, b *dataset.Batch, outputs string, limit time.Duration) (*wire.BatchResult, error) {
	a, err := p.ask(ctx, &order{Batch: b.Marshal(), Number: n, Outputs: outputs}, limit, "compute")
	if err != nil {
		return nil, err
	}
	if a.Batch == nil {
		p.broken = true
		return nil, fmt.Errorf("compute: %w", errDied)
	}
	return a.Batch, nil
}

// ask gives an order and waits for the answer. A process that takes more time or
// memory than allowed is killed.
func (p *isolated) ask(ctx context.Context, o *order, limit time.Duration, what string) (*answer, error) {
	var a answer
	done := make(chan error, 1)
	go func() {
		if o != nil {
			if err := p.enc.Encode(o); err != nil {
				done <- err
				return
			}
		}
		done <- p.dec.Decode(&a)
	}()
	late, look := time.NewTimer(limit), time.NewTicker(lookEvery)
	defer late.Stop()
	defer look.Stop()
	for {
		var why error
		select {
		case err := <-done:
			if err != nil {
				return nil, p.epitaph(what)
			}
			if a.Error != "" {
				p.broken = a.Cause != wire.CauseError
				return nil, told(&a)
			}
			return &a, nil
		case <-ctx.Done():
			why = ctx.Err()
		case <-late.C:
			why = slow(what, limit)
		case <-look.C:
			if used := residentMemory(p.cmd.Process.Pid); used > p.most {
				why = fault{fmt.Errorf("%s: %w: the process has %d MiB, allowed are %d; --task-memory of the workers sets the limit", what, errHungry, used>>20, p.most>>20)}
			}
		}
		if why != nil {
			p.broken = true
			p.kill()
			<-done
			return nil, why
		}
	}
}

// told is the error that a process has answered with.
func told(a *answer) error {
	err := errors.New(a.Error)
	for cause, kind := range map[wire.Cause]error{wire.CausePanic: errPanic, wire.CauseMemory: models.ErrTooLarge} {
		if a.Cause == cause {
			err = kindly{err, kind}
		}
	}
	return fault{err}
}

// kindly is an error of a kind that its text tells already.
type kindly struct {
	error
	kind error
}

func (k kindly) Unwrap() error { return k.kind }

// epitaph tells how the process died, which it has or is about to.
func (p *isolated) epitaph(what string) error {
	p.broken = true
	p.kill()
	how := "it ended by itself"
	if p.err != nil {
		how = p.err.Error()
	}
	kind, words := errDied, p.said.String()
	if strings.Contains(words, "out of memory") || strings.Contains(words, "cannot allocate memory") {
		kind = errHungry
	}
	if words != "" {
		how += ": " + words
	}
	return fault{fmt.Errorf("%s: %w (%s)", what, kind, how)}
}

// kill ends the process and returns when it is gone.
func (p *isolated) kill() {
	p.once.Do(func() {
		go func() {
			p.err = p.cmd.Wait()
			close(p.gone)
		}()
	})
	_ = p.cmd.Process.Kill() // its only error says that the process is gone already
	<-p.gone
}

// excerpt keeps the first bytes that are written to it.
type excerpt struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (e *excerpt) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.buf.Write(p[:min(len(p), max(lastWords-e.buf.Len(), 0))])
	return len(p), nil
}

// String is the first line.
func (e *excerpt) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	line, _, _ := strings.Cut(strings.TrimSpace(e.buf.String()), "\n")
	return strings.ToValidUTF8(line, "?")
}
