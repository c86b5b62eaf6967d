package wire

import (
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// Leads tells workers several times a second which jobs are ahead of the others and
// which behind, as the stored results show.
type Leads struct {
	Schema int `json:"v"`
	// Fair is what is counted, as in [ActiveJobs].
	Fair string `json:"fair,omitempty"`
	// Jobs are those that are ahead or behind by more than a task or two.
	Jobs []Lead `json:"jobs"`
}

// Lead is how far a job is ahead, negative when it is behind: batches, images or
// nanoseconds, divided by its weight, that every slot shall make up for.
type Lead struct {
	Job  uint64  `json:"job"`
	Lead float64 `json:"lead"`
}

// Marshal encodes the message.
func (l *Leads) Marshal() []byte { return mustMarshal(l) }

// ParseLeads decodes the message and checks what a worker relies on.
func ParseLeads(p []byte) (*Leads, error) {
	const most = 1e15
	var l Leads
	if len(p) > maxHeartbeat {
		return nil, fmt.Errorf("decode leads: %d bytes, at most %d are allowed", len(p), maxHeartbeat)
	}
	if err := json.Unmarshal(p, &l); err != nil {
		return nil, fmt.Errorf("decode leads: %w", err)
	}
	if l.Schema != Schema {
		return nil, fmt.Errorf("decode leads: version %d", l.Schema)
	}
	for _, j := range l.Jobs {
		if math.Abs(j.Lead) > most {
			return nil, fmt.Errorf("decode leads: job %d is ahead by %g", j.Job, j.Lead)
		}
	}
	return &l, nil
}

// Assignment says which nodes work for a job, and why. A node that has nothing else
// to do helps with other jobs too, unless the job's own limit forbids it.
type Assignment struct {
	Job   uint64 `json:"job"`
	Model string `json:"model"`
	// Nodes are the workers by name, the first of them where there are very many: More
	// is the number of the others. Slots is the number of the slots of all of them.
	Nodes []string `json:"nodes"`
	More  int      `json:"more,omitempty"`
	Slots int      `json:"slots"`
	// Share is the part of the cluster's computing time that the job is to get, 0 to 1.
	Share  float64 `json:"share"`
	Reason string  `json:"reason"`
	// Only says that no other node may serve the job.
	Only bool `json:"only,omitempty"`
}

// Assignments is the table of who works for what. It is kept in the state bucket.
type Assignments struct {
	Schema int       `json:"schema_version"`
	Time   time.Time `json:"time"`
	// Slots is the number of all workers' slots.
	Slots int          `json:"slots"`
	Jobs  []Assignment `json:"jobs"`
	Error *Error       `json:"error,omitempty"`
}
