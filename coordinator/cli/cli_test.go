package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/client"
)

func TestExitCodes(t *testing.T) {
	root := &cobra.Command{Use: "idunno"}
	child := &cobra.Command{Use: "job N"}
	root.AddCommand(child)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	live := context.Background()
	for _, c := range []struct {
		name string
		ctx  context.Context
		err  error
		code int
		says string
	}{
		{"done", live, nil, ExitOK, ""},
		{"done when interrupted too late", cancelled, nil, ExitOK, ""},
		{"failed", live, errors.New("no\nsuch\x1b luck"), ExitFailed, "idunno: no; such? luck\n"},
		{"usage", live, usage(child, "give %s", "N"), ExitUsage, "idunno: job: give N\nSee `idunno job --help`.\n"},
		{"usage of the program", live, usage(root, "what?"), ExitUsage, "idunno: what?\nSee `idunno --help`.\n"},
		{"failed batches", live, verdict(&wire.JobStats{Job: 7, State: wire.StateDoneWithFailures, Failed: 3, Reason: "bad\x1b model"}), ExitFailures,
			"idunno: job 7 finished with 3 failed batches: bad? model\n"},
		{"job done", live, verdict(&wire.JobStats{Job: 7, State: wire.StateDone}), ExitOK, ""},
		{"job cancelled", live, verdict(&wire.JobStats{Job: 7, State: wire.StateCancelled, Reason: "by request"}), ExitFailed, "idunno: job 7 is cancelled: by request\n"},
		{"no server", live, fmt.Errorf("%w at x", broker.ErrUnreachable), ExitUnreachable, "idunno: no NATS server answers at x\n"},
		{"no coordinator", live, client.ErrNoCoordinator, ExitUnreachable, "idunno: no coordinator answers: start one with `idunno coordinator`\n"},
		{"interrupted", cancelled, context.Canceled, ExitInterrupted, "idunno: interrupted\n"},
	} {
		var stderr bytes.Buffer
		if code := report(&stderr, child, c.ctx, c.err); code != c.code || stderr.String() != c.says {
			t.Errorf("%s: exit code %d, says %q; want %d, %q", c.name, code, stderr.String(), c.code, c.says)
		}
	}
}

func TestServerPrecedence(t *testing.T) {
	config := t.TempDir()
	if err := os.MkdirAll(filepath.Join(config, "nats"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(config, "nats", "context.txt"), []byte("chosen\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		app                     app
		env                     map[string]string
		servers, context, creds string
	}{
		{app{}, nil, "", "", ""},
		{app{}, map[string]string{"XDG_CONFIG_HOME": config}, "", "chosen", ""},
		{app{}, map[string]string{"XDG_CONFIG_HOME": config, "NATS_URL": "nats://env"}, "nats://env", "", ""},
		{app{natsContext: "named"}, map[string]string{"XDG_CONFIG_HOME": config, "NATS_URL": "nats://env"}, "", "named", ""},
		{app{natsContext: "named", server: "nats://flag"}, map[string]string{"NATS_URL": "nats://env"}, "nats://flag", "", ""},
		{app{}, map[string]string{"NATS_CREDS": "env.creds"}, "", "", "env.creds"},
		{app{creds: "flag.creds"}, map[string]string{"NATS_CREDS": "env.creds"}, "", "", "flag.creds"},
	} {
		c.app.getenv = func(name string) string { return c.env[name] }
		got := c.app.brokerConfig("test")
		if got.Servers != c.servers || got.Context != c.context || got.Creds != c.creds {
			t.Errorf("%+v with %v: servers %q, context %q, creds %q", c.app, c.env, got.Servers, got.Context, got.Creds)
		}
	}
}

func TestParsing(t *testing.T) {
	for in, want := range map[string][2]int{"1-50": {1, 50}, "7": {7, 7}, "3-3": {3, 3}} {
		if from, to, err := parseRange(in); err != nil || from != want[0] || to != want[1] {
			t.Errorf("%q: %d to %d, %v", in, from, to, err)
		}
	}
	for _, in := range []string{"", "-", "0-3", "5-4", "1-", "-5", "1-2-3", "a-b", "1 - 2", "99999999999999999999"} {
		if _, _, err := parseRange(in); err == nil || !strings.Contains(err.Error(), "such as 1-50") {
			t.Errorf("%q: %v", in, err)
		}
	}
	for in, want := range map[string]int64{"1": 1, "512MiB": 512 << 20, "2GB": 2e9, "10 KiB": 10 << 10, "7B": 7, "4TiB": 4 << 40} {
		if n, err := parseSize(in); err != nil || n != want {
			t.Errorf("%q: %d, %v", in, n, err)
		}
	}
	for _, in := range []string{"", "MiB", "-1GB", "0", "9999999999TiB", "1.5GB", "1 XB"} {
		if n, err := parseSize(in); err == nil {
			t.Errorf("%q: %d, want an error", in, n)
		}
	}
}
