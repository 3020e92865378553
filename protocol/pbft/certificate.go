package pbft

import (
	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/mutant"
	"github.com/atlas-smr/smr/protocol"
)

// onCertificate takes a certificate that another replica made.
func (r *Replica) onCertificate(c *Certificate) {
	if c.Core.Seq > r.decided.seq && c.view() <= r.view && c.Core.Seq <= r.windowEnd() {
		r.headerKnown(r.learn(c.Core))
	}
	if c.view() > r.view {
		r.enter(c.view(), c)
		if c.Core.Seq > r.decided.seq {
			r.learn(c.Core)
		}
	}
	r.certified(c.Cert)
	if c.commit() && (r.top == nil || r.top.Core.Seq < c.Core.Seq) {
		r.top = c
		r.dirty = true
	}
	if c.commit() && c.Core.closesTerm() {
		r.handedOver(c)
	}
	r.decide()
}

// certified takes a certificate of this or an earlier view.
func (r *Replica) certified(c *auth.Certificate) {
	r.sawCertificate(c)
	commit := c.Statement().Kind == auth.KindCommit
	if c.View() < r.view || c.Seq() <= r.decided.seq {
		if commit {
			r.commitKnown(c)
		}
		return
	}
	r.tail = max(r.tail, c.Seq())
	r.move(c)
	if c.Seq() <= r.windowEnd() {
		s := r.slot(c.Seq())
		if commit && s.committed == nil {
			s.committed = c
		} else if !commit && s.prepared == nil {
			s.prepared = c
		}
		if b := r.blocks[c.Digest()]; b != nil {
			r.headerKnown(b)
		} else {
			r.dirty = true
		}
	}
	if commit {
		r.commitKnown(c)
	}
}

// headerKnown does what waited for the header of b: a certificate of this view for it.
func (r *Replica) headerKnown(b *block) {
	s := r.slots[b.h.Seq]
	if s == nil || b.h.View != r.view {
		return
	}
	if s.prepared != nil && s.prepared.Digest() == b.h.Digest {
		r.commitVote(s, b)
	}
	if s.committed != nil && s.committed.Digest() == b.h.Digest {
		r.commitKnown(s.committed)
	}
}

// move makes a certified proposal of this view the tip, unless it lies below the own vote. Its
// header is fetched if unknown.
func (r *Replica) move(c *auth.Certificate) {
	if c.View() != r.view || r.timedOut || c.Seq() < r.votedHere() {
		return
	}
	if r.bound && (c.Seq() < r.tip.seq || c.Digest() == r.tip.digest) {
		return
	}
	if !r.bound {
		r.abandon(c.Seq())
	}
	r.bound, r.first, r.dirty = true, nil, true
	r.tip = point{seq: c.Seq(), digest: c.Digest()}
	for _, s := range sorted(r.ahead) {
		if s > c.Seq() {
			break
		}
		delete(r.ahead, s) // its block stays: it may be an ancestor
	}
}

// commitVote commits a prepared proposal of this view: the lock is durable first.
func (r *Replica) commitVote(s *slot, b *block) {
	if s.voted || !r.voting || r.timedOut && !mutant.On(mutant.CommitAfterTimeout) || b.h.View != r.view {
		return
	}
	s.voted = true
	c := &Certificate{Core: b.h, Cert: s.prepared}
	if nameLock(r.lock).below(nameLock(c)) && !mutant.On(mutant.LockNotRaised) {
		r.lock = c
		r.persist(protocol.Record{
			Kind: protocol.RecordState, Name: stateLock, View: b.h.View, Seq: b.h.Seq, Digest: b.h.Digest, Data: appendMessage(nil, c),
		})
	}
	r.cast(&Vote{Vote: r.sign(auth.KindCommit, b.h.View, b.h.Seq, b.h.Digest)})
}

// commitKnown remembers the highest commit certificate and decides what it proves.
func (r *Replica) commitKnown(c *auth.Certificate) {
	b := r.blocks[c.Digest()]
	if b == nil {
		return // headerKnown comes back to it
	}
	if cert := (&Certificate{Core: b.h, Cert: c}); r.top == nil || r.top.Core.Seq < c.Seq() {
		r.top = cert
		r.dirty = true
	}
	r.decide()
	if b.h.closesTerm() {
		r.handedOver(&Certificate{Core: b.h, Cert: c})
	}
}

// signers returns the voters of a certificate in ascending order.
func signers(c *auth.Certificate, n int) []int {
	out := make([]int, 0, n)
	for i := range n {
		if raw := c.Bytes(); i/8 < len(raw) && raw[i/8]&(1<<(i%8)) != 0 {
			out = append(out, i)
		}
	}
	return out
}

// signerIDs returns the ids of a certificate's signers but the own.
func (r *Replica) signerIDs(c *auth.Certificate) []smr.NodeID {
	var out []smr.NodeID
	for _, i := range signers(c, r.n) {
		if id := r.m.Voter(i).ID; id != r.p.Self {
			out = append(out, id)
		}
	}
	return out
}
