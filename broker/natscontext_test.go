package broker_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"idunno/broker"
	"idunno/broker/brokertest"
)

// contexts makes a configuration folder with the given context files.
func contexts(t *testing.T, files map[string]string) string {
	t.Helper()
	base := t.TempDir()
	dir := filepath.Join(base, "nats", "context")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name+".json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("XDG_CONFIG_HOME", base)
	return base
}

func TestContextFileIsHonoured(t *testing.T) {
	url := brokertest.Start(t)
	base := contexts(t, map[string]string{
		"mine":  fmt.Sprintf(`{"url":%q,"user":"","description":"other fields are ignored","socks_proxy":""}`, url),
		"other": `{"url":"nats://127.0.0.1:1"}`,
	})
	for _, name := range []string{"mine", filepath.Join(base, "nats", "context", "mine.json")} {
		b, err := broker.Connect(testContext(t), broker.Config{Context: name})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := b.NC.ConnectedUrl(); got != url {
			t.Errorf("%s: connected to %s, want %s", name, got, url)
		}
		b.Close()
	}
	// Servers that were named win over a context.
	b, err := broker.Connect(testContext(t), broker.Config{Context: "other", Servers: url})
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	if _, err := broker.Connect(testContext(t), broker.Config{Context: "other"}); !errors.Is(err, broker.ErrUnreachable) {
		t.Errorf("a context of a server that isn't there: %v", err)
	}
}

func TestBadContexts(t *testing.T) {
	contexts(t, map[string]string{"broken": `{"url":`, "wrong": `{"url":5}`, "huge": `{"url":"` + strings.Repeat("x", 1<<20) + `"}`})
	for name, want := range map[string]string{
		"absent":      "nats context ls",
		"broken":      "not valid JSON",
		"wrong":       "not valid JSON",
		"huge":        "bytes",
		"../broken":   "a name or an absolute path",
		"/nowhere/at": "nats context ls",
		"sub/folder":  "a name or an absolute path",
	} {
		_, err := broker.Connect(testContext(t), broker.Config{Context: name})
		if !errors.Is(err, broker.ErrUnknownContext) || !strings.Contains(err.Error(), want) || len(err.Error()) > 400 {
			t.Errorf("context %s: %v; want %q", name, err, want)
		}
	}
}

func TestSelectedContext(t *testing.T) {
	base := contexts(t, nil)
	env := map[string]string{"XDG_CONFIG_HOME": base}
	getenv := func(key string) string { return env[key] }
	if got := broker.SelectedContext(getenv); got != "" {
		t.Errorf("none selected, got %q", got)
	}
	if err := os.WriteFile(filepath.Join(base, "nats", "context.txt"), []byte("chosen\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := broker.SelectedContext(getenv); got != "chosen" {
		t.Errorf("got %q", got)
	}
	env["NATS_CONTEXT"] = "named"
	if got := broker.SelectedContext(getenv); got != "named" {
		t.Errorf("got %q", got)
	}
	if got := broker.SelectedContext(func(string) string { return "" }); got != "" {
		t.Errorf("without a home, got %q", got)
	}
}
