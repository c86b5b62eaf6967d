package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"idunno/broker"
	"idunno/coordinator/cli/render"
	"idunno/coordinator/client"
)

// Exit codes of the program.
const (
	ExitOK          = 0
	ExitFailed      = 1
	ExitUsage       = 2   // the command line is wrong
	ExitFailures    = 3   // the job finished, some of its batches failed
	ExitUnreachable = 4   // no server, or no coordinator, answers
	ExitInterrupted = 130 // Ctrl-C before the work was done
)

// usageError is a wrong command line; the message names the command.
type usageError struct {
	cmd *cobra.Command
	msg string
}

func (e *usageError) Error() string { return e.msg }

func usage(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{cmd, fmt.Sprintf(format, args...)}
}

// codeError gives an error its exit code. An empty message says nothing more:
// the answer on standard output has told.
type codeError struct {
	code int
	msg  string
}

func (e *codeError) Error() string { return e.msg }

// report prints what went wrong, if anything, and returns the exit code.
func report(stderr io.Writer, cmd *cobra.Command, ctx context.Context, err error) int {
	var wrong *usageError
	var coded *codeError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &wrong):
		fmt.Fprintf(stderr, "idunno: %s%s\nSee `%s --help`.\n", prefix(wrong.cmd), oneLine(wrong.msg), wrong.cmd.CommandPath())
		return ExitUsage
	case errors.As(err, &coded):
		if coded.msg != "" {
			fmt.Fprintf(stderr, "idunno: %s\n", oneLine(coded.msg))
		}
		return coded.code
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "idunno: interrupted")
		return ExitInterrupted
	}
	fmt.Fprintf(stderr, "idunno: %s\n", oneLine(err.Error()))
	if errors.Is(err, broker.ErrUnreachable) || errors.Is(err, client.ErrNoCoordinator) {
		return ExitUnreachable
	}
	return ExitFailed
}

// prefix names the command in a message, without the program's name.
func prefix(cmd *cobra.Command) string {
	if !cmd.HasParent() {
		return ""
	}
	return strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ") + ": "
}

// oneLine keeps a message on one line and the terminal safe from what it quotes.
func oneLine(s string) string {
	return render.Clean(strings.ReplaceAll(strings.TrimSpace(s), "\n", "; "))
}
