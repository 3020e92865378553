package pbft

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/internal/mutant"
	"github.com/atlas-smr/smr/protocol"
)

// maxAheadBytes bounds the headers of proposals of this view that cannot be accepted yet. What
// exceeds it is dropped; the primary sends it again.
const maxAheadBytes = 8 << 20

// leading reports whether this replica may propose in its view now.
func (r *Replica) leading() bool {
	return r.voting && !r.timedOut && r.mayLead && r.primary() == r.p.Self && r.knowsParent()
}

// knowsParent reports whether the header that the next proposal of the view extends is known.
func (r *Replica) knowsParent() bool {
	if !r.bound {
		return r.hasBase && r.parent().seq >= r.decided.seq
	}
	return r.tip.digest == r.decided.digest || r.core(r.tip.digest) != nil
}

// parent returns what the next own proposal extends.
func (r *Replica) parent() point {
	switch {
	case r.bound && r.tip.digest == r.decided.digest:
		return r.decided
	case r.bound:
		return r.core(r.tip.digest).point()
	case r.base != nil:
		return r.base.point()
	}
	return r.start
}

// Want implements protocol.Ordering.
func (r *Replica) Want() int {
	if !r.leading() || r.closed() {
		return 0
	}
	at := r.parent().seq
	if at >= r.windowEnd() {
		return 0
	}
	return max(0, min(r.p.Pipeline-r.inFlight(), int(r.windowEnd()-at)))
}

// inFlight counts own undecided proposals of this view.
func (r *Replica) inFlight() int {
	if !r.bound {
		return 0
	}
	from := r.decided.seq
	if r.base != nil {
		from = max(from, r.base.Seq)
	}
	if r.tip.seq <= from {
		return 0
	}
	return int(r.tip.seq - from)
}

// closed reports whether the tip is a term-closing proposal of this view.
func (r *Replica) closed() bool {
	if !r.bound {
		return false
	}
	h := r.core(r.tip.digest)
	return h != nil && h.View == r.view && h.closesTerm()
}

// Propose implements protocol.Ordering.
func (r *Replica) Propose(now time.Time, b smr.Batch, out *protocol.Effects) {
	r.begin(now, out)
	invariant.Check(r.Want() > 0, "Propose without Want")
	r.propose(b)
	r.end()
}

// propose orders b, which may be empty.
func (r *Replica) propose(b smr.Batch) {
	parent := r.parent()
	h := Header{Epoch: r.m.Epoch(), View: r.view, Seq: parent.seq + 1, Parent: parent.digest, Time: max(parent.time, b.Time), Refs: b.Refs}
	if r.closing {
		h.Flags |= flagTermClosing
	}
	head := newHeader(r.m, h)
	msg := &Proposal{Header: head, Signature: r.sign(auth.KindProposal, head.View, head.Seq, head.Digest).Signature()}
	if !r.bound {
		switch o := r.opening.(type) {
		case *TimeoutCertificate:
			msg.Timeout = o
		case *Certificate:
			msg.HandOver = o
		}
	}
	if !r.led {
		r.led = true
		r.persist(protocol.Record{Kind: protocol.RecordState, Name: stateLed, View: r.view})
	}
	blk := r.learn(head)
	blk.msg = msg
	r.enliven(blk)
	for _, ref := range head.Refs {
		r.bundleHeld(ref.ID)
	}
	o := protocol.Outbound{To: protocol.Everyone, Msg: msg, Attach: b.Inline}
	if r.opened {
		r.out.Send = append(r.out.Send, o)
	} else {
		r.out.SendDurable = append(r.out.SendDurable, o) // leading the view is durable first
	}
	r.accept(blk)
	r.timers.sent = r.now
}

// lead does what a primary owes without being given a batch: it decides a certified tail, and
// closes its term.
func (r *Replica) lead() {
	if r.Want() == 0 {
		return
	}
	tail := !r.bound && r.base != nil && r.base.Seq > r.committed()
	if tail && r.timers.waiting && !r.timers.lateTail && !r.closing {
		if !r.timers.tail {
			r.timers.tail = true
			r.set(timerTail, r.p.BaseTimeout/64) // what waits may carry it, if it is proposable
		}
		return
	}
	if tail || r.closing {
		r.propose(smr.Batch{Time: r.now.UnixNano()})
	}
}

// committed returns the highest sequence number known to be committed, decided here or not.
func (r *Replica) committed() smr.SeqNo {
	if r.top == nil {
		return r.decided.seq
	}
	return max(r.decided.seq, r.top.Core.Seq)
}

// onProposal takes a pre-prepare.
func (r *Replica) onProposal(i int, from smr.NodeID, p *Proposal) {
	h := p.Header
	switch {
	case h.View < r.view:
		r.answerOld(i, from)
		r.fill(h)
		return
	case h.View > r.view && p.Timeout != nil:
		r.enterByTimeouts(p.Timeout)
	case h.View > r.view && p.HandOver != nil:
		r.onCertificate(p.HandOver)
	}
	if h.View > r.view {
		r.keepEarly(i, p)
		return
	}
	if h.View < r.view {
		return
	}
	if r.blocks[h.Digest] != nil {
		r.fill(h)
	}
	if h.Seq <= r.decided.seq || r.timedOut && r.blocks[h.Digest] == nil || h.Seq > r.windowEnd() {
		return
	}
	if r.bound && h.Seq <= r.tip.seq {
		r.equivocation(h)
		return
	}
	if r.bound || p.Timeout == nil && p.HandOver == nil && (h.View > 0 || h.Seq != r.start.seq+1) {
		r.queue(h, p)
		return
	}
	if r.validFirst(p) && r.first == nil {
		r.first = r.learn(h)
		r.first.msg = p
		r.enliven(r.first)
	}
}

// fill completes a known block whose body was lacking.
func (r *Replica) fill(h *Header) {
	b := r.blocks[h.Digest]
	if _, asked := r.wanted[h.Digest]; b == nil && !asked || b != nil && b.h.full {
		return
	}
	b = r.learn(h)
	if h.Seq > r.decided.seq {
		r.enliven(b)
	}
	r.dirty = true
	r.headerKnown(b)
}

// equivocation notes a second proposal of the primary for a sequence number.
func (r *Replica) equivocation(h *Header) {
	for _, o := range r.bySeq[h.Seq] {
		if o.h.View == h.View && o.h.Digest != h.Digest {
			r.note(protocol.EventEvidence, r.primary(), h.View, h.Seq, "two proposals for one sequence number")
			return
		}
	}
}

// queue keeps a proposal of this view until its parent is the tip.
func (r *Replica) queue(h *Header, p *Proposal) {
	if old := r.ahead[h.Seq]; old != nil {
		if old.h.Digest != h.Digest {
			r.note(protocol.EventEvidence, r.primary(), h.View, h.Seq, "two proposals for one sequence number")
		}
		return
	}
	size := 0
	for _, b := range r.ahead {
		size += len(b.h.raw)
	}
	if size+len(h.raw) > maxAheadBytes {
		r.drop(r.primary(), "ahead-full")
		return
	}
	b := r.learn(h)
	b.msg = p
	r.ahead[h.Seq] = b
	r.enliven(b)
	r.headerKnown(b)
}

// validFirst checks a proposal as the first of its view; the codec checked it against what it carries.
func (r *Replica) validFirst(p *Proposal) bool {
	h := p.Header
	if p.Timeout != nil && p.Timeout.lock != nil || p.HandOver != nil {
		return true
	}
	return h.Parent == r.start.digest && h.Seq == r.start.seq+1
}

// acceptNext accepts the next proposal, if there is one that may be, and reports whether it did.
func (r *Replica) acceptNext() bool {
	if !r.voting || r.timedOut {
		return false
	}
	b, parent := r.first, point{}
	if r.bound {
		head := r.core(r.tip.digest)
		if head == nil && r.tip.digest != r.decided.digest {
			return false // its header is being fetched
		}
		if parent = r.decided; head != nil {
			parent = head.point()
		}
		if b = r.ahead[r.tip.seq+1]; b == nil {
			return false
		}
		if b.h.Parent != r.tip.digest && !mutant.On(mutant.ParentUnchecked) || head != nil && head.View == r.view && head.closesTerm() {
			r.note(protocol.EventEvidence, r.primary(), r.view, b.h.Seq, "does not extend the tip")
			r.forget(b)
			return false
		}
	} else if b == nil {
		return false
	} else if parent = r.start; b.msg.Timeout != nil && b.msg.Timeout.lock != nil {
		parent = b.msg.Timeout.lock.Core.point()
	} else if b.msg.HandOver != nil {
		parent = b.msg.HandOver.Core.point()
	}
	if b.h.Seq <= r.decided.seq || b.h.Seq <= r.votedHere() {
		r.forget(b)
		return false
	}
	if b.h.Time < parent.time {
		r.note(protocol.EventEvidence, r.primary(), r.view, b.h.Seq, "time runs backwards")
		r.forget(b)
		return false
	}
	if wait := b.h.Time - r.now.UnixNano(); b.h.Time > parent.time && wait > int64(r.p.MaxClockDrift) {
		r.awaitClock(wait - int64(r.p.MaxClockDrift))
		return false
	}
	if b.missing > 0 {
		return false
	}
	if !r.fits(b.h) {
		r.note(protocol.EventEvidence, r.primary(), r.view, b.h.Seq, "a bundle is not as long as its reference says")
		r.forget(b)
		return false
	}
	r.accept(b)
	return true
}

// fits reports whether the bundles of h, all held, are as long as their references say. What was
// decided with a lie about it could not be transferred.
func (r *Replica) fits(h *Header) bool {
	if r.p.Length == nil {
		return true
	}
	for _, ref := range h.Refs {
		if n := r.p.Length(ref.ID); n != 0 && n != int(ref.Bytes) {
			return false
		}
	}
	return true
}

// accept makes b the tip and prepares it: header and bundles are durable before the vote leaves.
func (r *Replica) accept(b *block) {
	if !r.bound {
		r.abandon(b.h.Seq)
	}
	invariant.Check(b.h.View == r.view && !r.timedOut && b.h.Seq > r.votedHere(), "prepare %d/%d after %d", b.h.View, b.h.Seq, r.votedHere())
	r.bound, r.tip = true, b.h.point()
	r.first = nil
	delete(r.ahead, b.h.Seq)
	r.store(b)
	b.voted = true
	r.voted = lockName{view: b.h.View, seq: b.h.Seq, digest: b.h.Digest}
	r.persist(protocol.Record{Kind: protocol.RecordState, Name: stateVoted, View: b.h.View, Seq: b.h.Seq, Digest: b.h.Digest})
	r.cast(&Vote{Vote: r.sign(auth.KindPrepare, b.h.View, b.h.Seq, b.h.Digest)})
	if mutant.On(mutant.CommitUnprepared) {
		r.cast(&Vote{Vote: r.sign(auth.KindCommit, b.h.View, b.h.Seq, b.h.Digest)})
	}
	r.headerKnown(b)
}

// abandon releases the bundles of blocks of earlier views at or above seq: the view does not
// continue them. What was promised stays in the log until its sequence number is decided, since a
// later view may yet have to extend it.
func (r *Replica) abandon(seq smr.SeqNo) {
	for _, s := range sorted(r.bySeq) {
		if s < seq || s <= r.decided.seq {
			continue
		}
		for _, b := range append([]*block(nil), r.bySeq[s]...) {
			if b.h.View >= r.view {
				continue
			}
			if b.stored {
				r.release(b)
			} else {
				r.forget(b)
			}
		}
	}
}
