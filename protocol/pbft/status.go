package pbft

import (
	"github.com/atlas-smr/smr/protocol"
)

// Status implements protocol.Ordering.
func (r *Replica) Status() protocol.Status {
	st := protocol.Status{
		Epoch: r.m.Epoch(), View: r.view, Primary: r.primary(), Leading: r.leading(), Voting: r.voting,
		Changing: r.timedOut || !r.bound && r.view > 0, Tip: max(r.tip.seq, r.decided.seq), Decided: r.decided.seq,
		Stable: r.stable, Chain: r.decided.digest, Time: r.decided.time, Voted: r.votedMark(),
		Certified: r.decided.seq, InFlight: r.inFlight(), Timeout: r.timers.timeout, Since: r.entered,
	}
	if r.lock != nil {
		st.Locked = r.lock.Core.mark()
	}
	if r.top != nil {
		st.Certified = max(st.Certified, r.top.Core.Seq)
	}
	// A prepared tail is not Certified: a later view may pass over it, and then nobody's log ever holds it.
	st.Prepared = max(r.decided.seq, r.tail)
	return st
}

// votedMark returns the highest own vote: a prepare, or a timeout, which stands for everything up
// to the end of its view.
func (r *Replica) votedMark() protocol.Mark {
	var m protocol.Mark
	raise := func(x protocol.Mark) {
		if m.Less(x) {
			m = x
		}
	}
	if r.voted != (lockName{}) {
		raise(protocol.Mark{Epoch: r.m.Epoch(), View: r.voted.view, Seq: r.voted.seq})
	}
	if r.lock != nil {
		raise(r.lock.Core.mark())
	}
	if r.own != nil {
		raise(timeoutMark(r.m.Epoch(), r.own.view()))
	}
	return m
}

var _ protocol.Ordering = (*Replica)(nil)
