package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/cli/render"
	"idunno/coordinator/cluster"
)

// roleExit bounds how long a role may take to stop once it has been asked to.
const roleExit = 12 * time.Second

// errParentGone stops a role whose standard input has ended.
var errParentGone = errors.New("standard input ended")

// runRole runs a role until it is interrupted or, with --until-stdin-ends, its
// parent is gone. Being asked to stop is no failure. A role that does not stop in
// time is left to the end of the process.
func (a *app) runRole(cmd *cobra.Command, untilStdinEnds bool, run func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	if untilStdinEnds {
		go func() {
			_, _ = io.Copy(io.Discard, a.stdin)
			cancel(errParentGone)
		}()
	}
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	late := time.NewTimer(roleExit)
	defer late.Stop()
	select {
	case err := <-ended:
		if errors.Is(err, context.Canceled) || errors.Is(err, errParentGone) {
			return nil
		}
		return err
	case <-late.C:
		return &codeError{ExitFailed, fmt.Sprintf("did not stop within %v: what it held is handed to others", roleExit)}
	}
}

// untilStdinEnds is the flag by which a parent process ties a role to its own life.
func untilStdinEnds(cmd *cobra.Command, into *bool) {
	cmd.Flags().BoolVar(into, "until-stdin-ends", false, "stop in order when standard input ends, as it does when the parent process dies")
}

// nodeName checks a node's name, or makes one from the machine's and the process's.
func nodeName(cmd *cobra.Command, given string, role wire.Role) (string, error) {
	if given == "" {
		host, err := os.Hostname()
		if err != nil || host == "" {
			host = "node"
		}
		host, _, _ = strings.Cut(host, ".")
		given = strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
				return r
			}
			return '-'
		}, host)
		given = fmt.Sprintf("%s-%s-%d", role, strings.Trim(given, "-"), os.Getpid())
	}
	if !wire.ValidNodeName(given) {
		return "", usage(cmd, "--name %q: letters, digits, _ and - are allowed, at most 64, a letter or digit first", given)
	}
	return given, nil
}

// announce says that a role works: for people on standard error, for programs
// with --json as one line on standard output. A role that a parent has started
// leaves the talking to it.
func (a *app) announce(tied, asJSON bool, r cluster.Ready) error {
	if !asJSON && tied {
		return nil
	}
	if !asJSON {
		a.talk("%s %s works with %s; Ctrl-C stops it in order", r.Role, r.Name, r.URL)
		return nil
	}
	r.Schema, r.PID = render.Schema, os.Getpid()
	return printLine(a.stdout, r)
}

// join connects a role to its cluster, waiting for a server that is about to start.
func (a *app) join(ctx context.Context, name string) (*broker.Broker, error) {
	cfg := a.brokerConfig(name)
	cfg.Wait = joinWait
	cfg.Events = func(event string, err error) {
		if ctx.Err() != nil {
			return // it goes because we go
		}
		if event == broker.EventRebuilt {
			a.talk("%v", err)
			return
		}
		if err != nil {
			a.talk("connection %s: %v", event, err)
			return
		}
		a.talk("connection %s", event)
	}
	return open(ctx, cfg)
}

// logger writes a role's own log for people, one line an event, without the time
// that whoever collects the lines adds.
func (a *app) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{ReplaceAttr: func(_ []string, at slog.Attr) slog.Attr {
		if at.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return at
	}}))
}

// dataDir is where a user's clusters keep their data unless told otherwise.
func (a *app) dataDir() (string, error) {
	if dir := a.getenv("XDG_DATA_HOME"); dir != "" {
		return dir + "/idunno", nil
	}
	if home := a.getenv("HOME"); home != "" {
		return home + "/.local/share/idunno", nil
	}
	return "", errors.New("neither XDG_DATA_HOME nor HOME is set: say with --store where to keep the data")
}

// cacheDir is where a worker keeps models and batches unless told otherwise.
func (a *app) cacheDir() (string, error) {
	if dir := a.getenv("XDG_CACHE_HOME"); dir != "" {
		return dir + "/idunno", nil
	}
	if home := a.getenv("HOME"); home != "" {
		return home + "/.cache/idunno", nil
	}
	return "", errors.New("neither XDG_CACHE_HOME nor HOME is set: say with --cache where to keep models and batches")
}

// parseSize reads a size such as 512MiB, 2GB or 1048576.
func parseSize(s string) (int64, error) {
	units := []struct {
		suffix string
		factor int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1}}
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 1 || n > (1<<62)/u.factor {
			break
		}
		return n * u.factor, nil
	}
	return 0, fmt.Errorf("size %q: give a number with a unit, such as 512MiB or 2GB", s)
}
