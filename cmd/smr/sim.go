package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/atlas-smr/smr/protocol/pbft"
	"github.com/atlas-smr/smr/sim"
	"github.com/atlas-smr/smr/sim/adversary"
)

// simFlags is what `smr sim` was asked for.
type simFlags struct {
	seed     uint64
	first    uint64
	seeds    uint64
	replicas int
	scenario string
	json     bool
	trace    string
	twice    bool
}

// newSimCommand returns `smr sim`.
func newSimCommand() *cobra.Command {
	var f simFlags
	cmd := &cobra.Command{
		Use:   "sim (--seed S | --seeds N)",
		Short: "Run whole clusters under virtual time, with faults, from seeds",
		Long: `sim runs clusters of the production engine, ordering, execution and client in one goroutine
under virtual time. Everything a run does follows from its seed: a failure is replayed by --seed.
Oracles check every step; the exit code is not 0 if any seed fails.`,
		Example: "  smr sim --seeds 200 --json\n  smr sim --seed 17 --trace trace.txt\n  smr sim --seeds 50 --scenario power-loss --replicas 7",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			one := cmd.Flags().Changed("seed")
			if one == cmd.Flags().Changed("seeds") {
				return errors.New("give --seed S for one seed or --seeds N for the first N")
			}
			if one {
				f.first, f.seeds = f.seed, 1
			}
			if f.trace != "" && !one {
				return errors.New("--trace writes one run: give --seed S, not --seeds")
			}
			return runSim(cmd.Context(), f, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.Uint64Var(&f.seed, "seed", 0, "run this seed")
	fl.Uint64Var(&f.seeds, "seeds", 0, "run this many seeds")
	fl.Uint64Var(&f.first, "first", 0, "with --seeds: the first seed")
	fl.IntVar(&f.replicas, "replicas", 0, "cluster size (0: drawn from the seed, 4 to 10)")
	fl.StringVar(&f.scenario, "scenario", "", "scenario (empty: drawn from the seed): "+fmt.Sprint(sim.Scenarios()))
	fl.BoolVar(&f.json, "json", false, "one JSON object a line on stdout")
	fl.StringVar(&f.trace, "trace", "", "write what happens to this file")
	fl.BoolVar(&f.twice, "twice", false, "run every seed twice and compare the traces")
	return cmd
}

// simSeed is the line of one seed, simSummary the last line.
type simSeed struct {
	Seed      uint64 `json:"seed"`
	TraceHash string `json:"trace_hash"`
	Events    uint64 `json:"events"`
	OK        bool   `json:"ok"`
}
type simSummary struct {
	Seeds           uint64 `json:"seeds"`
	Failed          uint64 `json:"failed"`
	Events          uint64 `json:"events"`
	EventsPerSecond uint64 `json:"events_per_second"`
	TraceHash       string `json:"trace_hash"`
}

// errSimFailed makes the exit code tell what stdout said.
var errSimFailed = errors.New("seeds failed")

func runSim(ctx context.Context, f simFlags, stdout, stderr io.Writer) error {
	opts := sim.Options{Factory: pbft.Factory(), Replicas: f.replicas, Scenario: f.scenario, Adversary: newAdversary}
	if f.trace != "" {
		file, err := os.Create(f.trace)
		if err != nil {
			return err
		}
		defer file.Close()
		w := bufio.NewWriterSize(file, 1<<20)
		defer w.Flush()
		opts.Trace = w
	}
	out := bufio.NewWriter(stdout)
	defer out.Flush()
	enc := json.NewEncoder(out)
	began := time.Now()
	sum := simSummary{}
	all := fnv.New64a()
	var counts sim.Counts
	err := eachSeed(ctx, f, opts, func(r sim.Result) {
		sum.Seeds++
		sum.Events += r.Events
		counts = counts.Add(r.Counts)
		io.WriteString(all, r.TraceHash)
		if !r.OK() {
			sum.Failed++
			fmt.Fprintf(stderr, "seed %d (%s, %d replicas) failed: %s\n  replay: smr sim --seed %d%s\n", r.Seed, r.Scenario, r.Replicas, r.Failure, r.Seed, replayFlags(f))
		}
		if f.json {
			enc.Encode(simSeed{Seed: r.Seed, TraceHash: r.TraceHash, Events: r.Events, OK: r.OK()})
		} else {
			fmt.Fprintf(out, "seed %d: %s, %d replicas, %d events, trace %s, ok %v\n", r.Seed, r.Scenario, r.Replicas, r.Events, r.TraceHash, r.OK())
		}
		out.Flush()
	})
	sum.EventsPerSecond = uint64(float64(sum.Events) / max(time.Since(began).Seconds(), 1e-9))
	sum.TraceHash = fmt.Sprintf("%016x", all.Sum64())
	fmt.Fprintf(stderr, "saw %+v\n", counts)
	if f.json {
		enc.Encode(sum)
	} else {
		fmt.Fprintf(out, "%d seeds, %d failed, %d events, %d events a second, trace %s\n", sum.Seeds, sum.Failed, sum.Events, sum.EventsPerSecond, sum.TraceHash)
	}
	if err == nil && sum.Failed > 0 {
		err = fmt.Errorf("%d of %d %w", sum.Failed, sum.Seeds, errSimFailed)
	}
	return err
}

func replayFlags(f simFlags) string {
	s := ""
	if f.replicas != 0 {
		s += fmt.Sprintf(" --replicas %d", f.replicas)
	}
	if f.scenario != "" {
		s += " --scenario " + f.scenario
	}
	return s
}

// eachSeed runs the seeds, as many at once as there are processors, and reports them in order.
// When ctx ends it stops after the runs it began.
func eachSeed(ctx context.Context, f simFlags, opts sim.Options, report func(sim.Result)) error {
	type outcome struct {
		r   sim.Result
		err error
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	slots := make(chan chan outcome, runtime.GOMAXPROCS(0)) // runs under way, in seed order
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer close(slots)
		for i := range f.seeds {
			slot := make(chan outcome, 1)
			select {
			case <-ctx.Done():
				return
			case slots <- slot:
			}
			wg.Go(func() {
				r, err := runSeed(f.first+i, f.twice, opts)
				slot <- outcome{r, err}
			})
		}
	})
	for slot := range slots {
		o := <-slot
		if o.err != nil {
			stop()
			return o.err
		}
		report(o.r)
	}
	return ctx.Err()
}

// runSeed runs one seed, twice if asked: two runs must do the same.
func runSeed(seed uint64, twice bool, opts sim.Options) (sim.Result, error) {
	r, err := sim.Run(seed, opts)
	if err != nil || !twice {
		return r, err
	}
	again, err := sim.Run(seed, opts)
	if err == nil && again.TraceHash != r.TraceHash && r.OK() {
		r.Failure = fmt.Sprintf("two runs differ: traces %s and %s", r.TraceHash, again.TraceHash)
	}
	return r, err
}

func newAdversary(c sim.AdversaryConfig) (sim.Adversary, error) {
	return adversary.New(c.Behaviour, c.Self, c.Membership, c.Verifier, c.Signer, c.Rand)
}
