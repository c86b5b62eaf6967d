package chaos_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"idunno/bench/chaos"
)

// echo answers every line with itself, and counts what it has heard.
type echo struct {
	l     net.Listener
	heard chan string
	wg    sync.WaitGroup
}

func startEcho(t *testing.T) *echo {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{l: l, heard: make(chan string, 1000)}
	e.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.wg.Go(func() {
				defer c.Close()
				in := bufio.NewScanner(c)
				for in.Scan() {
					e.heard <- in.Text()
					fmt.Fprintln(c, in.Text())
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); e.wg.Wait() })
	return e
}

type line struct {
	net.Conn
	answers chan string // closed at the end of the connection
	wg      sync.WaitGroup
}

func dial(t *testing.T, p *chaos.Proxy, i int) *line {
	t.Helper()
	u, err := url.Parse(strings.Split(p.URLs(), ",")[i])
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	l := &line{Conn: c, answers: make(chan string, 1000)}
	l.wg.Go(func() {
		defer close(l.answers)
		in := bufio.NewScanner(c)
		for in.Scan() {
			l.answers <- in.Text()
		}
	})
	t.Cleanup(func() { c.Close(); l.wg.Wait() })
	return l
}

func receive(t *testing.T, what string, from <-chan string, want string) {
	t.Helper()
	select {
	case got, ok := <-from:
		if !ok || got != want {
			t.Fatalf("%s: %q, open %v, want %q", what, got, ok, want)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("%s: nothing", what)
	}
}

func nothing(t *testing.T, what string, from <-chan string) {
	t.Helper()
	select {
	case got, ok := <-from:
		t.Fatalf("%s: %q, open %v, want nothing", what, got, ok)
	case <-time.After(50 * time.Millisecond):
	}
}

func proxy(t *testing.T, servers ...*echo) *chaos.Proxy {
	t.Helper()
	var urls []string
	for _, s := range servers {
		urls = append(urls, "nats://"+s.l.Addr().String())
	}
	p, err := chaos.NewProxy(strings.Join(urls, ","))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestProxyForwardsToEveryServer(t *testing.T) {
	a, b := startEcho(t), startEcho(t)
	p := proxy(t, a, b)
	for i, e := range []*echo{a, b} {
		c := dial(t, p, i)
		fmt.Fprintln(c, "hello")
		receive(t, "server", e.heard, "hello")
		receive(t, "node", c.answers, "hello")
	}
}

func TestCutsAreSilentAndLoseNothing(t *testing.T) {
	e := startEcho(t)
	p := proxy(t, e)
	c := dial(t, p, 0)
	fmt.Fprintln(c, "0")
	receive(t, "server", e.heard, "0")
	receive(t, "node", c.answers, "0")

	p.Set(chaos.CutToServer)
	fmt.Fprintln(c, "1")
	nothing(t, "server", e.heard)
	p.Set(chaos.CutToNode)
	receive(t, "server", e.heard, "1")
	nothing(t, "node", c.answers)
	p.Set(chaos.CutBoth)
	fmt.Fprintln(c, "2")
	late := dial(t, p, 0)
	fmt.Fprintln(late, "3")
	nothing(t, "server", e.heard)
	nothing(t, "node", c.answers)
	p.Set(chaos.CutNone)
	receive(t, "node", c.answers, "1")
	receive(t, "node", c.answers, "2")
	receive(t, "node", late.answers, "3")
}

func TestCutsClose(t *testing.T) {
	e := startEcho(t)
	p := proxy(t, e)
	c := dial(t, p, 0)
	fmt.Fprintln(c, "0")
	receive(t, "node", c.answers, "0")
	p.Set(chaos.CutClose)
	for _, l := range []*line{c, dial(t, p, 0)} {
		select {
		case _, open := <-l.answers:
			if open {
				t.Fatal("an answer over a closed connection")
			}
		case <-time.After(30 * time.Second):
			t.Fatal("the connection stays open")
		}
	}
	p.Set(chaos.CutNone)
	again := dial(t, p, 0)
	fmt.Fprintln(again, "1")
	receive(t, "node", again.answers, "1")
}

func TestSlownessIsLatencyAndNotRate(t *testing.T) {
	e := startEcho(t)
	p := proxy(t, e)
	p.Set(chaos.CutSlow)
	c := dial(t, p, 0)
	began := time.Now()
	for i := range 100 {
		if _, err := fmt.Fprintln(c, i); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		receive(t, "node", c.answers, fmt.Sprint(i))
	}
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Fatalf("there and back in %v", took)
	}
}

// What is under way is bounded: a sender has to wait when nothing gets through.
func TestACutHoldsLittle(t *testing.T) {
	e := startEcho(t)
	p := proxy(t, e)
	c := dial(t, p, 0)
	fmt.Fprintln(c, "0")
	receive(t, "node", c.answers, "0")
	p.Set(chaos.CutBoth)
	if err := c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	n, err := io.CopyN(c.Conn, zeros{}, 256<<20)
	if err == nil {
		t.Fatalf("%d bytes are under way", n)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
