package embedded

import (
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// A disk that is full stops the server's streams until it is started anew, so it
// must not come to that: the account may store what is there and what is free,
// less a part that is left to others, and that is looked at every second. Clients
// see the limit, and are refused with an error of their own when it is reached.
//
// Should it come to that all the same, because others filled the disk, the server
// asks to be started anew as soon as there is room.
const (
	roomEvery = time.Second
	// healthEvery is how many of these looks there are for one at the streams.
	healthEvery = 5
	// limitStep is the change from which on the limit is set anew.
	limitStep = 1 << 20
	// DefaultKeepFree is what is left free on the disk: an eighth of a small one.
	DefaultKeepFree = 256 << 20
	// noLimit is the server's own: the account's is what counts.
	noLimit = 1 << 60
)

// disk tells how many bytes of a file system are free and how many it has.
type disk func(dir string) (free, total int64, err error)

// room is the limit of what all servers together may store, given what they do.
func (s *Server) room(used int64) int64 {
	limit := int64(noLimit)
	if s.cfg.MaxStore > 0 {
		limit = s.cfg.MaxStore * s.servers
	}
	if free, total, err := s.disk(s.cfg.Store); err == nil {
		limit = min(limit, used+max(free-s.keepFree(total), 0)*s.servers)
	}
	return max(limit, 1) // 0 would be none at all
}

func (s *Server) keepFree(total int64) int64 {
	if s.cfg.KeepFree > 0 {
		return s.cfg.KeepFree
	}
	return min(DefaultKeepFree, total/8)
}

// setRoom sets the account's limit to what there is room for.
func (s *Server) setRoom() error {
	account := s.srv.GlobalAccount()
	limit := s.room(int64(account.JetStreamUsage().Store))
	if change := limit - s.limit; s.limit != 0 && max(change, -change) < limitStep {
		return nil
	}
	err := account.UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": {MaxMemory: -1, MaxStore: limit,
		MaxStreams: -1, MaxConsumers: -1, MaxAckPending: -1, MemoryMaxStreamBytes: -1, StoreMaxStreamBytes: -1}})
	if err != nil {
		return fmt.Errorf("limit what is stored: %w", err)
	}
	s.limit = limit
	return nil
}

// look keeps the limit up to date until the server stops, and closes stuck when the
// server can't write any more although there is room.
func (s *Server) look() {
	defer close(s.looked)
	tick := time.NewTicker(roomEvery)
	defer tick.Stop()
	failed := false
	for n := 1; ; n++ {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		if failed = failed || !s.writes(n%healthEvery == 0); failed {
			if free, total, err := s.disk(s.cfg.Store); err != nil || free > s.keepFree(total)/2 {
				close(s.stuck)
				return
			}
			continue
		}
		_ = s.setRoom() // it fails while the server stops
	}
}

// writes reports whether the server can write, as far as it has tried. Thorough has
// it ask every stream.
func (s *Server) writes(thorough bool) bool {
	if !s.srv.Running() {
		return true // it stops; that is another matter
	}
	if !s.srv.JetStreamEnabled() {
		return false
	}
	if !thorough {
		return true
	}
	for _, e := range s.srv.Healthz(&server.HealthzOptions{Details: true}).Errors {
		if strings.Contains(e.Error, "write error") {
			return false
		}
	}
	return true
}

// Stuck is closed when the server has lost the ability to write, as with a full
// disk, and has to be stopped and started anew. There is room again then.
func (s *Server) Stuck() <-chan struct{} { return s.stuck }
