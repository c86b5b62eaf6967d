package broker_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"idunno/broker"
	"idunno/broker/brokertest"
)

// freePort is an address at which nobody listens.
func freePort(t *testing.T) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(brokertest.FreePort(t)))
}

func TestRefusedConnectionTellsWhatToDo(t *testing.T) {
	defer goleak.VerifyNone(t, append(brokertest.Leaks(), goleak.IgnoreCurrent())...)
	ctx, at := testContext(t), freePort(t)
	start := time.Now()
	_, err := broker.Connect(ctx, broker.Config{Servers: "nats://" + at})
	if !errors.Is(err, broker.ErrUnreachable) {
		t.Fatalf("%v, want ErrUnreachable", err)
	}
	for _, want := range []string{at, "idunno up", "--server"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v to say so", took)
	}
}

func TestPasswordsAreNotShown(t *testing.T) {
	ctx := testContext(t)
	one, two := freePort(t), freePort(t)
	for servers, shown := range map[string][]string{
		"nats://alice:s3cret@" + one:                                {one},
		"nats://alice:s3cret@" + one + ",nats://s3cret@" + two:      {one, two},
		"nats://alice:s3cret@" + one + ", nats://bob:s3cret@" + two: {one, two},
		"nats://alice:p@s3cret@" + one:                              {one},
		"alice:s3cret@" + one:                                       {one},
		"nats://alice:s3cret@" + one + "%zz":                        {one},
	} {
		_, err := broker.Connect(ctx, broker.Config{Servers: servers})
		if err == nil {
			t.Fatal("connected to nobody")
		}
		if strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "alice") {
			t.Errorf("%s: the error shows it: %v", servers, err)
		}
		for _, want := range shown {
			if errors.Is(err, broker.ErrUnreachable) && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: the error doesn't name %s: %v", servers, want, err)
			}
		}
	}
}

func TestConnectWaitsForAServer(t *testing.T) {
	ctx, cancel := context.WithCancelCause(testContext(t))
	enough := errors.New("enough")
	timer := time.AfterFunc(200*time.Millisecond, func() { cancel(enough) })
	defer timer.Stop()
	_, err := broker.Connect(ctx, broker.Config{Servers: "nats://" + freePort(t), Wait: time.Minute})
	if !errors.Is(err, enough) {
		t.Fatalf("%v, want the cause of the cancellation", err)
	}
}

// A proxy whose server isn't there yet closes every connection, and is slow then.
func TestConnectWaitsBehindAProxy(t *testing.T) {
	url := brokertest.Start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.Close()
	wg.Go(func() {
		for i := 0; ; i++ {
			node, err := l.Accept()
			if err != nil {
				return
			}
			if i < 3 {
				node.Close()
				continue
			}
			server, err := net.Dial("tcp", strings.TrimPrefix(url, "nats://"))
			if err != nil {
				node.Close()
				return
			}
			if i == 3 { // the server's first question comes before its answer
				info, _ := bufio.NewReader(server).ReadString('\n')
				_, _ = io.WriteString(node, info+"PING\r\n")
				_, _ = io.Copy(io.Discard, node)
				node.Close()
				server.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{node, server}, {server, node}} {
				wg.Go(func() {
					_, _ = io.Copy(way[0], way[1])
					way[0].Close()
				})
			}
		}
	})
	at := "nats://" + l.Addr().String()
	if _, err := broker.Connect(testContext(t), broker.Config{Servers: at}); !errors.Is(err, broker.ErrUnreachable) {
		t.Fatalf("without waiting: %v", err)
	}
	b, err := broker.Connect(testContext(t), broker.Config{Servers: at, Wait: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
}

func TestConnectToWrongAddress(t *testing.T) {
	ctx := testContext(t)
	for _, servers := range []string{"nats://127.0.0.1:notaport", "nats://[::1", "://", "nats://127.0.0.1:1,%zz"} {
		if _, err := broker.Connect(ctx, broker.Config{Servers: servers}); err == nil || !errors.Is(err, broker.ErrUnreachable) {
			t.Errorf("%s: %v", servers, err)
		}
	}
}

func TestBucketsMustExist(t *testing.T) {
	ctx := testContext(t)
	b := brokertest.Connect(t, brokertest.Start(t))
	if _, _, err := b.Files(ctx); err == nil {
		t.Error("files before Ensure")
	}
	for range 2 {
		if err := b.Ensure(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := b.Files(ctx); err != nil {
		t.Error(err)
	}
}
