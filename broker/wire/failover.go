package wire

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// Conn names a connection: the server process and the connection's number there.
func Conn(server string, client uint64) string { return server + "/" + strconv.FormatUint(client, 10) }

// ConnClosed is what a broker tells when a connection to it has closed: whoever
// had it is dead, or comes back with another one.
type ConnClosed struct {
	Schema int    `json:"v"`
	Conn   string `json:"conn"`
}

// Marshal encodes the message.
func (c *ConnClosed) Marshal() []byte { return mustMarshal(c) }

// ParseConnClosed decodes the message.
func ParseConnClosed(p []byte) (*ConnClosed, error) {
	var c ConnClosed
	if len(p) > maxHeartbeat {
		return nil, fmt.Errorf("decode closed connection: %d bytes, at most %d are allowed", len(p), maxHeartbeat)
	}
	if err := json.Unmarshal(p, &c); err != nil {
		return nil, fmt.Errorf("decode closed connection: %w", err)
	}
	if c.Schema != Schema || c.Conn == "" || len(c.Conn) > maxLabel {
		return nil, fmt.Errorf("decode closed connection: version %d, connection %q", c.Schema, excerptString(c.Conn))
	}
	return &c, nil
}

// RescueTaken is the answer of a worker that takes the task; any other refuses it.
const RescueTaken = "+OK"

// Rescue hands a dead worker's task to a live one, past the queue. Reply is the
// acknowledgement subject of the delivery that the dead worker had.
type Rescue struct {
	Schema int    `json:"v"`
	Task   *Task  `json:"task"`
	Reply  string `json:"reply,omitempty"`
	// Copy is set instead of Reply for a task that a slow worker has and goes on with:
	// an idle one computes it too, and says nothing about it.
	Copy bool `json:"copy,omitempty"`
	// Crashes is how many nodes have died while they computed the task.
	Crashes int `json:"crashes,omitempty"`
}

// Marshal encodes the message.
func (r *Rescue) Marshal() []byte { return mustMarshal(r) }

// ParseRescue decodes the message and checks what a worker relies on.
func ParseRescue(p []byte) (*Rescue, error) {
	var raw struct {
		Rescue
		Task json.RawMessage `json:"task"`
	}
	if len(p) > maxHeartbeat {
		return nil, fmt.Errorf("decode rescue: %d bytes, at most %d are allowed", len(p), maxHeartbeat)
	}
	if err := json.Unmarshal(p, &raw); err != nil {
		return nil, fmt.Errorf("decode rescue: %w", err)
	}
	if raw.Schema != Schema || (raw.Reply == "") != raw.Copy {
		return nil, fmt.Errorf("decode rescue: version %d, reply %q", raw.Schema, excerptString(raw.Reply))
	}
	t, err := ParseTask(raw.Task)
	if err != nil {
		return nil, fmt.Errorf("decode rescue: %w", err)
	}
	r := raw.Rescue
	r.Task = t
	return &r, nil
}
