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
	FaultOneWay            FaultKind = "one-way-partition"    // a set of replicas is heard by nobody, and hears
	FaultClog              FaultKind = "clog"                 // frames on some paths wait, and then all arrive
	FaultReplay            FaultKind = "replay"               // old frames arrive once more
	FaultCrashMidway       FaultKind = "crash-midway"         // between two effects of one step
	FaultClockJump         FaultKind = "clock-jump"           // of one replica
	FaultClockFreeze       FaultKind = "clock-freeze"         // of one replica
	FaultSlowDisk          FaultKind = "slow-disk"            //
	FaultHungDisk          FaultKind = "hung-disk"            //
	FaultFailedSync        FaultKind = "failed-sync"          //
	FaultFullDisk          FaultKind = "full-disk"            //
	FaultTornCheckpoint    FaultKind = "torn-checkpoint"      // a crash leaves a part of one
	FaultRotLog            FaultKind = "rot-log"              // a bit of the log flips
	FaultRotCheckpoint     FaultKind = "rot-checkpoint"       // a bit of the newest checkpoint flips
	FaultWipe              FaultKind = "wipe"                 // a replica comes back under its id with an empty disk
	FaultSlowApplication   FaultKind = "slow-application"     //
	FaultPanic             FaultKind = "panic"                // of the application, on one replica
	FaultDiverge           FaultKind = "diverge"              // the application of one replica is not deterministic
)

// What happens all the time, or with other faults, and is counted like them.
const (
	FaultLoss         FaultKind = "loss"          // frames
	FaultDuplicate    FaultKind = "duplicate"     // frames
	FaultReorder      FaultKind = "reorder"       // frames that take a hundred times as long
	FaultSkew         FaultKind = "clock-skew"    // replicas whose clock is off for good
	FaultUnsyncedLost FaultKind = "unsynced-lost" // crashes that took all that was not synced
	FaultUnsyncedPart FaultKind = "unsynced-part" // crashes that took a part of it
	FaultTornRecord   FaultKind = "torn-record"   // crashes in the middle of a record
	FaultPermanent    FaultKind = "permanent"     // replicas that are not healed at the end
)

var ambient = []FaultKind{
	FaultLoss, FaultDuplicate, FaultReorder, FaultSkew, FaultUnsyncedLost, FaultUnsyncedPart, FaultTornRecord, FaultPermanent,
}

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
	{FaultOneWay, twoTimeouts, (*occurrence).oneWay},
	{FaultClog, twoTimeouts, (*occurrence).clog},
	{FaultReplay, twoTimeouts, (*occurrence).replay},
	{FaultCrashMidway, nil, (*occurrence).crashMidway},
	{FaultClockJump, nil, (*occurrence).clockJump},
	{FaultClockFreeze, nil, (*occurrence).clockFreeze},
	{FaultSlowDisk, nil, (*occurrence).slowDisk},
	{FaultHungDisk, halfTheChaos, (*occurrence).hangDisk},
	{FaultFailedSync, nil, (*occurrence).failSync},
	{FaultFullDisk, nil, (*occurrence).fillDisk},
	{FaultTornCheckpoint, nil, (*occurrence).tearCheckpoint},
	{FaultRotLog, nil, (*occurrence).rotLog},
	{FaultRotCheckpoint, nil, (*occurrence).rotCheckpoint},
	{FaultWipe, nil, (*occurrence).wipe},
	{FaultSlowApplication, nil, (*occurrence).slowApplication},
	{FaultPanic, nil, (*occurrence).panicApplication},
	{FaultDiverge, nil, (*occurrence).diverge},
}

func twoTimeouts(p *draft) time.Duration  { return 2 * p.Timeout }
func halfTheChaos(p *draft) time.Duration { return p.Chaos / 2 }

// FaultKinds returns the names of all kinds of fault: those that a plan may list, then those that
// happen all the time.
func FaultKinds() []FaultKind {
	var kinds []FaultKind
	for _, k := range faultKinds {
		kinds = append(kinds, k.kind)
	}
	return append(kinds, ambient...)
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
