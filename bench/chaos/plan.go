package chaos

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind is a kind of fault.
type Kind string

// The kinds of faults.
const (
	KillWorker      Kind = "kill-worker"      // SIGKILL of one, two or three workers at once
	KillCoordinator Kind = "kill-coordinator" // SIGKILL, every other time of the leading one
	KillServer      Kind = "kill-server"      // SIGKILL of a broker
	Stop            Kind = "stop"             // SIGSTOP of any process, SIGCONT later
	Partition       Kind = "partition"        // the way between a node and its broker is cut
	RestartAll      Kind = "restart-all"      // SIGKILL of everything at once
	Poison          Kind = "poison"           // a job whose model or data fails
)

// Kinds are all kinds of faults.
func Kinds() []Kind {
	return []Kind{KillWorker, KillCoordinator, KillServer, Stop, Partition, RestartAll, Poison}
}

// ErrPlan is returned for a plan that can't be carried out.
var ErrPlan = errors.New("bad plan of faults")

// ParseKinds reads a list of kinds separated by commas. It returns [ErrPlan] for
// what is none.
func ParseKinds(list []string) ([]Kind, error) {
	var kinds []Kind
	for _, name := range list {
		k := Kind(strings.TrimSpace(name))
		if !slices.Contains(Kinds(), k) {
			return nil, fmt.Errorf("%w: no fault %q: choose from %s", ErrPlan, name, joined(Kinds()))
		}
		if !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	if len(kinds) == 0 {
		return nil, fmt.Errorf("%w: no faults: choose from %s", ErrPlan, joined(Kinds()))
	}
	return kinds, nil
}

func joined(kinds []Kind) string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k)
	}
	return strings.Join(names, ",")
}

// Leader as the target of a fault is the coordinator that leads at that moment.
const Leader = "leader"

// Plan is what a schedule of faults is made from.
type Plan struct {
	Seed uint64
	// Duration of the run; every fault begins within it.
	Duration time.Duration
	// Kinds of faults to choose from.
	Kinds []Kind
	// Mean pause between the beginnings of two faults; default 2.5 s.
	Mean time.Duration
	// Workers, Coordinators and Servers are the names of the processes.
	Workers, Coordinators, Servers []string
}

// Fault is one fault of a schedule.
type Fault struct {
	Number int `json:"fault"`
	// At is when it begins after the start of the run, For how long it lasts: until
	// what was killed is started again, what was frozen woken, what was cut joined.
	At      time.Duration `json:"at_ns"`
	For     time.Duration `json:"for_ns,omitempty"`
	Kind    Kind          `json:"kind"`
	Targets []string      `json:"targets,omitempty"`
	// Cut is how a partition cuts, Poison what a poisoned job suffers from.
	Cut    Cut    `json:"cut,omitempty"`
	Poison string `json:"poison,omitempty"`
}

func (f Fault) String() string {
	s := fmt.Sprintf("%8.3fs  %-16s  %s", f.At.Seconds(), f.Kind, strings.Join(f.Targets, " "))
	if f.Cut != "" {
		s += " " + string(f.Cut)
	}
	if f.Poison != "" {
		s += f.Poison
	}
	if f.For > 0 {
		s += fmt.Sprintf(" for %.3fs", f.For.Seconds())
	}
	return s
}

const (
	defaultMean = 2500 * time.Millisecond
	// leadIn is when the first fault begins: when there is work to disturb.
	leadIn = time.Second
	// shortest is the shortest pause between two faults, longest the longest, as a
	// multiple of the mean.
	shortest = 100 * time.Millisecond
	longest  = 4
	// tries is how often another fault is drawn when what one would hit is busy.
	tries = 5
	// recovery is how long nothing else happens to the processes that a dead broker
	// or the death of everything took with it, after they have been started again;
	// elections is the same for servers of a cluster, which first elect the leader of each
	// stream, for four to nine seconds.
	recovery  = 2 * time.Second
	elections = 12 * time.Second
)

// weights say how often a kind is chosen, and how long it lasts.
var weights = map[Kind]struct {
	weight   int
	from, to time.Duration
}{
	KillWorker:      {5, 100 * time.Millisecond, 2 * time.Second},
	KillCoordinator: {4, 100 * time.Millisecond, 3 * time.Second},
	KillServer:      {2, 100 * time.Millisecond, 1500 * time.Millisecond},
	Stop:            {4, 200 * time.Millisecond, 4 * time.Second},
	Partition:       {5, 200 * time.Millisecond, 4 * time.Second},
	RestartAll:      {1, 100 * time.Millisecond, time.Second},
	Poison:          {2, 0, 0},
}

// Schedule makes the schedule of faults, a pure function of the plan. It returns
// [ErrPlan] for one without processes or kinds.
func (p Plan) Schedule() ([]Fault, error) {
	if len(p.Workers) == 0 || len(p.Coordinators) == 0 || len(p.Servers) == 0 || len(p.Kinds) == 0 || p.Duration <= 0 || p.Mean < 0 {
		return nil, fmt.Errorf("%w: it needs a duration, kinds of faults, workers, coordinators and servers", ErrPlan)
	}
	if p.Mean == 0 {
		p.Mean = defaultMean
	}
	d := &drawer{Plan: p, rng: rand.New(rand.NewPCG(p.Seed, uint64(len("chaos")))), busy: make(map[string]time.Duration)}
	var faults []Fault
	for at := leadIn; at < p.Duration; {
		for range tries {
			if f, ok := d.fault(at); ok {
				f.Number = len(faults) + 1
				faults = append(faults, f)
				break
			}
		}
		pause := time.Duration(d.rng.ExpFloat64() * float64(p.Mean))
		at += min(max(pause, shortest), longest*p.Mean).Round(time.Millisecond)
	}
	return faults, nil
}

// drawer draws faults. A process suffers from one fault at a time; busy says until
// when.
type drawer struct {
	Plan
	rng  *rand.Rand
	busy map[string]time.Duration
}

// fault draws a fault that begins at the given time; false when everything it
// could hit is busy.
func (d *drawer) fault(at time.Duration) (Fault, bool) {
	total := 0
	for _, k := range d.Kinds {
		total += weights[k].weight
	}
	n := d.rng.IntN(total)
	var kind Kind
	for _, k := range d.Kinds {
		if n -= weights[k].weight; n < 0 {
			kind = k
			break
		}
	}
	w := weights[kind]
	f := Fault{At: at, Kind: kind}
	if w.to > 0 {
		f.For = (w.from + time.Duration(d.rng.Int64N(int64(w.to-w.from)))).Round(time.Millisecond)
	}
	end := at + f.For
	switch kind {
	case KillWorker:
		// Mostly one; sometimes several within the same moment.
		f.Targets = d.choose(at, 1+max(0, d.rng.IntN(6)-3), d.Workers)
	case KillCoordinator:
		if d.rng.IntN(2) == 0 {
			f.Targets = d.choose(at, 1, []string{Leader})
		} else {
			f.Targets = d.choose(at, 1, d.Coordinators)
		}
	case KillServer:
		f.Targets = d.choose(at, 1, d.Servers)
		end += d.recovery()
	case Stop:
		f.Targets = d.choose(at, 1, slices.Concat(d.Workers, d.Coordinators, []string{Leader}, d.Servers))
	case Partition:
		f.Targets = d.choose(at, 1, slices.Concat(d.Workers, d.Coordinators, []string{Leader}))
		f.Cut = Cuts()[d.rng.IntN(len(Cuts()))]
	case RestartAll:
		f.Targets = d.choose(at, 1, []string{everything})
		end += d.recovery()
	case Poison:
		f.Poison = Poisons()[d.rng.IntN(len(Poisons()))]
		return f, true
	}
	for _, name := range f.Targets {
		d.busy[name] = end
	}
	if kind == KillServer && len(d.Servers) > 1 {
		// With two of three servers away nothing is accepted, which is right but
		// proves little: one at a time, and time to catch up.
		for _, name := range d.Servers {
			d.busy[name] = end
		}
	}
	return f, len(f.Targets) > 0
}

func (d *drawer) recovery() time.Duration {
	if len(d.Servers) > 1 {
		return elections
	}
	return recovery
}

// everything is busy while all processes are started anew.
const everything = "everything"

// choose draws at most n of the names that aren't busy.
func (d *drawer) choose(at time.Duration, n int, names []string) []string {
	if d.busy[everything] > at {
		return nil
	}
	free := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return d.busy[name] > at })
	d.rng.Shuffle(len(free), func(i, k int) { free[i], free[k] = free[k], free[i] })
	free = free[:min(n, len(free))]
	slices.Sort(free)
	return free
}

// Numbered makes the names of processes of a role: prefix-1, prefix-2, ...
func Numbered(prefix string, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = prefix + "-" + strconv.Itoa(i+1)
	}
	return names
}
