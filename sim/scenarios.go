package sim

import (
	"time"
)

type scenario struct {
	name      string
	byzantine bool
	shape     func(r random, p *draft)
}

// scenarios maps names to what they add to the base plan; those of package adversary's newer
// behaviours and of Byzantine clients are in badreplica.go and badclient.go.
var scenarios = append([]scenario{
	{"calm", false, func(r random, p *draft) { p.Loss, p.Duplicate, p.Straggle = 0, 0, 0 }},
	{"lossy", false, func(r random, p *draft) {
		p.Loss, p.Duplicate, p.Straggle = 0.02+0.15*r.Float64(), 0.2*r.Float64(), 0.05*r.Float64()
	}},
	{"partitions", false, func(r random, p *draft) { p.want(FaultPartition, 2+r.IntN(5)) }},
	{"crashes", false, func(r random, p *draft) { p.want(FaultCrash, 2+r.IntN(6)) }},
	{"primary-kills", false, func(r random, p *draft) { p.want(FaultPrimaryKill, 2+r.IntN(4)) }},
	{"power-loss", false, func(r random, p *draft) { p.want(FaultPowerLoss, 1+r.IntN(4)) }},
	{"stale-reads", false, func(r random, p *draft) {
		p.want(FaultPowerLossAfterAck, 3+r.IntN(4))
		p.Loss, p.Straggle, p.Skew = 0, 0, 0
		p.Keys, p.Clients, p.Reads, p.Outstanding = 1, 4, 0.5, 2
		p.Operations, p.Think, p.ValueBytes = 40, 40*time.Millisecond, 32
		p.Delay, p.Sync = 300*time.Microsecond, pick(r, 10*time.Millisecond, 30*time.Millisecond)
		p.Chaos, p.downtime = 3*time.Second, 100*time.Millisecond
	}},
	{"dead-primaries", false, func(r random, p *draft) {
		p.want(FaultDeadPrimaries, 1)
		p.downtime *= 3
		p.idle = r.chance(0.5)
	}},
	{"pauses", false, func(r random, p *draft) {
		p.want(FaultPause, 3+r.IntN(6))
		p.downtime = r.between(100*time.Millisecond, 4*time.Second)
	}},
	{"drop-class", false, func(r random, p *draft) {
		p.want(FaultDropClass, 1+r.IntN(2))
		p.want(FaultCrash, r.IntN(3))
	}},
	{"bad-network", false, func(r random, p *draft) {
		p.want(FaultOneWay, r.IntN(4))
		p.want(FaultClog, 1+r.IntN(4))
		p.want(FaultReplay, 1+r.IntN(4))
		p.want(FaultCrash, r.IntN(2))
	}},
	{"crashes-midway", false, func(r random, p *draft) { p.want(FaultCrashMidway, 4+r.IntN(10)) }},
	{"clocks", false, func(r random, p *draft) {
		p.want(FaultClockJump, r.IntN(5))
		p.want(FaultClockFreeze, 1+r.IntN(4))
		p.Skew = pick(r, 0, 50*time.Millisecond, 100*time.Millisecond)
	}},
	{"bad-disks", false, func(r random, p *draft) {
		for _, k := range []FaultKind{FaultSlowDisk, FaultHungDisk, FaultFailedSync, FaultFullDisk, FaultTornCheckpoint} {
			p.want(k, r.IntN(4))
		}
	}},
	{"hung-disk", false, func(r random, p *draft) { p.want(FaultHungDisk, 1+r.IntN(3)) }},
	{"rot", false, func(r random, p *draft) {
		p.want(FaultRotLog, 1+r.IntN(3))
		p.want(FaultRotCheckpoint, 1+r.IntN(3))
	}},
	{"wipe", false, func(r random, p *draft) {
		p.want(FaultWipe, 1+r.IntN(2))
		p.want(FaultPowerLoss, r.IntN(2))
	}},
	{"bad-applications", false, func(r random, p *draft) {
		p.want(FaultSlowApplication, r.IntN(3))
		p.want(FaultPanic, r.IntN(4))
		p.want(FaultDiverge, r.IntN(2))
	}},
	{"chaos", false, func(r random, p *draft) {
		p.Loss, p.Duplicate, p.Straggle = 0.08*r.Float64(), 0.1*r.Float64(), 0.03*r.Float64()
		p.want(FaultCrash, r.IntN(4))
		p.want(FaultPrimaryKill, r.IntN(3))
		p.want(FaultPowerLoss, r.IntN(3))
		p.want(FaultPartition, r.IntN(4))
		p.idle = r.chance(0.2)
	}},
	{"far-behind", false, func(r random, p *draft) { p.strand(r) }},
	{"bad-parts", true, func(r random, p *draft) {
		p.Behaviour = "bad-parts"
		p.strand(r)
	}},
	{"equivocate", true, func(r random, p *draft) {
		p.Behaviour = "equivocate"
		p.want(FaultCrash, r.IntN(3))
		p.want(FaultPowerLoss, r.IntN(2))
	}},
	{"twins", true, func(r random, p *draft) {
		p.Behaviour = "twins"
		p.want(FaultPartition, r.IntN(3))
		p.want(FaultPowerLoss, r.IntN(2))
	}},
	{"withhold", true, func(r random, p *draft) { p.Behaviour = "withhold" }},
	{"two-new-views", true, func(r random, p *draft) {
		p.Behaviour = "two-new-views"
		p.Loss = 0.1 * r.Float64()
		p.want(FaultPrimaryKill, 1+r.IntN(3))
		p.want(FaultPowerLoss, r.IntN(3))
		p.want(FaultPartition, 1+r.IntN(4))
	}},
	{"lie", true, func(r random, p *draft) {
		p.Behaviour = "lie"
		p.Loss = 0.02 + 0.13*r.Float64()
		p.want(FaultIsolate, 2+r.IntN(6))
		p.want(FaultPartition, 1+r.IntN(5))
		p.want(FaultPowerLoss, r.IntN(2))
	}},
	{"silent", true, func(r random, p *draft) { p.Behaviour = "silent" }},
}, append(badReplicaScenarios, badClientScenarios...)...)

// strand keeps replicas away for so long that nobody logs any more what they lack.
func (p *draft) strand(r random) {
	p.want(FaultCrash, 2+r.IntN(4))
	p.want(FaultPowerLoss, r.IntN(2))
	p.downtime = r.between(time.Second, 4*time.Second)
	p.Operations, p.Outstanding, p.Clients, p.Think = 400, 4, 3, r.between(2*time.Millisecond, 20*time.Millisecond)
	p.ValueBytes, p.Keys = pick(r, 300, 1500), pick(r, 3, 20, 100)
	p.CheckpointBytes, p.Checkpoint = 2<<10, time.Millisecond
	p.Delay, p.Sync = pick(r, 300*time.Microsecond, 2*time.Millisecond), pick(r, 200*time.Microsecond, 2*time.Millisecond)
	p.Chaos = r.between(6*time.Second, 12*time.Second)
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
func (p *draft) season(r random) {
	p.Loss = max(p.Loss, pick(r, 0, 0.01, 0.05))
	p.want(FaultCrash, r.IntN(3))
	p.want(FaultPrimaryKill, r.IntN(2))
	p.want(FaultPowerLoss, r.IntN(2))
	p.want(FaultPartition, r.IntN(3))
	p.want(FaultPause, r.IntN(3))
	p.want(FaultIsolate, r.IntN(3))
	for range r.IntN(5) {
		p.want(faultKinds[r.IntN(len(faultKinds))].kind, 1)
	}
}
