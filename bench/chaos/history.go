package chaos

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"idunno/broker/wire"
)

// What is the event of a line of the history.
type What string

// The events. Those that speak of a submission carry its number, those that speak
// of an accepted job the job's.
const (
	WhatRun   What = "run"   // the first line: what this history is of
	WhatFault What = "fault" // a fault begins; Skipped says that there was nothing to hit
	WhatHeal  What = "heal"  // a fault ends: what it broke has been mended
	WhatCalm  What = "calm"  // everything is mended, nothing is submitted any more
	WhatDied  What = "died"  // a process ended without having been asked to

	WhatSubmit   What = "submit"   // about to be submitted
	WhatAccepted What = "accepted" // acknowledged: it is the job of that number
	WhatRefused  What = "refused"  // answered with an error: it is no job
	WhatUnknown  What = "unknown"  // not answered: it may be a job or not

	WhatCancel    What = "cancel"    // about to be cancelled
	WhatCancelled What = "cancelled" // acknowledged: it will end as cancelled

	WhatState  What = "state"  // a client was told that the job is in that state
	WhatRecord What = "record" // the job's record was seen in the store
	WhatSeen   What = "seen"   // a result was seen in the store
	WhatLease  What = "lease"  // the lease was seen to be written or deleted

	// After the calm, what the store holds:
	WhatStored What = "stored" // a submission, and the job's record if there is one
	WhatResult What = "result" // a result
	WhatLetter What = "letter" // a dead letter
	WhatEnd    What = "end"    // the store has been read to its end
)

// Event is a line of the history. Fields that an event has no use for are left out.
type Event struct {
	Time time.Time `json:"time"`
	What What      `json:"event"`

	Plan    *Header `json:"plan,omitempty"`
	Fault   *Fault  `json:"fault,omitempty"`
	Skipped bool    `json:"skipped,omitempty"`
	Error   string  `json:"error,omitempty"`
	// Busy says that a refusal has no other reason than that the cluster is full.
	Busy bool `json:"busy,omitempty"`

	Submission int          `json:"submission,omitempty"`
	Via        string       `json:"via,omitempty"`
	Doc        *wire.JobDoc `json:"doc,omitempty"`
	Job        uint64       `json:"job,omitempty"`
	State      wire.State   `json:"state,omitempty"`
	// TaskSize and Tail are those of a record, Epoch the lease it was written under,
	// Revision that of a record or of a lease's entry.
	TaskSize int    `json:"task_size,omitempty"`
	Tail     int    `json:"tail,omitempty"`
	Epoch    uint64 `json:"epoch,omitempty"`
	Revision uint64 `json:"revision,omitempty"`

	// Of a result: its task, the batches it is for, a sum of the whole message, and
	// [SumBatch] of every batch; Error says that the task failed.
	Task int      `json:"task,omitempty"`
	From int      `json:"from,omitempty"`
	To   int      `json:"to,omitempty"`
	Node string   `json:"node,omitempty"`
	Sum  string   `json:"sum,omitempty"`
	Sums []string `json:"sums,omitempty"`
	// Group names the durable write that a result was seen to share with others.
	Group string `json:"group,omitempty"`

	// Of the lease: who holds it, in which life of its bucket, and whether it was
	// given up. Written is the server's time.
	Holder  string    `json:"holder,omitempty"`
	Bucket  time.Time `json:"bucket,omitzero"`
	Deleted bool      `json:"deleted,omitempty"`
	Written time.Time `json:"written,omitzero"`
}

// Header says what a history is of.
type Header struct {
	Schema       int           `json:"schema_version"`
	Seed         uint64        `json:"seed"`
	Duration     time.Duration `json:"duration_ns"`
	Kinds        []Kind        `json:"faults"`
	Workers      int           `json:"workers"`
	Coordinators int           `json:"coordinators"`
	Servers      int           `json:"servers"`
	// LeaseTTL is how long a lease lasts that isn't renewed.
	LeaseTTL time.Duration `json:"lease_ttl_ns"`
}

// Recorder writes a history. Several goroutines may use it.
type Recorder struct {
	mu  sync.Mutex
	out *bufio.Writer
	err error
}

// NewRecorder writes to out. Flush must be called at the end.
func NewRecorder(out io.Writer) *Recorder { return &Recorder{out: bufio.NewWriter(out)} }

// Add writes an event and gives it the time, unless it has one.
func (r *Recorder) Add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	p, err := json.Marshal(e)
	if err == nil {
		_, err = r.out.Write(append(p, '\n'))
	}
	if r.err == nil {
		r.err = err
	}
}

// Flush writes what is left, and returns the first error there was.
func (r *Recorder) Flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.out.Flush(); r.err == nil {
		r.err = err
	}
	if r.err != nil {
		return fmt.Errorf("write the history: %w", r.err)
	}
	return nil
}

// ReadHistory calls fn for every event of a history, in order.
func ReadHistory(in io.Reader, fn func(*Event) error) error {
	dec := json.NewDecoder(bufio.NewReader(in))
	for line := 1; ; line++ {
		var e Event
		err := dec.Decode(&e)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read line %d of the history: %w", line, err)
		}
		if err := fn(&e); err != nil {
			return err
		}
	}
}
