// Package transfer holds what replicas exchange beside ordering: checkpoint votes and their
// certificates, log transfer (fetching decisions), view transfer (what others have seen of this
// replica, and the highest locks), and state transfer (fetching a certified checkpoint).
//
// Every machine here is pure: an input appends what must happen next to an [Effects]. Messages are
// decoded and verified by stateless functions that network workers run before the loop. Transfer
// names no ordering: a protocol.Codec verifies ranges, proofs and locks.
//
// Invariant: what a peer merely claims (a height, the start of its log) moves nothing; only
// certificates and verified ranges do.
package transfer

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/wire"
)

// Outbound is an encoded message for some nodes; it may leave at once.
type Outbound struct {
	To      []smr.NodeID
	Class   wire.Class
	Kind    uint8
	Payload []byte
}

// Effects collects what must happen after an input of a machine of this package.
type Effects struct {
	Send      []Outbound
	SetTimer  []protocol.Timer
	StopTimer []protocol.TimerID
	State     []StateOp // in order
	Note      []protocol.Event
}

// Reset empties e, keeping its memory.
func (e *Effects) Reset() {
	clear(e.Send)
	clear(e.State)
	clear(e.Note)
	*e = Effects{Send: e.Send[:0], SetTimer: e.SetTimer[:0], StopTimer: e.StopTimer[:0], State: e.State[:0], Note: e.Note[:0]}
}

func (e *Effects) send(class wire.Class, kind uint8, payload []byte, to ...smr.NodeID) {
	if len(to) > 0 {
		e.Send = append(e.Send, Outbound{To: to, Class: class, Kind: kind, Payload: payload})
	}
}

func (e *Effects) drop(from smr.NodeID, seq smr.SeqNo, reason string) {
	e.Note = append(e.Note, protocol.Event{Kind: protocol.EventDrop, Node: from, Seq: seq, Detail: reason})
}

// The events this package adds to those of package protocol.
const (
	// EventDivergence says that a quorum certified another root than this replica computed at Seq:
	// the application or this machine is not deterministic.
	EventDivergence protocol.EventKind = "divergence"
	// EventStable says that a checkpoint at Seq became stable here.
	EventStable protocol.EventKind = "stable"
	// EventNeedState says that no peer's log holds what this replica lacks.
	EventNeedState protocol.EventKind = "state-transfer-needed"
	// EventStateTransfer says that the transfer of the checkpoint at Seq begins, failed or is complete.
	EventStateTransfer protocol.EventKind = "state-transfer"
	// EventAmnesia says that Node has seen a vote of this replica that its own log lacks.
	EventAmnesia protocol.EventKind = "amnesia"
	// EventEnabled says that a quorum answered and this replica's votes are complete.
	EventEnabled protocol.EventKind = "voting"
)

// The timers of the machines here.
const (
	TimerView  protocol.TimerID = 1
	TimerLog   protocol.TimerID = 2
	TimerState protocol.TimerID = 3
)

// arm and disarm keep one wish per timer, so that the order of the two lists does not matter.
func (e *Effects) arm(id protocol.TimerID, after time.Duration) {
	for i, s := range e.StopTimer {
		if s == id {
			e.StopTimer = append(e.StopTimer[:i], e.StopTimer[i+1:]...)
			break
		}
	}
	e.SetTimer = append(e.SetTimer, protocol.Timer{ID: id, After: after})
}

func (e *Effects) disarm(id protocol.TimerID) {
	kept := e.SetTimer[:0]
	for _, t := range e.SetTimer {
		if t.ID != id {
			kept = append(kept, t)
		}
	}
	e.SetTimer = kept
	e.StopTimer = append(e.StopTimer, id)
}
