package sim

import (
	"cmp"
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
)

// Store is what the SDFS holds: made once, read by every world.
type Store struct {
	index   map[string][]byte
	objects map[string]*jetstream.ObjectInfo
	chunks  map[string][]byte // by the object's identifier; small objects are one chunk
}

// Snapshot reads the SDFS of a real cluster. Objects must be of one chunk.
func Snapshot(ctx context.Context, b broker.Core) (*Store, error) {
	files, keys, err := b.Files(ctx)
	if err != nil {
		return nil, err
	}
	s := &Store{index: make(map[string][]byte), objects: make(map[string]*jetstream.ObjectInfo), chunks: make(map[string][]byte)}
	names, err := keys.Keys(ctx)
	if err != nil {
		return nil, err
	}
	for _, key := range names {
		e, err := keys.Get(ctx, key)
		if err != nil {
			return nil, err
		}
		s.index[key] = e.Value()
	}
	infos, err := files.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, info := range infos {
		s.objects[info.Name] = info
		if s.chunks[info.NUID], err = files.GetBytes(ctx, info.Name); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// objects reads the store over a connection. Nothing else is implemented: calling
// it is a panic.
type objects struct {
	broker.Objects
	c *Conn
}

func (o objects) GetInfo(ctx context.Context, name string, _ ...jetstream.GetObjectInfoOpt) (*jetstream.ObjectInfo, error) {
	return call(ctx, o.c, "object info", true, func() (*jetstream.ObjectInfo, error) {
		info := o.c.w.store.objects[name]
		if info == nil {
			return nil, jetstream.ErrObjectNotFound
		}
		return info, nil
	})
}

// computing is what fetching a chunk takes at most beside its way: as the model's
// own time is none in a bubble, it stands for that of the task.
const computing = 60 * time.Millisecond

func (o objects) Chunk(ctx context.Context, id string, from uint64) (*jetstream.RawStreamMsg, error) {
	o.c.w.mu.Lock()
	d := time.Duration(o.c.rng.Int64N(int64(computing)))
	o.c.w.mu.Unlock()
	if !o.c.sleep(ctx, d) {
		return nil, cmp.Or(context.Cause(ctx), errGone)
	}
	return call(ctx, o.c, "object chunk", true, func() (*jetstream.RawStreamMsg, error) {
		p, ok := o.c.w.store.chunks[id]
		if !ok || from > 1 {
			return nil, jetstream.ErrMsgNotFound
		}
		return &jetstream.RawStreamMsg{Sequence: 1, Data: p}, nil
	})
}

// index reads the store's index over a connection.
type index struct {
	jetstream.KeyValue
	c *Conn
}

func (i index) Get(ctx context.Context, key string) (jetstream.KeyValueEntry, error) {
	return call(ctx, i.c, "index", true, func() (jetstream.KeyValueEntry, error) {
		p, ok := i.c.w.store.index[key]
		if !ok {
			return nil, jetstream.ErrKeyNotFound
		}
		return indexEntry{key: key, value: p}, nil
	})
}

type indexEntry struct {
	jetstream.KeyValueEntry
	key   string
	value []byte
}

func (e indexEntry) Key() string      { return e.key }
func (e indexEntry) Value() []byte    { return e.value }
func (e indexEntry) Revision() uint64 { return 1 }
