package pbft

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/protocol"
)

// complaint is a voter's newest, and when it was last heard.
type complaint struct {
	made bool
	view smr.View
	seq  smr.SeqNo
	at   time.Time
}

// suspicion is the complaint of who watches the primary from outside the machine.
const suspicion = "suspect"

// complain says that this replica is dissatisfied with the primary. It is said again on every tick
// while the cause lasts, and void after progress, or, if it is a suspicion, once it is not renewed.
func (r *Replica) complain(why string) {
	if !r.voting || r.timedOut {
		return
	}
	if !r.ownVote {
		r.note(protocol.EventComplaint, r.primary(), r.view, r.decided.seq, why)
	}
	r.ownVote = true
	seq := r.decided.seq
	if why == suspicion {
		seq = maxPosition // decisions are no answer to it: a censor decides, of others
	}
	r.complaints[r.index] = complaint{made: true, view: r.view, seq: seq, at: r.now}
	r.send(protocol.Everyone, &Complaint{Vote: r.sign(auth.KindComplaint, r.view, seq, smr.Digest{})})
	r.join()
}

func (r *Replica) onComplaint(i int, from smr.NodeID, c *Complaint) {
	if c.view() < r.view {
		r.answerOld(i, from)
		return
	}
	if c.seq() < r.decided.seq {
		r.answerDecided(i, from)
		return
	}
	r.complaints[i] = complaint{made: true, view: c.view(), seq: c.seq(), at: r.now}
	r.join()
}

// complains reports whether voter i complains about view w: in words, unless there was progress
// since or it fell silent, or by a timeout for it or a later one.
func (r *Replica) complains(i int, w smr.View) bool {
	if t := r.timeouts[i]; t != nil && t.view() >= w {
		return true
	}
	c := r.complaints[i]
	return c.made && c.view == w && c.seq >= r.decided.seq && r.now.Sub(c.at) <= 4*max(r.p.Resend, r.timers.timeout)
}

// join signs a timeout for the highest view that f+1 replicas complain about: one of them is
// correct. A timeout for a later view counts for every view below it.
func (r *Replica) join() {
	if !r.voting {
		return
	}
	best, found := smr.View(0), false
	for i := range r.n {
		for _, w := range []smr.View{r.complaints[i].view, r.timeouts[i].safeView()} {
			if w < r.view || w == r.view && r.timedOut || found && w <= best {
				continue
			}
			count := 0
			for k := range r.n {
				if r.complains(k, w) {
					count++
				}
			}
			if count >= r.m.Weak() {
				best, found = w, true
			}
		}
	}
	if found {
		r.signTimeout(best)
	}
}

// signTimeout promises not to vote in any view up to w, and moves there. The lock it carries cannot
// rise afterwards without a later view.
func (r *Replica) signTimeout(w smr.View) {
	invariant.Check(w >= r.view && !(w == r.view && r.timedOut) && w > r.own.safeView() || r.own == nil, "timeout for %d after %d", w, r.own.safeView())
	if w > r.view {
		r.leave(w)
	}
	r.timedOut = true
	r.own = &Timeout{Vote: r.sign(auth.KindTimeout, w, 0, nameLock(r.lock).bind()), Lock: r.lock}
	r.persist(protocol.Record{Kind: protocol.RecordState, Name: stateTimeout, View: w, Data: appendMessage(nil, r.own)})
	r.note(protocol.EventTimeout, r.m.Primary(w), w, r.decided.seq, "")
	r.cast(r.own)
}

func (r *Replica) onTimeout(i int, from smr.NodeID, t *Timeout) {
	r.saw(i, t.Vote.Statement(), t.Vote.Signature())
	if t.view() < r.view {
		r.answerOld(i, from)
		return
	}
	if old := r.timeouts[i]; old != nil && old.view() >= t.view() {
		return
	}
	r.timeouts[i] = t
	if tc, err := newTimeoutCertificate(r.v, t.view(), r.timeouts); err == nil {
		r.enterByTimeouts(tc)
		return
	}
	r.join()
}

func (r *Replica) onTimeoutCertificate(i int, from smr.NodeID, tc *TimeoutCertificate) {
	if tc.opens() < r.view {
		r.answerOld(i, from)
		return
	}
	r.enterByTimeouts(tc)
}

// enterByTimeouts opens the view after a quorum's timeouts.
func (r *Replica) enterByTimeouts(tc *TimeoutCertificate) {
	if tc.opens() <= r.view {
		return
	}
	for _, s := range tc.shares {
		r.saw(s.voter, r.v.Statement(auth.KindTimeout, tc.view, 0, s.lock.bind()), s.sig)
	}
	r.enter(tc.opens(), tc)
	t := &r.timers
	t.failures++
	t.timeout = min(2*t.timeout, r.p.MaxTimeout)
}

// enter goes to view w, opened by a timeout certificate, a hand-over or any certificate of w.
func (r *Replica) enter(w smr.View, opening protocol.Message) {
	invariant.Check(w > r.view, "entering %d from %d", w, r.view)
	r.leave(w)
	r.opening = opening
	switch o := opening.(type) {
	case *TimeoutCertificate:
		r.hasBase = true
		if o.lock != nil {
			r.base = o.lock.Core
		}
	case *Certificate:
		if o.view() < w { // a hand-over
			r.hasBase, r.base = true, o.Core
		}
	}
	if r.base != nil && r.base.Seq > r.decided.seq {
		r.learn(r.base)
		r.tail = r.base.Seq
	}
	r.persist(protocol.Record{Kind: protocol.RecordState, Name: stateView, View: w, Data: appendOpening(opening)})
	r.note(protocol.EventViewEntered, r.primary(), w, r.decided.seq, "")
	if r.hasBase {
		r.abandon(r.baseSeq() + 1)
	}
	if r.primary() == r.p.Self {
		r.send(protocol.Everyone, opening)
		r.timers.sent = r.now
	}
	r.replay = true
}

// baseSeq returns the sequence number that the first proposal of the view extends, where known.
func (r *Replica) baseSeq() smr.SeqNo {
	if r.base != nil {
		return r.base.Seq
	}
	return r.start.seq
}

// leave drops what belonged to the view and goes to view w, not yet opened.
func (r *Replica) leave(w smr.View) {
	r.view, r.timedOut = w, false
	r.base, r.hasBase, r.bound, r.tip = nil, false, false, point{}
	r.mayLead, r.opened, r.led, r.closing, r.ownVote = true, false, false, false, false
	r.entered, r.tail = r.now, 0
	if r.top != nil {
		r.tail = r.top.Core.Seq
	}
	r.timers.entered(r.now)
	r.dirty = true
	clear(r.slots)
	for _, s := range sorted(r.ahead) {
		r.ahead[s].msg = nil
	}
	clear(r.ahead)
	if r.first != nil {
		r.forget(r.first)
	}
}
