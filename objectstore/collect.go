package objectstore

import (
	"encoding/json"
	"fmt"
)

// doomed is the table of objects that are being deleted.
type doomed struct {
	Schema  int      `json:"v"`
	Owner   string   `json:"owner,omitempty"`
	Sealed  bool     `json:"sealed,omitempty"`
	Digests []string `json:"digests,omitempty"`
}

func (d doomed) encode() []byte {
	d.Schema = indexSchema
	p, _ := json.Marshal(d) // strings and a flag always marshal
	return p
}

func decodeDoomed(p []byte) (doomed, error) {
	var d doomed
	if len(p) > maxEntry {
		return d, fmt.Errorf("table of doomed objects of %d bytes: %w", len(p), ErrTooLarge)
	}
	if err := json.Unmarshal(p, &d); err != nil {
		return d, fmt.Errorf("decode table of doomed objects: %v: %w", err, ErrCorrupt)
	}
	if d.Schema != indexSchema {
		return d, fmt.Errorf("table of doomed objects has version %d, this program reads %d: run the same version everywhere", d.Schema, indexSchema)
	}
	return d, nil
}
