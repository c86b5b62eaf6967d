package chaos

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"idunno/broker/wire"
	"idunno/coordinator/cluster"
)

// restartWait bounds the start of a process; a broker reads its store first.
const restartWait = time.Minute

// striker carries faults out.
type striker struct {
	local   *cluster.Local
	proxies *proxies
	rec     *Recorder
	leads   func() string
	load    *load
	say     func(format string, args ...any)
	wg      sync.WaitGroup
}

// run carries out the schedule and returns when the last fault has been mended.
func (s *striker) run(ctx context.Context, began time.Time, schedule []Fault, rng *rand.Rand) {
	defer s.wg.Wait()
	for _, f := range schedule {
		doc := poisonedDoc(rng, f.Poison)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(began.Add(f.At))):
		}
		s.wg.Go(func() { s.strike(ctx, f, doc) })
	}
}

// strike carries out one fault, from its beginning to its mending.
func (s *striker) strike(ctx context.Context, f Fault, poisoned wire.JobDoc) {
	if i := slices.Index(f.Targets, Leader); i >= 0 {
		f.Targets = slices.Clone(f.Targets)
		if f.Targets[i] = s.leads(); f.Targets[i] == "" {
			f.Targets[i] = s.local.Names(wire.RoleCoordinator)[0]
		}
	}
	if f.Kind == RestartAll {
		f.Targets = s.all()
	}
	s.say("%v", f)
	at := time.Now() // before it: its effect may be there in a millisecond
	hit := s.begin(ctx, f, poisoned)
	s.rec.Add(Event{What: WhatFault, Time: at, Fault: &f, Skipped: !hit})
	if !hit {
		return
	}
	if f.For > 0 {
		select {
		case <-ctx.Done():
			return // the whole cluster is about to be stopped
		case <-time.After(f.For):
		}
	}
	err := s.mend(ctx, f)
	e := Event{What: WhatHeal, Fault: &Fault{Number: f.Number, Kind: f.Kind}}
	if err != nil {
		e.Error = err.Error()
		s.say("fault %d can't be mended: %v", f.Number, err)
	}
	s.rec.Add(e)
}

// begin breaks something, and reports whether there was anything to break.
func (s *striker) begin(ctx context.Context, f Fault, poisoned wire.JobDoc) (hit bool) {
	switch f.Kind {
	case KillWorker, KillCoordinator, KillServer, RestartAll:
		return s.each(f.Targets, func(name string) error {
			_, err := s.local.Kill(name)
			return err
		})
	case Stop:
		return s.each(f.Targets, func(name string) error {
			_, err := s.local.Signal(name, cluster.SignalStop)
			return err
		})
	case Partition:
		return s.each(f.Targets, func(name string) error { return s.proxies.set(name, f.Cut) })
	case Poison:
		_, ok := s.load.submit(ctx, viaService, poisoned)
		return ok
	}
	return false
}

// mend brings back what a fault broke.
func (s *striker) mend(ctx context.Context, f Fault) error {
	switch f.Kind {
	case KillWorker, KillCoordinator, KillServer:
		return s.start(ctx, f.Targets)
	case RestartAll:
		servers := s.local.Names(wire.RoleBroker)
		err := s.start(ctx, servers)
		return errors.Join(err, s.start(ctx, slices.DeleteFunc(slices.Clone(f.Targets), func(name string) bool { return slices.Contains(servers, name) })))
	case Stop:
		s.each(f.Targets, func(name string) error {
			_, err := s.local.Signal(name, cluster.SignalContinue)
			return err
		})
	case Partition:
		s.each(f.Targets, func(name string) error { return s.proxies.set(name, CutNone) })
	case Poison:
	}
	return nil
}

// start starts what isn't running, all at once.
func (s *striker) start(ctx context.Context, names []string) error {
	ctx, cancel := context.WithTimeout(ctx, restartWait)
	defer cancel()
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			if err := s.local.Restart(ctx, name); !errors.Is(err, cluster.ErrRunning) {
				errs[i] = err
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// each does something to all names at the same time, and reports whether it worked
// for any.
func (s *striker) each(names []string, fn func(name string) error) (any bool) {
	worked := make([]bool, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { worked[i] = fn(name) == nil })
	}
	wg.Wait()
	return slices.Contains(worked, true)
}

// all are the names of all processes.
func (s *striker) all() []string {
	return slices.Concat(s.local.Names(wire.RoleBroker), s.local.Names(wire.RoleCoordinator), s.local.Names(wire.RoleWorker))
}

// heal brings everything back: once the faults have ended, nothing should be left to do.
func (s *striker) heal(ctx context.Context) error {
	s.proxies.heal()
	s.each(s.all(), func(name string) error {
		_, err := s.local.Signal(name, cluster.SignalContinue)
		return err
	})
	if err := s.start(ctx, s.local.Names(wire.RoleBroker)); err != nil {
		return err
	}
	return s.start(ctx, s.all())
}

// revive notes processes that end by themselves, and starts them again as whoever
// looks after a machine's processes would.
func (s *striker) revive(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-s.local.Died():
			s.rec.Add(Event{What: WhatDied, Error: err.Error()})
			s.say("%v", err)
			_ = s.start(ctx, s.local.Crashed()) // the end of the run tries once more
		}
	}
}

// proxies are the ways from nodes to brokers, by node.
type proxies struct {
	mu sync.Mutex
	of map[string]*Proxy
}

// urlFor gives a node its proxy's URLs, the same whenever it is started.
func (p *proxies) urlFor(name, servers string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if have := p.of[name]; have != nil {
		return have.URLs()
	}
	made, err := NewProxy(servers)
	if err != nil {
		// Without a port for it there is nothing to put in between; its partitions
		// are skipped.
		return servers
	}
	p.of[name] = made
	return made.URLs()
}

func (p *proxies) set(name string, cut Cut) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	proxy := p.of[name]
	if proxy == nil {
		return cluster.ErrNoSuchChild
	}
	proxy.Set(cut)
	return nil
}

func (p *proxies) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, proxy := range p.of {
		proxy.Set(CutNone)
	}
}

func (p *proxies) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, proxy := range p.of {
		proxy.Close()
	}
}
