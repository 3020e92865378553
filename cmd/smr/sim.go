package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/atlas-smr/smr/sim"
	"github.com/atlas-smr/smr/sim/adversary"
	"github.com/spf13/cobra"
)

// simFlags is what `smr sim` was asked for.
type simFlags struct {
	seed     uint64
	first    uint64
	seeds    uint64
	minutes  float64
	protocol string
	replicas int
	scenario string
	json     bool
	trace    string
	replay   string
	twice    bool
}

// newSimCommand returns `smr sim`.
func newSimCommand() *cobra.Command {
	var f simFlags
	cmd := &cobra.Command{
		Use:   "sim (--seed S | --seeds N | --minutes M | --replay TRACE)",
		Short: "Run whole clusters under virtual time, with faults, from seeds",
		Long: `sim runs clusters of the production engine, ordering, execution and client in one goroutine
under virtual time. Everything a run does follows from its seed: a failure is replayed by --seed.
Oracles check every step; the exit code is not 0 if any seed fails.`,
		Example: "  smr sim --seeds 200 --json\n  smr sim --minutes 60 --first 1000000\n  smr sim --seed 17 --trace trace.txt\n  smr sim --seeds 50 --scenario power-loss --replicas 7",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(cmd.Flags()); err != nil {
				return err
			}
			return runSim(cmd.Context(), f, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.Uint64Var(&f.seed, "seed", 0, "run this seed")
	fl.Uint64Var(&f.seeds, "seeds", 0, "run this many seeds")
	fl.Uint64Var(&f.first, "first", 0, "with --seeds or --minutes: the first seed")
	fl.Float64Var(&f.minutes, "minutes", 0, "run seeds until this time is up")
	fl.StringVar(&f.protocol, "protocol", "pbft", "ordering protocol: "+strings.Join(slices.Sorted(maps.Keys(orderings)), ", "))
	fl.IntVar(&f.replicas, "replicas", 0, "cluster size (0: drawn from the seed, 4 to 10)")
	fl.StringVar(&f.scenario, "scenario", "", "scenario (empty: drawn from the seed): "+strings.Join(sim.Scenarios(), ", "))
	fl.BoolVar(&f.json, "json", false, "one JSON object a line on stdout")
	fl.StringVar(&f.trace, "trace", "", "write what happens to this file")
	fl.StringVar(&f.replay, "replay", "", "run what this trace is of again and compare")
	fl.BoolVar(&f.twice, "twice", false, "run every seed twice and compare the traces")
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; there are:\n%s", err, cmd.Flags().FlagUsages())
	})
	return cmd
}

// check reports what does not fit together, and fills in what one seed means.
func (f *simFlags) check(given interface{ Changed(name string) bool }) error {
	ways := 0
	for _, name := range []string{"seed", "seeds", "minutes", "replay"} {
		if given.Changed(name) {
			ways++
		}
	}
	one := given.Changed("seed")
	switch {
	case ways != 1:
		return usagef("give one of --seed S for one seed, --seeds N for many, --minutes M for as many as fit, --replay TRACE for the run of a trace")
	case f.minutes < 0:
		return usagef("--minutes %v: a time is not negative", f.minutes)
	case f.trace != "" && !one:
		return usagef("--trace writes one run: give --seed S")
	case orderings[f.protocol] == nil:
		return usagef("unknown protocol %q; there are: %s", f.protocol, strings.Join(slices.Sorted(maps.Keys(orderings)), ", "))
	}
	if one {
		f.first, f.seeds = f.seed, 1
	}
	if given.Changed("minutes") {
		f.seeds = math.MaxUint64
	}
	if _, err := sim.Draw(f.first, f.options()); err != nil {
		return usagef("%v", err)
	}
	return nil
}

func (f *simFlags) options() sim.Options {
	return sim.Options{Factory: orderings[f.protocol](), Replicas: f.replicas, Scenario: f.scenario, Adversaries: newAdversaries}
}

// simSeed is the line of one seed, simSummary the last line.
type simSeed struct {
	Seed      uint64 `json:"seed"`
	TraceHash string `json:"trace_hash"`
	Events    uint64 `json:"events"`
	OK        bool   `json:"ok"`
}
type simSummary struct {
	Seeds           uint64                   `json:"seeds"`
	Failed          uint64                   `json:"failed"`
	Events          uint64                   `json:"events"`
	EventsPerSecond uint64                   `json:"events_per_second"`
	TraceHash       string                   `json:"trace_hash"`
	Faults          map[sim.FaultKind]uint64 `json:"faults"` // how often each happened
	N               map[int]uint64           `json:"n"`      // seeds by cluster size
	Scenarios       map[string]uint64        `json:"scenarios"`
	Interrupted     bool                     `json:"interrupted,omitempty"`
}

// errSimFailed makes the exit code tell what stdout said.
var errSimFailed = errors.New("seeds failed")

func runSim(ctx context.Context, f simFlags, stdout, stderr io.Writer) error {
	if f.replay != "" {
		return replaySim(f, stdout)
	}
	opts := f.options()
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
	sum := simSummary{Faults: map[sim.FaultKind]uint64{}, N: map[int]uint64{}, Scenarios: map[string]uint64{}}
	for _, k := range sim.FaultKinds() {
		sum.Faults[k] = 0
	}
	all := fnv.New64a()
	var counts sim.Counts
	until := ctx
	if f.minutes > 0 {
		var stop context.CancelFunc
		until, stop = context.WithTimeout(ctx, time.Duration(f.minutes*float64(time.Minute)))
		defer stop()
	}
	err := eachSeed(until, f, opts, func(r sim.Result) {
		sum.add(r)
		counts = counts.Add(r.Counts)
		io.WriteString(all, r.TraceHash)
		if !r.OK() {
			fmt.Fprintf(stderr, "seed %d (%s, %d replicas) failed: %s\n  replay: smr sim --seed %d%s\n", r.Seed, r.Scenario, r.Replicas, r.Failure, r.Seed, replayFlags(f))
		}
		if f.json {
			enc.Encode(simSeed{Seed: r.Seed, TraceHash: r.TraceHash, Events: r.Events, OK: r.OK()})
		} else {
			fmt.Fprintf(out, "seed %d: %s, %d replicas, %d events, trace %s, ok %v\n", r.Seed, r.Scenario, r.Replicas, r.Events, r.TraceHash, r.OK())
		}
		out.Flush()
	})
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = nil // the time is up, as asked
	}
	sum.Interrupted = ctx.Err() != nil
	sum.EventsPerSecond = uint64(float64(sum.Events) / max(time.Since(began).Seconds(), 1e-9))
	sum.TraceHash = fmt.Sprintf("%016x", all.Sum64())
	fmt.Fprintf(stderr, "saw %+v\n", counts)
	if f.json {
		enc.Encode(sum)
	} else {
		fmt.Fprintf(out, "%d seeds, %d failed, %d events, %d events a second, trace %s\n", sum.Seeds, sum.Failed, sum.Events, sum.EventsPerSecond, sum.TraceHash)
	}
	switch {
	case sum.Failed > 0:
		return fmt.Errorf("%d of %d %w", sum.Failed, sum.Seeds, errSimFailed)
	case sum.Interrupted:
		return fmt.Errorf("interrupted after %d seeds, the last of them %d", sum.Seeds, f.first+sum.Seeds-1)
	}
	return err
}

func (s *simSummary) add(r sim.Result) {
	s.Seeds++
	s.Events += r.Events
	s.N[r.Replicas]++
	s.Scenarios[r.Scenario]++
	for _, k := range sim.FaultKinds() {
		s.Faults[k] += r.Counts.Faults[k]
	}
	if !r.OK() {
		s.Failed++
	}
}

// replaySim runs what a trace is of once more and compares the end.
func replaySim(f simFlags, stdout io.Writer) error {
	file, err := os.Open(f.replay)
	if err != nil {
		return err
	}
	defer file.Close()
	h, err := sim.ReadTrace(file)
	if err != nil {
		return fmt.Errorf("%s: %w", f.replay, err)
	}
	opts := f.options()
	opts.Replicas, opts.Scenario = h.Replicas, h.Scenario
	r, err := sim.Run(h.Seed, opts)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "seed %d: %s, %d replicas, %d events, trace %s, ok %v\n", r.Seed, r.Scenario, r.Replicas, r.Events, r.TraceHash, r.OK())
	switch {
	case r.TraceHash != h.Hash:
		return fmt.Errorf("the trace in %s ends with hash %q, this run with %q: it was written by another build, or was cut short", f.replay, h.Hash, r.TraceHash)
	case !r.OK():
		return fmt.Errorf("seed %d fails as in the trace: %s", r.Seed, r.Failure)
	}
	return nil
}

func replayFlags(f simFlags) string {
	s := ""
	if f.replicas != 0 {
		s += fmt.Sprintf(" --replicas %d", f.replicas)
	}
	if f.scenario != "" {
		s += " --scenario " + f.scenario
	}
	if f.protocol != "pbft" {
		s += " --protocol " + f.protocol
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

func newAdversaries(behaviour string, members []sim.AdversaryConfig) ([]sim.Adversary, error) {
	configs := make([]adversary.Config, len(members))
	for i, m := range members {
		configs[i] = adversary.Config(m)
	}
	made, err := adversary.New(behaviour, configs...)
	out := make([]sim.Adversary, len(made))
	for i, s := range made {
		out[i] = s
	}
	return out, err
}
