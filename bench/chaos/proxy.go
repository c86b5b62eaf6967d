package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Cut is what a [Proxy] does to a connection.
type Cut string

// The cuts. In what is silent nothing is lost: as with a real network, whose
// senders repeat, it comes late, or never when one side has given up before.
const (
	CutNone     Cut = ""
	CutBoth     Cut = "both-ways" // nothing gets through, nobody is told
	CutToServer Cut = "to-server" // the node hears, and isn't heard
	CutToNode   Cut = "to-node"   // the node is heard, and doesn't hear
	CutClose    Cut = "close"     // connections are closed, new ones too
	CutSlow     Cut = "slow"      // everything takes a tenth of a second longer
)

// Cuts are all cuts.
func Cuts() []Cut { return []Cut{CutBoth, CutToServer, CutToNode, CutClose, CutSlow} }

const (
	// slowness is the latency of CutSlow, each way.
	slowness = 100 * time.Millisecond
	// chunk and depth bound what a proxy holds of a connection, each way.
	chunk = 16 << 10
	depth = 16
	// dialWait bounds the connection to a server; one on this machine answers at once.
	dialWait = time.Second
)

// Proxy is the network between one node and its servers: TCP on loopback.
type Proxy struct {
	urls   string
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	listeners []net.Listener
	cut       Cut
	changed   chan struct{} // closed at every change of cut
	conns     map[net.Conn]struct{}
}

// NewProxy listens on a free port for each of the servers, a comma-separated list
// of URLs, and forwards to them.
func NewProxy(servers string) (*Proxy, error) {
	p := &Proxy{changed: make(chan struct{}), conns: make(map[net.Conn]struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	var urls []string
	for server := range strings.SplitSeq(servers, ",") {
		u, err := url.Parse(strings.TrimSpace(server))
		if err != nil {
			p.Close()
			return nil, fmt.Errorf("proxy to %s: %w", server, err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			p.Close()
			return nil, fmt.Errorf("proxy to %s: %w", server, err)
		}
		p.listeners = append(p.listeners, l)
		to := u.Host
		p.wg.Go(func() { p.serve(l, to) })
		u.Host = l.Addr().String()
		urls = append(urls, u.String())
	}
	p.urls = strings.Join(urls, ",")
	return p, nil
}

// URLs is what the node connects to, as many as there are servers.
func (p *Proxy) URLs() string { return p.urls }

// Set changes what the network does from now on.
func (p *Proxy) Set(cut Cut) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
	close(p.changed)
	p.changed = make(chan struct{})
	if cut == CutClose {
		for c := range p.conns {
			_ = c.Close()
		}
	}
}

// Close closes all connections and waits for what it has started.
func (p *Proxy) Close() {
	p.cancel()
	p.mu.Lock()
	for _, l := range p.listeners {
		_ = l.Close()
	}
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

// state is the cut of the moment, and a channel that is closed when it changes.
func (p *Proxy) state() (Cut, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cut, p.changed
}

// hold adds a connection to those that CutClose and Close close. It reports false,
// with the connection closed, when that is to happen at once.
func (p *Proxy) hold(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut == CutClose || p.ctx.Err() != nil {
		_ = c.Close()
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) drop(c net.Conn) {
	_ = c.Close()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

func (p *Proxy) serve(l net.Listener, to string) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of files, perhaps; it passes.
			select {
			case <-p.ctx.Done():
				return
			case <-time.After(slowness):
			}
			continue
		}
		if p.hold(c) {
			p.wg.Go(func() { p.link(c, to) })
		}
	}
}

// link connects a node's connection with a server.
func (p *Proxy) link(node net.Conn, to string) {
	defer p.drop(node)
	// A network that is cut lets no connection come about.
	if !p.pass(CutToServer) || !p.pass(CutToNode) {
		return
	}
	dialer := net.Dialer{Timeout: dialWait}
	server, err := dialer.DialContext(p.ctx, "tcp", to)
	if err != nil || !p.hold(server) {
		return
	}
	defer p.drop(server)
	var wg sync.WaitGroup
	wg.Go(func() { p.pump(server, node, CutToServer) })
	wg.Go(func() { p.pump(node, server, CutToNode) })
	wg.Wait()
}

// pass waits until the given way is open; false when the proxy closes before.
func (p *Proxy) pass(way Cut) bool {
	for {
		cut, changed := p.state()
		if cut != CutBoth && cut != way {
			return p.ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-p.ctx.Done():
			return false
		}
	}
}

// piece is what was read at once, to be written not before due.
type piece struct {
	data []byte
	due  time.Time
}

// pump forwards what comes from one side to the other, and the end of it. What is
// under way is bounded; beyond that the sender has to wait, as for a full window.
func (p *Proxy) pump(to, from net.Conn, way Cut) {
	under, free := make(chan piece, depth), make(chan []byte, depth)
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(under)
		for {
			var buf []byte
			select {
			case buf = <-free:
			default:
				buf = make([]byte, chunk)
			}
			n, err := from.Read(buf)
			if n > 0 {
				due := time.Now()
				if cut, _ := p.state(); cut == CutSlow {
					due = due.Add(slowness)
				}
				select {
				case under <- piece{buf[:n], due}:
				case <-ended:
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	p.write(to, way, under, free)
	close(ended)
	// The other direction ends with this one: NATS closes connections whole.
	_ = to.Close()
	_ = from.Close()
	wg.Wait()
}

func (p *Proxy) write(to io.Writer, way Cut, under <-chan piece, free chan<- []byte) {
	for next := range under {
		if wait := time.Until(next.due); wait > 0 {
			select {
			case <-time.After(wait):
			case <-p.ctx.Done():
				return
			}
		}
		if !p.pass(way) {
			return
		}
		if _, err := to.Write(next.data); err != nil {
			return
		}
		select {
		case free <- next.data[:chunk]:
		default:
		}
	}
	p.pass(way) // nor does the end of a connection get through
}
