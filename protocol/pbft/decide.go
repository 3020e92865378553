package pbft

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/protocol"
)

// keepDecided is how many headers of decided proposals stay in memory to answer who asks for them.
const keepDecided = 128

// decide decides everything that the highest commit certificate proves, as far as headers and
// bundles are here.
func (r *Replica) decide() {
	if r.top == nil || r.top.Core.Seq <= r.decided.seq {
		return
	}
	path, whole := r.path(r.top.Core.Digest, r.top.Core.Seq)
	if !whole {
		return
	}
	for k := len(path) - 1; k >= 0; k-- {
		b := path[k]
		if !b.live {
			r.enliven(b)
		}
		if b.missing > 0 {
			return
		}
		r.conclude(b)
	}
}

// path returns the blocks from a digest down to right above the last decision, and whether all
// their headers are here.
func (r *Replica) path(d smr.Digest, seq smr.SeqNo) ([]*block, bool) {
	var out []*block
	for seq > r.decided.seq {
		b := r.blocks[d]
		if b == nil || !b.h.full {
			return out, false
		}
		out = append(out, b)
		d, seq = b.h.Parent, seq-1
	}
	invariant.Check(d == r.decided.digest, "a certified chain leaves the decided one at %d: %s is not %s", seq, d, r.decided.digest)
	return out, true
}

// conclude decides b, the next in order.
func (r *Replica) conclude(b *block) {
	invariant.Check(b.h.Seq == r.decided.seq+1 && b.h.Parent == r.decided.digest, "deciding %d after %d", b.h.Seq, r.decided.seq)
	r.store(b)
	var cert *auth.Certificate
	if s := r.slots[b.h.Seq]; r.top.Core.Digest == b.h.Digest {
		cert = r.top.Cert
	} else if s != nil && s.committed != nil && s.committed.Digest() == b.h.Digest {
		cert = s.committed
	}
	rec := protocol.Record{Kind: protocol.RecordDecision, View: b.h.View, Seq: b.h.Seq, Digest: b.h.Digest}
	if cert != nil {
		rec.Data = cert.Bytes()
		r.proof = &Certificate{Core: b.h, Cert: cert}
	}
	r.persist(rec)
	r.out.Decide = append(r.out.Decide, protocol.Decision{HeaderInfo: b.h.info(), Header: b.h.raw, Proof: cert})
	b.decided = true
	r.release(b)
	r.decided = b.h.point()
	r.progress(b)
	r.settle(b)
}

// progress notes a success of the view's primary.
func (r *Replica) progress(b *block) {
	if len(b.h.Refs) > 0 || !r.timers.waiting {
		r.timers.progressed, r.timers.late = true, false
		r.ownVote = false
	}
	if b.h.View == r.view {
		r.timers.timeout = max(r.p.BaseTimeout, r.timers.timeout-r.timers.timeout/16)
		r.timers.failures = 0
	}
}

// settle forgets what the decision of b makes moot.
func (r *Replica) settle(b *block) {
	seq := b.h.Seq
	delete(r.slots, seq)
	for _, o := range append([]*block(nil), r.bySeq[seq]...) {
		if o != b {
			r.forget(o)
		}
	}
	delete(r.ahead, seq)
	if r.first != nil && r.first.h.Seq <= seq {
		r.forget(r.first)
	}
	if seq > keepDecided {
		for _, o := range append([]*block(nil), r.bySeq[seq-keepDecided]...) {
			r.forget(o)
		}
	}
	if r.bound && r.tip.seq < seq && b.h.View == r.view {
		r.tip = b.h.point()
	}
}

// Stable implements protocol.Ordering.
func (r *Replica) Stable(now time.Time, cp auth.CheckpointCert, out *protocol.Effects) {
	r.begin(now, out)
	if cp.Seq() > r.stable && cp.Seq() <= r.decided.seq {
		r.stable = cp.Seq()
	}
	r.end()
}

// Install implements protocol.Ordering. The engine wrote the decisions it took over to the log and
// delivers them; proof.Decision is the last of them. Of a checkpoint that was taken over only the
// position is known: proof.Decision has no header, and proof.Checkpoint certifies it. Vote state stays
// as it is: the lock, the own votes and timeouts bind as before.
func (r *Replica) Install(now time.Time, at smr.SeqNo, proof protocol.Proof, out *protocol.Effects) {
	r.begin(now, out)
	defer r.end()
	d := proof.Decision
	if at <= r.decided.seq {
		return
	}
	if d.Seq != at {
		r.drop(0, "install-without-decision")
		return
	}
	r.decided = point{seq: at, digest: d.Digest, time: d.Time}
	r.stable = max(r.stable, proof.Checkpoint.Seq())
	for _, s := range sorted(r.bySeq) {
		if s > at {
			break
		}
		for _, b := range append([]*block(nil), r.bySeq[s]...) {
			b.stored = false // the log holds the installed decisions under the same keys
			r.forget(b)
		}
	}
	for _, s := range sorted(r.slots) {
		if s <= at {
			delete(r.slots, s)
		}
	}
	r.installTip(d)
	r.timers.progressed, r.ownVote, r.dirty = true, false, true
	for _, s := range sortedDigests(r.wanted) {
		if r.wanted[s] <= at {
			r.found(s)
		}
	}
	r.decide()
}

// installTip keeps an installed decision as parent, proof and tip.
func (r *Replica) installTip(d protocol.Decision) {
	h, err := parseHeader(d.Header)
	if err != nil || h.Digest != d.Digest {
		if r.bound && r.tip.seq < d.Seq && d.View == r.view && d.Epoch == r.m.Epoch() {
			r.tip = r.decided // as Start takes a checkpoint of this view
		}
		return
	}
	b := r.learn(h)
	b.decided, b.stored = true, true
	if d.Proof != nil && d.Proof.Digest() == h.Digest {
		c := &Certificate{Core: h, Cert: d.Proof}
		if h.View > r.view {
			r.enter(h.View, c)
		}
		r.proof = c
		r.move(d.Proof)
		if h.closesTerm() {
			r.handedOver(c)
		}
	}
	if r.bound && r.tip.seq < d.Seq && h.View == r.view {
		r.tip = h.point()
	}
}
