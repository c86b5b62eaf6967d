package cli

import (
	"context"
	"fmt"
	"io"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// app is what every command shares: the injected world and the global flags.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string

	server, creds, natsContext string
	replicas                   int
}

// Main runs the program with args (without the program's name) and returns its
// exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer, getenv func(string) string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, getenv: getenv}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	return report(stderr, cmd, ctx, err)
}

const rootLong = `iDunno is a distributed learning cluster: models and test sets in a replicated
store (the SDFS), queries over batches of them ("model mlp, batches 51 to 200")
cut into tasks that every live node works on, and the work of a dead node moved
to a live one.

Start with ` + "`idunno demo`" + `: a whole cluster on this machine, four queries, a
worker killed under them, everything checked.

Exit codes: 0 done, 1 failed, 2 wrong command line, 3 finished with failed batches,
4 cluster unreachable, 130 interrupted.`

const rootExample = `  idunno demo                      see it all, under a minute
  idunno up                        start a local cluster that stays
  idunno submit mlp 1-50 --watch   ask for batches 1 to 50 (in another terminal)
  idunno stats                     rates, times, accuracy, per job and per node`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use: "idunno", Short: "a distributed learning cluster in one program",
		Long: rootLong, Example: rootExample,
		SilenceErrors: true, SilenceUsage: true, Args: unknownCommand,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, "%v", err) })
	flags := root.PersistentFlags()
	flags.StringVar(&a.server, "server", "", "`URL`[,URL...] of the cluster (default $NATS_URL, then the selected nats context, then nats://127.0.0.1:4222)")
	flags.IntVar(&a.replicas, "replicas", 0, "`N` copies of everything that is stored (default 3 on a cluster of servers, 1 on a server alone)")
	flags.StringVar(&a.creds, "creds", "", "NATS credentials `FILE` (default $NATS_CREDS)")
	flags.StringVar(&a.natsContext, "context", "", "`NAME` of a context of the nats client")
	root.AddGroup(
		&cobra.Group{ID: groupCluster, Title: "Run a cluster:"},
		&cobra.Group{ID: groupJobs, Title: "Ask and watch:"},
		&cobra.Group{ID: groupFiles, Title: "Models, data and files:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, cmd := range cmds {
			cmd.GroupID = group
			root.AddCommand(cmd)
		}
	}
	add(groupCluster, a.demoCommand(), a.upCommand(), a.brokerCommand(), a.coordinatorCommand(), a.workerCommand(), a.nodesCommand(), a.assignmentsCommand(), a.setCommand(), a.phaseCommand())
	add(groupJobs, a.submitCommand(), a.jobsCommand(), a.jobCommand(), a.cancelCommand(), a.pauseCommand(), a.resumeCommand(), a.resultsCommand(), a.dlqCommand(), a.statsCommand(), a.benchCommand())
	add(groupFiles, a.sdfsCommand(), a.modelCommand(), a.dataCommand(), a.trainCommand())
	root.AddCommand(a.versionCommand())
	return root
}

const (
	groupCluster = "cluster"
	groupJobs    = "jobs"
	groupFiles   = "files"
)

// group makes a command that only holds others.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usage(cmd, "which one? choose %s", strings.Join(names(cmd), ", "))
		}}
	cmd.AddCommand(children...)
	return cmd
}

func names(cmd *cobra.Command) []string {
	var out []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			out = append(out, c.Name())
		}
	}
	return out
}

// unknownCommand is the Args of commands that hold others: what is left over is
// a name that none of them has.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		return usage(cmd, "no command %q; did you mean %s?", args[0], strings.Join(like, " or "))
	}
	return usage(cmd, "no command %q; choose %s", args[0], strings.Join(names(cmd), ", "))
}

// nargs is the Args of commands with n arguments, which its Use names.
func nargs(n int) cobra.PositionalArgs { return between(n, n) }

// between is the Args of commands with least to most arguments.
func between(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		takes := strings.TrimSpace(strings.TrimPrefix(cmd.Use, cmd.Name()))
		switch {
		case len(args) > most && most == 0:
			return usage(cmd, "takes no arguments, not %q", args[0])
		case len(args) > most:
			return usage(cmd, "takes %s; %q is too much", takes, args[most])
		case len(args) < least:
			return usage(cmd, "give %s", takes)
		}
		return nil
	}
}

// version is the program's own, from the build.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	v := strings.Trim(info.Main.Version, "()")
	if v == "" || v == "devel" {
		v = "devel"
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				v += "-" + s.Value[:12]
			}
		}
	}
	return v
}

// talk prints a line for people on standard error.
func (a *app) talk(format string, args ...any) {
	fmt.Fprintf(a.stderr, format+"\n", args...)
}
