package client

import (
	"encoding/binary"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/wire"
)

// Receive takes one frame of a replica; from is the authenticated sender. payload is kept while the
// completions it causes are in use. An error is misbehaviour of the sender: nothing else happens,
// and the connection may be dropped. The caller calls Flush afterwards.
func (c *Core) Receive(now time.Time, from smr.NodeID, class wire.Class, kind uint8, payload []byte, out *Output) error {
	voter, ok := c.m.Index(from)
	if !ok || c.stopped != nil {
		c.stats.DropsStranger++
		return nil
	}
	var err error
	switch {
	case kind != wire.KindOnly:
		err = errReply
	case class == wire.ClassOrderedReply:
		err = c.orderedReply(now, voter, payload, out)
	case class == wire.ClassUnorderedReply:
		err = c.unorderedReply(now, voter, payload, out)
	case class == wire.ClassAdvice:
		err = c.advice(now, voter, payload, out)
	default:
		err = errReply
	}
	if err != nil {
		c.stats.DropsMalformed++
	}
	return err
}

func (c *Core) orderedReply(now time.Time, voter int, payload []byte, out *Output) error {
	err := eachResult(payload, func(r result) {
		if r.open {
			c.openResult(now, voter, r, out)
			return
		}
		if s := c.session(r.session); s != nil {
			if call := s.call(smr.OpNumber(r.op)); call != nil {
				c.opResult(now, voter, call, r, out)
				return
			}
		}
		c.stats.DropsLate++
	})
	c.dropRetired(out)
	return err
}

// session finds a session that waits for results.
func (c *Core) session(id smr.SessionID) *session {
	if c.current != nil && c.current.id == id {
		return c.current
	}
	for _, s := range c.retired {
		if s.id == id {
			return s
		}
	}
	return nil
}

func (c *Core) openResult(now time.Time, voter int, r result, out *Output) {
	f := c.opening
	if f == nil || r.op != f.bundle.Nonce {
		c.stats.DropsLate++
		return
	}
	switch r.outcome {
	case smr.OutcomeExecuted:
		if len(r.data) != 8 || binary.BigEndian.Uint64(r.data) == 0 {
			c.stats.DropsMalformed++
			return
		}
	case smr.OutcomeNoSession, smr.OutcomeNotAdmitted, smr.OutcomeTableFull, smr.OutcomeStaleNonce:
	default:
		c.stats.DropsMalformed++
		return
	}
	val := valueOf(uint8(r.outcome), r.data, 0)
	f.votes = record(f.votes, vote{voter: int32(voter), value: val, seq: r.seq})
	if equal(f.votes, val) < c.replies {
		return
	}
	c.seen = max(c.seen, attested(f.votes, val, c.trust))
	c.measure(now, f)
	c.opened(r.outcome, r.data, out)
}

func (c *Core) opResult(now time.Time, voter int, call *Call, r result, out *Output) {
	switch r.outcome {
	case smr.OutcomeExecuted, smr.OutcomeMalformed, smr.OutcomeNoSession, smr.OutcomeNotAdmitted,
		smr.OutcomeReplyGone, smr.OutcomeSkipped, smr.OutcomeTooLarge:
	case smr.OutcomeBeyondWindow:
		c.stats.BeyondWindow++ // not consumed: the same op is sent again
		return
	default:
		c.stats.DropsMalformed++
		return
	}
	val := valueOf(uint8(r.outcome), r.data, 0)
	call.votes = record(call.votes, vote{voter: int32(voter), value: val, seq: r.seq})
	if equal(call.votes, val) < c.replies {
		return
	}
	done := Completion{Call: call, Ordered: true, Seq: attested(call.votes, val, c.trust)}
	if r.outcome == smr.OutcomeExecuted {
		done.Data = r.data
	} else {
		done.Err = outcomeOf(r.outcome)
	}
	s, f := call.session, call.flight
	if r.outcome == smr.OutcomeNoSession || r.outcome == smr.OutcomeNotAdmitted {
		s.gone = true // new ops go to a new session; the others of this one get their own answers
	}
	s.answered(call.number)
	if f != nil {
		if f.left--; f.left == 0 {
			c.land(f)
			c.measure(now, f)
			if c.spray > 0 && c.m.Model() == quorum.Crash {
				c.lead = voter // the first to answer is the leader, who knows the decision first
			}
		}
	}
	c.end(out, done)
}

// advice takes what a replica says about a bundle. It counts only once so many distinct replicas say
// it that one of them is correct.
func (c *Core) advice(now time.Time, voter int, payload []byte, out *Output) error {
	var a wirepb.Advice
	if err := a.UnmarshalVT(payload); err != nil {
		return errReply
	}
	var f *flight
	for _, x := range c.flights {
		if x.session == nil && a.Session == 0 && x.bundle.Nonce == a.First ||
			x.session != nil && uint64(x.bundle.Session) == a.Session && uint64(x.bundle.First) == a.First {
			f = x
		}
	}
	if f == nil {
		c.stats.DropsLate++
		return nil
	}
	switch code := wire.AdviceCode(a.Code); code {
	case wire.AdviceBusy:
		c.stats.Busy++
		if f.busy.Add(voter) && f.busy.Len() == c.trust {
			c.backOff(now, f, time.Duration(min(a.RetryAfterMs, 1<<32))*time.Millisecond)
		}
	case wire.AdviceRejected, wire.AdviceNoKey:
		c.stats.Rejected++
		if f.refused.Add(voter) && f.refused.Len() == c.trust {
			c.refused(now, f, &AdviceError{Code: code, Text: a.Text}, out)
		}
	default:
		return errReply
	}
	return nil
}

// minBusyWait is the shortest wait before a bundle goes again to replicas that said busy.
const minBusyWait = 20 * time.Millisecond

// backOff moves the next sending of a flight that replicas were too busy for: to when they say, at
// least as far as the number of attempts asks, at most MaxRetryTimeout.
func (c *Core) backOff(now time.Time, f *flight, after time.Duration) {
	wait := minBusyWait
	for i := 0; i < f.attempt && wait < c.cfg.MaxRetryTimeout; i++ {
		wait *= 2
	}
	f.deadline = now.Add(c.jitter(min(max(wait, after), c.cfg.MaxRetryTimeout)))
}

// refused acts on a bundle that a correct replica will not propose. Which of several ops is the
// cause is found by halving; a single one is given up: its number may still be executed, since
// other replicas hold it, so its outcome is unknown.
func (c *Core) refused(now time.Time, f *flight, why *AdviceError, out *Output) {
	switch {
	case f.session == nil:
		why.fate = ErrNotExecuted
		c.refuseQueued(why, out)
	case f.left < len(f.calls):
		// Results of it arrive: it was ordered, the advice is about another copy.
	case len(f.calls) > 1 && why.Code == wire.AdviceRejected:
		c.land(f)
		half := len(f.calls) / 2
		c.launch(now, c.sign(f.session, f.calls[:half], f.calls[0].number), out)
		c.launch(now, c.sign(f.session, f.calls[half:], f.calls[half].number), out)
	default:
		why.fate = ErrUnknown
		c.land(f)
		for _, call := range f.calls {
			call.phase, call.flight = phaseGivenUp, nil
			f.session.waits--
			c.report(out, Completion{Call: call, Ordered: true, Err: why})
		}
		c.save(out)
	}
}
