package embedded

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// connect opens a connection with a stream that takes everything under "in.".
func connect(t *testing.T, ctx context.Context, s *Server) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(s.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "IN", Subjects: []string{"in.>"}, Discard: jetstream.DiscardNew}); err != nil {
		t.Fatal(err)
	}
	return js
}

func until(t *testing.T, ctx context.Context, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not in time: %s", what)
		}
	}
}

// refused reports whether err is the server's answer that the account is full.
func refused(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == 10002
}

// Others fill the disk: writes are refused, before one fails; and taken again when
// there is room.
func TestDiskFillsAndEmpties(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var free atomic.Int64
	free.Store(1 << 30)
	s, err := Start(Config{Port: -1, Store: t.TempDir(), KeepFree: 100 << 20,
		disk: func(string) (int64, int64, error) { return free.Load(), 10 << 30, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	js := connect(t, ctx, s)
	put := func() error {
		_, err := js.Publish(ctx, "in.x", make([]byte, 100<<10))
		return err
	}
	if err := put(); err != nil {
		t.Fatal(err)
	}
	if info, err := js.AccountInfo(ctx); err != nil || info.Limits.MaxStore < 900<<20 || info.Limits.MaxStore > 1<<30 {
		t.Fatalf("the limit is %+v, %v", info, err)
	}
	free.Store(50 << 20)
	until(t, ctx, "refusal", func() bool { return refused(put()) })
	free.Store(1 << 30)
	until(t, ctx, "acceptance", func() bool { return put() == nil })
	select {
	case <-s.Stuck():
		t.Error("a server that can write wants to be started anew")
	default:
	}
}

// A server that has lost the ability to write asks to be started anew, but not
// before there is room.
func TestStuckServerAsksToBeStarted(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var free atomic.Int64
	asked := make(chan struct{}, 1)
	cfg := Config{Port: -1, Store: t.TempDir(), KeepFree: 100 << 20, disk: func(string) (int64, int64, error) {
		select {
		case asked <- struct{}{}:
		default:
		}
		return free.Load(), 10 << 30, nil
	}}
	free.Store(1 << 30)
	s, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	js := connect(t, ctx, s)
	if _, err := js.Publish(ctx, "in.x", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	free.Store(0)
	if err := s.srv.ShutdownJetStream(); err != nil { // what it does itself when the disk is full
		t.Fatal(err)
	}
	for range 3 { // looks
		select {
		case <-asked:
		case <-s.Stuck():
			t.Fatal("it wants to be started although there is no room")
		case <-ctx.Done():
			t.Fatal("nobody looks")
		}
	}
	free.Store(1 << 30)
	select {
	case <-s.Stuck():
	case <-ctx.Done():
		t.Fatal("it doesn't ask to be started anew")
	}
	s.Stop()
	if s, err = Start(cfg); err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	stream, err := connect(t, ctx, s).Stream(ctx, "IN")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := stream.GetMsg(ctx, 1); err != nil || string(m.Data) != "kept" {
		t.Errorf("message 1 is %v, %v", m, err)
	}
}

func TestStoreBelongsToItsServer(t *testing.T) {
	dir := t.TempDir()
	alone, one := Config{Port: -1, Name: "a"}, Config{Port: -1, Name: "a", Cluster: "c", ClusterPort: 1, Routes: []string{"127.0.0.1:1"}}
	two := one
	two.Name = "b"
	for _, c := range []struct {
		store       string
		first, then Config
		want        error
	}{
		{"alone", alone, Config{Port: -1, Name: "other"}, nil},
		{"same", one, one, nil},
		{"grown", alone, one, ErrStoreKind},
		{"shrunk", one, alone, ErrStoreKind},
		{"renamed", one, two, ErrStoreKind},
	} {
		c.first.Store, c.then.Store = filepath.Join(dir, c.store), filepath.Join(dir, c.store)
		for i, cfg := range []Config{c.first, c.then} {
			want := c.want
			if i == 0 {
				want = nil
			}
			if err := makeStore(cfg); !errors.Is(err, want) {
				t.Errorf("%s, start %d: %v", c.store, i+1, err)
			}
		}
	}
}

func TestClusterIsChecked(t *testing.T) {
	for want, cfg := range map[string]Config{
		"--cluster-name": {Routes: []string{"127.0.0.1:1"}},
		"--cluster-port": {Cluster: "c", Routes: []string{"127.0.0.1:1"}},
		"--routes":       {Cluster: "c", ClusterPort: 6222},
		"HOST:PORT":      {Cluster: "c", ClusterPort: 6222, Routes: []string{"nowhere"}},
	} {
		cfg.Port, cfg.Store = -1, t.TempDir()
		if _, err := Start(cfg); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v doesn't say %q", err, want)
		}
	}
	cfg := Config{Host: "127.0.0.1", Cluster: "c", ClusterPort: 1, Routes: []string{"127.0.0.1:1", "nats://127.0.0.1:2", "127.0.0.1:3"}}
	if n := cfg.servers(); n != 3 {
		t.Errorf("%d servers", n)
	}
}
