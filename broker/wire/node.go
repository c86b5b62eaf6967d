package wire

import (
	"encoding/json"
	"fmt"
	"time"
)

// Role is what a process does in the cluster.
type Role string

// The roles.
const (
	RoleBroker      Role = "broker"
	RoleCoordinator Role = "coordinator"
	RoleWorker      Role = "worker"
)

// Heartbeat is what a node says about itself several times a second, and its
// answer to a ping.
type Heartbeat struct {
	Schema int    `json:"v"`
	Node   string `json:"node"`
	Role   Role   `json:"role"`
	// Incarnation is the start time in Unix nanoseconds: it tells a restarted
	// node from the one before.
	Incarnation int64 `json:"incarnation"`
	// Conn is the connection that this heartbeat came over, see [Conn].
	Conn     string `json:"conn,omitempty"`
	Version  string `json:"version"`
	Address  string `json:"address"`
	PID      int    `json:"pid"`
	Cores    int    `json:"cores"`
	Slots    int    `json:"slots,omitempty"`
	Leader   bool   `json:"leader,omitempty"`
	Draining bool   `json:"draining,omitempty"`
	// Leaving is set in the last heartbeat of a node that stops in order.
	Leaving  bool       `json:"leaving,omitempty"`
	InFlight []InFlight `json:"in_flight,omitempty"`
	// Batches and Images count what this incarnation has computed.
	Batches int64 `json:"batches,omitempty"`
	Images  int64 `json:"images,omitempty"`
}

// InFlight is a task that a worker holds. Reply is the task's acknowledgement
// subject: whoever publishes "-NAK" there hands the task back.
type InFlight struct {
	Job   uint64 `json:"job"`
	Task  int    `json:"task"`
	Reply string `json:"reply"`
	// Started says that the worker computes the task in its own process now: should
	// the worker die, the task may be the reason. A task in a process of its own
	// can't be, and is not marked.
	Started bool `json:"started,omitempty"`
	// Copy says that another worker has the task, and that it is computed here too.
	Copy bool `json:"copy,omitempty"`
	// Since is when the coordinator heard of the task in this state first; it is not
	// told.
	Since time.Time `json:"-"`
}

// Marshal encodes the heartbeat.
func (h *Heartbeat) Marshal() []byte { return h.line() }

// ParseHeartbeat decodes a heartbeat.
func ParseHeartbeat(p []byte) (*Heartbeat, error) {
	if len(p) > maxHeartbeat {
		return nil, fmt.Errorf("decode heartbeat: %d bytes, at most %d are allowed", len(p), maxHeartbeat)
	}
	var h Heartbeat
	if err := json.Unmarshal(p, &h); err != nil {
		return nil, fmt.Errorf("decode heartbeat: %w", err)
	}
	switch {
	case h.Schema != Schema || !ValidNodeName(h.Node):
		return nil, fmt.Errorf("decode heartbeat: version %d of node %q", h.Schema, excerptString(h.Node))
	case h.Role != RoleBroker && h.Role != RoleCoordinator && h.Role != RoleWorker:
		return nil, fmt.Errorf("decode heartbeat: node %s has role %q", h.Node, excerptString(string(h.Role)))
	case h.Slots < 0 || h.Slots > maxSlots || h.Cores < 0 || h.Cores > maxSlots || h.Batches < 0 || h.Images < 0:
		return nil, fmt.Errorf("decode heartbeat: node %s has %d slots and %d cores", h.Node, h.Slots, h.Cores)
	case len(h.Version) > maxLabel || len(h.Address) > maxLabel || len(h.Conn) > maxLabel:
		return nil, fmt.Errorf("decode heartbeat: node %s has a label of over %d bytes", h.Node, maxLabel)
	}
	return &h, nil
}

// Limits of a heartbeat: it comes from outside and stays in memory.
const (
	maxHeartbeat = 1 << 20
	maxSlots     = 4096
	maxLabel     = 128
)

// NodeState is what the cluster believes of a node.
type NodeState string

// The states of a node.
const (
	NodeAlive    NodeState = "alive"
	NodeSuspect  NodeState = "suspect"
	NodeDraining NodeState = "draining"
	NodeDead     NodeState = "dead"
	NodeLeft     NodeState = "left"
)

// Node is a line of the membership list.
type Node struct {
	Heartbeat
	State NodeState `json:"state"`
	// Since is when the node entered its state, Seen its last heartbeat.
	Since time.Time `json:"since"`
	Seen  time.Time `json:"last_heartbeat"`
}
