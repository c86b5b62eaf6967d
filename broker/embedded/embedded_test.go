package embedded

import (
	"bytes"
	"runtime"
	"testing"
	"time"
)

// A server works on more requests at a time than there are processors, and the
// process has as many processors as before.
func TestRequestsAtATime(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	s, err := Start(Config{Port: -1, Store: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	if now := runtime.GOMAXPROCS(0); now != before {
		t.Errorf("%d processors, want %d as before", now, before)
	}
	// Each has begun before long, and those of a server before have ended.
	stacks, n := make([]byte, 4<<20), 0
	for late := time.Now().Add(10 * time.Second); n != apiWorkers && time.Now().Before(late); runtime.Gosched() {
		n = bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("(*Server).processJSAPIRoutedRequests("))
	}
	if n != apiWorkers {
		t.Errorf("%d requests at a time, want %d", n, apiWorkers)
	}
}
