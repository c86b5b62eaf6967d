package broker_test

import (
	"testing"

	"idunno/broker/brokertest"
	"idunno/broker/embedded"
)

// The limit of what may be stored follows what is free on the disk, so it may become
// less than the streams have been promised: what is there is good enough for a role
// that starts.
func TestEnsureWhereStreamsWerePromisedMore(t *testing.T) {
	ctx, dir := testContext(t), t.TempDir()
	for _, size := range []int64{512 << 20, 64 << 20} {
		srv, err := embedded.Start(embedded.Config{Port: -1, Store: dir, MaxStore: size})
		if err != nil {
			t.Fatal(err)
		}
		b := brokertest.Connect(t, srv.URL())
		if err := b.Ensure(ctx); err != nil {
			t.Fatalf("room for %d MiB: %v", size>>20, err)
		}
		if _, err := b.Tend(ctx); err != nil {
			t.Fatalf("room for %d MiB is divided: %v", size>>20, err)
		}
		sum := int64(0)
		for name := range b.JS.ListStreams(ctx).Info() {
			sum += max(name.Config.MaxBytes, 0)
		}
		if sum > size || sum < size/2 {
			t.Fatalf("room for %d MiB: %d MiB are promised", size>>20, sum>>20)
		}
		if err := b.Ensure(ctx); err != nil {
			t.Fatalf("room for %d MiB, divided: %v", size>>20, err)
		}
		b.Close()
		srv.Stop()
	}
}
