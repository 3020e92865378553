package pbft

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/mutant"
	"github.com/atlas-smr/smr/protocol"
)

// maxResend bounds the sequence numbers whose votes and proposals one tick sends again, lowest
// first.
const maxResend = 32

// tick sends again what a peer may have missed, unless decisions show that nobody did.
func (r *Replica) tick() {
	t := &r.timers
	stuck := r.decided.seq == t.tickAt && r.view == t.tickView
	t.tickAt, t.tickView = r.decided.seq, r.view
	r.refetch()
	if !stuck {
		t.lagging = 0
		return
	}
	if r.top != nil && r.top.Core.Seq > r.decided.seq {
		if t.lagging++; t.lagging > 1 {
			r.behind(r.top)
		}
	}
	r.resend(protocol.Everyone)
}

// Connected implements protocol.Ordering.
func (r *Replica) Connected(now time.Time, peer smr.NodeID, out *protocol.Effects) {
	r.begin(now, out)
	if i, voter := r.m.Index(peer); voter {
		r.peers[i].answered, r.peers[i].asked = time.Time{}, time.Time{}
	}
	if r.opening != nil {
		r.send(peer, r.opening)
	}
	if r.proof != nil {
		r.send(peer, r.proof)
	}
	r.resend(peer)
	r.end()
}

// resend sends the own undecided votes, the lock's certificate, the timeout or complaint, and as
// primary the undecided proposals. Votes pass the gate again: it knows what is durable.
func (r *Replica) resend(to smr.NodeID) {
	if !r.voting || mutant.On(mutant.NothingResent) {
		return
	}
	if r.own != nil && r.own.view() >= r.view {
		r.resendVote(to, r.own)
		return
	}
	if r.ownVote && to == protocol.Everyone {
		r.complain("stall")
	}
	if r.lock != nil && r.lock.view() == r.view && r.lock.Core.Seq > r.decided.seq {
		r.sendDurable(to, r.lock)
	}
	if r.top != nil && r.top.Core.Seq > r.decided.seq {
		r.send(to, r.top)
	}
	if r.leading() && !r.bound && r.opening != nil && to == protocol.Everyone && r.working() {
		r.send(to, r.opening)
	}
	last := min(r.tip.seq, r.decided.seq+maxResend)
	for s := r.decided.seq + 1; r.bound && s <= last; s++ {
		r.resendAt(to, s)
	}
}

// resendAt sends the own proposal and votes of this view for one sequence number.
func (r *Replica) resendAt(to smr.NodeID, s smr.SeqNo) {
	for _, b := range r.bySeq[s] {
		if b.h.View != r.view || !b.voted {
			continue
		}
		if b.msg != nil && r.primary() == r.p.Self {
			r.sendDurable(to, b.msg)
		}
		r.resendVote(to, &Vote{Vote: r.sign(auth.KindPrepare, r.view, s, b.h.Digest), Again: true})
	}
	if x := r.slots[s]; x != nil && x.voted {
		r.resendVote(to, &Vote{Vote: r.sign(auth.KindCommit, r.view, s, x.prepared.Digest()), Again: true})
	}
}

// resendVote sends an own vote again; to everyone means to itself too.
func (r *Replica) resendVote(to smr.NodeID, m protocol.Message) {
	if to == protocol.Everyone {
		r.cast(m)
		return
	}
	r.sendDurable(to, m)
}

// refetch repeats the questions that are still open.
func (r *Replica) refetch() {
	r.forgetWants()
	r.stale, r.wanted = r.wanted, map[smr.Digest]smr.SeqNo{}
	r.dirty = true
}

// answerOld tells a peer that speaks of an older view what opened this one, at most once a tick.
func (r *Replica) answerOld(i int, from smr.NodeID) {
	p := &r.peers[i]
	if i == r.index || r.opening == nil || !p.answered.IsZero() && r.now.Sub(p.answered) < r.p.Resend {
		return
	}
	p.answered = r.now
	r.send(from, r.opening)
}

// answerDecided tells a peer that lacks decisions the newest proof, at most once a tick.
func (r *Replica) answerDecided(i int, from smr.NodeID) {
	p := &r.peers[i]
	if i == r.index || r.proof == nil || !p.answered.IsZero() && r.now.Sub(p.answered) < r.p.Resend {
		return
	}
	p.answered = r.now
	r.send(from, r.proof)
}
