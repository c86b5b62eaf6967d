package sched

import (
	"bytes"
	"time"

	"idunno/broker/wire"
)

// A thousand workers send thousands of heartbeats a second, and most differ from the
// one before in what the node holds and has done, which nobody asks for until it
// dies or is listed. So those are kept as they came, and read when somebody asks.

// changing are where the part of a heartbeat begins that changes all the time, as
// [wire.Heartbeat.Marshal] writes it.
var changing = [...]string{`,"in_flight":`, `,"batches":`, `,"images":`}

// lasting is the part of a heartbeat before that.
func lasting(p []byte) []byte {
	for _, key := range changing {
		if i := bytes.Index(p, []byte(key)); i >= 0 {
			return p[:i]
		}
	}
	return bytes.TrimSuffix(p, []byte("}"))
}

// Receive is [Members.Observe] for a heartbeat as it came; left says that the node
// leaves. The list keeps p. An error says that it is no heartbeat.
func (m *Members) Receive(p []byte, now time.Time) (orphans []Orphan, left bool, err error) {
	head := lasting(p)
	if n := m.heads[string(head)]; n != nil && (n.State == wire.NodeAlive || n.State == wire.NodeDraining) && len(p) <= maxUnread {
		n.unread, n.Seen = p, now
		n.heard(now)
		return nil, false, nil
	}
	h, err := wire.ParseHeartbeat(p)
	if err != nil {
		return nil, false, err
	}
	orphans = m.Observe(h, now)
	if n := m.nodes[h.Node]; n != nil && n.Incarnation == h.Incarnation && n.Conn == h.Conn && (n.State == wire.NodeAlive || n.State == wire.NodeDraining) {
		m.forgetHead(n)
		n.head = string(head)
		m.heads[n.head] = n
	}
	return orphans, h.Leaving, nil
}

// maxUnread bounds what is kept of a node unread, in bytes; more is read at once.
const maxUnread = 64 << 10

// read takes in what the node's last heartbeat says of what it holds and has done. One
// that makes no sense says nothing.
func (n *member) read() {
	if n.unread == nil {
		return
	}
	if h, err := wire.ParseHeartbeat(n.unread); err == nil {
		since(n.InFlight, h.InFlight, n.Seen)
		n.InFlight, n.Batches, n.Images = h.InFlight, h.Batches, h.Images
	}
	n.unread = nil
}

func (m *Members) forgetHead(n *member) {
	if m.heads[n.head] == n {
		delete(m.heads, n.head)
	}
	n.head = ""
}
