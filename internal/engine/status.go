package engine

import (
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/transfer"
)

// Mode says what a replica is doing.
type Mode string

// The modes.
const (
	ModeStarting   Mode = "starting" // asks what others have seen of it; does not vote yet
	ModeNormal     Mode = "normal"
	ModeObserver   Mode = "observer"              // follows without a vote
	ModeCatchingUp Mode = "catching-up"           // fetches decisions from peers' logs
	ModeNeedsState Mode = "state-transfer-needed" // waits to learn of a certified checkpoint
	ModeState      Mode = "state-transfer"        // fetches a certified checkpoint from peers
)

// Count is how often something was dropped for a reason.
type Count struct {
	Reason string
	N      uint64
}

// Pool describes the bundle store.
type Pool struct {
	Bundles, Bytes  int // waiting, in flight or not
	Proposable      int
	Wanted          int // named by live proposals and lacking here
	Asked           int // proposals lacking
	Retained        int // decided, kept to serve fetches
	RetainedBytes   int
	LooseBytes      int
	Clients         int
	Forwarded       int // late ones watched over
	UnwrittenFrames int // held by the durability gate
}

// Status describes an engine. It is a copy.
type Status struct {
	Ordering  protocol.Status
	Mode      Mode
	Why       string // what is missing, in a sentence, if Mode is not normal
	Decided   smr.SeqNo
	Delivered smr.SeqNo // handed to execution
	Executed  smr.SeqNo
	Target    smr.SeqNo // of log catch-up; 0 = none
	Transfer  transfer.Progress
	Stable    smr.SeqNo
	Certified smr.SeqNo // newest checkpoint certificate known
	Diverged  smr.SeqNo // own root contradicted a certificate there; 0 = never
	ReadGate  smr.SeqNo
	Readable  bool // unordered requests may be answered
	Written   uint64
	Durable   uint64
	Pool      Pool
	Drops     []Count // bounded set of reasons, in the order they first occurred
}

// Status describes the replica.
func (e *Engine) Status() Status {
	gate, known := e.view.Gate()
	s := Status{
		Ordering: e.ord.Status(), Mode: ModeNormal, Decided: e.deliver.decided, Delivered: e.deliver.handed, Executed: e.deliver.executed,
		Target: e.log.Target(), Stable: e.roots.Stable().Seq(), Certified: e.roots.Newest().Seq(), Diverged: e.roots.Diverged(),
		Transfer: e.state.Progress(), ReadGate: gate, Readable: known && e.deliver.executed >= gate, Written: e.gate.written, Durable: e.gate.durable,
		Pool: Pool{
			Bundles: e.store.pooled, Bytes: e.store.bytes, Proposable: e.store.free, Wanted: len(e.fetch.wants), Asked: len(e.fetch.asks),
			Retained: e.store.retained.count, RetainedBytes: e.store.retained.bytes, LooseBytes: e.store.looseTotal(),
			Clients: len(e.store.clients), Forwarded: len(e.watch.watched), UnwrittenFrames: len(e.gate.waiting),
		},
		Drops: append([]Count(nil), e.counts.list...),
	}
	switch {
	case e.failed != nil:
		s.Why = e.failed.Error()
	case e.state.Active():
		s.Mode, s.Why = ModeState, describe(s.Transfer)
	case e.log.NeedsState():
		s.Mode = ModeNeedsState
		s.Why = fmt.Sprintf("peers' logs begin above seq %d: waiting for the certificate of a checkpoint", e.deliver.decided+1)
	case e.observe:
		s.Mode, s.Why = ModeObserver, "this replica has no vote, or its vote state is known to be lost"
	case !e.enabled && e.view.Blocked():
		s.Mode, s.Why = ModeObserver, e.view.Why()
	case !e.enabled:
		s.Mode, s.Why = ModeStarting, e.view.Why()
	case e.log.Active():
		s.Mode = ModeCatchingUp
		s.Why = fmt.Sprintf("fetching decisions %d to %d", e.deliver.decided+1, e.log.Target())
	}
	return s
}

// Ordering describes the ordering alone: cheaper than Status.
func (e *Engine) Ordering() protocol.Status { return e.ord.Status() }

// Seen returns the highest vote of another replica that this one has verified in this life.
func (e *Engine) Seen(id smr.NodeID) protocol.Mark { return e.ord.Seen(id) }

// describe says in a sentence how far a transfer is.
func describe(p transfer.Progress) string {
	switch {
	case p.Failure != "":
		return fmt.Sprintf("state transfer of checkpoint %d failed and is tried again: %s", p.Seq, p.Failure)
	case p.Adopting:
		return fmt.Sprintf("taking over checkpoint %d", p.Seq)
	}
	return fmt.Sprintf("fetching checkpoint %d: %d of %d parts, %d bytes moved, %d found here", p.Seq, p.Parts, p.Total, p.Moved, p.Saved)
}

// reasonsLimit bounds the distinct reasons counted; others count as "other".
const reasonsLimit = 64

// counters counts drops by reason.
type counters struct {
	index map[string]int
	list  []Count
}

func (c *counters) note(ev protocol.Event) {
	if ev.Kind != protocol.EventDrop {
		return
	}
	if c.index == nil {
		c.index = map[string]int{}
	}
	reason := ev.Detail
	i, ok := c.index[reason]
	if !ok && len(c.list) >= reasonsLimit {
		reason = "other"
		i, ok = c.index[reason]
	}
	if !ok {
		i = len(c.list)
		c.index[reason] = i
		c.list = append(c.list, Count{Reason: reason})
	}
	c.list[i].N++
}
