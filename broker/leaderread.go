package broker

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// headerOperation is on a message that ends a key.
const headerOperation = "KV-Operation"

// leaderReads reads the keys of a bucket from the server that leads it. The client asks
// whichever copy answers first, and on a cluster that may be a moment behind: a model that
// was stored just now would not be there, or be the one before.
type leaderReads struct {
	jetstream.KeyValue
	b *Broker
	// stream is the bucket's, prefix what its subjects begin with.
	stream, prefix string
}

// Get returns the newest value of a key, or [jetstream.ErrKeyNotFound]. While nobody
// leads the bucket it is a copy's word.
func (k *leaderReads) Get(ctx context.Context, key string) (jetstream.KeyValueEntry, error) {
	if k.b.Clustered() && !strings.ContainsAny(key, "*> \t") {
		entry, err := k.fromLeader(ctx, key)
		if err == nil || errors.Is(err, jetstream.ErrKeyNotFound) {
			return entry, err
		}
	}
	return k.KeyValue.Get(ctx, key)
}

func (k *leaderReads) fromLeader(ctx context.Context, key string) (jetstream.KeyValueEntry, error) {
	m, err := k.b.nextMessage(ctx, k.stream, k.prefix+key, 1) // the only one
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nil, jetstream.ErrKeyNotFound
	case err != nil:
		return nil, err
	case m.removed:
		return nil, jetstream.ErrKeyNotFound
	}
	return &leaderEntry{k.Bucket(), key, m}, nil
}

// leaderEntry is a value as the leader has it.
type leaderEntry struct {
	bucket, key string
	m           *Stored
}

func (e *leaderEntry) Bucket() string                  { return e.bucket }
func (e *leaderEntry) Key() string                     { return e.key }
func (e *leaderEntry) Value() []byte                   { return e.m.Data }
func (e *leaderEntry) Revision() uint64                { return e.m.Seq }
func (e *leaderEntry) Created() time.Time              { return e.m.At }
func (e *leaderEntry) Delta() uint64                   { return 0 }
func (e *leaderEntry) Operation() jetstream.KeyValueOp { return jetstream.KeyValuePut }
