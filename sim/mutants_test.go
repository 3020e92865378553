package sim_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/atlas-smr/smr/internal/mutant"
	"github.com/atlas-smr/smr/sim"
	"github.com/atlas-smr/smr/sim/check"
)

// knownBug is a mutant and how it is found: in which scenario, by what an oracle says, and within
// how many seeds.
type knownBug struct {
	mutant   mutant.Name
	scenario string          // empty: whatever each seed draws
	replicas int             // 0: whatever each seed draws
	shape    func(*sim.Plan) // makes the situation more frequent; nil for none
	want     string          // a regular expression
	within   uint64
}

const (
	noProgress = "^liveness: "
	fork       = "fork: |a certified chain leaves the decided one|chain broken: "
	stale      = "not linearizable: "
	// What has no valid continuation may show itself as a fork or as a standstill.
	wrongBase = fork + "|" + noProgress + "|takes itself for amnesic"
)

var knownBugs = []knownBug{
	{mutant: mutant.WeakQuorum, want: fork + "|" + stale, within: 60},
	{mutant: mutant.CommitUnprepared, scenario: "lie", want: wrongBase + "|double vote", within: 60},
	{mutant: mutant.LowestLock, scenario: "lie", want: wrongBase, within: 80},
	{mutant: mutant.CommitAfterTimeout, want: "vote after timeout", within: 200},
	{mutant: mutant.LockNotRaised, want: wrongBase, within: 40},
	{mutant: mutant.ReleaseDropped, scenario: "equivocate", want: noProgress, within: 80},
	{mutant: mutant.NothingResent, want: noProgress, within: 120},
	{mutant: mutant.TimerEndsEarly, scenario: "equivocate", want: noProgress, within: 300},

	{mutant: mutant.VoteBeforeDurable, want: "^amnesia: ", within: 80},
	{mutant: mutant.OwnVoteBeforeDurable, want: "vote after timeout|^amnesia: ", within: 150},
	{mutant: mutant.VoteForgotten, want: "^amnesia: |double vote", within: 40},
	{mutant: mutant.TimeoutForgotten, want: "vote after timeout|takes itself for amnesic|^amnesia: ", within: 200},
	{mutant: mutant.LockForgotten, want: wrongBase, within: 60},
	{mutant: mutant.LeadsAgain, want: "double vote", within: 150},
	{mutant: mutant.LogOffByOne, want: "decision [0-9]+ does not follow|^amnesia: ", within: 30},

	{mutant: mutant.SessionsNotSaved, want: "roots differ|states differ|no session|at-most-once", within: 40},
	{mutant: mutant.SeenUnchecked, scenario: "twins", want: "at-most-once", within: 150},
	{mutant: mutant.DoneForgotten, want: noProgress + "|at-most-once", within: 120},

	{mutant: mutant.ReadGateOpen, scenario: "stale-reads", want: stale, within: 40},
	{mutant: mutant.WeakReads, scenario: "partitions", replicas: 4, want: stale, within: 200},
	{mutant: mutant.VoterCountedTwice, scenario: "partitions", replicas: 4, shape: echoes, want: stale, within: 200},
	{mutant: mutant.StaleReply, want: stale, within: 150},
	{mutant: mutant.NoRetry, want: noProgress, within: 40},
}

// checked are the mutants that fit into the model checker, and the bounds within which it finds each.
// Those that no seed finds reliably, since they take rare coincidences of hostile messages, are found
// there alone.
var checked = map[mutant.Name]check.Options{
	mutant.WeakQuorum:         {Fault: check.Byzantine, Seqs: 2, Views: 2, Variants: 1},
	mutant.TimeoutsOneShort:   {Fault: check.Byzantine, Seqs: 2, Views: 2, Variants: 1},
	mutant.CommitUnprepared:   {Fault: check.Byzantine, Seqs: 2, Views: 2, Variants: 1},
	mutant.LowestLock:         {Fault: check.Byzantine, Seqs: 2, Views: 2, Variants: 1},
	mutant.ParentUnchecked:    {Fault: check.Byzantine, Seqs: 2, Views: 2, Variants: 1},
	mutant.CommitAfterTimeout: {Fault: check.Byzantine, Seqs: 2, Views: 2, Variants: 1},
	mutant.LockNotRaised:      {Fault: check.Byzantine, Seqs: 2, Views: 2, Variants: 1},
	mutant.TimeoutForgotten:   {Fault: check.Crash, Seqs: 1, Views: 2, Crashes: 1, Victim: 1},
	mutant.LockForgotten:      {Fault: check.Crash, Seqs: 1, Views: 2, Crashes: 1, Victim: 1},
	mutant.LeadsAgain:         {Fault: check.Crash, Seqs: 2, Views: 1, Crashes: 1, Victim: 1},
	mutant.VoteForgotten:      {Fault: check.Byzantine, Seqs: 1, Views: 1, Variants: 2, Crashes: 1, Victim: 1},
}

// echoes makes most frames arrive twice, and clients read.
func echoes(p *sim.Plan) { p.Duplicate, p.Reads, p.Keys = 0.6, 0.5, 1 }

var ranges = flag.Int("ranges", 1, "disjoint ranges of seeds that TestMutants searches; the median is logged")

// found is what a hunt prints.
type found struct {
	Seed    uint64 // the first that failed
	Tries   uint64 // seeds up to and with it
	Failure string // empty: none failed
}

// plan makes the plan of a seed for the hunt of b.
func (b knownBug) plan(seed uint64) (sim.Options, error) {
	o := options()
	o.Scenario, o.Replicas = b.scenario, b.replicas
	p, err := sim.Draw(seed, o)
	if b.shape != nil {
		b.shape(&p)
	}
	o.Plan = &p
	return o, err
}

// reason strips the virtual time off a failure.
func reason(failure string) string {
	_, why, _ := strings.Cut(failure, ": ")
	return strings.TrimPrefix(why, "panic: broken invariant: ")
}

// mutantBinary builds this package's tests with the mutants in them.
func mutantBinary(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "mutants.test")
	if out, err := exec.Command("go", "test", "-c", "-tags", "mutant", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("go test -c -tags mutant: %v\n%s", err, out)
	}
	return bin
}

// in runs a hunt in a process that has the mutant.
func (b knownBug) in(t *testing.T, bin, from string) found {
	t.Helper()
	cmd := exec.Command(bin)
	cmd.Env = append(os.Environ(), mutant.Env+"="+b.mutant.String(), huntEnv+"="+from)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var f found
	if err == nil {
		err = json.Unmarshal(out, &f)
	}
	if err != nil {
		t.Fatalf("hunt for %s: %v\n%s%s", b.mutant, err, out, stderr.Bytes())
	}
	return f
}

// huntEnv, beside the mutant's variable, makes the test binary a hunt from this seed on.
const huntEnv = "SMR_HUNT_FROM"

// exhaustive, in place of a seed, makes the hunt a run of the model checker.
const exhaustive = "exhaustive"

func TestMutants(t *testing.T) {
	bin := mutantBinary(t)
	for _, m := range mutant.All() {
		if _, ok := checked[m]; ok {
			t.Run(m.String()+"/checker", func(t *testing.T) {
				f := knownBug{mutant: m}.in(t, bin, exhaustive)
				if f.Failure == "" {
					t.Fatalf("%d states explored, none breaks a property", f.Tries)
				}
				t.Logf("%d states: %.150s", f.Tries, f.Failure)
			})
		}
	}
	for _, b := range knownBugs {
		t.Run(b.mutant.String(), func(t *testing.T) {
			t.Parallel()
			var tries []uint64
			for k := range uint64(*ranges) {
				f := b.in(t, bin, strconv.FormatUint(k*b.within, 10))
				if f.Failure == "" {
					t.Fatalf("no seed from %d to %d finds it", k*b.within, (k+1)*b.within-1)
				}
				if why := reason(f.Failure); !regexp.MustCompile(b.want).MatchString(why) {
					t.Errorf("seed %d fails for another reason: %s", f.Seed, f.Failure)
				}
				o, err := b.plan(f.Seed)
				if err != nil {
					t.Fatal(err)
				}
				if r, err := sim.Run(f.Seed, o); err != nil || !r.OK() {
					t.Errorf("seed %d fails without the mutant too: %v %s", f.Seed, err, r.Failure)
				}
				tries = append(tries, f.Tries)
				if k == 0 {
					t.Logf("seed %d, the %d. tried: %.150s", f.Seed, f.Tries, f.Failure)
				}
			}
			slices.Sort(tries)
			t.Logf("%s: median %d seeds over %d ranges, most %d, at most %d allowed", b.mutant, tries[len(tries)/2], len(tries), tries[len(tries)-1], b.within)
		})
	}
}

func TestEveryMutantIsHunted(t *testing.T) {
	for _, m := range mutant.All() {
		if _, ok := checked[m]; !ok && !slices.ContainsFunc(knownBugs, func(b knownBug) bool { return b.mutant == m }) {
			t.Errorf("no test looks for %s", m)
		}
	}
}
