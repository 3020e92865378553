package engine

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/transfer"
	"github.com/atlas-smr/smr/wire"
)

// TimerID names a timer of the engine: the owning machine in the top byte.
type TimerID uint64

// Timer asks for Expire(ID) once After has passed. Setting an ID again replaces it.
type Timer struct {
	ID    TimerID
	After time.Duration
}

// Write is a group of log records that are durable together under Token.
type Write struct {
	Token   uint64
	Records []protocol.Record
	Bundles [][]*smr.Bundle // parallel to Records: those of a RecordProposal, else nil
}

// Frame is an encoded message, equal for all its receivers, which has passed the gate.
type Frame struct {
	To      []smr.NodeID
	Class   wire.Class
	Kind    uint8
	Payload []byte
}

// Delivery is a decision for execution.
type Delivery struct {
	Decision   protocol.Decision
	Bundles    []*smr.Bundle
	Checkpoint bool // freeze and checkpoint after executing this one
}

// LogRead asks the driver to read decided batches from storage, beside the loop, and to answer with
// LogRead.
type LogRead struct {
	To          smr.NodeID // who will get them
	ID          uint64     // echoed in the result
	After, Upto smr.SeqNo
	MaxBytes    int // at least one entry is wanted, even a larger one
}

// LogReadResult answers a LogRead. Empty Entries say that the log holds nothing there, or that
// reading failed.
type LogReadResult struct {
	ID      uint64
	Entries []transfer.LogEntry // from After+1 on, contiguous
	First   smr.SeqNo           // first sequence number the log holds; 0 if none
}

// StateRead asks the driver to read what Query asks for from a checkpoint, beside the loop and within
// its byte budget, and to answer with StateRead.
type StateRead struct {
	To    smr.NodeID
	Query transfer.StateRequest
}

// Offer is a group of bundles another replica forwarded. They are verified, but not admitted: the
// driver passes them to the request workers as coming from From.
type Offer struct {
	From    auth.Identity
	Bundles []*smr.Bundle
}

// Output collects what the driver must do. Several inputs may append to one Output; the driver
// performs Write before anything else, stops timers before it sets them, and calls Reset.
type Output struct {
	Write      []Write // ascending tokens
	Send       []Frame
	Deliver    []Delivery // contiguous
	Decided    []smr.BundleID
	Stopped    []smr.BundleID // given up without a decision: no room, or its ops were decided in another bundle
	Released   []*smr.Bundle
	Offer      []Offer
	ReadLog    []LogRead
	ReadState  []StateRead
	State      []transfer.StateOp  // on storage, beside the loop, in order; see StateDone
	Truncate   smr.SeqNo           // log at or below may go; 0 = nothing
	StableCert auth.CheckpointCert // newly stable; zero = none
	SetTimer   []Timer
	StopTimer  []TimerID
	// ReadGate: unordered requests may be answered once executed >= it. ReadClosed while unknown.
	ReadGate   smr.SeqNo
	ReadClosed bool
	Events     []protocol.Event
	Fatal      error // broken local rule: the driver fences the replica
}

// Reset empties o, keeping its memory and the read gate.
func (o *Output) Reset() {
	clear(o.Write)
	clear(o.Send)
	clear(o.Deliver)
	clear(o.Released)
	clear(o.Offer)
	clear(o.State)
	clear(o.Events)
	*o = Output{
		Write: o.Write[:0], Send: o.Send[:0], Deliver: o.Deliver[:0], Decided: o.Decided[:0], Stopped: o.Stopped[:0], Released: o.Released[:0],
		Offer: o.Offer[:0], ReadLog: o.ReadLog[:0], ReadState: o.ReadState[:0], State: o.State[:0], SetTimer: o.SetTimer[:0], StopTimer: o.StopTimer[:0],
		Events: o.Events[:0], ReadGate: o.ReadGate, ReadClosed: o.ReadClosed,
	}
}

// setTimer and stopTimer keep at most one wish per timer, so that their order within one Output
// does not matter.
func (o *Output) setTimer(id TimerID, after time.Duration) {
	for i := range o.SetTimer {
		if o.SetTimer[i].ID == id {
			o.SetTimer[i].After = after
			return
		}
	}
	o.SetTimer = append(o.SetTimer, Timer{ID: id, After: after})
}

func (o *Output) stopTimer(id TimerID) {
	for i := range o.SetTimer {
		if o.SetTimer[i].ID == id {
			o.SetTimer = append(o.SetTimer[:i], o.SetTimer[i+1:]...)
			break
		}
	}
	o.StopTimer = append(o.StopTimer, id)
}
