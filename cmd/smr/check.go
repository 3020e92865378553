package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/atlas-smr/smr/protocol/pbft"
	"github.com/atlas-smr/smr/sim/check"
)

// newCheckCommand returns `smr check`.
func newCheckCommand() *cobra.Command {
	var o check.Options
	var minutes float64
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Explore every state of small clusters: the model checker",
		Long: `check explores the production ordering machine exhaustively within bounds: every order of
messages, every loss, every timer, with one replica that is Byzantine or one that crashes. It ends
when no state is left, a property is broken, or the time is over; the exit code is 0 only in the
first case.`,
		Example: "  smr check --fault byzantine --seqs 2 --views 2 --variants 1\n  smr check --fault crash --seqs 1 --views 2 --victim 1 --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Fault == check.Crash && !cmd.Flags().Changed("crashes") {
				o.Crashes = 1
			}
			o.Factory = pbft.Factory()
			return runCheck(cmd.Context(), o, minutes, asJSON, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.IntVar(&o.Replicas, "replicas", 4, "cluster size: 4")
	fl.StringVar(&o.Fault, "fault", check.Byzantine, "what may go wrong: byzantine or crash")
	fl.IntVar(&o.Seqs, "seqs", 2, "sequence numbers")
	fl.IntVar(&o.Views, "views", 2, "views")
	fl.IntVar(&o.Variants, "variants", 2, "byzantine: different proposals for one place, 1 or 2")
	fl.IntVar(&o.Crashes, "crashes", 0, "how often the victim crashes (crash: 1 unless given); with byzantine: one more replica crashes so often")
	fl.IntVar(&o.Victim, "victim", 1, "crash: which replica crashes; 1 leads the first view, 2 the next")
	fl.Float64Var(&minutes, "minutes", 0, "stop after so many minutes (0: when no state is left)")
	fl.BoolVar(&asJSON, "json", false, "one JSON object on stdout")
	return cmd
}

// The ways a check ends without having seen everything in order.
var (
	errCheckViolation = errors.New("a property is broken")
	errCheckUnended   = errors.New("stopped before every state was explored")
)

func runCheck(ctx context.Context, o check.Options, minutes float64, asJSON bool, stdout, stderr io.Writer) error {
	if minutes > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, time.Duration(minutes*float64(time.Minute)))
		defer stop()
	}
	began, told := time.Now(), time.Now()
	o.Progress = func(r check.Result) {
		if time.Since(told) >= 2*time.Second {
			told = time.Now()
			fmt.Fprintln(stderr, r.Speed(time.Since(began)))
		}
	}
	r, err := check.Run(ctx, o)
	if err != nil {
		return err
	}
	if asJSON {
		if err := json.NewEncoder(stdout).Encode(r); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(stdout, "%s\n%d transitions, %d proposals, the machine ran %d times; every state explored: %v\n", r.Speed(time.Since(began)), r.Transitions, r.Proposals, r.Inputs, r.Exhausted)
		for _, l := range r.Trace {
			fmt.Fprintln(stdout, "  "+l)
		}
	}
	switch {
	case r.Violation != "":
		return fmt.Errorf("%w: %s", errCheckViolation, r.Violation)
	case !r.Exhausted:
		return errCheckUnended
	}
	return nil
}
