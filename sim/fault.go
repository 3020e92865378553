package sim

import (
	"time"
)

// FaultKind names a class of faults.
type FaultKind string

// The kinds of fault that a plan lists.
const (
	FaultCrash             FaultKind = "crash"                // of a replica, which restarts
	FaultPrimaryKill       FaultKind = "primary-kill"         // a crash of the primary of the moment
	FaultDeadPrimaries     FaultKind = "dead-primaries"       // the primary and those that follow it crash at once
	FaultPowerLoss         FaultKind = "power-loss"           // every replica crashes at once
	FaultPowerLossAfterAck FaultKind = "power-loss-after-ack" // right after a client was told of a write
	FaultPause             FaultKind = "pause"                // a replica stands still, and goes on
	FaultPartition         FaultKind = "partition"            // a set of replicas is cut off
	FaultIsolate           FaultKind = "isolate"              // the primary of the moment is cut off
	FaultDropClass         FaultKind = "drop-class"           // one class of messages is mostly lost
)

// Fault is one thing that goes wrong.
type Fault struct {
	Kind FaultKind
	At   time.Duration // when it happens
	For  time.Duration // how long it lasts, if it lasts
	Seed uint64        // of everything else about it: whom it hits, and how
}

// occurrence is a fault as it happens.
type occurrence struct {
	Fault
	c   *cluster
	rng random
}

type faultEntry struct {
	kind FaultKind
	mean func(p *draft) time.Duration // of how long it lasts; nil: the plan's mean downtime
	do   func(f *occurrence)          // says took if it really happened
}

// faultKinds lists every kind with what it does. The order is that of drawing.
var faultKinds = []faultEntry{
	{FaultCrash, nil, func(f *occurrence) { f.kill(f.c.someone(f.rng), f.For) }},
	{FaultIsolate, twoTimeouts, (*occurrence).isolate},
	{FaultPause, nil, (*occurrence).pause},
	{FaultPrimaryKill, nil, func(f *occurrence) { f.kill(f.c.primary(), f.For) }},
	{FaultPartition, twoTimeouts, (*occurrence).partition},
	{FaultPowerLoss, nil, (*occurrence).powerLoss},
	{FaultPowerLossAfterAck, nil, func(f *occurrence) { f.c.onAck = f.powerLossAfterAck }},
	{FaultDeadPrimaries, nil, (*occurrence).killInRow},
	{FaultDropClass, halfTheChaos, (*occurrence).dropClass},
}

func twoTimeouts(p *draft) time.Duration  { return 2 * p.Timeout }
func halfTheChaos(p *draft) time.Duration { return p.Chaos / 2 }

// FaultKinds returns the names of all kinds of fault.
func FaultKinds() []FaultKind {
	kinds := make([]FaultKind, len(faultKinds))
	for i, k := range faultKinds {
		kinds[i] = k.kind
	}
	return kinds
}

// happen lets a fault of the plan happen.
func (c *cluster) happen(f Fault) {
	if c.healed {
		return
	}
	for _, k := range faultKinds {
		if k.kind == f.Kind {
			k.do(&occurrence{Fault: f, c: c, rng: stream(f.Seed, streamFault, 0)})
			return
		}
	}
	c.fail("the plan names an unknown fault %q", f.Kind)
}

// took counts a fault that really happened: one that found nobody to hit does not count.
func (f *occurrence) took() { f.c.counts.Faults[f.Kind]++ }
