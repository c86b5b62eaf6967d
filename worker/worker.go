// Package worker carries out tasks: it pulls them from the queues of the active
// jobs, fetches the next one's data while it computes, stores the result and
// then acknowledges the task.
//
//	pull ──> fetch batches ──> slot computes ──> store result, first wins ──> ack
//	  ^                            │
//	  └── a token for each task in hand: one computing and one ready a slot
//
// The order of the last two steps is what makes results exactly-once: a task
// without a stored result is never acknowledged, so it is delivered again when
// its worker dies, and a second result of a task is refused by the stream.
//
//	failure                             what happens
//	killed while computing              coordinator hands its tasks back at once; the ack wait is the backstop
//	killed between result and ack       the next worker finds the result and acknowledges
//	frozen, then awake                  its late result is refused; the first stands
//	connection lost                     computing goes on; what was asked is asked again, and results are stored, after the reconnection
//	broker started anew                 the tasks in hand are finished; what is said about them reaches no queue of the new life
//	another worker killed               its tasks come as rescues, and go before everything else
//	task fails by its own fault         noted for all, handed back with a growing delay, left to others; the last try becomes its result (failure.go)
//	batch takes too long                given up; from then on the task has a process of its own, which is killed (isolation.go)
//	store or connection fails           handed back without limit; after three in a row the worker pauses
//	told to stop                        what it computes is finished if that is quick, the rest is handed back
//
// A slot is one goroutine and computes single-threaded; there are as many as
// cores by default. The worker decides nothing about other nodes.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/objectstore"
)

// Config says what a worker is. Broker, Name and CacheDir are required.
type Config struct {
	Broker broker.Core
	// Name of the node, unique in the cluster.
	Name string
	// Slots is the number of tasks computed at a time; default: one a core.
	Slots int
	// CacheDir keeps models and batches by digest; workers may share it.
	CacheDir string
	// CacheBytes limits the cache; default 4 GiB.
	CacheBytes int64
	// MemoryBytes limits the batches kept in memory; default 256 MiB.
	MemoryBytes int64
	// BatchTimeout limits the time that a model may take for a batch; default 60 s.
	BatchTimeout time.Duration
	// TaskMemory limits the memory, in bytes, of a model's weights and, apart from
	// them, of what is computed for a batch; default 1 GiB.
	TaskMemory int64
	// MaxAttempts is how often a task is tried that fails by itself; default 5, at
	// most 60. All workers of a cluster should have the same.
	MaxAttempts int
	// Isolate starts a process that runs [Isolated], for tasks that may harm the one
	// they are computed in. Without, every task is computed in this process.
	Isolate Command
	// Version of the program and Address of the machine, for the membership list.
	Version, Address string
	// Status is given a line a second while the worker is busy; may be nil. It is
	// called from one goroutine, and may block without holding up the work.
	Status func(line string)
	// Log is told what happens; default: nothing is logged.
	Log *slog.Logger
}

const (
	defaultCache  = 4 << 30
	defaultMemory = 256 << 20
	// DefaultBatchTimeout, DefaultTaskMemory and DefaultMaxAttempts are those of [Config].
	DefaultBatchTimeout = time.Minute
	DefaultTaskMemory   = 1 << 30
	DefaultMaxAttempts  = 5
	// MostAttempts leaves room for crashes in what is kept of a task.
	MostAttempts = wire.MaxTried - 4
	// storingMost is how many results may wait to be stored at least: those that wait
	// together take one write. A larger one takes a place more for each storingBytes.
	storingMost  = 256
	storingBytes = 64 << 10
	// drainGrace is how long a task that is being computed may go on after the
	// worker has been told to stop.
	drainGrace = 5 * time.Second
)

// Command is a program and its arguments, its name among them.
type Command struct {
	Path string
	Args []string
}

// Run works until ctx ends, then drains: tasks being computed are finished
// within a grace period, all others handed back. It returns nil after a drain.
func Run(ctx context.Context, cfg Config) error {
	w, err := newWorker(ctx, cfg)
	if err != nil && ctx.Err() != nil {
		return nil // told to stop before it had begun
	}
	if err != nil {
		return err
	}
	// Computing outlives ctx by the grace period.
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	defer context.AfterFunc(ctx, func() {
		w.drain()
		time.AfterFunc(drainGrace, stopWork)
	})()

	announce, stopAnnounce := context.WithCancel(context.WithoutCancel(ctx))
	announced := make(chan error, 1)
	go func() { announced <- broker.Announce(announce, cfg.Broker, w.hand.changed, w.heartbeat) }()

	background, stopBackground := context.WithCancel(work)
	var aside errgroup.Group
	aside.Go(func() error { w.link.follow(background); return nil })
	aside.Go(func() error { return w.table.follow(background, cfg.Broker, w.link, w.active) })
	aside.Go(func() error { w.hand.keepAlive(background); return nil })
	aside.Go(func() error { w.status.run(background, cfg.Status); return nil })

	group, pulling := errgroup.WithContext(ctx)
	group.Go(func() error { return w.pull(pulling, work) })
	group.Go(func() error { return w.followRescues(pulling, work) })
	for range w.Slots {
		group.Go(func() error { w.slot(pulling); return nil })
	}
	err = group.Wait()
	w.isolation.close()
	w.storing.Wait()
	stopBackground()
	err = errors.Join(err, aside.Wait())
	stopAnnounce()
	return errors.Join(err, <-announced)
}

func newWorker(ctx context.Context, cfg Config) (*worker, error) {
	if !wire.ValidNodeName(cfg.Name) {
		return nil, fmt.Errorf("worker name %q: use letters, digits, - and _ (at most 64)", cfg.Name)
	}
	if cfg.Slots < 0 {
		return nil, fmt.Errorf("%d slots: at least 1 is needed", cfg.Slots)
	}
	if cfg.Slots == 0 {
		cfg.Slots = runtime.NumCPU()
	}
	if cfg.CacheBytes <= 0 {
		cfg.CacheBytes = defaultCache
	}
	if cfg.MemoryBytes <= 0 {
		cfg.MemoryBytes = defaultMemory
	}
	if cfg.BatchTimeout <= 0 {
		cfg.BatchTimeout = DefaultBatchTimeout
	}
	if cfg.TaskMemory <= 0 {
		cfg.TaskMemory = DefaultTaskMemory
	}
	if cfg.MaxAttempts == 0 {
		cfg.MaxAttempts = DefaultMaxAttempts
	}
	if cfg.MaxAttempts < 1 || cfg.MaxAttempts > MostAttempts {
		return nil, fmt.Errorf("%d attempts: choose 1 to %d", cfg.MaxAttempts, MostAttempts)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	var files *objectstore.Store
	err := broker.Patiently(ctx, func(ctx context.Context) error {
		if err := cfg.Broker.Ensure(ctx); err != nil {
			return err
		}
		objects, index, err := cfg.Broker.Files(ctx)
		files = objectstore.Open(objects, index)
		return err
	})
	if err != nil {
		return nil, err
	}
	cache, err := objectstore.OpenCache(files, cfg.CacheDir, cfg.CacheBytes)
	if err != nil {
		return nil, fmt.Errorf("open the cache: %w", err)
	}
	inHand, link := 2*cfg.Slots, newLink(cfg.Broker)
	w := &worker{Config: cfg, files: files, library: newLibrary(cache, link, &cfg), hand: newHand(), table: newTable(cfg.Name, cfg.Slots),
		status: newStatus(), tally: newTally(), link: link, ready: newLine(inHand), tokens: make(chan struct{}, inHand),
		places: semaphore.NewWeighted(int64(max(inHand, storingMost))), rescues: make(chan struct{}, 2*inHand), welcomes: make(chan struct{}, cfg.Slots),
		urgent: make(chan *held, 2*inHand+cfg.Slots), started: time.Now(), lookGap: idlePoll}
	w.usual.Store(int64(2 * briskTask)) // until it is known
	w.isolation = &isolation{w: w, lanes: 1 + cfg.Slots, most: isolatedMemory(cfg.TaskMemory)}
	return w, nil
}

// worker is a running worker.
type worker struct {
	Config
	files   *objectstore.Store
	library *library
	hand    *hand
	table   *table
	status  *status
	tally   *tally
	link    *link
	// isolation computes what is suspicious, peers knows the other workers.
	isolation *isolation
	peers     peers
	// ready passes tasks whose data is on its way to the slots.
	ready *line
	// tokens has one for each task that is to be computed or being computed: two
	// a slot. places has room for the results that are being stored.
	tokens chan struct{}
	places *semaphore.Weighted
	// urgent passes tasks to the slots that go before all others: those of dead workers,
	// rescues has one for each in hand, and the first ones of jobs that have come, for
	// which welcomes has one each. taking are rescues on their way to urgent.
	rescues, welcomes chan struct{}
	urgent            chan *held
	taking            takings
	storing           sync.WaitGroup
	// looked is when the queues that had nothing were last looked at, lookGap how often
	// that is done, kept by who pulls.
	looked  time.Time
	lookGap time.Duration
	// usual is how long a task has taken of late, in nanoseconds.
	usual   atomic.Int64
	started time.Time
}

// active is told which jobs have work; tasks of others are dropped.
func (w *worker) active(jobs map[uint64]bool) {
	w.hand.dropExcept(jobs)
	w.tally.dropExcept(jobs)
}

// drain tells the coordinator that the worker takes no more tasks.
func (w *worker) drain() {
	w.Log.Info("draining")
	w.hand.setDraining()
}

func (w *worker) heartbeat() wire.Heartbeat {
	inFlight, draining := w.hand.list()
	batches, images := w.status.totals()
	return wire.Heartbeat{Schema: wire.Schema, Node: w.Name, Role: wire.RoleWorker, Incarnation: w.started.UnixNano(),
		Version: w.Version, Address: w.Address, PID: os.Getpid(), Cores: runtime.NumCPU(), Slots: w.Slots,
		Draining: draining, InFlight: inFlight, Batches: batches, Images: images}
}
