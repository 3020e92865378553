package sim_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/atlas-smr/smr/sim"
)

// planWith is a plan without anything else that is wrong, and with count faults of a kind.
func planWith(t *testing.T, seed uint64, kind sim.FaultKind, count int, lasts time.Duration) sim.Plan {
	t.Helper()
	o := options()
	o.Scenario, o.Replicas = "calm", 4
	p, err := sim.Draw(seed, o)
	if err != nil {
		t.Fatal(err)
	}
	p.Skew, p.Core = 0, false
	p.Chaos, p.Timeout, p.Operations, p.Outstanding, p.Think = 4*time.Second, 300*time.Millisecond, 80, 2, 50*time.Millisecond
	p.CheckpointBytes, p.Checkpoint, p.RetainBytes = 2<<10, 30*time.Millisecond, 1<<20
	p.Faults = nil
	for i := range count {
		p.Faults = append(p.Faults, sim.Fault{Kind: kind, At: time.Duration(i+1) * 700 * time.Millisecond, For: lasts, Seed: seed*100 + uint64(i)})
	}
	return p
}

func TestEveryKindOfFaultHappensAndIsSurvived(t *testing.T) {
	saw := func(c sim.Counts) map[sim.FaultKind]int {
		return map[sim.FaultKind]int{
			sim.FaultRotLog: c.Refused, sim.FaultRotCheckpoint: c.FellBack, sim.FaultWipe: c.Refused, sim.FaultDiverge: c.Diverged,
			sim.FaultPanic: c.Fenced, sim.FaultFailedSync: c.Fenced, sim.FaultFullDisk: c.Fenced,
		}
	}
	ambient := sim.FaultKinds()[slices.Index(sim.FaultKinds(), sim.FaultLoss):]
	for _, kind := range sim.FaultKinds() {
		if slices.Contains(ambient, kind) {
			continue
		}
		t.Run(string(kind), func(t *testing.T) {
			var counts sim.Counts
			for seed := range uint64(3) {
				p := planWith(t, seed, kind, 4, 400*time.Millisecond)
				o := options()
				o.Plan = &p
				counts = counts.Add(run(t, seed, o).Counts)
			}
			if counts.Faults[kind] == 0 {
				t.Errorf("it never happened: %+v", counts)
			}
			if n, ok := saw(counts)[kind]; ok && n == 0 {
				t.Errorf("no replica noticed: %+v", counts)
			}
		})
	}
}

func TestAPrimaryWithAHungDiskLosesItsView(t *testing.T) {
	lost := 0
	for seed := range uint64(8) {
		p := planWith(t, seed, sim.FaultHungDisk, 1, time.Hour)
		p.Window, p.Chaos, p.Operations = 16, 20*time.Second, 160
		o := options()
		o.Plan = &p
		if run(t, seed, o).Counts.Views > 0 {
			lost++
		}
	}
	if lost == 0 {
		t.Error("no view ended")
	}
	t.Logf("in %d of 8 runs; in the others the disk of another replica hung", lost)
}

func TestThePlanOfASeedIsWhatTheSeedRuns(t *testing.T) {
	for seed := range uint64(4) {
		p, err := sim.Draw(seed, options())
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var copied sim.Plan
		if err := json.Unmarshal(b, &copied); err != nil || !reflect.DeepEqual(p, copied) {
			t.Fatalf("a plan does not survive JSON: %v", err)
		}
		o := options()
		o.Plan = &copied
		if a, b := run(t, seed, options()), run(t, seed, o); a.TraceHash != b.TraceHash {
			t.Errorf("seed %d: traces %s and %s", seed, a.TraceHash, b.TraceHash)
		}
	}
}

func TestSeedsDrawEveryClusterSize(t *testing.T) {
	sizes := map[int]bool{}
	for seed := range uint64(200) {
		p, err := sim.Draw(seed, options())
		if err != nil {
			t.Fatal(err)
		}
		sizes[p.Replicas] = true
	}
	for n := 4; n <= 10; n++ {
		if !sizes[n] {
			t.Errorf("no cluster of %d", n)
		}
	}
}
