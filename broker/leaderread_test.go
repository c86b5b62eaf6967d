package broker

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// The leader's word is what the client reads, whatever happened to the key.
func TestReadsFromTheLeader(t *testing.T) {
	g := newGrouped(t)
	b := g.connect()
	_, index, err := b.Files(g.ctx)
	g.must(err)
	k, ok := index.(*leaderReads)
	if !ok {
		t.Fatalf("the index is a %T", index)
	}
	same := func(what string) {
		t.Helper()
		want, wantErr := k.KeyValue.Get(g.ctx, "key")
		got, err := k.fromLeader(g.ctx, "key")
		if wantErr != nil {
			if !errors.Is(wantErr, jetstream.ErrKeyNotFound) || !errors.Is(err, jetstream.ErrKeyNotFound) {
				t.Errorf("%s: %v, and of the leader %v", what, wantErr, err)
			}
			return
		}
		g.must(err)
		if string(got.Value()) != string(want.Value()) || got.Revision() != want.Revision() || !got.Created().Equal(want.Created()) ||
			got.Bucket() != want.Bucket() || got.Key() != want.Key() || got.Operation() != want.Operation() {
			t.Errorf("%s: %+v, and of the leader %+v", what, want, got)
		}
	}
	same("never written")
	rev, err := index.Create(g.ctx, "key", []byte("one"))
	g.must(err)
	_, err = index.Put(g.ctx, "other", []byte("x"))
	g.must(err)
	same("written")
	_, err = index.Update(g.ctx, "key", []byte("two"), rev)
	g.must(err)
	same("written again")
	g.must(index.Delete(g.ctx, "key"))
	same("removed")
}
