package engine

import (
	"fmt"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/transfer"
)

// decisionOverhead is counted for every decision on top of its bundles, so that empty ones bring a
// checkpoint nearer too.
const decisionOverhead = 128

// deliveries hands decisions to execution, in order, and says where checkpoints are due.
//
// A checkpoint is due at the first sequence number where the decided bytes since the last reach
// max(CheckpointBytes, size of the last checkpoint), or CheckpointEvery sequence numbers have
// passed: all replicated quantities. The size of the last one is known once it is written, so
// deliveries beyond CheckpointBytes wait for that.
type deliveries struct {
	decided  smr.SeqNo
	digest   smr.Digest // chain digest at decided
	waiting  []Delivery // decided, not handed out: the last checkpoint's size is unknown
	handed   smr.SeqNo
	executed smr.SeqNo
	sizes    []sizeAt // bytes of the decisions in (executed, decided], ascending seq
	behind   int      // their sum

	last      smr.SeqNo // the last checkpoint that was due
	lastSize  uint64
	lastKnown bool
	since     uint64 // bytes handed out since
}

type sizeAt struct {
	seq   smr.SeqNo
	bytes int
}

func (d *deliveries) init(base protocol.HeaderInfo, executed smr.SeqNo, size uint64) {
	d.decided, d.digest, d.handed, d.executed = base.Seq, base.Digest, base.Seq, executed
	d.last, d.lastSize, d.lastKnown = base.Seq, size, true
}

func (d *deliveries) position() transfer.Position {
	return transfer.Position{Seq: d.decided, Digest: d.digest}
}

func (d *deliveries) executedTo(seq smr.SeqNo) {
	d.executed = max(d.executed, seq)
	n := 0
	for n < len(d.sizes) && d.sizes[n].seq <= d.executed {
		d.behind -= d.sizes[n].bytes
		n++
	}
	d.sizes = d.sizes[n:]
}

func (d *deliveries) sized(seq smr.SeqNo, size uint64) {
	if seq == d.last && !d.lastKnown {
		d.lastSize, d.lastKnown = size, true
	}
}

// written says that the checkpoint at seq is on disk: if nobody reported its size by now, none is.
func (d *deliveries) written(seq smr.SeqNo) { d.sized(seq, 0) }

// ahead reports whether own execution is behind its bound.
func (d *deliveries) ahead(l Limits) bool {
	return d.behind > l.AheadBytes || len(d.sizes) > l.AheadDecisions
}

func (d *deliveries) push(x Delivery) {
	n := decisionOverhead
	for _, b := range x.Bundles {
		n += len(b.Raw)
	}
	d.decided, d.digest = x.Decision.Seq, x.Decision.Digest
	d.waiting = append(d.waiting, x)
	d.sizes = append(d.sizes, sizeAt{x.Decision.Seq, n})
	d.behind += n
}

// pop returns the next decision to hand out, if one may go.
func (d *deliveries) pop(least uint64, every smr.SeqNo) (Delivery, bool) {
	if len(d.waiting) == 0 {
		return Delivery{}, false
	}
	x := d.waiting[0]
	n := uint64(decisionOverhead)
	for _, b := range x.Bundles {
		n += uint64(len(b.Raw))
	}
	due := every > 0 && x.Decision.Seq >= d.last+every
	if !due && d.since+n >= least {
		if !d.lastKnown {
			return Delivery{}, false
		}
		due = d.since+n >= d.lastSize
	} else if due && !d.lastKnown {
		return Delivery{}, false // one checkpoint at a time
	}
	d.waiting[0] = Delivery{}
	if d.waiting = d.waiting[1:]; len(d.waiting) == 0 {
		d.waiting = nil
	}
	d.handed = x.Decision.Seq
	d.since += n
	if due {
		x.Checkpoint = true
		d.last, d.lastSize, d.lastKnown, d.since = x.Decision.Seq, 0, false, 0
	}
	return x, true
}

// flush hands out what may go and reports whether anything did.
func (e *Engine) flush(out *Output) bool {
	any := false
	for {
		x, ok := e.deliver.pop(e.cfg.CheckpointBytes, e.cfg.Limits.CheckpointEvery)
		if !ok {
			return any
		}
		any = true
		out.Deliver = append(out.Deliver, x)
	}
}

// decide takes a decision of the ordering.
func (e *Engine) decide(now time.Time, d protocol.Decision, out *Output) {
	invariant.Check(d.Seq == e.deliver.decided+1, "decided %d after %d", d.Seq, e.deliver.decided)
	invariant.Check(e.deliver.decided == 0 || d.Parent == e.deliver.digest, "decision %d does not continue the chain: parent %s, own %s", d.Seq, d.Parent, e.deliver.digest)
	bundles := make([]*smr.Bundle, len(d.Refs))
	for i, ref := range d.Refs {
		x, ok := e.store.get(ref.ID)
		if !ok {
			e.fail(out, fmt.Errorf("seq %d is decided, but bundle %s is not held", d.Seq, ref.ID))
			return
		}
		bundles[i] = x.b
	}
	e.conclude(now, d, bundles, true, out)
	if e.log.Active() {
		e.log.Advanced(now, e.deliver.position(), &e.teff)
	}
}

// conclude delivers a decision and settles its bundles; see store.decide for held.
func (e *Engine) conclude(now time.Time, d protocol.Decision, bundles []*smr.Bundle, held bool, out *Output) {
	e.deliver.push(Delivery{Decision: d, Bundles: bundles})
	var fresh []*entry // repetitions earn nothing
	for _, b := range bundles {
		x, ok := e.store.get(b.ID)
		if !ok {
			continue
		}
		e.watch.settle(x)
		if !x.decided && !e.store.recent.has(b.ID) {
			fresh = append(fresh, x)
		}
		e.store.decide(x, held)
		for _, c := range e.store.covered(b) {
			e.watch.settle(c)
			e.store.stop(c)
		}
		out.Decided = append(out.Decided, b.ID)
	}
	e.watch.decided(now, fresh)
	if held {
		e.watch.passed(fresh, e.cfg.Limits.OvertakeBytes/256)
	}
}

// install takes over a verified run of decisions from log transfer.
func (e *Engine) install(now time.Time, run transfer.Run, out *Output) {
	first := 0
	for first < len(run.Decisions) && run.Decisions[first].Seq <= e.deliver.decided {
		first++
	}
	if first == len(run.Decisions) {
		return
	}
	for i := first; i < len(run.Decisions); i++ {
		d := run.Decisions[i]
		invariant.Check(d.Seq == e.deliver.decided+1, "installed %d after %d", d.Seq, e.deliver.decided)
		invariant.Check(e.deliver.decided == 0 || d.Parent == e.deliver.digest, "installed decision %d does not continue the chain", d.Seq)
		for _, b := range run.Bundles[i] {
			e.store.put(b) // conclude claims it
			e.arrived(b.ID)
		}
		e.startWrite(out)
		w := &out.Write[len(out.Write)-1]
		mark := protocol.Record{Kind: protocol.RecordDecision, Epoch: d.Epoch, View: d.View, Seq: d.Seq, Digest: d.Digest}
		if i == len(run.Decisions)-1 {
			mark.Data = run.Proof
		}
		prop := protocol.Record{
			Kind: protocol.RecordProposal, Epoch: d.Epoch, View: d.View, Seq: d.Seq, Digest: d.Digest, Data: d.Header, Refs: d.Refs,
		}
		w.Records = append(w.Records, prop, mark)
		w.Bundles = append(w.Bundles, run.Bundles[i], nil)
		e.conclude(now, d, run.Bundles[i], false, out)
	}
	last := run.Decisions[len(run.Decisions)-1]
	e.ord.Install(now, last.Seq, protocol.Proof{Decision: last}, &e.eff)
	e.absorb(now, out)
}
