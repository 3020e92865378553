package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/quorum"
)

// Plan is one run's world, with every knob drawn. Draw makes it from a seed; a changed copy in
// Options.Plan runs instead of it, with the same seed for everything else that is left to chance.
// Each fault has its own randomness: leaving one out changes no draw of the others.
type Plan struct {
	Scenario  string
	Replicas  int
	Clients   int
	Byzantine []smr.NodeID
	Behaviour string // of the Byzantine replicas
	// BadClients are the behaviours of Byzantine clients, beside the correct ones.
	BadClients []string
	Ed25519    bool // real signatures instead of the stand-in

	// Workload.
	Operations  int // per client, all kinds
	Outstanding int // per client
	Keys        int
	ValueBytes  int
	Think       time.Duration // mean pause of a lane between two operations
	Reads       float64       // share of unordered reads

	// The network until the faults end.
	Delay     time.Duration // mean
	Floor     time.Duration // least
	Loss      float64
	Duplicate float64
	Straggle  float64 // share of messages that take a hundred times as long: reordering

	// Disk, execution, clocks.
	Sync       time.Duration // mean latency of a sync
	Execute    time.Duration // mean latency of executing a batch
	Checkpoint time.Duration // mean latency of writing a checkpoint
	Skew       time.Duration // clocks are off by up to this

	// Protocol.
	Pipeline        int
	Window          smr.SeqNo
	CheckpointBytes uint64
	RetainBytes     int
	PoolBundles     int // 0: the default
	Timeout         time.Duration

	Chaos  time.Duration // end of faults
	Core   bool          // afterwards only a quorum is healed
	Faults []Fault       // in the order in which they were drawn
}

// draft is a plan that is being drawn: a scenario says how much of what, and the faults are drawn
// from that at the end.
type draft struct {
	Plan
	count    map[FaultKind]int
	downtime time.Duration // mean time that a fault lasts
	idle     bool          // let the cluster idle before the faults
}

// want adds to the number of faults of a kind.
func (p *draft) want(kind FaultKind, count int) { p.count[kind] += count }

// Draw makes the plan of a seed.
func Draw(seed uint64, o Options) (Plan, error) {
	r := stream(seed, streamPlan, 0)
	p := draft{
		Plan: Plan{
			Replicas:    pick(r, 4, 4, 4, 4, 5, 6, 7, 7, 8, 9, 10),
			Clients:     1 + r.IntN(4),
			Ed25519:     seed%50 == 49,
			Operations:  pick(r, 20, 40, 80, 160),
			Outstanding: 1 + r.IntN(6),
			Keys:        1 + r.IntN(6),
			ValueBytes:  pick(r, 8, 64, 300, 1500),
			Think:       r.between(5*time.Millisecond, 150*time.Millisecond),
			Reads:       0.5 * r.Float64(),

			Delay:      pick(r, 300*time.Microsecond, time.Millisecond, 5*time.Millisecond, 20*time.Millisecond),
			Floor:      50 * time.Microsecond,
			Duplicate:  pick(r, 0, 0, 0.01, 0.05),
			Straggle:   pick(r, 0, 0, 0.01),
			Loss:       pick(r, 0, 0, 0.005, 0.02),
			Sync:       pick(r, 200*time.Microsecond, 2*time.Millisecond, 10*time.Millisecond, 40*time.Millisecond),
			Execute:    pick(r, 20*time.Microsecond, time.Millisecond, 10*time.Millisecond),
			Checkpoint: pick(r, time.Millisecond, 30*time.Millisecond, 300*time.Millisecond),
			Skew:       pick(r, 0, time.Millisecond, 50*time.Millisecond, 300*time.Millisecond),

			Pipeline:        pick(r, 1, 2, 4, 16),
			Window:          pick(r, smr.SeqNo(16), 64, 256, 1024),
			CheckpointBytes: pick(r, uint64(2<<10), 8<<10, 32<<10),
			RetainBytes:     pick(r, 16<<10, 128<<10, 1<<20),
			PoolBundles:     pick(r, 0, 0, 0, 8, 32),
			Timeout:         pick(r, 300*time.Millisecond, 500*time.Millisecond, time.Second),

			Chaos: r.between(3*time.Second, 10*time.Second),
			Core:  r.chance(0.35),
		},
		count:    map[FaultKind]int{},
		downtime: r.between(50*time.Millisecond, 3*time.Second),
	}
	if o.Replicas != 0 {
		p.Replicas = o.Replicas
	}
	if p.Replicas < 4 || p.Replicas > 31 {
		return Plan{}, fmt.Errorf("%d replicas: the simulator runs 4 to 31", p.Replicas)
	}
	s, err := choose(r, o)
	if err != nil {
		return Plan{}, err
	}
	p.Scenario = s.name
	p.Core = p.Core && s.name != "calm" && s.name != "stale-reads"
	s.shape(r, &p)
	if s.name != "calm" && s.name != "stale-reads" && r.chance(0.4) {
		p.season(r)
	}
	if s.byzantine && r.chance(0.2) {
		p.BadClients = append(p.BadClients, pick(r, BadClientBehaviours()...))
	}
	if s.byzantine {
		// Neighbours in the rotation, often the first to lead.
		at := pick(r, 0, 0, 1, r.IntN(p.Replicas))
		for i := range 1 + r.IntN(quorum.Byzantine.MaxFaults(p.Replicas)) {
			p.Byzantine = append(p.Byzantine, smr.NodeID((at+i)%p.Replicas+1))
		}
		slices.Sort(p.Byzantine)
		p.want(FaultIsolate, r.IntN(6))
	}
	if len(p.BadClients) > 0 {
		p.PoolBundles = 0 // or they fill a pool smaller than what one client may have waiting
	}
	p.drawFaults(r)
	return p.Plan, nil
}

// choose returns the scenario asked for, or draws one.
func choose(r random, o Options) (scenario, error) {
	choice := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == o.Scenario })
	if o.Scenario != "" && choice < 0 {
		return scenario{}, fmt.Errorf("unknown scenario %q; there are: %s", o.Scenario, strings.Join(Scenarios(), ", "))
	}
	if choice < 0 {
		choice = r.IntN(len(scenarios))
		if scenarios[choice].byzantine && o.Adversaries == nil {
			choice = 0
		}
	}
	s := scenarios[choice]
	if s.byzantine && o.Adversaries == nil {
		return scenario{}, fmt.Errorf("scenario %q takes Byzantine replicas, and no adversary was given", s.name)
	}
	return s, nil
}

// drawFaults turns the counts into faults, kind by kind.
func (p *draft) drawFaults(r random) {
	from := 200 * time.Millisecond
	if p.idle {
		from += 3 * p.Timeout
	}
	for _, k := range faultKinds {
		mean := p.downtime
		if k.mean != nil {
			mean = k.mean(p)
		}
		for range p.count[k.kind] {
			f := Fault{Kind: k.kind, At: r.between(from, p.Chaos), For: r.exponential(mean), Seed: r.Uint64()}
			p.Faults = append(p.Faults, f)
		}
	}
}
