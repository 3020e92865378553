package sim_test

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/atlas-smr/smr/protocol/pbft"
	"github.com/atlas-smr/smr/sim"
	"github.com/atlas-smr/smr/sim/adversary"
)

var (
	seeds = flag.Uint64("seeds", 40, "seeds of TestSeeds")
	first = flag.Uint64("first", 0, "first seed of TestSeeds")
)

func options() sim.Options {
	return sim.Options{
		Factory: pbft.Factory(),
		Adversaries: func(behaviour string, members []sim.AdversaryConfig) ([]sim.Adversary, error) {
			made, err := newStrategies(behaviour, members)
			out := make([]sim.Adversary, len(made))
			for i, s := range made {
				out[i] = s
			}
			return out, err
		},
	}
}

func newStrategies(behaviour string, members []sim.AdversaryConfig) ([]*adversary.Strategy, error) {
	configs := make([]adversary.Config, len(members))
	for i, m := range members {
		configs[i] = adversary.Config(m)
	}
	return adversary.New(behaviour, configs...)
}

func run(t *testing.T, seed uint64, o sim.Options) sim.Result {
	t.Helper()
	r, err := sim.Run(seed, o)
	if err != nil {
		t.Fatal(err)
	}
	if !r.OK() {
		t.Errorf("smr sim --seed %d%s  (%s, %d replicas)\n%s", seed, flags(o), r.Scenario, r.Replicas, r.Failure)
	}
	return r
}

func flags(o sim.Options) string {
	s := ""
	if o.Scenario != "" {
		s += " --scenario " + o.Scenario
	}
	if o.Replicas != 0 {
		s += fmt.Sprintf(" --replicas %d", o.Replicas)
	}
	return s
}

func TestSeeds(t *testing.T) {
	var counts sim.Counts
	events := uint64(0)
	for seed := range *seeds {
		r := run(t, *first+seed, options())
		counts, events = counts.Add(r.Counts), events+r.Events
	}
	t.Logf("%d seeds, %d events: %+v", *seeds, events, counts)
	if *seeds >= 40 {
		for name, n := range map[string]uint64{
			"crashes": counts.Faults[sim.FaultCrash], "power losses": counts.Faults[sim.FaultPowerLoss], "partitions": counts.Faults[sim.FaultPartition],
			"lost frames": counts.Lost, "view changes": uint64(counts.Views), "checkpoints": uint64(counts.Checkpoints),
			"truncations": uint64(counts.Truncations), "acknowledged": uint64(counts.Acknowledged), "unordered reads": uint64(counts.Reads),
		} {
			if n == 0 {
				t.Errorf("no %s in %d seeds: they test too little", name, *seeds)
			}
		}
	}
}

func TestEveryScenarioHoldsWithFourAndSevenReplicas(t *testing.T) {
	for _, s := range sim.Scenarios() {
		for _, n := range []int{4, 7} {
			t.Run(fmt.Sprintf("%s/%d", s, n), func(t *testing.T) {
				o := options()
				o.Scenario, o.Replicas = s, n
				run(t, 1000, o)
			})
		}
	}
}

func TestEqualSeedsGiveEqualTraces(t *testing.T) {
	for seed := range uint64(8) {
		a, b := run(t, seed+100, options()), run(t, seed+100, options())
		if a.TraceHash != b.TraceHash || a.Events != b.Events {
			t.Errorf("seed %d: traces %s and %s, %d and %d events", seed+100, a.TraceHash, b.TraceHash, a.Events, b.Events)
		}
		c := run(t, seed+101, options())
		if c.TraceHash == a.TraceHash {
			t.Errorf("seeds %d and %d give one trace", seed+100, seed+101)
		}
	}
}

// Nobody logs any more what they lack; up to f sources serve other bytes, claims, silence or one
// common fake state. See adopt for what is demanded of a checkpoint that was taken over.
func TestReplicasLeftFarBehindComeBack(t *testing.T) {
	for _, s := range []string{"far-behind", "bad-parts"} {
		for _, n := range []int{4, 7} {
			o := options()
			o.Scenario, o.Replicas = s, n
			transfers := 0
			for seed := range uint64(12) {
				r := run(t, seed, o)
				transfers += r.Counts.Transfers
			}
			if transfers == 0 {
				t.Errorf("%s, %d replicas: no checkpoint was taken over", s, n)
			}
		}
	}
}

// Later changes shift what a seed means; the bugs have tests of their own in their packages.
func TestSeedsThatOnceFailed(t *testing.T) {
	for _, once := range []struct {
		seed     uint64
		scenario string
	}{{3, "lie"}, {20444, ""}, {21060, ""}, {221, ""}} {
		o := options()
		o.Scenario = once.scenario
		run(t, once.seed, o)
	}
}

func TestUnknownScenarioNamesTheKnownOnes(t *testing.T) {
	o := options()
	o.Scenario = "rain"
	if _, err := sim.Run(1, o); err == nil || !strings.Contains(err.Error(), "power-loss") {
		t.Errorf("error %v", err)
	}
	o.Scenario, o.Replicas = "", 3
	if _, err := sim.Run(1, o); err == nil {
		t.Error("3 replicas are accepted")
	}
}
