package archive

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"idunno/broker/wire"
)

// Message is the stored result of a task.
type Message struct {
	Task int
	// At is when it was stored.
	At   time.Time
	Data []byte
}

const (
	// DefaultHeld is how many bytes of results wait for those before them.
	DefaultHeld = 32 << 20
	// fetchAtOnce is how many results are fetched at a time.
	fetchAtOnce = 16
)

// Order passes results on in the order of their tasks, each once. They come nearly in
// that order, so few have to wait, unless a task was lost and is done much later: then
// what there is no room for is fetched when its turn comes. Fetch and Emit are
// required.
type Order struct {
	// Tasks is the highest number of a task, From the lowest, default 1; others are
	// passed over.
	Tasks, From int
	// Held bounds the bytes that wait; default [DefaultHeld].
	Held int
	// Fetch returns a result that has been there once; one without data has been removed
	// since, and is passed over.
	Fetch func(ctx context.Context, task int) (*Message, error)
	// Emit is called with each result in turn.
	Emit func(*Message) error

	next    int // the last task whose turn it was
	seen    Set
	waiting map[int]*Message
	bytes   int
}

// Seen is how many tasks have had a result.
func (o *Order) Seen() int { return o.seen.Len() }

// Add takes a result in, and passes on what has its turn now.
func (o *Order) Add(ctx context.Context, m *Message) error {
	o.next = max(o.next, o.From-1)
	if m.Task <= o.next || m.Task > o.Tasks || !o.seen.Add(m.Task) {
		return nil
	}
	o.hold(m)
	return o.advance(ctx)
}

// Forget passes over the tasks before the given one that have no result yet: they won't
// have one. Those that wait are passed on.
func (o *Order) Forget(ctx context.Context, before int) error {
	o.next = max(o.next, o.From-1)
	for o.next+1 < before {
		o.next++
		if m := o.waiting[o.next]; m != nil {
			if err := o.emit(m); err != nil {
				return err
			}
		}
	}
	return o.advance(ctx)
}

// advance passes on what has its turn.
func (o *Order) advance(ctx context.Context) error {
	for o.seen.Has(o.next + 1) {
		o.next++
		if err := o.pass(ctx); err != nil {
			return err
		}
	}
	return nil
}

// hold keeps a result until its turn, if there is room.
func (o *Order) hold(m *Message) {
	if o.Held == 0 {
		o.Held = DefaultHeld
	}
	if m.Task > o.next+1 && o.bytes+len(m.Data) > o.Held {
		return
	}
	if o.waiting == nil {
		o.waiting = make(map[int]*Message)
	}
	o.waiting[m.Task] = m
	o.bytes += len(m.Data)
}

// pass emits the result whose turn it is.
func (o *Order) pass(ctx context.Context) error {
	m := o.waiting[o.next]
	if m == nil {
		if err := o.fetch(ctx); err != nil {
			return err
		}
		m = o.waiting[o.next]
	}
	return o.emit(m)
}

func (o *Order) emit(m *Message) error {
	delete(o.waiting, m.Task)
	o.bytes -= len(m.Data)
	if len(m.Data) == 0 {
		return nil
	}
	return o.Emit(m)
}

// fetch brings the result whose turn it is, and some of those behind it while there
// is room for them.
func (o *Order) fetch(ctx context.Context) error {
	tasks := []int{o.next}
	for n := o.next + 1; len(tasks) < fetchAtOnce && n <= o.next+4*fetchAtOnce && o.bytes < o.Held/2; n++ {
		if o.seen.Has(n) && o.waiting[n] == nil {
			tasks = append(tasks, n)
		}
	}
	var mu sync.Mutex
	group, within := errgroup.WithContext(ctx)
	for _, n := range tasks {
		group.Go(func() error {
			m, err := o.Fetch(within, n)
			if err != nil {
				return err
			}
			if m == nil || m.Task != n {
				return fmt.Errorf("the result of task %d is gone", n)
			}
			mu.Lock()
			defer mu.Unlock()
			if o.waiting == nil {
				o.waiting = make(map[int]*Message)
			}
			o.waiting[n] = m
			o.bytes += len(m.Data)
			return nil
		})
	}
	return group.Wait()
}

// Flush passes on what waits behind tasks that have no result. Nothing may be added
// after it.
func (o *Order) Flush(ctx context.Context) error {
	o.next = max(o.next, o.From-1)
	for o.next < min(o.Tasks, o.seen.end()) {
		o.next++
		if !o.seen.Has(o.next) {
			continue
		}
		if err := o.pass(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Set is a set of task numbers.
type Set struct {
	words []uint64
	count int
}

// Has reports whether n is in the set, Len how many numbers are.
func (s *Set) Has(n int) bool { return n/64 < len(s.words) && s.words[n/64]>>(n%64)&1 == 1 }
func (s *Set) Len() int       { return s.count }

// end is a number that none is above.
func (s *Set) end() int { return 64 * len(s.words) }

// Add adds n, which is at most [wire.MaxTasks], and reports whether it is new.
func (s *Set) Add(n int) bool {
	if n < 0 || n > wire.MaxTasks || s.Has(n) {
		return false
	}
	for n/64 >= len(s.words) {
		s.words = append(s.words, make([]uint64, 1+len(s.words))...)
	}
	s.words[n/64] |= 1 << (n % 64)
	s.count++
	return true
}
