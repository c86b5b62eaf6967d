package wire

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

var settingNames = []string{"fair", "phase", "batch_sizes", "result_retention_ns", "forever_rounds"}

// Change returns the settings with the members of a JSON object put in place of
// theirs. Models' batch sizes are changed one by one; 0 removes one. Its errors are
// *[Error] values.
func (s *Settings) Change(p []byte) (*Settings, error) {
	if len(p) > MaxJobDoc {
		return nil, fieldErr("settings", "are %d bytes; allowed: at most %d", len(p), MaxJobDoc)
	}
	changes, err := objectFields(p)
	if err != nil {
		return nil, fieldErr("settings", "are not a JSON object; allowed: an object such as {\"phase\":\"train\"}")
	}
	next := *s
	next.Schema = Schema
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(next.Marshal(), &fields); err != nil {
		return nil, fmt.Errorf("decode settings: %w", err)
	}
	for name, raw := range changes {
		if !slices.Contains(settingNames, name) {
			return nil, fieldErr(printable(name), "is not a setting; allowed: %s", strings.Join(settingNames, ", "))
		}
		if name == "batch_sizes" {
			if raw, err = s.changeSizes(raw); err != nil {
				return nil, err
			}
		}
		fields[name] = raw
	}
	return ParseSettings(mustMarshal(fields))
}

// changeSizes returns the models' batch sizes with some changed.
func (s *Settings) changeSizes(raw json.RawMessage) (json.RawMessage, error) {
	var changes map[string]int
	if err := json.Unmarshal(raw, &changes); err != nil {
		return nil, fieldErr("batch_sizes", "is %s; allowed: an object such as {\"mlp\":50}, 0 for as stored", excerpt(raw))
	}
	sizes := make(map[string]int)
	for model, n := range s.BatchSizes {
		sizes[model] = n
	}
	for model, n := range changes {
		if sizes[model] = n; n == 0 {
			delete(sizes, model)
		}
	}
	return mustMarshal(sizes), nil
}
