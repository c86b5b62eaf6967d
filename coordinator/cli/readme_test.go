package cli

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"idunno/broker/wire"
)

// The schema in the README is the parser's: it allows the fields that the parser
// allows, and its examples are accepted.
func TestReadmeSchema(t *testing.T) {
	p, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(p), "```json\n")
	text, _, closed := strings.Cut(rest, "\n```")
	if !ok || !closed {
		t.Fatal("no JSON block in the README")
	}
	var schema struct {
		OneOf []struct {
			Required   []string
			Properties map[string]any
		}
		Examples []json.RawMessage
	}
	if err := json.Unmarshal([]byte(text), &schema); err != nil {
		t.Fatal(err)
	}
	if len(schema.OneOf) != 3 || len(schema.Examples) < 2 {
		t.Fatalf("%d kinds, %d examples", len(schema.OneOf), len(schema.Examples))
	}
	for _, example := range schema.Examples {
		if _, err := wire.ParseJobDoc(example); err != nil {
			t.Errorf("%s: %v", example, err)
		}
	}
	for i, probe := range []string{`{"model":"mlp","from":1,"to":1,"?":0}`, `{"train":"mlp","?":0}`, `{"retry":1,"?":0}`} {
		_, err := wire.ParseJobDoc([]byte(probe))
		if err == nil {
			t.Fatalf("%s: accepted", probe)
		}
		_, list, _ := strings.Cut(err.Error(), "allowed: ")
		want := slices.Sorted(slices.Values(strings.Split(list, ", ")))
		if got := slices.Sorted(maps.Keys(schema.OneOf[i].Properties)); !slices.Equal(got, want) {
			t.Errorf("README has fields %v, the parser allows %v", got, want)
		}
	}
}
