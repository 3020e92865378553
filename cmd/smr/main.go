// Command smr makes, runs and uses clusters of the key-value service, and shows what Atlas SMR does:
// smr demo. Another application is its own main that calls replica.Run, as in examples/.
//
// Results go to stdout, progress and logs to stderr. The exit code is 0 on success, 1 if the command
// failed, 2 if it was called wrongly or a file it was given is wrong, 3 if the outcome of a write is
// unknown: it may have been executed, at most once.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/atlas-smr/smr/client"
	"github.com/atlas-smr/smr/replica"
)

// The exit codes.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitUnknown = 3
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := execute(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{}
	root := a.newRootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if !errors.Is(err, errSilent) {
		fmt.Fprintln(stderr, "smr:", err)
	}
	var usage *usageError
	switch {
	case !a.started, errors.As(err, &usage), replica.IsConfigMistake(err):
		if !a.started {
			fmt.Fprintln(stderr, "Run 'smr help' or add --help to the command for what it takes.")
		}
		return exitUsage
	case errors.Is(err, client.ErrUnknown):
		return exitUnknown
	}
	return exitFailed
}

// errSilent is returned by a command that has said already what went wrong.
var errSilent = errors.New("failed")

// usageError is a wrong flag or argument that cobra cannot see.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// app is what all commands share.
type app struct {
	logLevel, logFormat string
	started             bool // flags and arguments were accepted
}

func (a *app) newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "smr",
		Short: "State machine replication: a service that outlives its machines",
		Long: `smr runs a key-value service on n replicas that agree on the order of every request, survive the
crash or the lies of f of them, and lose nothing they acknowledged.

Start with 'smr demo': four replicas on this machine, killed and brought back while they work.`,
		Example:       "  smr demo\n  smr init -n 4 && smr run -c smr-cluster/node-1/config.toml\n  smr kv put greeting hello",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if _, err := a.handler(io.Discard); err != nil {
				return err
			}
			a.started = true
			return nil
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	fl := root.PersistentFlags()
	fl.StringVar(&a.logLevel, "log-level", "info", "least level logged: debug, info, warn or error")
	fl.StringVar(&a.logFormat, "log-format", "text", "log format: text or json")
	root.AddCommand(
		a.newDemoCommand(), a.newInitCommand(), a.newRunCommand(), a.newStatusCommand(), a.newKVCommand(),
		a.newBenchCommand(), newSimCommand(), newCheckCommand(), newVersionCommand(),
	)
	return root
}
