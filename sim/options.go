package sim

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/wire"
)

// Options says what to simulate. Whatever is zero is drawn from the seed.
type Options struct {
	// Factory is the ordering; required.
	Factory protocol.Factory
	// Adversary makes the behaviour of a Byzantine replica; required for the byzantine scenarios,
	// which are left out of the draw without it.
	Adversary func(AdversaryConfig) (Adversary, error)
	// Replicas is the cluster size; 0 draws 4 or 7.
	Replicas int
	// Scenario is one of Scenarios(); empty draws one.
	Scenario string
	// Trace, if set, receives a readable line for everything that happens.
	Trace io.Writer

	// ignoreReadGate makes replicas answer unordered requests before they executed what a quorum
	// may have acknowledged: a known bug that the run must find. Only this package's tests can set it.
	ignoreReadGate bool
}

// AdversaryConfig is what a Byzantine replica knows: its own key, the public facts, and a random
// source of its own.
type AdversaryConfig struct {
	Behaviour  string
	Self       smr.NodeID
	Membership *quorum.Membership
	Verifier   *auth.Verifier
	Signer     auth.Signer
	Rand       *rand.Rand
}

// Adversary rewrites what a replica sends. The replica behind it is an honest engine.
type Adversary interface {
	// Incoming shows it what the replica receives; the honest engine receives it too.
	Incoming(from smr.NodeID, class wire.Class, kind uint8, payload []byte)
	// Outgoing is called for each frame that the replica would send, with virtual time now. What
	// the adversary passes to emit is sent instead, from this replica, to any other.
	Outgoing(now time.Time, to smr.NodeID, class wire.Class, kind uint8, payload []byte, emit func(to smr.NodeID, class wire.Class, kind uint8, payload []byte))
}

// plan is one run's world: every knob after drawing.
type plan struct {
	scenario   string
	n, clients int
	byzantine  []smr.NodeID
	behaviour  string
	ed25519    bool

	// Workload.
	operations  int // per client, all kinds
	outstanding int // per client
	keys        int
	valueBytes  int
	think       time.Duration // mean pause of a worker between two operations
	reads       float64       // share of unordered reads

	// Network.
	delay     time.Duration // mean
	floor     time.Duration // least
	loss      float64
	duplicate float64
	straggle  float64 // share of messages that take a hundred times as long: reordering
	dropClass []wire.Class

	// Disk, execution, clocks.
	sync       time.Duration // mean latency of a sync
	execute    time.Duration // mean latency of executing a batch
	checkpoint time.Duration // mean latency of writing a checkpoint
	skew       time.Duration // clocks are off by up to this

	// Protocol.
	pipeline        int
	window          smr.SeqNo
	checkpointBytes uint64
	retainBytes     int
	timeout         time.Duration

	// Faults, between faultsFrom and faultsUntil.
	chaos        time.Duration // end of faults
	crashes      int
	isolations   int // of the primary of the moment, if it is correct
	pauses       int // replicas that stand still for a while, and go on
	primaryKills int
	powerLosses  int
	afterAck     bool // power is lost right after an acknowledgement, and replicas find each other late
	partitions   int
	downtime     time.Duration // mean
	deadInRow    int           // primaries that die one after another, at once
	idle         bool          // let the cluster idle before the faults
}

type scenario struct {
	name      string
	byzantine bool
	shape     func(r random, p *plan)
}

// scenarios maps names to what they add to the base plan.
var scenarios = []scenario{
	{"calm", false, func(r random, p *plan) { p.loss, p.duplicate, p.straggle = 0, 0, 0 }},
	{"lossy", false, func(r random, p *plan) {
		p.loss, p.duplicate, p.straggle = 0.02+0.15*r.Float64(), 0.2*r.Float64(), 0.05*r.Float64()
	}},
	{"partitions", false, func(r random, p *plan) { p.partitions = 2 + r.IntN(5) }},
	{"crashes", false, func(r random, p *plan) { p.crashes = 2 + r.IntN(6) }},
	{"primary-kills", false, func(r random, p *plan) { p.primaryKills = 2 + r.IntN(4) }},
	{"power-loss", false, func(r random, p *plan) { p.powerLosses = 1 + r.IntN(4) }},
	{"stale-reads", false, func(r random, p *plan) {
		p.powerLosses, p.afterAck = 3+r.IntN(4), true
		p.loss, p.straggle, p.skew = 0, 0, 0
		p.keys, p.clients, p.reads, p.outstanding = 1, 4, 0.5, 2
		p.operations, p.think, p.valueBytes = 40, 40*time.Millisecond, 32
		p.delay, p.sync = 300*time.Microsecond, pick(r, 10*time.Millisecond, 30*time.Millisecond)
		p.chaos, p.downtime = 3*time.Second, 100*time.Millisecond
	}},
	{"dead-primaries", false, func(r random, p *plan) {
		p.deadInRow = quorum.Byzantine.MaxFaults(p.n)
		p.downtime *= 3
		p.idle = r.chance(0.5)
	}},
	{"pauses", false, func(r random, p *plan) {
		p.pauses = 3 + r.IntN(6)
		p.downtime = r.between(100*time.Millisecond, 4*time.Second)
	}},
	{"drop-class", false, func(r random, p *plan) {
		p.dropClass = append(p.dropClass, pick(r, wire.ClassProtocol, wire.ClassFetch, wire.ClassForwardedRequests,
			wire.ClassOrderedRequest, wire.ClassOrderedReply, wire.ClassCheckpoint, wire.ClassLogTransfer, wire.ClassViewTransfer))
		p.crashes = r.IntN(3)
	}},
	{"chaos", false, func(r random, p *plan) {
		p.loss, p.duplicate, p.straggle = 0.08*r.Float64(), 0.1*r.Float64(), 0.03*r.Float64()
		p.crashes, p.primaryKills, p.powerLosses, p.partitions = r.IntN(4), r.IntN(3), r.IntN(3), r.IntN(4)
		p.idle = r.chance(0.2)
	}},
	{"equivocate", true, func(r random, p *plan) {
		p.behaviour = "equivocate"
		p.crashes, p.powerLosses = r.IntN(3), r.IntN(2)
	}},
	{"twins", true, func(r random, p *plan) {
		p.behaviour = "twins"
		p.partitions, p.powerLosses = r.IntN(3), r.IntN(2)
	}},
	{"withhold", true, func(r random, p *plan) { p.behaviour = "withhold" }},
	{"two-new-views", true, func(r random, p *plan) {
		p.behaviour = "two-new-views"
		p.loss = 0.1 * r.Float64()
		p.primaryKills, p.powerLosses = 1+r.IntN(3), r.IntN(3)
		p.partitions = 1 + r.IntN(4)
	}},
	{"lie", true, func(r random, p *plan) {
		p.behaviour = "lie"
		p.loss = 0.02 + 0.13*r.Float64()
		p.isolations = 2 + r.IntN(6)
		p.partitions, p.powerLosses = 1+r.IntN(5), r.IntN(2)
	}},
	{"silent", true, func(r random, p *plan) { p.behaviour = "silent" }},
}

// Scenarios returns the names of all scenarios.
func Scenarios() []string {
	names := make([]string, len(scenarios))
	for i, s := range scenarios {
		names[i] = s.name
	}
	return names
}

// season adds a little of every fault to a scenario, since bugs hide where faults meet.
func (p *plan) season(r random) {
	p.loss = max(p.loss, pick(r, 0, 0.01, 0.05))
	p.crashes += r.IntN(3)
	p.primaryKills += r.IntN(2)
	p.powerLosses += r.IntN(2)
	p.partitions += r.IntN(3)
	p.pauses += r.IntN(3)
	p.isolations += r.IntN(3)
}

// draw makes the plan of a run.
func draw(r random, o Options) (plan, error) {
	p := plan{
		n:           pick(r, 4, 4, 4, 7),
		clients:     1 + r.IntN(4),
		operations:  pick(r, 20, 40, 80, 160),
		outstanding: 1 + r.IntN(6),
		keys:        1 + r.IntN(6),
		valueBytes:  pick(r, 8, 64, 300, 1500),
		think:       r.between(5*time.Millisecond, 150*time.Millisecond),
		reads:       0.5 * r.Float64(),

		delay:      pick(r, 300*time.Microsecond, time.Millisecond, 5*time.Millisecond, 20*time.Millisecond),
		floor:      50 * time.Microsecond,
		duplicate:  pick(r, 0, 0, 0.01, 0.05),
		straggle:   pick(r, 0, 0, 0.01),
		loss:       pick(r, 0, 0, 0.005, 0.02),
		sync:       pick(r, 200*time.Microsecond, 2*time.Millisecond, 10*time.Millisecond, 40*time.Millisecond),
		execute:    pick(r, 20*time.Microsecond, time.Millisecond, 10*time.Millisecond),
		checkpoint: pick(r, time.Millisecond, 30*time.Millisecond, 300*time.Millisecond),
		skew:       pick(r, 0, time.Millisecond, 50*time.Millisecond, 300*time.Millisecond),

		pipeline:        pick(r, 1, 2, 4, 16),
		window:          pick(r, smr.SeqNo(16), 64, 256, 1024),
		checkpointBytes: pick(r, uint64(2<<10), 8<<10, 32<<10),
		retainBytes:     pick(r, 16<<10, 128<<10, 1<<20),
		timeout:         pick(r, 300*time.Millisecond, 500*time.Millisecond, time.Second),

		chaos:    r.between(3*time.Second, 10*time.Second),
		downtime: r.between(50*time.Millisecond, 3*time.Second),
	}
	if o.Replicas != 0 {
		p.n = o.Replicas
	}
	if p.n < 4 || p.n > 31 {
		return p, fmt.Errorf("%d replicas: the simulator runs 4 to 31", p.n)
	}
	choice := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == o.Scenario })
	if o.Scenario != "" && choice < 0 {
		return p, fmt.Errorf("unknown scenario %q; there are: %s", o.Scenario, strings.Join(Scenarios(), ", "))
	}
	if choice < 0 {
		choice = r.IntN(len(scenarios))
		if scenarios[choice].byzantine && o.Adversary == nil {
			choice = 0
		}
	}
	s := scenarios[choice]
	if s.byzantine && o.Adversary == nil {
		return p, fmt.Errorf("scenario %q takes Byzantine replicas, and no adversary was given", s.name)
	}
	p.scenario = s.name
	s.shape(r, &p)
	if s.name != "calm" && s.name != "stale-reads" && r.chance(0.4) {
		p.season(r)
	}
	if s.byzantine {
		// Neighbours in the rotation, often the first to lead.
		at := pick(r, 0, 0, 1, r.IntN(p.n))
		for i := range 1 + r.IntN(quorum.Byzantine.MaxFaults(p.n)) {
			p.byzantine = append(p.byzantine, smr.NodeID((at+i)%p.n+1))
		}
		slices.Sort(p.byzantine)
		p.isolations += r.IntN(6)
	}
	return p, nil
}
