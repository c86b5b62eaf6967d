package sim

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
)

// Weather says how badly the network behaves: chances from 0 to 1.
type Weather struct {
	// Slow is the chance of a message to take up to MaxDelay.
	Slow     float64
	MaxDelay time.Duration
	// Lost is the chance of a request, an answer or an acknowledgement to get lost,
	// Twice that of a message to arrive once more.
	Lost, Twice float64
	// Resent is the chance that what is under way when a connection breaks is sent
	// again on the next one; otherwise it is lost.
	Resent float64
}

const (
	// minDelay and usualDelay bound the way of a message in fair weather.
	minDelay   = 50 * time.Microsecond
	usualDelay = 2 * time.Millisecond
	// apiWait ends requests that have no deadline, as the client does.
	apiWait = 5 * time.Second
	// silence is how long a connection without a sign of life lasts.
	silence = 3 * time.Second
)

// World is everything between the processes of a cluster.
type World struct {
	seed uint64
	// Observe is told of every step that a run can be judged by, under the world's
	// lock; may be nil.
	Observe func(Step)
	// TellsClosed says that the servers tell of connections that close.
	TellsClosed bool

	mu      sync.Mutex
	began   time.Time
	weather Weather
	trace   []string
	over    chan struct{}
	// changed is closed whenever something is stored.
	changed chan struct{}
	up      bool
	server  int
	clients uint64
	conns   map[*Conn]struct{}
	store   *Store
	// What survives a restart.
	jobs, results []broker.Stored
	submitted     map[string]uint64
	stored        map[string]bool
	tries         map[place][]wire.Attempt
	crashes       map[string]bool
	letters       []wire.DeadLetter
	records       *table
	leases        *table
	// What doesn't.
	tasks *tasks
}

// Step is something that happened at the server.
type Step struct {
	// Kind is record, lease, task (published), result or ack.
	Kind string
	// Conn did it.
	Conn string
	Key  string
	// Data is nil for a key that was deleted.
	Data []byte
	// Refused says that the server didn't accept it.
	Refused bool
}

// NewWorld makes a cluster whose servers are up. It must be called inside of the
// bubble that its users live in.
func NewWorld(seed uint64, store *Store, leaseTTL time.Duration) *World {
	w := &World{seed: seed, began: time.Now(), over: make(chan struct{}), changed: make(chan struct{}), up: true, server: 1,
		conns: make(map[*Conn]struct{}), store: store, submitted: make(map[string]uint64), stored: make(map[string]bool),
		tries: make(map[place][]wire.Attempt), crashes: make(map[string]bool)}
	w.records, w.leases = newTable("record", 0), newTable("lease", leaseTTL)
	return w
}

// Close ends everything that is still on its way.
func (w *World) Close() { close(w.over) }

// SetWeather changes the weather from now on.
func (w *World) SetWeather(v Weather) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.weather = v
}

// Logf notes something for people to read.
func (w *World) Logf(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.logf(format, args...)
}

func (w *World) logf(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%9.4f ", time.Since(w.began).Seconds())+fmt.Sprintf(format, args...))
}

// Trace is what has been noted.
func (w *World) Trace() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.trace, "\n")
}

func (w *World) observe(s Step) {
	if w.Observe != nil {
		w.Observe(s)
	}
}

// touch wakes whoever waits for news.
func (w *World) touch() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// random is the source of chances for a purpose.
func (w *World) random(purpose string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(purpose))
	return rand.New(rand.NewPCG(w.seed, h.Sum64()))
}

// Stop takes the servers down: connections break, memory is lost.
func (w *World) Stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.logf("server %d stops", w.server)
	w.up, w.tasks = false, nil
	for c := range w.conns {
		c.disconnect()
	}
}

// Start starts the servers anew on what was kept.
func (w *World) Start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.server++
	w.up = true
	w.logf("server %d starts", w.server)
}

// Records returns every value of the job records as they are stored.
func (w *World) Records() map[string][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make(map[string][]byte)
	for key, e := range w.records.entries {
		all[key] = e.Value
	}
	return all
}

// Results returns the stored results in order.
func (w *World) Results() []broker.Stored {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.results[:len(w.results):len(w.results)]
}

// ForgetLease loses the bucket of the lease, as an administrator who deletes it.
func (w *World) ForgetLease() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.logf("the lease is forgotten")
	w.leases = newTable("lease", w.leases.ttl)
}

// Record is a value as it is stored, nil for none. It is for Observe.
func (w *World) Record(key string) []byte {
	if e := w.records.get(key); e != nil {
		return e.Value
	}
	return nil
}

// HasResult reports whether a subject has a result. It is for Observe.
func (w *World) HasResult(subject string) bool { return w.stored[subject] }
