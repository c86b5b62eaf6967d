package worker_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"idunno/broker/brokertest"
	"idunno/broker/embedded"
	"idunno/broker/wire"
)

// server runs a broker on a port and store of its own, to be started again.
type server struct {
	t   *testing.T
	cfg embedded.Config
	s   *embedded.Server
}

func newServer(t *testing.T) *server {
	s := &server{t: t, cfg: embedded.Config{Port: brokertest.FreePort(t), Store: t.TempDir()}}
	s.start()
	t.Cleanup(func() { s.s.Stop() })
	return s
}

func (s *server) start() {
	var err error
	if s.s, err = embedded.Start(s.cfg); err != nil {
		s.t.Fatal(err)
	}
}

// restart starts the server anew and waits until the test's own connection has
// noticed: what it asks before that goes down with the old one.
func (s *server) restart(r *rig) {
	s.t.Helper()
	back := r.b.NC.StatusChanged(nats.CONNECTED)
	defer r.b.NC.RemoveStatusListener(back)
	s.s.Stop()
	s.start()
	select {
	case <-back:
	case <-r.ctx.Done():
		s.t.Fatal("no reconnection")
	}
}

// soon is less than what a worker would take to notice by itself that a reply or
// a change got lost, and far more than it takes without that.
const soon = 20 * time.Second

func TestBrokerRestartCostsLittleTime(t *testing.T) {
	const tasks = 200
	s := newServer(t)
	r := newRigAt(t, s.s.URL())
	drain := r.start("one", 2)
	defer drain()
	r.active(wire.ActiveJob{Job: job, Model: "mlp"})
	// Every task is looked up first, so that replies are lost of every kind.
	check := func(t *wire.Task) { t.Check = true }
	r.publish(tasks, check)
	for _, done := range []int{20, 90} {
		r.results(done)
		s.restart(r)
		began := time.Now()
		r.openQueue() // it was in memory
		r.active(wire.ActiveJob{Job: job, Model: "mlp"})
		have := r.results(0)
		for i := 1; i <= tasks; i++ {
			if have[i] == nil {
				r.publishTask(i, check)
			}
		}
		r.must(r.b.Wake())
		r.results(min(len(have)+5, tasks))
		if took := time.Since(began); took > soon {
			t.Errorf("the next results came %v after the restart", took)
		}
	}
	for _, res := range r.results(tasks) {
		if res.Error != "" {
			t.Errorf("task %d: %s", res.Task, res.Error)
		}
	}
	r.drained()
}

func TestJobThatBeginsAfterARestartIsSeen(t *testing.T) {
	s := newServer(t)
	r := newRigAt(t, s.s.URL())
	drain := r.start("one", 1)
	defer drain()
	r.active(wire.ActiveJob{Job: job, Model: "mlp"})
	r.publish(1, nil)
	r.results(1) // the worker watches
	r.active()
	s.restart(r)
	began := time.Now()
	r.openQueue()
	r.publish(10, func(t *wire.Task) { t.Check = true })
	r.active(wire.ActiveJob{Job: job, Model: "mlp"})
	r.results(10)
	if took := time.Since(began); took > soon {
		t.Errorf("the job began %v after the restart", took)
	}
}
