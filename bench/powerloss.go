package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"idunno/bench/powercut"
	"idunno/broker"
	"idunno/broker/embedded"
	"idunno/coordinator/cluster"
	"idunno/objectstore"
)

// PowerlossConfig says what [Powerloss] measures.
type PowerlossConfig struct {
	// Program is the path of the idunno program that the broker is started with.
	// Required.
	Program string
	// Cuts is how often the power is cut, for each way of syncing; default 10.
	Cuts int
	// Span is how long the broker works before a cut, at most; at least half of it.
	// Default 3 s.
	Span time.Duration
	// Interval is how often the broker syncs when it doesn't sync every write;
	// default two minutes, that of nats-server.
	Interval time.Duration
	// Seed decides when the cuts are; default 1.
	Seed uint64
	// Progress is told of every step.
	Progress Progress
}

// Writers of each kind. Those of results are so many that most share a durable write
// with others: in groups of the process's own (job powerOwn), in those that the broker
// makes of what comes to it (powerShared), and in groups that are refused whole because
// another process, which stores the same, came first (powerRivals).
const (
	powerResults = 96
	powerGiven   = 32
	powerDouble  = 72
	powerJobs    = 2
	powerFiles   = 2

	powerOwn, powerShared, powerRivals = 1, 2, 3
	// powerFile is the size of a file in bytes, powerResult that of a result.
	powerFile   = 300 << 10
	powerResult = 1 << 10
)

// Powerloss cuts the power of a broker while jobs are submitted, results stored, most of
// them in batches that share a durable write, and files put into the SDFS. It starts a
// broker on what is left on the disk (see package powercut), and counts what had been
// acknowledged and is gone. It does so with every write synced before it is acknowledged,
// which is the default, and with a sync from time to time. Something lost with the
// default makes the document not OK.
func Powerloss(ctx context.Context, c PowerlossConfig) (*Document, error) {
	if c.Program == "" {
		return nil, fmt.Errorf("%w: no program", ErrConfig)
	}
	if c.Cuts <= 0 {
		c.Cuts = 10
	}
	if c.Span <= 0 {
		c.Span = 3 * time.Second
	}
	if c.Interval <= 0 {
		c.Interval = 2 * time.Minute
	}
	if c.Seed == 0 {
		c.Seed = 1
	}
	d := newDocument("powerloss")
	random := rand.New(rand.NewPCG(c.Seed, 0))
	for _, way := range []struct {
		name string
		args []string
	}{{"always", nil}, {"interval", []string{"--sync-interval", c.Interval.String()}}} {
		var acked, shared, lost []float64
		all, gone := 0, 0
		for cut := range c.Cuts {
			after := c.Span/2 + time.Duration(random.Int64N(int64(c.Span/2)+1))
			o, err := powerCut(ctx, c.Program, way.args, after)
			if err != nil {
				return nil, err
			}
			grouped, writes := o.grouped()
			c.Progress.tell("sync %s, cut %d of %d after %.1f s: %d acknowledged (%d submissions, %d results, %d of them in %d writes, %d files), %d lost%s; %d syncs, %d KiB on the disk",
				way.name, cut+1, c.Cuts, after.Seconds(), o.acked(), len(o.jobs), len(o.results), grouped, writes, len(o.files), o.lost, o.first, o.disk.Syncs, o.disk.Bytes>>10)
			acked, lost, shared = append(acked, float64(o.acked())), append(lost, float64(o.lost)), append(shared, float64(grouped))
			all, gone = all+o.acked(), gone+o.lost
		}
		d.Results = append(d.Results, counted("acknowledged/"+way.name, "writes", acked),
			counted("grouped/"+way.name, "writes", shared), counted("lost/"+way.name, "writes", lost))
		d.Ratios = append(d.Ratios, Ratio{"lost_to_acknowledged/" + way.name, float64(gone) / float64(max(all, 1)), all})
		d.Counts.Faults += c.Cuts
		if way.name == "always" {
			d.Counts.Lost = gone
			d.OK = gone == 0 && all > 0
		}
	}
	return d, nil
}

// counted is a result of few values, which may be nought.
func counted(name, unit string, values []float64) Result {
	v := slices.Sorted(slices.Values(values))
	r := Result{Name: name, Unit: unit, N: len(v)}
	if len(v) == 0 {
		return r
	}
	at := func(q float64) float64 { return v[min(int(q*float64(len(v))), len(v)-1)] }
	for _, x := range v {
		r.Mean += x / float64(len(v))
	}
	for _, x := range v {
		r.Sd += (x - r.Mean) * (x - r.Mean) / float64(len(v))
	}
	r.Sd = math.Sqrt(r.Sd)
	r.Min, r.P50, r.P90, r.P95, r.P99, r.Max = v[0], at(0.5), at(0.9), at(0.95), at(0.99), v[len(v)-1]
	return r
}

// powered is what was acknowledged before a cut, and how much of it is lost.
type powered struct {
	mu   sync.Mutex
	jobs map[uint64][]byte
	// results are the tasks of which somebody was told that they have a result, with
	// what that may be; groups are the durable writes of those that shared one, as far
	// as they were seen.
	results map[powerTask][][]byte
	groups  map[powerTask]string
	files   map[string]string // digest by name
	lost    int
	// first says what was lost first.
	first string
	disk  powercut.Stats
}

type powerTask struct {
	job  uint64
	task int
}

// grouped counts the acknowledged results that shared a durable write with others, and
// those writes.
func (o *powered) grouped() (results, writes int) {
	seen := make(map[string]bool)
	for at := range o.results {
		if group := o.groups[at]; group != "" {
			results++
			seen[group] = true
		}
	}
	return results, len(seen)
}

// see notes the durable write of a stored result.
func (o *powered) see(m *broker.Stored) {
	if job, task, ok := broker.TaskOfResult(m.Subject); ok && m.Group != "" {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.groups[powerTask{job, task}] = m.Group
	}
}

// miss notes that something is lost.
func (o *powered) miss(format string, args ...any) {
	if o.lost++; o.first == "" {
		o.first = fmt.Sprintf(" (first: "+format+")", args...)
	}
}

func (o *powered) acked() int { return len(o.jobs) + len(o.results) + len(o.files) }

// powerCut runs a broker for a while, cuts its power, and counts what is lost.
func powerCut(ctx context.Context, program string, args []string, after time.Duration) (*powered, error) {
	dir, err := os.MkdirTemp("", "idunno-powerloss-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	store, left := filepath.Join(dir, "store"), filepath.Join(dir, "left")
	if err := os.Mkdir(store, 0o700); err != nil {
		return nil, err
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NATS_") })
	said := &firstLine{line: make(chan string, 1)}
	var complaints bytes.Buffer
	p, err := powercut.Start(powercut.Config{Program: program, Dir: store, Env: env,
		Args: append([]string{"idunno", "broker", "--port", "-1", "--store", store, "--json"}, args...)}, said, &complaints)
	if err != nil {
		return nil, err
	}
	o := &powered{jobs: make(map[uint64][]byte), results: make(map[powerTask][][]byte), groups: make(map[powerTask]string), files: make(map[string]string)}
	cut := sync.OnceValue(func() error { return p.Cut(left) })
	err = o.load(ctx, said.line, after, cut)
	if cutErr := cut(); err == nil {
		err = cutErr
	}
	o.disk = p.Stats()
	if err != nil {
		return nil, fmt.Errorf("%w %s", err, complaints.Bytes())
	}
	return o, o.check(ctx, left)
}

// load has the broker store things until the time is up, and cuts its power in the
// midst of it. What it doesn't acknowledge is not counted.
func (o *powered) load(ctx context.Context, ready <-chan string, span time.Duration, cut func() error) (err error) {
	starting, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var at cluster.Ready
	select {
	case line := <-ready:
		if err := json.Unmarshal([]byte(line), &at); err != nil {
			return fmt.Errorf("the broker said %q: %w", line, err)
		}
	case <-starting.Done():
		return fmt.Errorf("the broker doesn't start: %w", context.Cause(starting))
	}
	// Two processes whose results the broker may store, and two that do it themselves.
	var b, rival, alone, other *broker.Broker
	for i, to := range []**broker.Broker{&b, &rival, &alone, &other} {
		*to, err = broker.Connect(starting, broker.Config{Servers: at.URL, Name: "powerloss", StoreAlone: i > 1})
		if err != nil {
			return err
		}
		defer (*to).Close()
	}
	objects, index, err := b.Files(starting)
	if err != nil {
		return err
	}
	files := objectstore.Open(objects, index)
	stop, err := b.FollowResults(starting, 1, func(_ context.Context, m *broker.Stored) {
		if m != nil {
			o.see(m)
		}
	})
	if err != nil {
		return err
	}
	defer stop()
	ctx, cancel = context.WithCancel(ctx)
	defer cancel()
	var writers sync.WaitGroup
	write := func(n int, one func(i int) error) {
		for w := range n {
			writers.Go(func() {
				for i := w + 1; ctx.Err() == nil; i += n {
					_ = one(i) // what fails was not acknowledged
				}
			})
		}
	}
	write(powerResults, func(i int) error { return o.result(ctx, powerTask{powerOwn, i}, alone) })
	write(powerGiven, func(i int) error { return o.result(ctx, powerTask{powerShared, i}, b) })
	write(powerDouble, func(i int) error { return o.result(ctx, powerTask{powerRivals, i}, other, rival) })
	write(powerJobs, func(i int) error { return o.job(ctx, b, i) })
	write(powerFiles, func(i int) error { return o.file(ctx, files, i) })
	select {
	case <-ctx.Done():
	case <-time.After(span):
	}
	_ = cut() // whoever gave it asks again
	cancel()
	// What cleans up behind a write that failed would wait for a broker that is no more.
	for _, each := range []*broker.Broker{b, rival, alone, other} {
		each.NC.Close()
	}
	writers.Wait()
	return nil
}

// result has rivals store a result each for the same task. One may succeed; what
// another one is told then is that there is one, which is durable too.
func (o *powered) result(ctx context.Context, at powerTask, rivals ...*broker.Broker) error {
	errs := make([]error, len(rivals))
	var all sync.WaitGroup
	for rival, b := range rivals {
		all.Go(func() { errs[rival] = b.StoreResult(ctx, at.job, at.task, at.bytes(rival)) })
	}
	all.Wait()
	var first, may [][]byte
	told := false
	for rival, err := range errs {
		may = append(may, at.bytes(rival))
		told = told || errors.Is(err, broker.ErrExists)
		if err == nil {
			first = append(first, at.bytes(rival))
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case len(first) > 1:
		o.miss("result %v was stored first by %d", at, len(first))
	case len(first) == 1:
		may = first
	case !told:
		return errors.Join(errs...)
	}
	o.results[at] = may
	return nil
}

// bytes are those of a rival's result.
func (at powerTask) bytes(rival int) []byte {
	return powerBytes(int(at.job)<<40+2*at.task+rival, powerResult)
}

func (o *powered) job(ctx context.Context, b *broker.Broker, i int) error {
	p := []byte(`{"model":"mlp","from":1,"to":` + strconv.Itoa(i) + `}`)
	job, err := b.Submit(ctx, "", p)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.jobs[job] = p
	return nil
}

func (o *powered) file(ctx context.Context, files *objectstore.Store, i int) error {
	name := "files/" + strconv.Itoa(i)
	v, err := files.Put(ctx, name, bytes.NewReader(powerBytes(i, powerFile)))
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.files[name] = v.Digest
	return nil
}

// powerBytes are n bytes that nobody else writes.
func powerBytes(i, n int) []byte {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(i))
	p := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(p) // it never fails
	return p
}

// check starts a broker on what is left and counts what is missing or damaged.
func (o *powered) check(ctx context.Context, store string) error {
	s, err := embedded.Start(embedded.Config{Port: -1, Store: store})
	if err != nil {
		return fmt.Errorf("start a broker on what is left: %w", err)
	}
	defer s.Stop()
	b, err := broker.Connect(ctx, broker.Config{Servers: s.URL(), Name: "powerloss"})
	if err != nil {
		return err
	}
	defer b.Close()
	if err := b.Ensure(ctx); err != nil {
		return err
	}
	jobs, err := b.Jobs(ctx)
	if err != nil {
		return err
	}
	for job, want := range o.jobs {
		if m, err := jobs.GetMsg(ctx, job); err != nil || !bytes.Equal(m.Data, want) {
			o.miss("submission %d: %v", job, err)
		}
	}
	if err := o.checkResults(ctx, b); err != nil {
		return err
	}
	objects, index, err := b.Files(ctx)
	if err != nil {
		return err
	}
	files := objectstore.Open(objects, index)
	for name, digest := range o.files {
		// Reading checks the bytes against the digest.
		if v, err := files.Get(ctx, name, io.Discard); err != nil || v.Digest != digest {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			o.miss("%s: %v", name, err)
		}
	}
	return nil
}

// checkResults counts the results that are missing or are others.
func (o *powered) checkResults(ctx context.Context, b *broker.Broker) error {
	found := make(map[powerTask]bool)
	for _, job := range []uint64{powerOwn, powerShared, powerRivals} {
		err := b.JobResults(ctx, job, func(m *broker.Stored) (bool, error) {
			o.see(m)
			_, task, _ := broker.TaskOfResult(m.Subject)
			at := powerTask{job, task}
			found[at] = slices.ContainsFunc(o.results[at], func(p []byte) bool { return bytes.Equal(p, m.Data) })
			return true, nil
		})
		if err != nil {
			return err
		}
	}
	for at := range o.results {
		if !found[at] {
			o.miss("result of job %d, task %d", at.job, at.task)
		}
	}
	return nil
}

// firstLine passes the first line on and forgets the rest.
type firstLine struct {
	line chan string
	rest []byte
	done bool
}

func (f *firstLine) Write(p []byte) (int, error) {
	if f.done {
		return len(p), nil
	}
	f.rest = append(f.rest, p...)
	if len(f.rest) > 64<<10 {
		return 0, errors.New("a line without end")
	}
	if i := bytes.IndexByte(f.rest, '\n'); i >= 0 {
		f.done = true
		f.line <- string(f.rest[:i])
	}
	return len(p), nil
}
