package sim

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
)

// table is the server's side of a bucket; the world's lock protects it.
type table struct {
	kind     string
	ttl      time.Duration // 0: for ever
	revision uint64
	entries  map[string]*tableEntry
}

type tableEntry struct {
	broker.Entry
	// before is what a replica that is behind still shows.
	before *broker.Entry
	at     time.Time
}

func newTable(kind string, ttl time.Duration) *table {
	return &table{kind: kind, ttl: ttl, entries: make(map[string]*tableEntry)}
}

func (t *table) get(key string) *tableEntry {
	e := t.entries[key]
	if e != nil && t.ttl > 0 && time.Since(e.at) >= t.ttl {
		delete(t.entries, key)
		return nil
	}
	return e
}

func (t *table) put(key string, value []byte) uint64 {
	t.revision++
	e := &tableEntry{Entry: broker.Entry{Key: key, Value: slices.Clone(value), Revision: t.revision}, at: time.Now()}
	if was := t.entries[key]; was != nil {
		before := was.Entry
		e.before = &before
	}
	t.entries[key] = e
	return t.revision
}

// bucket is a connection's view of a table.
type bucket struct {
	c  *Conn
	at **table
}

func (b bucket) kind() string {
	b.c.w.mu.Lock()
	defer b.c.w.mu.Unlock()
	return (*b.at).kind
}

func (b bucket) write(ctx context.Context, verb, key string, value []byte, accept func(*tableEntry) error) (uint64, error) {
	b.c.begin(b.kind(), key, value)
	return call(ctx, b.c, verb+" "+b.kind(), true, func() (uint64, error) {
		t := *b.at
		err := accept(t.get(key))
		b.c.w.observe(Step{Kind: t.kind, Conn: b.c.name, Key: key, Data: value, Refused: err != nil})
		if err != nil {
			if t.kind == "record" || verb == "update" { // standbys ask for the lease all the time
				b.c.w.logf("%s: %s %s refused: %v", b.c.name, verb, key, err)
			}
			return 0, err
		}
		rev := t.put(key, value)
		if t.kind == "record" {
			b.c.w.logf("%s: %s %s at revision %d: %.160s", b.c.name, verb, key, rev, value)
		} else if verb == "create" {
			b.c.w.logf("%s: took the lease at revision %d", b.c.name, rev)
		}
		b.c.w.touch()
		return rev, nil
	})
}

func (b bucket) Create(ctx context.Context, key string, value []byte) (uint64, error) {
	return b.write(ctx, "create", key, value, func(e *tableEntry) error {
		if e != nil {
			return jetstream.ErrKeyExists
		}
		return nil
	})
}

func (b bucket) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return b.write(ctx, "update", key, value, func(e *tableEntry) error {
		if (e == nil && revision != 0) || (e != nil && e.Revision != revision) {
			return revisionMismatch()
		}
		return nil
	})
}

// revisionMismatch is the error that the client makes of the server's answer.
func revisionMismatch() error {
	return fmt.Errorf("%w: %w", jetstream.ErrKeyRevisionMismatch,
		&jetstream.APIError{Code: 400, ErrorCode: jetstream.JSErrCodeStreamWrongLastSequence, Description: "wrong last sequence"})
}

func (b bucket) Delete(ctx context.Context, key string, revision uint64) error {
	_, err := call(ctx, b.c, "delete "+b.kind(), true, func() (struct{}, error) {
		t := *b.at
		e := t.get(key)
		if e == nil || e.Revision != revision {
			return struct{}{}, revisionMismatch()
		}
		t.revision++
		delete(t.entries, key)
		b.c.w.observe(Step{Kind: t.kind, Conn: b.c.name, Key: key})
		b.c.w.logf("%s: deleted %s", b.c.name, key)
		b.c.w.touch()
		return struct{}{}, nil
	})
	return err
}

func (b bucket) Get(ctx context.Context, key string) (*broker.Entry, error) {
	return call(ctx, b.c, "get "+b.kind(), true, func() (*broker.Entry, error) {
		e := (*b.at).get(key)
		if e == nil {
			return nil, jetstream.ErrKeyNotFound
		}
		shown := e.Entry
		if e.before != nil && b.c.chance(b.c.w.weather.Lost) {
			shown = *e.before
		}
		return &shown, nil
	})
}

func (b bucket) Watch(ctx context.Context, keys string, fn func(*broker.Entry) bool) error {
	return b.WatchFrom(ctx, keys, 0, fn)
}

func (b bucket) WatchFrom(ctx context.Context, keys string, revision uint64, fn func(*broker.Entry) bool) error {
	seen, told := max(revision, 1)-1, false
	for {
		if !b.c.ready(ctx) {
			return nil
		}
		// The way of the news.
		if !b.c.sleep(ctx, b.c.delay()) || !b.c.ready(ctx) {
			return nil
		}
		fresh, last, changed := b.since(keys, seen)
		for _, e := range fresh {
			if !fn(e) {
				return nil
			}
		}
		seen = last
		if !told {
			told = true
			if !fn(nil) {
				return nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		case <-b.c.dead:
			return nil
		}
	}
}

// since returns the entries written behind a revision, in order.
func (b bucket) since(keys string, seen uint64) (fresh []*broker.Entry, last uint64, changed <-chan struct{}) {
	b.c.w.mu.Lock()
	defer b.c.w.mu.Unlock()
	prefix, many := strings.CutSuffix(keys, "*")
	t := *b.at
	for key, e := range t.entries {
		if e.Revision > seen && (key == keys || many && strings.HasPrefix(key, prefix)) {
			entry := e.Entry
			fresh = append(fresh, &entry)
		}
	}
	slices.SortFunc(fresh, func(x, y *broker.Entry) int { return int(x.Revision) - int(y.Revision) })
	return fresh, t.revision, b.c.w.changed
}
