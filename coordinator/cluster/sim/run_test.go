package sim_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator"
	"idunno/coordinator/cluster/sim"
	"idunno/worker"
)

// run is a cluster, its clients and its faults, for one seed.
type run struct {
	t     *testing.T
	w     *sim.World
	rng   *rand.Rand
	judge *judge
	cache string
	nodes []*node
	// servers announce the servers.
	servers []*node
	// resumer is a client, nil until it is needed.
	resumer *sim.Conn
	// The lock protects what clients and faults share.
	mu   sync.Mutex
	jobs []submitted
	// ends waits for processes, troubles for what clients and faults have begun.
	ends, troubles sync.WaitGroup
	// faults counts what was done to the cluster.
	faults map[string]int
}

// node is a process that may die and be started anew.
type node struct {
	name   string
	worker bool
	lives  int
	conn   *sim.Conn
	stop   context.CancelFunc
	// trouble is set while it is frozen or cut off.
	trouble bool
}

const (
	// patience is how long a healed cluster may take to finish its jobs.
	patience = 40 * time.Second
	// leftovers is how long what a process began may outlive it: it waits for an
	// answer that doesn't come.
	leftovers = 10 * time.Second
	// takeOver is how long a healed cluster may be without a leader.
	takeOver = 10 * time.Second
	// looks is the pause between two looks at the jobs.
	looks = 250 * time.Millisecond
)

// simulate runs a seed in a bubble and returns what went wrong, and the trace.
func simulate(t *testing.T, f *fixture, cache string, seed uint64) (wrong []string, trace string, steps, faults map[string]int) {
	synctest.Test(t, func(t *testing.T) {
		w := sim.NewWorld(seed, f.store, broker.LeaseTTL)
		r := &run{t: t, w: w, rng: rand.New(rand.NewPCG(seed, 1)), judge: newJudge(w, f.clean), cache: cache, faults: make(map[string]int)}
		w.TellsClosed = r.rng.IntN(8) > 0
		r.start()
		if w.TellsClosed {
			r.broker()
		}
		chaos := time.Duration(5+r.rng.IntN(10)) * time.Second
		r.submit(chaos)
		r.rage(chaos)
		r.heal()
		r.troubles.Wait()
		deadline := time.Now().Add(patience)
		for time.Now().Before(deadline) && !finished(w, r.jobs) {
			r.resume()
			time.Sleep(looks)
		}
		time.Sleep(looks)
		r.ask()
		wrong = r.judge.verdict(r.jobs)
		for _, n := range append(r.nodes, r.servers...) {
			n.stop()
		}
		r.ends.Wait()
		w.Close()
		time.Sleep(leftovers)
		trace, steps, faults = w.Trace(), r.judge.steps, r.faults
	})
	return wrong, trace, steps, faults
}

// start starts some coordinators and workers.
func (r *run) start() {
	for i := range 2 + r.rng.IntN(2) {
		r.nodes = append(r.nodes, &node{name: fmt.Sprintf("c%d", i+1)})
	}
	for i := range 2 + r.rng.IntN(3) {
		r.nodes = append(r.nodes, &node{name: fmt.Sprintf("w%d", i+1), worker: true})
	}
	for _, n := range r.nodes {
		r.boot(n)
	}
}

// broker announces a server that tells of closed connections.
func (r *run) broker() {
	conn := r.w.Connect("b1")
	ctx, stop := context.WithCancel(context.Background())
	n := &node{name: "b1", conn: conn, stop: stop}
	r.servers = append(r.servers, n)
	beat := wire.Heartbeat{Schema: wire.Schema, Node: n.name, Role: wire.RoleBroker, Incarnation: 1}
	r.ends.Go(func() { _ = broker.Announce(ctx, conn, nil, func() wire.Heartbeat { return beat }) })
}

// boot starts a node's next life.
func (r *run) boot(n *node) {
	n.lives++
	conn := r.w.Connect(fmt.Sprintf("%s#%d", n.name, n.lives))
	ctx, stop := context.WithCancel(context.Background())
	n.conn, n.stop = conn, stop
	name := fmt.Sprintf("%s#%d", n.name, n.lives)
	conn.Begin = func(key string, _ []byte) { r.judge.begins(name, key) }
	r.ends.Go(func() {
		defer conn.Kill() // what a process leaves open, its end closes
		var err error
		for ctx.Err() == nil {
			if n.worker {
				err = worker.Run(ctx, worker.Config{Broker: conn, Name: n.name, Slots: 2, CacheDir: r.cache, CacheBytes: 1, MemoryBytes: 1})
			} else {
				err = coordinator.Run(ctx, coordinator.Config{Broker: conn, Name: n.name, CheckpointEvery: 3, CompactAfter: -1})
			}
			if ctx.Err() == nil { // as whoever looks after processes would
				r.w.Logf("%s ended: %v", name, err)
				time.Sleep(200 * time.Millisecond)
			}
		}
	})
}

// submit has a client submit jobs of different sizes while the cluster suffers.
func (r *run) submit(chaos time.Duration) {
	client := r.w.Connect("client")
	for i := range 2 + r.rng.IntN(3) {
		size := []int{1, 3, 12, 30, batches}[r.rng.IntN(5)]
		from := 1 + r.rng.IntN(batches-size+1)
		at := time.Duration(r.rng.Int64N(int64(chaos)))
		r.troubles.Go(func() {
			time.Sleep(at)
			job := r.accept(client, fmt.Sprintf("id-%d", i), from, from+size-1)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.jobs = append(r.jobs, submitted{job, from, from + size - 1})
		})
	}
}

// accept submits until the job is accepted: by the service or, where nobody
// answers, straight into the stream.
func (r *run) accept(client *sim.Conn, id string, from, to int) uint64 {
	doc := fmt.Appendf(nil, `{"model":%q,"data":%q,"from":%d,"to":%d}`, modelName, dataName, from, to)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		answer, err := client.Request(ctx, broker.SubjectSubmit, id, doc)
		var reply wire.SubmitReply
		if err == nil && json.Unmarshal(answer, &reply) == nil && reply.Error == nil && reply.Job > 0 {
			cancel()
			return reply.Job
		}
		job, err := client.Submit(ctx, id, doc)
		cancel()
		if err == nil {
			return job
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// rage lets faults happen.
func (r *run) rage(chaos time.Duration) {
	end := time.Now().Add(chaos)
	r.weather()
	for {
		pause := 50*time.Millisecond + time.Duration(r.rng.Int64N(int64(1500*time.Millisecond)))
		if time.Now().Add(pause).After(end) {
			time.Sleep(time.Until(end))
			return
		}
		time.Sleep(pause)
		r.fault(end)
	}
}

func (r *run) weather() {
	v := sim.Weather{Resent: r.rng.Float64(), MaxDelay: time.Duration(1+r.rng.IntN(2500)) * time.Millisecond}
	if r.rng.IntN(2) == 0 {
		v.Slow = 0.1 * r.rng.Float64()
	}
	if r.rng.IntN(2) == 0 {
		v.Lost = 0.08 * r.rng.Float64()
	}
	if r.rng.IntN(2) == 0 {
		v.Twice = 0.1 * r.rng.Float64()
	}
	r.w.Logf("weather %+v", v)
	r.w.SetWeather(v)
}

// fault does one thing to the cluster. What lasts ends by end.
func (r *run) fault(end time.Time) {
	n := r.nodes[r.rng.IntN(len(r.nodes))]
	lasts := min(time.Duration(r.rng.Int64N(int64(6*time.Second))), time.Until(end))
	kind := []string{"kill", "kill", "freeze", "freeze", "cut", "restart", "weather", "stop", "pause"}[r.rng.IntN(9)]
	if kind == "pause" {
		r.pause(lasts)
		return
	}
	if kind == "restart" {
		r.faults[kind]++
		r.w.Stop()
		if r.rng.IntN(8) == 0 {
			r.faults["forget"]++
			r.w.ForgetLease()
			r.judge.forgotten()
		}
		time.Sleep(min(lasts/3, time.Until(end)))
		r.w.Start()
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if n.trouble && kind != "weather" {
		return
	}
	r.faults[kind]++
	switch kind {
	case "kill", "stop":
		r.w.Logf("%s %s", kind, n.name)
		if kind == "kill" {
			n.conn.Kill()
		}
		n.conn.Leaves()
		n.stop()
		n.trouble = true
		r.later(n, lasts/2, func() { r.boot(n) })
	case "freeze":
		r.w.Logf("freeze %s for %v", n.name, lasts)
		n.conn.Freeze()
		r.later(n, lasts, n.conn.Thaw)
	case "cut":
		r.w.Logf("cut %s off for %v", n.name, lasts)
		n.conn.Cut(true)
		r.later(n, lasts, func() { n.conn.Cut(false) })
	case "weather":
		r.weather()
	}
}

// pause has a client pause a job for a while, and then resume it until that is known
// to have been done.
func (r *run) pause(lasts time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.jobs) == 0 {
		return
	}
	job := r.jobs[r.rng.IntN(len(r.jobs))].job
	r.faults["pause"]++
	client := r.w.Connect(fmt.Sprintf("pauser-%d", r.faults["pause"]))
	r.troubles.Go(func() {
		r.control(client, broker.SubjectPause, job)
		time.Sleep(lasts)
		for !r.control(client, broker.SubjectResume, job) {
			time.Sleep(100 * time.Millisecond)
		}
	})
}

// resume lets jobs go on that a request has paused which came late, or twice.
func (r *run) resume() {
	records := r.w.Records()
	for _, s := range r.jobs {
		var rec wire.JobRecord
		if json.Unmarshal(records[broker.KeyJob(s.job)], &rec) == nil && rec.State == wire.StatePaused {
			if r.resumer == nil {
				r.resumer = r.w.Connect("resumer")
			}
			r.control(r.resumer, broker.SubjectResume, s.job)
		}
	}
}

// control asks for a change of a job and reports whether it was made, or is out of
// the question because the job has ended.
func (r *run) control(client *sim.Conn, subject string, job uint64) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var reply wire.JobReply
	p, err := client.Request(ctx, subject, "", fmt.Appendf(nil, `{"job":%d}`, job))
	return err == nil && json.Unmarshal(p, &reply) == nil && (reply.Error == nil || reply.Error.Code == wire.CodeJobEnded)
}

// later ends a node's trouble.
func (r *run) later(n *node, d time.Duration, fn func()) {
	n.trouble = true
	r.troubles.Go(func() {
		time.Sleep(d)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.w.Logf("%s is well again", n.name)
		fn()
		n.trouble = false
	})
}

// heal ends all faults.
func (r *run) heal() {
	r.w.SetWeather(sim.Weather{})
	r.w.Logf("fair weather")
}

// ask compares what the service answers with the records.
func (r *run) ask() {
	client := r.w.Connect("asker")
	for _, s := range r.jobs {
		var reply wire.JobReply
		err := errors.New("nobody was asked")
		for deadline := time.Now().Add(takeOver); err != nil && time.Now().Before(deadline); time.Sleep(looks) {
			// A question is lost that reaches a leader whose term ends.
			ctx, cancel := context.WithTimeout(context.Background(), takeOver/10)
			var p []byte
			if p, err = client.Request(ctx, broker.SubjectJob, "", fmt.Appendf(nil, `{"job":%d}`, s.job)); err == nil {
				err = json.Unmarshal(p, &reply)
			}
			if err == nil && reply.Error != nil {
				err, reply.Error = reply.Error, nil // a term that ends says so, and the next one answers
			}
			cancel()
		}
		if err != nil {
			r.judge.blame("job %d: no answer from the service: %v", s.job, err)
			continue
		}
		r.judge.statistics(s, reply.Stats)
	}
}
