package pbft

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/internal/mutant"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/quorum"
)

// The names of vote state in the log. Values are on disk: never reuse one.
const (
	stateView    uint8 = 1 // newest entered view; Data is what opened it
	stateTimeout uint8 = 2 // newest own timeout; Data is the message
	stateLock    uint8 = 3 // the lock; Data is its certificate
	stateLed     uint8 = 4 // newest view in which this replica proposed
	stateVoted   uint8 = 5 // highest own prepare
)

// appendOpening encodes what opened a view for the log: its kind, then its payload.
func appendOpening(m protocol.Message) []byte { return appendMessage([]byte{m.Kind()}, m) }

// Start implements protocol.Ordering. Recovered decisions are decided again.
func (r *Replica) Start(now time.Time, rec protocol.Recovered, out *protocol.Effects) {
	r.begin(now, out)
	r.entered = now
	r.timers.entered(now)
	r.decided = point{rec.Base.Seq, rec.Base.Digest, rec.Base.Time}
	r.stable = rec.Base.Seq
	var ledView smr.View
	ledAny := false
	for _, s := range rec.State {
		if s.Epoch != r.m.Epoch() {
			continue
		}
		if s.Name == stateLed {
			ledView, ledAny = s.View, true
		}
		r.restore(s)
	}
	for _, p := range rec.Proposals {
		h, err := parseHeader(p.Data)
		invariant.Check(err == nil && h.Digest == p.Digest, "ordering log: proposal %d/%d does not read back: %v", p.View, p.Seq, err)
		r.learn(h).stored = true
	}
	r.redecide(rec.Decisions)
	r.recoverTip(rec.Base)
	r.recoverVoted()
	if ledAny && ledView == r.view && !mutant.On(mutant.LeadsAgain) {
		r.mayLead = false
	}
	for _, s := range sorted(r.bySeq) {
		for _, b := range r.bySeq[s] {
			if b.h.View == r.view || !r.hasBase || s <= r.baseSeq() { // else the view passed over it
				r.enliven(b)
			}
		}
	}
	r.set(timerResend, r.p.Resend)
	r.dirty = true
	r.end()
}

// recoverVoted marks what this replica prepared in its view: the newest, by its record, and its
// ancestors in the view. A proposal in the log alone need not have been voted for.
func (r *Replica) recoverVoted() {
	b := r.blocks[r.voted.digest]
	for b != nil && b.stored && b.h.View == r.view && r.voted.view == r.view {
		for _, o := range r.bySeq[b.h.Seq] {
			if o != b && o.h.View == r.view && o.stored && b.h.Digest != r.voted.digest {
				return // which of the two is not known
			}
		}
		b.voted = true
		b = r.blocks[b.h.Parent]
	}
}

// restore takes one piece of vote state. The log is the own and checked by storage; what does not
// read back is a broken invariant.
func (r *Replica) restore(s protocol.Record) {
	r.view = max(r.view, s.View)
	switch {
	case mutant.On(mutant.VoteForgotten) && s.Name == stateVoted,
		mutant.On(mutant.TimeoutForgotten) && s.Name == stateTimeout,
		mutant.On(mutant.LockForgotten) && s.Name == stateLock:
		return
	}
	switch s.Name {
	case stateView:
		if len(s.Data) == 0 {
			return
		}
		m, err := r.codec.Decode(r.p.Self, s.Data[0], s.Data[1:])
		invariant.Check(err == nil, "ordering log: what opened view %d: %v", s.View, err)
		r.opening = m
	case stateTimeout:
		m, err := r.codec.Decode(r.p.Self, kindTimeout, s.Data)
		invariant.Check(err == nil, "ordering log: timeout of view %d: %v", s.View, err)
		r.own, _ = m.(*Timeout)
	case stateLock:
		m, err := r.codec.Decode(r.p.Self, kindCertificate, s.Data)
		invariant.Check(err == nil, "ordering log: lock of view %d: %v", s.View, err)
		r.lock, _ = m.(*Certificate)
		r.sawCertificate(r.lock.Cert)
	case stateVoted:
		r.voted = lockName{view: s.View, seq: s.Seq, digest: s.Digest}
	}
}

// redecide decides again what was decided above the base.
func (r *Replica) redecide(marks []protocol.Record) {
	for _, d := range marks {
		b := r.blocks[d.Digest]
		invariant.Check(b != nil && b.h.Seq == d.Seq && d.Seq == r.decided.seq+1 && b.h.Parent == r.decided.digest, "ordering log: decision %d does not follow %d", d.Seq, r.decided.seq)
		var cert *auth.Certificate
		if len(d.Data) > 0 && b.h.belongs(r.m) {
			// A mark written by transfer may carry the proof of a later one: then it is none here.
			cert, _ = r.v.Open(r.v.Statement(auth.KindCommit, b.h.View, b.h.Seq, b.h.Digest), d.Data)
		}
		if cert != nil {
			r.proof = &Certificate{Core: b.h, Cert: cert}
			r.top = r.proof
			r.sawCertificate(cert)
		}
		for _, ref := range b.h.Refs {
			r.out.Hold = append(r.out.Hold, ref.ID) // which the decision ends
		}
		r.out.Decide = append(r.out.Decide, protocol.Decision{HeaderInfo: b.h.info(), Header: b.h.raw, Proof: cert})
		b.decided = true
		r.decided = b.h.point()
		r.settleRecovered(b)
	}
}

func (r *Replica) settleRecovered(b *block) {
	for _, o := range append([]*block(nil), r.bySeq[b.h.Seq]...) {
		if o != b {
			r.forget(o)
		}
	}
	if b.h.Seq > keepDecided {
		for _, o := range append([]*block(nil), r.bySeq[b.h.Seq-keepDecided]...) {
			r.forget(o)
		}
	}
	if b.h.Epoch == r.m.Epoch() {
		r.view = max(r.view, b.h.View)
	}
}

// recoverTip finds tip, base and bans again.
func (r *Replica) recoverTip(base protocol.HeaderInfo) {
	r.timedOut = r.own != nil && r.own.view() == r.view
	if i := r.index; i >= 0 && r.own != nil {
		r.timeouts[i] = r.own
	}
	last := base
	if head := r.core(r.decided.digest); head != nil {
		last = head.info()
	}
	if last.Seq > 0 && last.View == r.view && last.Epoch == r.m.Epoch() {
		r.bound, r.tip = true, r.decided
	}
	if r.voted.view == r.view && r.voted.seq > r.tip.seq && r.voted != (lockName{}) {
		r.bound, r.tip = true, point{seq: r.voted.seq, digest: r.voted.digest}
		if h := r.core(r.voted.digest); h != nil {
			r.tip = h.point()
		}
	}
	r.hasBase = r.view == 0
	switch o := r.opening.(type) {
	case *TimeoutCertificate:
		if o.opens() == r.view {
			r.hasBase = true
			if o.lock != nil {
				r.base = o.lock.Core
			}
		}
	case *Certificate:
		if o.view()+1 == r.view && o.Core.closesTerm() {
			r.hasBase, r.base = true, o.Core
		}
	}
	if l := r.lock; l != nil && l.view() == r.view && l.Core.Seq > r.decided.seq {
		r.learn(l.Core)
		r.tail = l.Core.Seq
		s := r.slot(l.Core.Seq)
		s.prepared, s.voted = l.Cert, true // it was committed: the lock is written with the vote
		if l.Core.Seq > r.tip.seq {
			r.bound, r.tip = true, l.Core.point()
		}
	}
	if r.base != nil && r.base.Seq > r.decided.seq {
		r.learn(r.base)
		r.tail = max(r.tail, r.base.Seq)
	}
}

// Enable implements protocol.Ordering.
func (r *Replica) Enable(now time.Time, out *protocol.Effects) {
	r.begin(now, out)
	if r.index >= 0 && !r.voting {
		r.voting = true
		r.timers.entered(now)
		for _, s := range sorted(r.slots) {
			if x := r.slots[s]; x.prepared != nil {
				if b := r.blocks[x.prepared.Digest()]; b != nil {
					r.commitVote(x, b)
				}
			}
		}
		r.resend(protocol.Everyone)
		r.join()
	}
	r.end()
}

// Lock implements protocol.Ordering.
func (r *Replica) Lock() []byte {
	if r.lock == nil {
		return nil
	}
	return appendMessage(nil, r.lock)
}

// Reconfigure implements protocol.Ordering: it opens the epoch of m right above the last decision.
func (r *Replica) Reconfigure(now time.Time, m *quorum.Membership, out *protocol.Effects) {
	r.begin(now, out)
	if m.Epoch() > r.m.Epoch() {
		for _, s := range sorted(r.bySeq) {
			for _, b := range append([]*block(nil), r.bySeq[s]...) {
				if b.h.Seq > r.decided.seq {
					r.forget(b)
				}
			}
		}
		v := auth.NewTrusting(m)
		if s := r.v.Scheme(); s != nil {
			v = auth.NewVerifier(m, s)
		}
		timers := r.timers
		r.adopt(m, v)
		r.timers.waiting = timers.waiting
		r.timers.entered(now)
		r.timers.progress = timers.progress
		r.note(protocol.EventEpochEntered, r.primary(), 0, r.decided.seq, "")
	}
	r.end()
}
